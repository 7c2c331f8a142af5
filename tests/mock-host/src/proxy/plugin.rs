//! A plugin of the filter chain, as a test describes it and as the proxy runs it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::host::logs::{Level, Log};
use crate::vm::{Code, VmKey, compile, read};

/// What Envoy does when a plugin's VM has died (`failure_policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailurePolicy {
    /// Every request gets 503.
    #[default]
    Close,
    /// The plugin is left out.
    Open,
    /// As [`FailurePolicy::Close`], but a request that comes a second or more after the VM was made makes a
    /// new one.
    Reload,
}

/// A plugin of the filter chain: one `WasmPlugin`.
#[derive(Debug, Clone)]
pub struct Plugin {
    name: String,
    wasm: Source,
    configuration: Vec<u8>,
    root_id: String,
    vm_id: String,
    vm_configuration: Vec<u8>,
    env: BTreeMap<String, String>,
    policy: FailurePolicy,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Bytes(Arc<[u8]>),
}

impl Plugin {
    /// The same plugin under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A plugin whose module is a file.
    pub fn new(name: &str, wasm: impl AsRef<Path>) -> Self {
        Self::of(name, Source::File(wasm.as_ref().to_owned()))
    }

    /// A plugin whose module is given.
    pub fn from_bytes(name: &str, wasm: impl Into<Vec<u8>>) -> Self {
        Self::of(name, Source::Bytes(wasm.into().into()))
    }

    fn of(name: &str, wasm: Source) -> Self {
        Self {
            name: name.to_owned(),
            wasm,
            configuration: Vec::new(),
            root_id: String::new(),
            vm_id: String::new(),
            vm_configuration: Vec::new(),
            env: BTreeMap::new(),
            policy: FailurePolicy::default(),
        }
    }

    /// `pluginConfig`, as JSON.
    #[must_use]
    pub fn configuration(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.configuration = configuration.into();
        self
    }

    /// `vmConfig.env`. The environment is not part of what makes a VM another one (`makeVmKey`): of two
    /// plugins that share a VM, the first one's counts.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// `root_id`.
    #[must_use]
    pub fn root_id(mut self, root_id: &str) -> Self {
        root_id.clone_into(&mut self.root_id);
        self
    }

    /// `vm_id`, which is also the namespace of shared data. Istio sets none.
    #[must_use]
    pub fn vm_id(mut self, vm_id: &str) -> Self {
        vm_id.clone_into(&mut self.vm_id);
        self
    }

    /// The VM's configuration.
    #[must_use]
    pub fn vm_configuration(mut self, configuration: impl Into<Vec<u8>>) -> Self {
        self.vm_configuration = configuration.into();
        self
    }

    /// What happens when the VM has died.
    #[must_use]
    pub fn on_failure(mut self, policy: FailurePolicy) -> Self {
        self.policy = policy;
        self
    }

    pub(super) fn load(self) -> Result<PluginConfig, Rejected> {
        let code = match &self.wasm {
            Source::File(path) => read(path).and_then(|bytes| compile(&bytes)),
            Source::Bytes(bytes) => compile(bytes),
        };
        let code = code.map_err(|reason| Rejected { plugin: self.name.clone(), reason, logs: Vec::new() })?;
        Ok(PluginConfig {
            name: self.name,
            root_id: self.root_id,
            configuration: self.configuration,
            vm_id: self.vm_id,
            vm_configuration: self.vm_configuration,
            env: self.env,
            policy: self.policy,
            code,
        })
    }
}

/// A plugin with its code compiled (`PluginBase`).
#[derive(Clone)]
pub(crate) struct PluginConfig {
    pub(crate) name: String,
    pub(crate) root_id: String,
    pub(crate) configuration: Vec<u8>,
    pub(crate) vm_id: String,
    pub(crate) vm_configuration: Vec<u8>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) policy: FailurePolicy,
    pub(super) code: Code,
}

/// Plugins of one key share a root context (`PluginBase::makePluginKey`).
pub(super) type PluginKey = (String, String, Vec<u8>);

impl PluginConfig {
    pub(super) fn key(&self) -> PluginKey {
        (self.root_id.clone(), self.name.clone(), self.configuration.clone())
    }

    pub(super) fn vm_key(&self) -> VmKey {
        VmKey {
            code: self.code.digest,
            vm_id: self.vm_id.clone(),
            configuration: self.vm_configuration.clone(),
        }
    }
}

/// Why a plugin was refused, as an xDS update is.
#[derive(Debug, Clone)]
pub struct Rejected {
    /// The plugin.
    pub plugin: String,
    /// What was wrong.
    pub reason: String,
    /// What the filter logged while it was tried.
    pub logs: Vec<Log>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin {}: {}", self.plugin, self.reason)?;
        for log in self.logs.iter().filter(|log| log.level >= Level::Warn) {
            write!(f, "\n  {}", log.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Rejected {}

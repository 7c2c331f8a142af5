//! Filter state: what plugins of one stream leave for later filters, access logs and span tags.

use std::collections::BTreeMap;

use crate::vm::abi::Status;

/// Objects by key. `proxy_set_property(["x"])` writes key `wasm.x` (`CelStateKeyPrefix`, Envoy `context.cc`).
#[derive(Debug, Clone, Default)]
pub(crate) struct FilterState {
    objects: BTreeMap<String, Object>,
}

#[derive(Debug, Clone)]
struct Object {
    value: Vec<u8>,
    prototype: Prototype,
    /// A `CelState`, which `["x"]` reads, not an object of another factory.
    cel: bool,
}

/// `CelStatePrototype`: what `declare_property` said about a property. Undeclared ones are mutable bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prototype {
    pub(crate) read_only: bool,
    pub(crate) kind: Type,
}

/// `CelStateType`, as CEL sees a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Type {
    #[default]
    Bytes,
    String,
    /// A protobuf of type `google.protobuf.Struct`.
    Struct,
    /// Another protobuf, or `FlatBuffers`: not readable here.
    Other,
}

impl FilterState {
    /// `Context::setProperty`: a read-only property takes one value (`CelState::setValue`).
    pub(crate) fn set_property(
        &mut self,
        path: &str,
        value: &[u8],
        prototype: &Prototype,
    ) -> Result<(), Status> {
        let key = format!("wasm.{path}");
        if let Some(object) = self.objects.get_mut(&key) {
            if object.prototype.read_only {
                return Err(Status::BAD_ARGUMENT);
            }
            object.value = value.to_vec();
        } else {
            self.objects
                .insert(key, Object { value: value.to_vec(), prototype: prototype.clone(), cel: true });
        }
        Ok(())
    }

    /// The value that property `["name"]` finds.
    pub(crate) fn property(&self, name: &str) -> Option<&[u8]> {
        self.objects
            .get(&format!("wasm.{name}"))
            .filter(|object| object.cel)
            .map(|object| object.value.as_slice())
    }

    /// The same with its type.
    pub(crate) fn typed(&self, name: &str) -> Option<(&[u8], Type)> {
        let object = self.objects.get(&format!("wasm.{name}")).filter(|object| object.cel)?;
        Some((&object.value, object.prototype.kind))
    }

    /// `Context::setEnvoyFilterState`: only keys that have an object factory in Envoy.
    pub(crate) fn set_envoy(&mut self, key: &str, value: &[u8]) -> Result<(), Status> {
        const FACTORIES: [&str; 8] = [
            "envoy.network.application_protocols",
            "envoy.network.upstream_server_name",
            "envoy.network.upstream_subject_alt_names",
            "envoy.ratelimit.hits_addend",
            "envoy.stream.idle_timeout",
            "envoy.tcp_proxy.cluster",
            "envoy.upstream.dynamic_host",
            "envoy.upstream.dynamic_port",
        ];
        if !FACTORIES.contains(&key) {
            return Err(Status::NOT_FOUND);
        }
        let object = Object { value: value.to_vec(), prototype: Prototype::default(), cel: false };
        self.objects.insert(key.to_owned(), object);
        Ok(())
    }

    pub(crate) fn values(&self) -> BTreeMap<String, Vec<u8>> {
        self.objects.iter().map(|(key, object)| (key.clone(), object.value.clone())).collect()
    }
}

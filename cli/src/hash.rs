//! `mesh-filters hash`: the number that the gauge of a configuration shows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mesh_filters_cli::filters;
use plugin_kit::config::{config_hash_metric, fingerprint};

use crate::document;
use crate::explain::input::{Installed, Wanted, installed};

/// The hash of the configuration in these files. With `all`, the hash of each plugin with the name of its
/// gauge.
///
/// # Errors
/// A file cannot be read, a filter refuses its configuration, or there are several plugins and `all` is not
/// set.
pub(crate) fn of(inputs: &[PathBuf], filter: Option<&str>, all: bool) -> Result<String, String> {
    let sources = document::read_all(inputs)?;
    let plugins = installed(&sources, &Wanted { filter, ..Wanted::default() }, &BTreeMap::new())?;
    let wanted = |installed: &&Installed| filter.is_none_or(|filter| installed.plugin.filter == filter);
    let plugins: Vec<&Installed> = plugins.iter().filter(wanted).collect();
    for Installed { plugin, title, .. } in &plugins {
        filters::read(&plugin.filter, &plugin.config, &plugin.variables).map_err(|errors| {
            format!("{title}: the filter refuses this configuration, so that no gauge shows it: {errors}")
        })?;
    }
    match plugins.as_slice() {
        [] => Err("there is no plugin of this filter".to_owned()),
        [one] if !all => Ok(format!("{}\n", fingerprint(&one.plugin.config))),
        many if !all => Err(format!("there are {} plugins; expected `--filter` or `--all`", many.len())),
        many => Ok(many.iter().map(|installed| line(installed)).collect()),
    }
}

fn line(installed: &Installed) -> String {
    let Installed { plugin, namespace, title, .. } = installed;
    let name =
        if namespace.is_empty() { plugin.name.clone() } else { format!("{namespace}.{}", plugin.name) };
    let gauge = config_hash_metric(&plugin.filter, name.as_bytes());
    format!("{:>10}  {gauge}  ({title})\n", fingerprint(&plugin.config))
}

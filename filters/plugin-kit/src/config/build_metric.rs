//! The gauge that shows which version of a module runs.

/// The name of the gauge `<filter>_build_info_<version>`. Its value is the time at which the module was configured, in seconds since
/// the epoch. A proxy keeps the gauges of modules that it has no more, so the largest value is the version that runs.
pub fn build_info_metric(filter: &str) -> String {
    format!("{}_build_info_{}", filter.replace('-', "_"), env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_the_end_of_the_name() {
        let name = build_info_metric("jwt-auth");
        assert_eq!(name.strip_prefix("jwt_auth_build_info_"), Some(env!("CARGO_PKG_VERSION")));
    }
}

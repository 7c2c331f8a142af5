//! Envoy's attributes by their names.
//!
//! Source: <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>, and
//! `envoy_dynamic_module_type_attribute_id` of Envoy's ABI for dynamic modules.

/// The attributes in the order of the ABI's numbers, group by group.
pub const NAMES: [(&str, &[&str]); 8] = [
    (
        "request",
        &[
            "path",
            "url_path",
            "host",
            "scheme",
            "method",
            "headers",
            "referer",
            "useragent",
            "time",
            "id",
            "protocol",
            "query",
            "duration",
            "size",
            "total_size",
        ],
    ),
    (
        "response",
        &[
            "code",
            "code_details",
            "flags",
            "grpc_status",
            "headers",
            "trailers",
            "size",
            "total_size",
            "backend_latency",
        ],
    ),
    ("source", &["address", "port"]),
    ("destination", &["address", "port"]),
    (
        "connection",
        &[
            "id",
            "mtls",
            "requested_server_name",
            "tls_version",
            "subject_local_certificate",
            "subject_peer_certificate",
            "dns_san_local_certificate",
            "dns_san_peer_certificate",
            "uri_san_local_certificate",
            "uri_san_peer_certificate",
            "sha256_peer_certificate_digest",
            "transport_failure_reason",
            "termination_details",
        ],
    ),
    (
        "upstream",
        &[
            "address",
            "port",
            "tls_version",
            "subject_local_certificate",
            "subject_peer_certificate",
            "dns_san_local_certificate",
            "dns_san_peer_certificate",
            "uri_san_local_certificate",
            "uri_san_peer_certificate",
            "sha256_peer_certificate_digest",
            "local_address",
            "transport_failure_reason",
            "request_attempt_count",
            "cx_pool_ready_duration",
            "locality",
        ],
    ),
    (
        "xds",
        &[
            "node",
            "cluster_name",
            "cluster_metadata",
            "listener_direction",
            "listener_metadata",
            "route_name",
            "route_metadata",
            "virtual_host_name",
            "virtual_host_metadata",
            "upstream_host_metadata",
            "filter_chain_name",
        ],
    ),
    ("health_check", &[]),
];

/// Whether an attribute is a map, for which the ABI has no function.
fn is_map(name: &str) -> bool {
    matches!(name, "headers" | "trailers" | "node") || name.ends_with("_metadata")
}

/// Whether Envoy has this attribute.
pub fn is_known(group: &str, name: &str) -> bool {
    NAMES.iter().any(|(known, names)| *known == group && names.contains(&name))
        // Newer than the ABI.
        || (group, name) == ("xds", "upstream_host_locality_metadata")
}

/// The ABI's number of an attribute that is no map.
pub fn number(group: &str, name: &str) -> Option<u32> {
    let mut first = 0_usize;
    for (known, names) in NAMES {
        if known == group {
            let at = names.iter().position(|known| *known == name && !is_map(name))?;
            return u32::try_from(first.saturating_add(at)).ok();
        }
        first = first.saturating_add(names.len());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn attributes_have_the_numbers_of_the_abi() {
        for (group, name, expected) in [
            ("request", "path", Some(0)),
            ("request", "headers", None),
            ("request", "total_size", Some(14)),
            ("response", "code", Some(15)),
            ("response", "backend_latency", Some(23)),
            ("source", "address", Some(24)),
            ("destination", "port", Some(27)),
            ("connection", "id", Some(28)),
            ("connection", "uri_san_peer_certificate", Some(37)),
            ("connection", "termination_details", Some(40)),
            ("upstream", "address", Some(41)),
            ("upstream", "locality", Some(55)),
            ("xds", "cluster_name", Some(57)),
            ("xds", "route_name", Some(61)),
            ("xds", "filter_chain_name", Some(66)),
            ("xds", "node", None),
            ("xds", "route_metadata", None),
            ("other", "path", None),
        ] {
            assert_eq!(number(group, name), expected, "{group}.{name}");
        }
    }
}

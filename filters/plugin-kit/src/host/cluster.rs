//! What the proxy's log says about a cluster that the proxy does not have.

/// That the proxy has no cluster of this name, and what Istio needs to make it.
#[inline(never)]
pub fn missing(cluster: &str) -> String {
    let mut parts = cluster.strip_prefix("outbound|").into_iter().flat_map(|rest| rest.split('|'));
    match (parts.next(), parts.next(), parts.next()) {
        (Some(port), Some(_), Some(host)) => format!(
            "this proxy has no cluster `{cluster}`; expected a Service or a ServiceEntry for the host `{host}` with port {port} \
             that this workload may see (exportTo, Sidecar), and for https a DestinationRule with `tls: {{ mode: SIMPLE }}`"
        ),
        _ => format!(
            "this proxy has no cluster `{cluster}`; expected the name of one, such as `outbound|443||host` of Istio"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_cluster_of_istio_names_its_host_and_port() {
        let text = missing("outbound|443||idp.test");
        assert!(text.starts_with(
            "this proxy has no cluster `outbound|443||idp.test`; expected a Service or a ServiceEntry for the host `idp.test` with port 443"
        ));
        assert!(text.contains("DestinationRule"));
        assert!(missing("idp").contains("no cluster `idp`; expected the name of one"));
        assert!(missing("outbound|443").contains("expected the name of one"));
    }
}

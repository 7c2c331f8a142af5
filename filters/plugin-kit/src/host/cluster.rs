//! What the proxy's log says about a cluster that the proxy does not have, and about a call to a cluster that failed.

/// What went wrong with a call before a server answered it, by what Envoy says in the place of the server: in this proxy, or in that
/// of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// No connection, or no host that could be asked.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connection ended before the response.
    Reset,
    /// The response did not come in time.
    Timeout,
    /// An `AuthorizationPolicy` at the server refuses this workload.
    Forbidden,
}

impl Trouble {
    /// Reads the body of a response that Envoy made (`Envoy::Router`), or the text of a gRPC status. `None` for a server's own text.
    #[inline(never)]
    pub fn of(said: &str) -> Option<Self> {
        if let Some(reason) = said.strip_prefix("upstream connect error or disconnect/reset before headers") {
            let reason = reason.split("reset reason: ").nth(1).unwrap_or_default();
            let reset = ["connection termination", "remote reset", "local reset", "protocol error"];
            return Some(if reason.contains("TLS") {
                Self::Tls
            } else if reset.iter().any(|reset| reason.starts_with(reset)) {
                Self::Reset
            } else {
                Self::Connect
            });
        }
        [
            ("no healthy upstream", Self::Connect),
            ("no_healthy_upstream", Self::Connect),
            ("upstream request timeout", Self::Timeout),
            ("RBAC: access denied", Self::Forbidden),
        ]
        .iter()
        .find(|(text, _)| said.starts_with(text))
        .map(|(_, trouble)| *trouble)
    }
}

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

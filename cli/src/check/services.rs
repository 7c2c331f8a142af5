//! Services: their ports, and the clusters that plugins reach through the proxy.

use std::collections::{BTreeMap, BTreeSet};

use mesh_filters_cli::filters::{Facts, Reached};
use plugin_kit::config::Code;

use super::finding;
use crate::document::Node;
use crate::finding::Finding;
use crate::resource::{Plugin, Resource};

/// The hosts that the input offers, each with its ports.
#[derive(Default)]
struct Offered(BTreeMap<String, BTreeSet<u64>>);

impl Offered {
    fn add(&mut self, host: String, resource: &Resource<'_>, port: &str) {
        let is_tcp = |one: &&Node| one.get("protocol").and_then(Node::text) != Some("UDP");
        let ports = elements(resource, "ports").iter().filter(is_tcp);
        let ports = ports.filter_map(|one| one.get(port)?.value().as_u64());
        self.0.entry(host).or_default().extend(ports);
    }

    /// Says why the input has no cluster of this name, if it has none.
    fn lacks(&self, cluster: &str) -> Option<String> {
        let mut names = cluster.split('|');
        let (Some("outbound"), Some(port), Some(_), Some(host), None) =
            (names.next(), names.next(), names.next(), names.next(), names.next())
        else {
            // Somebody else has defined a cluster of another name.
            return None;
        };
        let ports = match (self.0.get(host), self.of_any_namespace(host)) {
            (None, None) => {
                let wide = self
                    .0
                    .keys()
                    .find(|known| known.strip_prefix('*').is_some_and(|below| host.ends_with(below)));
                return Some(match wide {
                    Some(wide) => format!(
                        "no Service and no ServiceEntry in the input is for `{host}`, and the cluster of `{wide}` is another; expected a \
                         ServiceEntry for the host itself"
                    ),
                    None => format!(
                        "no Service and no ServiceEntry in the input is for `{host}`; expected one that has the port {port}"
                    ),
                });
            }
            (Some(ports), _) | (None, Some(ports)) => ports,
        };
        // A Service without ports, such as one of another host name, has no cluster that could be known.
        let is_there = ports.is_empty() || port.parse().is_ok_and(|port| ports.contains(&port));
        let listed: Vec<String> = ports.iter().map(u64::to_string).collect();
        (!is_there).then(|| {
            format!(
                "`{host}` has no port {port} in the input; expected one of its ports: {}",
                listed.join(", ")
            )
        })
    }

    /// The ports of a Service that names no namespace.
    fn of_any_namespace(&self, host: &str) -> Option<&BTreeSet<u64>> {
        let name = host.strip_suffix(".svc.cluster.local")?.split('.').next()?;
        self.0.get(&format!("{name}..svc.cluster.local"))
    }
}

fn elements<'a>(resource: &Resource<'a>, name: &str) -> &'a [Node] {
    resource.node.at(&["spec", name]).map(Node::elements).unwrap_or_default()
}

/// Finds ports without a protocol, and clusters that no service offers.
pub(super) fn of_services(
    resources: &[Resource<'_>],
    read: &[(Plugin<'_>, Facts)],
    findings: &mut Vec<Finding>,
) {
    let mut offered = Offered::default();
    for resource in resources {
        match resource.kind {
            "Service" => {
                let (name, namespace) = (resource.name, resource.namespace);
                offered.add(format!("{name}.{namespace}.svc.cluster.local"), resource, "port");
                ports_without_protocol(resource, findings);
            }
            "ServiceEntry" => {
                for host in elements(resource, "hosts").iter().filter_map(Node::text) {
                    offered.add(host.to_owned(), resource, "number");
                }
            }
            _ => {}
        }
    }
    if offered.0.is_empty() {
        return;
    }
    for (plugin, facts) in read {
        for Reached { cluster, path, of_keys } in &facts.reached {
            let Some(why) = offered.lacks(cluster) else { continue };
            let span =
                plugin.config.as_ref().map_or_else(|| plugin.span.clone(), |config| config.locate(path));
            let code = if *of_keys { Code::KeysUnreachable } else { Code::ClusterUnreachable };
            findings.push(finding(plugin, code, span, path, &why));
        }
    }
}

fn ports_without_protocol(resource: &Resource<'_>, findings: &mut Vec<Finding>) {
    for (n, port) in elements(resource, "ports").iter().enumerate() {
        let text = |name: &str| port.get(name).and_then(Node::text).unwrap_or_default();
        let is_tcp = ["", "TCP"].contains(&text("protocol"));
        if is_tcp && port.get("appProtocol").is_none() && !has_protocol(text("name")) {
            let path = format!("spec.ports[{n}].name");
            findings.push(Finding {
                code: Code::PortWithoutProtocol,
                source: resource.source,
                span: resource.node.locate(&path),
                place: resource.title(),
                path,
                message:
                    "the port names no protocol; expected a name such as `http` or `grpc-api`, or appProtocol"
                        .to_owned(),
            });
        }
    }
}

/// Whether Istio derives the protocol from this name of a port.
fn has_protocol(name: &str) -> bool {
    const PROTOCOLS: [&str; 11] =
        ["http", "http2", "https", "grpc", "grpc-web", "tls", "tcp", "udp", "mongo", "mysql", "redis"];
    PROTOCOLS.iter().any(|protocol| {
        name.strip_prefix(protocol).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_those_of_services() {
        let text = "[{ metadata: { name: auth, namespace: shop }, spec: { ports: [{ port: 80 }, { port: 8080 }] } }, { metadata: { name: \
                    any }, spec: { ports: [{ port: 80 }] } }, { spec: { ports: [{ number: 443 }] } }, { spec: {} }]";
        let nodes = crate::document::parse(text).ok().unwrap();
        let resource = |n: usize| Resource::of(0, text, &nodes[0].elements()[n]);
        let mut offered = Offered::default();
        offered.add("auth.shop.svc.cluster.local".to_owned(), &resource(0), "port");
        offered.add("any..svc.cluster.local".to_owned(), &resource(1), "port");
        offered.add("*.idp.example".to_owned(), &resource(2), "number");
        offered.add("external.example".to_owned(), &resource(3), "number");
        for (cluster, expected) in [
            ("outbound|8080||auth.shop.svc.cluster.local", ""),
            (
                "outbound|8081||auth.shop.svc.cluster.local",
                "has no port 8081 in the input; expected one of its ports: 80, 8080",
            ),
            ("outbound|80|v1|auth.shop.svc.cluster.local", ""),
            ("outbound|80||any.prod.svc.cluster.local", ""),
            ("outbound|81||any.prod.svc.cluster.local", "has no port 81"),
            ("outbound|80||auth", "is for `auth`; expected one that has the port 80"),
            ("outbound|443||a.idp.example", "the cluster of `*.idp.example` is another"),
            ("outbound|443||external.example", ""),
            ("ratelimit", ""),
            ("inbound|80||", ""),
        ] {
            let why = offered.lacks(cluster).unwrap_or_default();
            assert!(why.contains(expected) && why.is_empty() == expected.is_empty(), "{cluster}: {why}");
        }
    }
}

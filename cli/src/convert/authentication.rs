//! RequestAuthentication: who issues tokens, and where requests carry them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::yaml::Yaml;
use crate::document::Node;

/// An issuer of a RequestAuthentication.
pub(super) struct Issuer<'a> {
    /// `issuer`.
    pub(super) issuer: &'a str,
    node: &'a Node,
}

/// What is known of a fetch of keys.
pub(super) struct Keys {
    /// The host.
    pub(super) host: String,
    /// The port.
    pub(super) port: u16,
    /// Whether the URL is `https`.
    pub(super) is_tls: bool,
}

const KNOWN: [&str; 12] = [
    "issuer",
    "audiences",
    "jwksUri",
    "jwks_uri",
    "jwks",
    "fromHeaders",
    "fromParams",
    "fromCookies",
    "outputPayloadToHeader",
    "outputClaimToHeaders",
    "forwardOriginalToken",
    "timeout",
];

/// Whether the last labels of a host are these.
fn has_end(host: &str, end: &str) -> bool {
    host.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}

/// Whether a host is one of the cluster's services.
pub(super) fn is_in_cluster(host: &str) -> bool {
    has_end(host, "svc") || has_end(host, "svc.cluster.local")
}

fn texts<'a>(node: &'a Node, name: &str) -> Vec<&'a str> {
    node.get(name).map(Node::elements).unwrap_or_default().iter().filter_map(Node::text).collect()
}

impl<'a> Issuer<'a> {
    /// The issuers of a resource.
    ///
    /// # Errors
    /// Something has no counterpart.
    pub(super) fn all(resource: &'a Node) -> Result<Vec<Self>, String> {
        let rules = resource.at(&["spec", "jwtRules"]).map(Node::elements).unwrap_or_default();
        rules.iter().map(Self::of).collect()
    }

    fn of(node: &'a Node) -> Result<Self, String> {
        let unknown =
            node.members().find(|(name, _)| !KNOWN.contains(name) && *name != "spaceDelimitedClaims");
        if let Some((name, _)) = unknown {
            return Err(format!("`{name}` of an issuer is not known"));
        }
        let issuer = node.get("issuer").and_then(Node::text).unwrap_or_default();
        if issuer.is_empty() {
            return Err("an issuer has no `issuer`".to_owned());
        }
        if issuer.contains('*') {
            return Err(format!(
                "`*` in the issuer `{issuer}` stands for itself in Istio, and not in jwt-auth"
            ));
        }
        Ok(Self { issuer, node })
    }

    /// A name for the provider.
    pub(super) fn name(&self) -> String {
        let host = self.issuer.split("://").nth(1).unwrap_or(self.issuer);
        let host = host.split(['/', ':']).next().unwrap_or(host);
        let name: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        name.trim_matches('-').to_owned()
    }

    /// The claims whose strings are lists of words.
    pub(super) fn spaced(&self) -> BTreeSet<String> {
        let own = texts(self.node, "spaceDelimitedClaims").into_iter().map(str::to_owned);
        own.chain(["permission".to_owned()]).collect()
    }

    /// Whether the service gets the token.
    pub(super) fn forwards(&self) -> bool {
        self.node.get("forwardOriginalToken").is_some_and(|node| node.value() == Value::Bool(true))
    }

    fn uri(&self) -> Option<&'a str> {
        ["jwksUri", "jwks_uri"]
            .iter()
            .find_map(|name| self.node.get(name)?.text())
            .filter(|uri| !uri.is_empty())
    }

    /// From where the keys are fetched, unless they stand in the resource.
    pub(super) fn keys(&self) -> Option<Keys> {
        let inline = self.node.get("jwks").and_then(Node::text).is_some_and(|jwks| !jwks.is_empty());
        let uri = self.uri().or((!inline).then_some(self.issuer))?;
        let (scheme, rest) = uri.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        let is_tls = scheme == "https";
        let default = if is_tls { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, default),
        };
        Some(Keys { host: host.to_owned(), port, is_tls })
    }

    /// The provider. While the old resources are there (`beside`), they need the token, too.
    ///
    /// # Errors
    /// Something has no counterpart.
    pub(super) fn provider(&self, beside: bool) -> Result<Yaml, String> {
        let mut provider = Yaml::map().with("issuer", Yaml::text(self.issuer));
        let audiences = texts(self.node, "audiences");
        if !audiences.is_empty() {
            let odd = audiences.iter().any(|audience| audience.contains("://") || audience.ends_with('/'));
            let remark = "Audiences are compared exactly. Envoy drops `http://`, `https://` and a slash at the end before it compares \
                          them, so that a token may name its audience in another spelling. Name the spellings that tokens have.";
            let remarks = if odd { vec![remark.to_owned()] } else { Vec::new() };
            provider.push(remarks, "audiences", Yaml::texts(audiences), false);
        }
        self.add_keys(&mut provider)?;
        self.add_places(&mut provider);
        self.add_outputs(&mut provider)?;
        if beside && !self.forwards() {
            let remark = "The RequestAuthentication is asked behind this plugin, and needs the token, too. Without it, leave this out.";
            provider.push(vec![remark.to_owned()], "forwardOriginalToken", Yaml::Plain(true.into()), false);
        } else if self.forwards() {
            provider.push(Vec::new(), "forwardOriginalToken", Yaml::Plain(true.into()), false);
        }
        Ok(provider)
    }

    fn add_keys(&self, provider: &mut Yaml) -> Result<(), String> {
        let inline = self.node.get("jwks").and_then(Node::text).filter(|jwks| !jwks.is_empty());
        let keys = self.keys();
        match (inline, self.uri()) {
            // Istio takes what is inline.
            (Some(jwks), _) => {
                let parsed: Value = serde_json::from_str(jwks).map_err(|_| "`jwks` is no JSON".to_owned())?;
                let algorithms = algorithms(&parsed)?;
                provider.push(Vec::new(), "jwks", Yaml::text(jwks), false);
                if !algorithms.is_empty() {
                    provider.push(Vec::new(), "algorithms", Yaml::texts(algorithms), false);
                }
            }
            (None, Some(uri)) => {
                let mut remarks = Vec::new();
                if keys.as_ref().is_some_and(|keys| keys.is_tls) {
                    remarks.push(
                        "istiod fetched these keys by itself. Now each proxy does, through a cluster of the mesh: the ServiceEntry and \
                         the DestinationRule for this host are part of it."
                            .to_owned(),
                    );
                }
                provider.push(remarks, "jwksUri", Yaml::text(uri), false);
            }
            (None, None) => {
                let remark = "The keys are found by the issuer's metadata, by each proxy, where istiod did it before. If `jwks_uri` in \
                              the metadata is on another host, name it in `discovery.jwksHosts`, and write a ServiceEntry and a \
                              DestinationRule for it.";
                if let Yaml::Map(members) = provider
                    && let Some(issuer) = members.first_mut()
                {
                    issuer.comments.push(remark.to_owned());
                }
                if keys.is_none() {
                    return Err(format!(
                        "the issuer `{}` is no URL, so that its keys cannot be found by it",
                        self.issuer
                    ));
                }
            }
        }
        // A name within the cluster is complete in the names of Istio's clusters.
        if let Some(keys) = keys.filter(|keys| has_end(&keys.host, "svc")) {
            let cluster = format!("outbound|{}||{}.cluster.local", keys.port, keys.host);
            provider.push(Vec::new(), "cluster", Yaml::text(cluster), false);
        }
        if let Some(timeout) = self.node.get("timeout").and_then(Node::text) {
            let millis = millis(timeout).ok_or_else(|| format!("the timeout `{timeout}` is not known"))?;
            let (written, remarks) = match millis {
                ..1000 => ("1s".to_owned(), vec![format!("A fetch has at least 1s; here were {timeout}.")]),
                _ if millis % 1000 == 0 => (format!("{}s", millis / 1000), Vec::new()),
                _ => (format!("{millis}ms"), Vec::new()),
            };
            let cache = Yaml::map().with("timeout", Yaml::text(written));
            provider.push(remarks, "jwksCache", cache, false);
        }
        Ok(())
    }

    fn add_places(&self, provider: &mut Yaml) {
        let mut places = Vec::new();
        let headers = self.node.get("fromHeaders").map(Node::elements).unwrap_or_default();
        let (params, cookies) = (texts(self.node, "fromParams"), texts(self.node, "fromCookies"));
        if headers.is_empty() && params.is_empty() && cookies.is_empty() {
            let header =
                Yaml::map().with("header", Yaml::text("authorization")).with("prefix", Yaml::text("Bearer "));
            places.push((Vec::new(), header));
            let remark = "Istio looks here by default, too. Leave it out if no client sends tokens in URLs, which end up in logs.";
            places
                .push((vec![remark.to_owned()], Yaml::map().with("queryParam", Yaml::text("access_token"))));
        }
        for header in headers {
            let text = |name: &str| header.get(name).and_then(Node::text).unwrap_or_default();
            let (name, prefix) = (text("name").to_ascii_lowercase(), text("prefix"));
            let mut remarks = Vec::new();
            let mut place = Yaml::map().with("header", Yaml::text(&name));
            if prefix.ends_with(|c: char| c.is_ascii_alphanumeric()) {
                remarks.push(format!(
                    "The prefix was `{prefix}`, behind which Envoy skips spaces. Here a prefix is compared with its space."
                ));
                place = place.with("prefix", Yaml::text(format!("{prefix} ")));
            } else if !prefix.is_empty() || name == "authorization" {
                place = place.with("prefix", Yaml::text(prefix));
            }
            places.push((remarks, place));
        }
        places.extend(cookies.iter().map(|name| (Vec::new(), Yaml::map().with("cookie", Yaml::text(*name)))));
        places.extend(
            params.iter().map(|name| (Vec::new(), Yaml::map().with("queryParam", Yaml::text(*name)))),
        );
        provider.push(Vec::new(), "from", Yaml::List(places), false);
    }

    fn add_outputs(&self, provider: &mut Yaml) -> Result<(), String> {
        let outputs = self.node.get("outputClaimToHeaders").map(Node::elements).unwrap_or_default();
        let mut written = Vec::new();
        for output in outputs {
            let text = |name: &str| output.get(name).and_then(Node::text).unwrap_or_default();
            let (claim, header) = (text("claim"), text("header").to_ascii_lowercase());
            if claim.is_empty() || header.is_empty() {
                return Err("an entry of `outputClaimToHeaders` has no claim or no header".to_owned());
            }
            written.push((
                Vec::new(),
                Yaml::map().with("claim", Yaml::text(claim)).with("header", Yaml::text(header)),
            ));
        }
        if !written.is_empty() {
            let remark =
                "A claim that is a list is joined by commas here. Envoy writes lists and objects in base64.";
            provider.push(vec![remark.to_owned()], "outputClaimToHeaders", Yaml::List(written), true);
        }
        if let Some(header) = self.node.get("outputPayloadToHeader").and_then(Node::text) {
            let header = header.to_ascii_lowercase();
            provider.push(Vec::new(), "outputPayloadToHeader", Yaml::text(header), false);
        }
        Ok(())
    }
}

/// The algorithms that keys are for, if the provider must name them.
fn algorithms(jwks: &Value) -> Result<Vec<&'static str>, String> {
    let mut found = BTreeSet::new();
    for key in jwks["keys"].as_array().into_iter().flatten() {
        let text = |name: &str| key[name].as_str().unwrap_or_default();
        match (text("kty"), text("crv"), text("alg")) {
            ("oct", ..) => {
                return Err("`jwks` has a shared secret. jwt-auth takes secrets from the proxy's environment: `secrets`".to_owned());
            }
            (_, _, "PS256" | "PS384" | "PS512") => {
                found.extend(["PS256", "PS384", "PS512"].into_iter().filter(|name| *name == text("alg")));
            }
            ("OKP", ..) => {
                found.insert("EdDSA");
            }
            ("EC", "P-521", _) => {
                found.insert("ES512");
            }
            _ => {}
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    Ok(["RS256", "RS384", "RS512", "ES256", "ES384"].into_iter().chain(found).collect())
}

/// A duration of a protocol buffer (`5s`, `0.5s`), or one that Go's parser reads in one unit.
fn millis(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let millis = number.parse::<f64>().ok()? * factor;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::as_conversions)]
    (millis.is_finite() && millis >= 0.0).then_some(millis.round() as u64)
}

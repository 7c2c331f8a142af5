//! Where a document is fetched, and how long it is used.

use std::fmt;
use std::time::Duration;

use crate::keys::jwk::Purpose;

/// How long a fetched document is used, and how it is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long the document is used before it is fetched again. The server's Cache-Control can only make it
    /// shorter.
    pub duration: Duration,
    /// The least time between two fetches that unknown key IDs cause.
    pub min_interval: Duration,
    /// How long a fetch may take.
    pub timeout: Duration,
    /// How long the document is used beyond its time while the server does not answer.
    pub stale_if_error: Duration,
}

/// A document at a URL, reached through a cluster of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The cluster.
    pub cluster: String,
    /// `:scheme`.
    pub scheme: &'static str,
    /// `:authority`.
    pub authority: String,
    /// `:path`.
    pub path: String,
    /// Headers of the operator's, which the server wants.
    pub headers: FetchHeaders,
    /// What the keys are for, if it is a key set.
    pub purpose: Purpose,
    /// If the document there only says where the keys are: what it must say.
    pub discovery: Option<Box<Discovery>>,
    /// How long it is used, and how it is fetched.
    pub settings: Settings,
}

/// What the metadata of an issuer must say; [`crate::fetch::discovery`] reads it. Keys that are fetched by way
/// of it are at the `jwks_uri` that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    /// The issuer that the metadata must be of.
    pub issuer: String,
    /// The hosts, with their ports, besides the issuer's own, at which the keys may be.
    pub jwks_hosts: Vec<String>,
}

/// Headers of a fetch, whose values are secrets.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct FetchHeaders(pub Vec<(String, String)>);

/// Shows the names only.
impl fmt::Debug for FetchHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Remote {
    /// Whether both are the same document at the same URL, asked for in the same way.
    pub fn is_same_place(&self, other: &Self) -> bool {
        let Self { cluster, scheme, authority, path, headers, purpose, discovery, settings: _ } = self;
        (cluster, scheme, authority, path) == (&other.cluster, &other.scheme, &other.authority, &other.path)
            && (headers, purpose, discovery) == (&other.headers, &other.purpose, &other.discovery)
    }

    /// Reads a URL. Unless a cluster is named, it is the one that Istio has for the host and port.
    ///
    /// # Errors
    /// The text is not an http or https URL with a host, or it has user information or a fragment.
    pub fn parse(url: &str, cluster: Option<&str>, settings: Settings) -> Result<Self, String> {
        // The error does not show what was found, since a password or a key may be in it.
        let expected = || {
            "is not a valid URL; expected one such as `http://name.namespace.svc.cluster.local:8080/jwks.json`, without user information and \
             fragment"
                .to_owned()
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(expected)?;
        let (scheme, default_port) = match scheme {
            "http" => ("http", 80),
            "https" => ("https", 443),
            _ => return Err(expected()),
        };
        let path_at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse::<u16>().map_err(|_| expected())?),
            None => (authority, default_port),
        };
        let odd = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '.');
        let odd_path = |c: char| !c.is_ascii_graphic() || c == '#';
        if host.is_empty() || host.contains(odd) || path.contains(odd_path) {
            return Err(expected());
        }
        let cluster = cluster.map_or_else(|| format!("outbound|{port}||{host}"), str::to_owned);
        let (headers, purpose) = (FetchHeaders::default(), Purpose::default());
        let authority = authority.to_owned();
        Ok(Self { cluster, scheme, authority, path, headers, purpose, discovery: None, settings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Remote, String> {
        let [duration, min_interval, timeout, stale_if_error] = [Duration::ZERO; 4];
        Remote::parse(url, None, Settings { duration, min_interval, timeout, stale_if_error })
    }

    #[test]
    fn url_without_cluster_derives_it() {
        for (url, scheme, authority, path, cluster) in [
            ("http://a-b.test", "http", "a-b.test", "/", "outbound|80||a-b.test"),
            ("https://a.test/x?y=z", "https", "a.test", "/x?y=z", "outbound|443||a.test"),
            ("http://a.test:8080?y", "http", "a.test:8080", "/?y", "outbound|8080||a.test"),
        ] {
            let remote = parse(url).unwrap();
            assert_eq!(
                (remote.scheme, &*remote.authority, &*remote.path, &*remote.cluster),
                (scheme, authority, path, cluster)
            );
        }
    }

    #[test]
    fn values_of_headers_are_not_shown() {
        let headers = FetchHeaders(vec![("x-api-key".to_owned(), "s3cr3t".to_owned())]);
        assert_eq!(format!("{headers:?}"), r#"{"x-api-key"}"#);
    }

    #[test]
    fn invalid_url_is_refused_and_not_shown() {
        for url in [
            "s3cr3t",
            "http://a.test:s3cr3t/",
            "http://s3cr3t:x@a.test/",
            "http://a.test/x#s3cr3t",
            "http://a.test/ ?key=s3cr3t",
            "s3cr3t://a.test/",
            "a.test",
            "ftp://a.test",
            "http://",
            "http:///x",
            "http://:80/",
            "http://user@a.test/",
            "http://a_b.test/",
            "http://a.test:x/",
            "http://a.test:70000/",
            "http://a.test/x#y",
            "http://a.test/x y",
            "http://a.test/\u{e9}",
        ] {
            let error = parse(url).unwrap_err();
            assert!(
                error.starts_with("is not a valid URL; expected one such as `http://name.")
                    && !error.contains("s3cr3t"),
                "{error}"
            );
        }
    }
}

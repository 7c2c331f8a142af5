//! The metadata of a protected resource (RFC 9728), by which a client that knows only the resource finds out who
//! issues tokens for it.

use plugin_kit::reply::Reply;
use plugin_kit::request::headers::HeaderMap;
use serde_json::{Map, Value};

use crate::reply::origin_of;

/// Where the document is, in front of the path of the resource (RFC 9728 section 3).
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The document, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The URL of the document, for challenges.
    pub url: String,
    path: String,
    body: Vec<u8>,
}

impl Metadata {
    /// The document of a resource, with these members beside `resource`.
    ///
    /// # Errors
    /// `resource` is not an `http` or `https` URL with a host in lower case and without query and fragment.
    pub fn new(resource: &str, mut members: Map<String, Value>) -> Result<Self, String> {
        let origin = origin_of(resource);
        let path = origin.and_then(|origin| resource.strip_prefix(origin));
        let good = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>?\\^`{|}".contains(&byte);
        let (Some(origin), Some(path)) = (origin, path.filter(|path| path.bytes().all(good))) else {
            return Err("is not the URL of a resource; expected one such as `https://mcp.example/mcp`, without query and fragment".to_owned());
        };
        let path = format!("{WELL_KNOWN}{}", if path == "/" { "" } else { path });
        members.insert("resource".to_owned(), resource.into());
        let body = serde_json::to_vec(&members).map_err(|error| error.to_string())?;
        Ok(Self { url: format!("{origin}{path}"), path, body })
    }

    /// The reply to a request for the document, which anyone may make; `None` to any other request.
    #[inline(never)]
    pub fn reply(&self, head: &HeaderMap) -> Option<Reply> {
        const METHODS: &str = "GET, HEAD, OPTIONS";
        let path = head.path().split(|byte| *byte == b'?').next().unwrap_or_default();
        if path != self.path.as_bytes() {
            return None;
        }
        let (status, headers): (u16, &[(&str, &str)]) = match head.method() {
            b"GET" | b"HEAD" => {
                (200, &[("content-type", "application/json"), ("cache-control", "public, max-age=300")])
            }
            b"OPTIONS" => (
                204,
                &[
                    ("allow", METHODS),
                    ("access-control-allow-methods", METHODS),
                    // A page cannot ask for any other header by `*` than those that need no credentials.
                    ("access-control-allow-headers", "authorization, *"),
                    ("access-control-max-age", "86400"),
                ],
            ),
            _ => (405, &[("allow", METHODS)]),
        };
        let any_page = ("access-control-allow-origin", "*");
        let headers = headers.iter().chain([&any_page]);
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = if status == 200 { self.body.clone() } else { Vec::new() };
        Some(Reply {
            status,
            grpc_status: None,
            headers,
            body,
            details: "jwt_auth_resource_metadata".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_between_host_and_path_of_the_resource() {
        for (resource, url) in [
            ("https://a.example", "https://a.example/.well-known/oauth-protected-resource"),
            ("https://a.example/", "https://a.example/.well-known/oauth-protected-resource"),
            ("https://a.example:8443/mcp", "https://a.example:8443/.well-known/oauth-protected-resource/mcp"),
            ("http://localhost/a/b", "http://localhost/.well-known/oauth-protected-resource/a/b"),
        ] {
            assert_eq!(Metadata::new(resource, Map::new()).unwrap().url, url);
        }
        for resource in [
            "",
            "a.example",
            "ftp://a.example",
            "https://a.example/?x",
            "https://a.example/#x",
            "https://u@a.example/",
            "https://a.example/\"",
        ] {
            assert!(Metadata::new(resource, Map::new()).is_err(), "{resource}");
        }
    }
}

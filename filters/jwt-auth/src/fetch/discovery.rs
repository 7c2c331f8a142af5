//! Discovery: the metadata of an issuer (`OpenID` Connect Discovery, RFC 8414), which says where its keys are.

use plugin_kit::reply::detail::printable;
use plugin_kit::wire::json;
use serde_json::Value;

use crate::fetch::failure::{Failure, LONGEST, shown_url};
use crate::fetch::remote::{Discovery, Remote};

impl Discovery {
    /// Where `OpenID` Connect Discovery (section 4.1) has the metadata of an issuer.
    pub fn url_of(issuer: &str) -> String {
        format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer))
    }

    /// Where the keys are, as `body` says, which was fetched from `metadata`.
    ///
    /// # Errors
    /// The body is not the metadata of the issuer, or the keys are where they must not be.
    #[inline(never)]
    pub fn keys(&self, body: &[u8], metadata: &Remote) -> Result<Remote, Failure> {
        const EXPECTED: &str = "not the metadata of an issuer: expected a JSON object with `issuer` and `jwks_uri`, and no name twice";
        let members = json::object(body).map_err(|_| Failure::content(body, EXPECTED))?;
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let (Some(issuer), Some(url)) = (text("issuer"), text("jwks_uri")) else {
            return Err(Failure::content(body, EXPECTED));
        };
        if issuer != self.issuer {
            return Err(Failure::wrong(format!(
                "the metadata is of the issuer `{}`; expected `{}`",
                printable(issuer, LONGEST),
                self.issuer
            )));
        }
        let named = shown_url(url);
        let is_plain = |keys: &Remote| !keys.path.split(['/', '?']).any(|part| matches!(part, "." | ".."));
        let keys = Remote::parse(url, None, metadata.settings).ok().filter(is_plain);
        let Some(keys) = keys else {
            return Err(Failure::wrong(format!(
                "the metadata says that the keys are at `{named}`, which is not a URL that can be fetched"
            )));
        };
        let own = Remote::parse(&self.issuer, None, metadata.settings).ok();
        let is_own = own.as_ref().is_some_and(|own| own.authority.eq_ignore_ascii_case(&keys.authority));
        if !is_own && !self.jwks_hosts.contains(&keys.authority) {
            return Err(Failure::wrong(format!(
                "the metadata says that the keys are at `{named}`, which is not on the issuer's host; expected that host, or one \
                 of `discovery.jwksHosts`"
            )));
        }
        if own.is_some_and(|own| own.scheme == "https") && keys.scheme != "https" {
            return Err(Failure::wrong(format!(
                "the metadata says that the keys are at `{named}`; expected `https`, as the issuer has"
            )));
        }
        let is_there = (keys.scheme, &keys.authority) == (metadata.scheme, &metadata.authority);
        let cluster = if is_there { metadata.cluster.clone() } else { keys.cluster };
        let headers = if is_there { metadata.headers.clone() } else { keys.headers };
        Ok(Remote { cluster, headers, purpose: metadata.purpose, ..keys })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fetch::remote::Settings;

    fn keys(issuer: &str, hosts: &[&str], body: &str) -> Result<Remote, String> {
        let [duration, min_interval, timeout, stale_if_error] = [Duration::ZERO; 4];
        let settings = Settings { duration, min_interval, timeout, stale_if_error };
        let metadata = Remote::parse(&Discovery::url_of(issuer), Some("named"), settings).unwrap();
        let jwks_hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let discovery = Discovery { issuer: issuer.to_owned(), jwks_hosts };
        discovery.keys(body.as_bytes(), &metadata).map_err(|error| error.to_string())
    }

    #[test]
    fn metadata_is_below_the_issuer() {
        for (issuer, url) in [
            ("https://a.test", "https://a.test/.well-known/openid-configuration"),
            ("https://a.test/", "https://a.test/.well-known/openid-configuration"),
            ("https://a.test/realms/x", "https://a.test/realms/x/.well-known/openid-configuration"),
        ] {
            assert_eq!(Discovery::url_of(issuer), url);
        }
    }

    #[test]
    fn keys_are_where_the_metadata_says_if_they_may_be_there() {
        let body = |url: &str| format!(r#"{{"issuer":"https://a.test/","jwks_uri":"{url}"}}"#);
        let own = keys("https://a.test/", &[], &body("https://a.test/keys")).unwrap();
        assert_eq!((&*own.cluster, &*own.authority, &*own.path), ("named", "a.test", "/keys"));
        let other = keys("https://a.test/", &["b.test:8443"], &body("https://b.test:8443/k")).unwrap();
        assert_eq!(other.cluster, "outbound|8443||b.test");
        for (url, part) in [
            ("https://evil.test/keys", "not on the issuer's host"),
            ("https://a.test.evil.test/keys", "not on the issuer's host"),
            ("https://a.test:444/keys", "not on the issuer's host"),
            ("https://b.test/keys", "not on the issuer's host"),
            ("https://a.test@evil.test/keys", "not a URL that can be fetched"),
            ("http://a.test/keys", "expected `https`"),
            ("file:///etc/passwd", "not a URL that can be fetched"),
            ("https://a.test/keys/../admin", "not a URL that can be fetched"),
            ("https://u:secret@evil.test/keys?secret", "at `https://evil.test/keys`, which"),
        ] {
            let error = keys("https://a.test/", &["b.test:8443"], &body(url)).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn metadata_of_another_issuer_is_refused_and_named() {
        let error =
            keys("https://a.test", &[], r#"{"issuer":"https://a.test/","jwks_uri":"https://a.test/k"}"#);
        assert_eq!(
            error.unwrap_err(),
            "the metadata is of the issuer `https://a.test/`; expected `https://a.test`"
        );
        for body in [
            "",
            "[]",
            "{}",
            "<html>",
            r#"{"issuer":7,"jwks_uri":"https://a.test/k"}"#,
            r#"{"issuer":"https://a.test"}"#,
        ] {
            let error = keys("https://a.test", &[], body).unwrap_err();
            assert!(error.starts_with("not the metadata of an issuer"), "{body}: {error}");
        }
    }
}

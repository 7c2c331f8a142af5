//! Which names of headers a configuration may use.

/// Checks the name of a header, as a configuration gives it: lower case, since Envoy keeps names so.
///
/// # Errors
/// Says what is wrong.
pub fn header_name(name: &str) -> Result<(), String> {
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(good) {
        return Ok(());
    }
    Err("is not a header name; expected lower-case letters, digits and `-`".to_owned())
}

/// Headers that browsers, proxies and servers act on, or that say who a client is; and beginnings of such names.
const RESERVED: [&str; 66] = [
    "authorization",
    "b3",
    "baggage",
    "cache-control",
    "cf-connecting-ip",
    "connection",
    "cookie",
    "date",
    "early-data",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "proxy",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "status",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-ssl",
    "x-forwarded-uri",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
    "accept*",
    "access-control-*",
    "content-*",
    "grpc-*",
    "if-*",
    "proxy-*",
    "sec-*",
    "x-b3-*",
    "x-envoy-*",
];

/// Checks the name of a header that gets a value of the filter's own, such as a claim.
///
/// # Errors
/// The text is not the name of a header, or the header has a meaning of its own.
pub fn output_header_name(name: &str) -> Result<(), String> {
    header_name(name)?;
    // Some servers take an underscore for a dash.
    let dashed = name.replace('_', "-");
    let is_named = |reserved: &&&str| match reserved.strip_suffix('*') {
        Some(start) => dashed.starts_with(start),
        None => dashed == **reserved,
    };
    match RESERVED.iter().find(is_named) {
        Some(reserved) => Err(format!(
            "`{reserved}` has a meaning of its own to browsers, proxies or servers; expected another header, such as `x-user-id`"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_a_meaning_of_its_own_gets_no_value_of_the_filter() {
        for name in [
            "host",
            "cookie",
            "set-cookie",
            "transfer-encoding",
            "connection",
            "retry-after",
            "www-authenticate",
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-envoy-internal",
            "access-control-allow-origin",
            "content-type",
            "x_forwarded_for",
            "transfer_encoding",
            "x-original-url",
            "true-client-ip",
            "traceparent",
            "if-match",
        ] {
            let error = output_header_name(name).unwrap_err();
            assert!(
                error.contains("has a meaning of its own") && error.contains("expected another header"),
                "{error}"
            );
        }
        for name in ["", "X-A", ":path", "a b"] {
            assert!(
                output_header_name(name).unwrap_err().starts_with("is not a header name; expected"),
                "{name}"
            );
        }
        for name in ["x-user-id", "x-forwarded-user", "x-forwarded-email", "x-content-type", "contents"] {
            assert_eq!(output_header_name(name), Ok(()), "{name}");
        }
    }
}

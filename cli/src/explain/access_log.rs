//! Lines of an access log: JSON, or one of the two texts that need no configuration.

use serde_json::{Map, Value, json};

/// The fields of a line, under the names that `install/istio.yaml` gives them.
pub(super) fn fields(line: &str) -> Option<Value> {
    match serde_json::from_str(line.trim()) {
        Ok(Value::Object(fields)) => Some(Value::Object(named(fields))),
        Ok(_) => None,
        Err(_) => of_text(line),
    }
}

/// Renames fields: Istio's own JSON (`accessLogEncoding: JSON`) has other names for some of them.
fn named(mut fields: Map<String, Value>) -> Map<String, Value> {
    for (own, ours) in
        [("response_code", "status"), ("response_code_details", "details"), ("response_flags", "flags")]
    {
        if let (Some(value), false) = (fields.get(own).cloned(), fields.contains_key(ours)) {
            fields.insert(ours.to_owned(), value);
        }
    }
    fields
}

/// Reads the default texts of Envoy (`DEFAULT_FORMAT`) and of Istio (`EnvoyTextLogFormat`). Istio's has three
/// more fields behind the flags, of which the details are the first:
///
///     [TIME] "METHOD PATH PROTOCOL" STATUS FLAGS BYTES BYTES DURATION TIME "ADDRESS" "AGENT" "ID" "AUTHORITY"
fn of_text(line: &str) -> Option<Value> {
    // The names that `kubectl logs --prefix` and others add stand before the time.
    let fields = words(&line[line.find('[')?..]);
    let field = |n: usize| fields.get(n).map(String::as_str);
    let mut head = field(1)?.split(' ');
    let (method, path, protocol) = (head.next()?, head.next()?, head.next()?);
    let status: u16 = field(2)?.parse().ok()?;
    if head.next().is_some() || !(protocol.starts_with("HTTP/") || protocol == "-") {
        return None;
    }
    let is_envoys = field(4)?.parse::<u64>().is_ok();
    let (details, rest) = if is_envoys { ("-", 4) } else { (field(4)?, 7) };
    Some(json!({
        "method": method,
        "path": path,
        "status": status,
        "flags": field(3)?,
        "details": details,
        "request_id": field(rest + 6)?,
        "authority": field(rest + 7)?,
    }))
}

/// The words of a line. A text between quotes or brackets is one word.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() {
        let end = match rest.as_bytes().first() {
            Some(b'"') => rest[1..].find('"').map(|end| end + 2),
            Some(b'[') => rest.find(']').map(|end| end + 1),
            _ => rest.find(' '),
        };
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        words.push(word.trim_matches(['"', '[', ']']).to_owned());
        rest = after.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_texts_are_read() {
        let envoy = r#"[2026-12-01T07:30:00.000Z] "GET /orders/7?a=b HTTP/1.1" 401 - 0 141 1 - "-" "curl/8.5.0" "id-1" "orders.shop" "-""#;
        let istio = r#"orders-1 istio-proxy [2026-12-01T07:30:00.000Z] "GET /orders/7?a=b HTTP/1.1" 401 - jwt_auth_token_expired - "-" 0 141 1 - "-" "curl/8.5.0" "id-1" "orders.shop" "-" inbound|8080|| - 10.0.0.1:8080 10.0.0.7:4 - default"#;
        for (line, details) in [(envoy, "-"), (istio, "jwt_auth_token_expired")] {
            let expected = json!({
                "method": "GET", "path": "/orders/7?a=b", "status": 401, "flags": "-", "details": details, "request_id": "id-1",
                "authority": "orders.shop",
            });
            assert_eq!(fields(line), Some(expected), "{line}");
        }
        let json =
            r#"{"method":"GET","path":"/","response_code":403,"response_code_details":"via_upstream"}"#;
        assert_eq!(fields(json).map(|fields| fields["status"].clone()), Some(403.into()));
        for line in ["", "[", "[a] \"GET / HTTP/1.1\"", "[a] \"b\" 1 2 3", "7", "no log", "[\"é"] {
            assert_eq!(fields(line), None, "{line}");
        }
    }
}

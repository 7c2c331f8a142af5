//! Local replies: responses that the proxy makes itself.

use crate::stream::exchange::Response;
use crate::stream::headers::HeaderMap;

/// What `proxy_send_local_response` asked for.
#[derive(Debug, Clone)]
pub(crate) struct LocalReply {
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) details: String,
}

impl LocalReply {
    /// `Context::sendLocalResponse` (Envoy `context.cc`): a gRPC status outside 0..=16 (SDKs pass -1) leaves
    /// Envoy's mapping; spaces in the details become underscores (`StringUtil::replaceAllEmptySpace`).
    pub(crate) fn new(
        status: u32,
        grpc_status: u32,
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
        details: &str,
    ) -> Self {
        let details = details.replace(char::is_whitespace, "_");
        let grpc_status = (grpc_status <= 16).then_some(grpc_status);
        Self { status: u16::try_from(status).unwrap_or(u16::MAX), grpc_status, headers, body, details }
    }

    /// `Context::failStream`: what a client gets from a dead VM under `FAIL_CLOSE`.
    pub(crate) fn failed_stream() -> Self {
        Self::new(503, 14, Vec::new(), Vec::new(), "wasm_fail_stream")
    }

    /// `Utility::prepareLocalReply` (Envoy `source/common/http/utility.cc`).
    pub(crate) fn response(&self, request: &HeaderMap) -> Response {
        let mut response = Response::new(self.status);
        for (name, value) in &self.headers {
            response.headers.add(name, value);
        }
        let head = request.get(":method") == Some("HEAD");
        let headers = &mut response.headers;
        if is_grpc(request) {
            headers.set(":status", "200");
            headers.set("content-type", "application/grpc");
            if !headers.contains("grpc-status") {
                let status = self.grpc_status.unwrap_or_else(|| http_to_grpc_status(self.status));
                headers.set("grpc-status", status.to_string());
            }
            if !self.body.is_empty() && !head {
                headers.set("grpc-message", percent_encode(&self.body));
            }
            headers.remove("content-length");
            return response;
        }
        if self.body.is_empty() {
            headers.remove("content-length");
            headers.remove("content-type");
        } else {
            headers.set("content-length", self.body.len().to_string());
            if !headers.contains("content-type") {
                headers.set("content-type", "text/plain");
            }
        }
        if !head {
            response.body.clone_from(&self.body);
        }
        response
    }
}

/// `Grpc::Common::isGrpcRequestHeaders`: a content type `application/grpc` or `application/grpc+…`.
fn is_grpc(request: &HeaderMap) -> bool {
    let rest = request.get("content-type").and_then(|value| value.strip_prefix("application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+'))
}

/// `Grpc::Utility::httpToGrpcStatus` (Envoy `source/common/grpc/status.cc`).
fn http_to_grpc_status(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `PercentEncoding::encode` (Envoy `source/common/http/utility.cc`): what is not printable ASCII, and `%`.
fn percent_encode(text: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        b'%' | 0..b' ' | 0x7f.. => format!("%{byte:02X}"),
        _ => char::from(*byte).to_string(),
    };
    text.iter().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str, headers: &[(&str, &str)]) -> LocalReply {
        let headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        LocalReply::new(429, u32::MAX, headers, body.as_bytes().to_vec(), "over limit")
    }

    fn request(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().copied().collect()
    }

    #[test]
    fn headers_are_added_not_replaced() {
        let response = reply("x", &[("x-a", "1"), ("x-a", "2")]).response(&request(&[(":method", "GET")]));
        assert_eq!(response.headers.all("x-a"), ["1", "2"]);
        assert_eq!(response.headers.get("content-type"), Some("text/plain"));
        assert_eq!(response.headers.get("content-length"), Some("1"));
    }

    #[test]
    fn a_grpc_reply_is_200_with_a_status_and_a_message() {
        let grpc = request(&[(":method", "POST"), ("content-type", "application/grpc+proto")]);
        let response = reply("a\n%", &[]).response(&grpc);
        assert_eq!(response.headers.get(":status"), Some("200"));
        assert_eq!(response.headers.get("grpc-status"), Some("14"));
        assert_eq!(response.headers.get("grpc-message"), Some("a%0A%25"));
        assert!(response.body.is_empty());
    }

    #[test]
    fn an_empty_body_has_no_type_and_head_has_no_body() {
        let empty = reply("", &[("content-type", "x/y")]).response(&request(&[(":method", "GET")]));
        assert!(!empty.headers.contains("content-type"));
        let head = reply("body", &[]).response(&request(&[(":method", "HEAD")]));
        assert_eq!(head.headers.get("content-length"), Some("4"));
        assert!(head.body.is_empty());
    }

    #[test]
    fn spaces_in_details_become_underscores() {
        assert_eq!(reply("", &[]).details, "over_limit");
    }
}

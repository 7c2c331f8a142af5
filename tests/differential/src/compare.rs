//! In what two hosts differ.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use cases::{Exchange, Observed};
use regex_lite::Regex;

/// Headers of proxies, clients and servers, which are not the filters'.
const OTHERS: [&str; 15] = [
    "connection",
    "content-length",
    "date",
    "host",
    "server",
    "te",
    "transfer-encoding",
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-upstream-service-time",
    "x-forwarded-proto",
    "x-forwarded-for",
    "x-request-id",
];

/// Where no request ID is sent, each host makes one.
static REQUEST_ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap());

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The place of the request among the exchanges; nothing for the configuration.
    pub request: Option<usize>,
    /// What differs: `status`, or the name of a header.
    pub what: String,
    /// What the first host had.
    pub expected: String,
    /// What the other had.
    pub seen: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.request {
            Some(request) => write!(f, "request {}: ", request + 1)?,
            None => write!(f, "configuration: ")?,
        }
        write!(f, "{}: expected {:?}, saw {:?}", self.what, self.expected, self.seen)
    }
}

/// The first difference between what two hosts did.
pub fn compare(expected: &Observed, seen: &Observed) -> Option<Difference> {
    let (expected, seen) = match (expected, seen) {
        (Observed::Refused(_), Observed::Refused(_)) => return None,
        (Observed::Accepted { exchanges: expected, .. }, Observed::Accepted { exchanges: seen, .. }) => {
            (expected, seen)
        }
        (Observed::Refused(log), _) => return Some(of_configuration(&format!("refused: {log}"), "accepted")),
        (_, Observed::Refused(log)) => return Some(of_configuration("accepted", &format!("refused: {log}"))),
    };
    expected.iter().zip(seen).enumerate().find_map(|(request, (expected, seen))| {
        let (mut expected, mut seen) = (facts(expected), facts(seen));
        let names: Vec<_> = expected.keys().chain(seen.keys()).cloned().collect();
        names.into_iter().find_map(|what| {
            let (expected, seen) =
                (expected.remove(&what).unwrap_or_default(), seen.remove(&what).unwrap_or_default());
            (!is_same(&expected, &seen)).then_some(Difference {
                request: Some(request),
                what,
                expected,
                seen,
            })
        })
    })
}

fn of_configuration(expected: &str, seen: &str) -> Difference {
    Difference {
        request: None,
        what: "configuration".to_owned(),
        expected: expected.to_owned(),
        seen: seen.to_owned(),
    }
}

/// Everything in which an exchange is compared, the most telling first.
fn facts(exchange: &Exchange) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut add = |what: String, value: &str| {
        let values: &mut String = facts.entry(what).or_default();
        if !values.is_empty() {
            *values += " | ";
        }
        *values += &REQUEST_ID.replace_all(value, "(a request ID)");
    };
    add("1 status".to_owned(), &exchange.response.status.to_string());
    add("2 details".to_owned(), &exchange.details);
    add("3 reached the service".to_owned(), &exchange.upstream.is_some().to_string());
    let is_servers = |name: &str| name == "content-type" && exchange.upstream.is_some();
    for (name, value) in &exchange.response.headers {
        // Of a fetch that failed, it depends on when that was.
        let is_of_fetch = name == "retry-after" && exchange.response.status == 503;
        if !OTHERS.contains(&&**name) && !is_servers(name) && !is_of_fetch {
            add(format!("response header {name}"), value);
        }
    }
    add("response body".to_owned(), &exchange.response.text());
    if let Some(upstream) = &exchange.upstream {
        add("authority to the service".to_owned(), &upstream.authority);
        add("path to the service".to_owned(), &upstream.path);
        for (name, value) in &upstream.headers {
            if !OTHERS.contains(&&**name) {
                // HTTP/1 has no space at the end of a value.
                add(format!("header {name} to the service"), value.trim_end());
            }
        }
    }
    for (key, value) in &exchange.filter_state {
        add(format!("filter state {key}"), value);
    }
    facts
}

/// Whether two texts say the same. Hosts do not ask in the same second: numbers of more than a minute may differ by that.
fn is_same(expected: &str, seen: &str) -> bool {
    const SECONDS: u64 = 60;
    if expected == seen {
        return true;
    }
    let pieces = |text: &str| -> Vec<String> {
        let both_are_digits = |a: &char, b: &char| a.is_ascii_digit() && b.is_ascii_digit();
        text.chars()
            .collect::<Vec<_>>()
            .chunk_by(both_are_digits)
            .map(|piece| piece.iter().collect())
            .collect()
    };
    let (expected, seen) = (pieces(expected), pieces(seen));
    expected.len() == seen.len()
        && expected.iter().zip(&seen).all(|(expected, seen)| {
            match (expected.parse::<u64>(), seen.parse::<u64>()) {
                (Ok(expected), Ok(seen)) => {
                    expected == seen || expected.min(seen) > SECONDS && expected.abs_diff(seen) <= SECONDS
                }
                _ => expected == seen,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_by_seconds_of_a_long_time_are_the_same() {
        assert!(is_same("\"l1\";r=4;t=17279", "\"l1\";r=4;t=17275"));
        assert!(!is_same("\"l1\";r=4;t=17279", "\"l1\";r=5;t=17279"));
        assert!(!is_same("\"l1\";r=4;t=17279", "\"l1\";r=4;t=17100"));
        assert!(!is_same("alice", "bob"));
        assert!(!is_same("7", "7 | 7"));
    }
}

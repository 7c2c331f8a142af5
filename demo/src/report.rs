//! What a person sees, and what of it differs from what it should be.

use std::collections::BTreeMap;

use envoy::{Span, values};
use serde_json::json;

use crate::Error;
use crate::mesh::{FILTER_STATE, Mesh, token};
use crate::requests::Outcome;
use crate::terminal::{self, faint, good, heading, wrong};

/// The processes and how a request goes through them.
pub(crate) fn picture(mesh: &Mesh) {
    heading("Mesh", "real Envoys on 127.0.0.1");
    for sidecar in mesh.sidecars() {
        println!("  {:15}  {}  sidecar with {}", sidecar.name, sidecar.address, sidecar.plugins.join(", "));
    }
    println!("  {:15}  {}  issuer and its keys", "auth-service", mesh.issuer.address());
    println!("  {:15}  {}  spans", "collector", mesh.collector.address());
}

fn table_row(outcome: &Outcome) -> Vec<String> {
    let retry = values(&outcome.response.headers, "retry-after");
    let mut why = outcome.why().to_owned();
    if let Some(seconds) = retry.first() {
        why = format!("{why}, retry after {seconds} s");
    }
    if outcome.by().is_none() {
        let users = outcome.users();
        why = if users.is_empty() { "user: none".to_owned() } else { format!("user: {}", users.join(", ")) };
    }
    vec![
        outcome.what.to_owned(),
        outcome.line.clone(),
        outcome.expected.status.to_string(),
        outcome.response.status.to_string(),
        outcome.by().unwrap_or("service").to_owned(),
        why,
    ]
}

/// Each request: what was expected, what came back, which filter decided and why.
pub(crate) fn table(outcomes: &[Outcome]) -> usize {
    heading("Requests", "what the service or a filter answered, and what the service knows of the user");
    let head = ["", "request", "want", "got", "decided by", "why"].map(str::to_owned).to_vec();
    terminal::table(&std::iter::once(head).chain(outcomes.iter().map(table_row)).collect::<Vec<_>>());
    let mut differences = 0;
    for outcome in outcomes.iter().filter(|outcome| !outcome.is_as_expected()) {
        differences += 1;
        println!(
            "  {} {}: expected {:?}, got {} by {:?} because of {:?}, users {:?}",
            wrong("differs"),
            outcome.what,
            outcome.expected,
            outcome.response.status,
            outcome.by(),
            outcome.why(),
            outcome.users()
        );
    }
    differences
}

/// The traces of a request through both services and of one that was refused, with the filters' tags on each
/// span.
pub(crate) fn spans(mesh: &Mesh, outcomes: &[Outcome]) -> Result<usize, Error> {
    heading("Spans", "as the collector got them; enduser.pseudo.id is a keyed hash of the user");
    let chosen = outcomes.iter().filter(|outcome| {
        outcome.line.ends_with("/content/recommended")
            || matches!(outcome.response.status, 403 | 429)
            || outcome.what == "no token"
    });
    let mut differences = 0;
    for outcome in chosen {
        let trace = outcome.log["trace_id"].as_str().unwrap_or_default();
        let both = outcome.line.ends_with("/content/recommended");
        let spans = mesh.collector.wait_for_trace(trace, if both { 2 } else { 1 })?;
        println!("  {}", faint(&format!("trace {trace}")));
        for root in spans.iter().filter(|span| !spans.iter().any(|other| other.span_id == span.parent_id)) {
            tree(root, &spans, 0);
        }
        for span in &spans {
            let missing = |tag: &&&str| tag_of(span, tag).is_none();
            // Who the user is, is unknown where no token was good.
            let wanted: &[&str] = match outcome.response.status {
                401 | 403 => &["request.id", "service.version", "jwt.deny_code"],
                429 => &["enduser.pseudo.id", "request.id", "service.version", "ratelimit.limit"],
                _ => &["enduser.pseudo.id", "request.id", "service.version"],
            };
            for tag in wanted.iter().filter(missing) {
                differences += 1;
                println!("  {} no {tag} on the span of {}", wrong("differs"), span.service);
            }
        }
        if both && spans.len() == 2 && spans[1].parent_id.is_empty() {
            differences += 1;
            println!("  {} the second span has no parent", wrong("differs"));
        }
    }
    Ok(differences)
}

fn tree(span: &Span, spans: &[Span], depth: usize) {
    let status = span.attributes.get("http.status_code").map_or("-", String::as_str);
    let tags: Vec<String> = FILTER_STATE
        .iter()
        .map(|key| key.strip_prefix("tag.").unwrap_or(key))
        .filter_map(|tag| Some(format!("{tag}={}", tag_of(span, tag)?)))
        .collect();
    println!("  {}{}  {}  {status}  {}", "    ".repeat(depth), span.service, span.name, tags.join("  "));
    for child in spans.iter().filter(|child| child.parent_id == span.span_id) {
        tree(child, spans, depth + 1);
    }
}

/// A tag's value; Envoy shows absent filter state as `-`.
fn tag_of<'a>(span: &'a Span, tag: &str) -> Option<&'a str> {
    span.attributes.get(tag).map(String::as_str).filter(|value| *value != "-")
}

/// Lines of the access log, and that each refusal names its reason there.
pub(crate) fn access_log(outcomes: &[Outcome]) -> usize {
    heading("Access log", "of content-service, one JSON object a request");
    let mut shown = Vec::new();
    for outcome in outcomes {
        let status = outcome.response.status;
        if !shown.contains(&status) {
            shown.push(status);
            println!("  {}", outcome.log);
        }
    }
    let silent = |outcome: &&Outcome| outcome.log["filter_state"]["tag.request.id"].is_null();
    let differences = outcomes.iter().filter(silent).count();
    if differences > 0 {
        println!("  {} {differences} lines without a request ID", wrong("differs"));
    }
    differences
}

/// What the filters counted, against what was sent.
pub(crate) fn metrics(mesh: &Mesh, outcomes: &[Outcome]) -> Result<usize, Error> {
    heading("Metrics", "of the filters, wasmcustom.… in Envoy's statistics; those that are not 0");
    let mut rows = vec![["", "content-service", "ml-service"].map(str::to_owned).to_vec()];
    let mut counted: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    for (n, sidecar) in mesh.sidecars().into_iter().enumerate() {
        for (name, value) in sidecar.envoy.stats()? {
            if let Some(name) = name.strip_prefix("wasmcustom.").filter(|_| value > 0) {
                counted.entry(name.to_owned()).or_default()[n] = value;
            }
        }
    }
    let shown = |count: u64| if count == 0 { String::new() } else { count.to_string() };
    rows.extend(counted.iter().map(|(name, [a, b])| vec![name.clone(), shown(*a), shown(*b)]));
    terminal::table(&rows);

    let sent =
        |filter| u64::try_from(outcomes.iter().filter(|outcome| outcome.expected.by == filter).count());
    let mut differences = 0;
    for (name, expected) in [
        ("jwt_auth_requests_denied", sent(Some("jwt-auth"))?),
        ("rate_limit_requests_denied", sent(Some("rate-limit"))?),
    ] {
        let found = counted.get(name).map_or(0, |[content, _]| *content);
        if found != expected {
            differences += 1;
            println!("  {} {name}: expected {expected}, got {found}", wrong("differs"));
        }
    }
    Ok(differences)
}

/// No token that was sent may be in a log.
pub(crate) fn secrets(mesh: &Mesh, outcomes: &[Outcome]) -> usize {
    let logs: Vec<String> = mesh
        .sidecars()
        .into_iter()
        .flat_map(|sidecar| {
            let access_log = sidecar.envoy.access_log().into_iter().map(|entry| entry.to_string());
            std::iter::once(sidecar.envoy.log()).chain(access_log)
        })
        .collect();
    let signature = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
    let leaked = outcomes
        .iter()
        .filter_map(|outcome| outcome.token.as_deref().map(signature))
        .filter(|signature| logs.iter().any(|log| log.contains(signature)))
        .count();
    if leaked > 0 {
        println!("  {} {leaked} tokens in the logs", wrong("differs"));
    }
    leaked
}

/// Whether all went well.
pub(crate) fn verdict(differences: usize) {
    if differences == 0 {
        println!("\n{}", good("Everything is as expected."));
    } else {
        println!("\n{}", wrong(&format!("{differences} not as expected.")));
    }
}

/// Requests to try while everything runs.
pub(crate) fn keep(mesh: &Mesh) -> Result<(), Error> {
    heading("Try it", "Ctrl-C ends everything; the tokens are good for an hour");
    let address = mesh.content.address;
    let alice = token("rsa-1", &json!({ "sub": "alice", "exp": "+1h" }))?;
    let admin =
        token("rsa-1", &json!({ "sub": "root", "exp": "+1h", "realm_access": { "roles": ["admin"] } }))?;
    println!("  ALICE={alice}\n  ADMIN={admin}");
    println!("  curl -i http://{address}/content/lessons");
    println!("  curl -i http://{address}/content/lessons -H \"Authorization: Bearer $ALICE\"");
    println!("  curl -i http://{address}/admin/reports -H \"Authorization: Bearer $ADMIN\"");
    println!("  curl -i http://{address}/content/recommended -H \"Authorization: Bearer $ADMIN\"");
    println!(
        "  for i in 1 2 3 4 5 6; do curl -s -o /dev/null -w '%{{http_code}} ' http://{address}/content/lessons \
    -H \"Authorization: Bearer $ALICE\"; done; echo"
    );
    for sidecar in mesh.sidecars() {
        println!(
            "  curl -s http://{}/stats?filter=wasmcustom   # {}",
            sidecar.envoy.admin_address(),
            sidecar.name
        );
    }
    Ok(())
}

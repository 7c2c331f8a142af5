//! The requests that are sent, and what should come of each.

use envoy::{Request, Response};
use serde_json::{Value, json};

use crate::Error;
use crate::mesh::{Mesh, token};

/// One request and what should come of it.
struct Step {
    what: &'static str,
    request: Request,
    expected: Expected,
}

/// What should come of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// HTTP status.
    pub(crate) status: u16,
    /// The filter that decides; `None` where the service answers.
    pub(crate) by: Option<&'static str>,
    /// The deny code or the limit's name; empty where the service answers.
    pub(crate) why: &'static str,
    /// Whom the service sees as its user, where it answers.
    pub(crate) users: &'static [&'static str],
}

/// A request that was sent.
pub(crate) struct Outcome {
    /// What it shows.
    pub(crate) what: &'static str,
    /// Method and path.
    pub(crate) line: String,
    /// What should have come of it.
    pub(crate) expected: Expected,
    /// What came back.
    pub(crate) response: Response,
    /// The access log's entry in the first sidecar.
    pub(crate) log: Value,
    /// The token that it carried.
    pub(crate) token: Option<String>,
}

impl Outcome {
    /// The filter that decided, by the access log.
    pub(crate) fn by(&self) -> Option<&'static str> {
        let details = self.log["details"].as_str().unwrap_or_default();
        [("jwt_auth_", "jwt-auth"), ("rate_limit_", "rate-limit")]
            .into_iter()
            .find_map(|(prefix, filter)| details.contains(prefix).then_some(filter))
    }

    /// The deny code or the limit's name, by the access log.
    pub(crate) fn why(&self) -> &str {
        let state = &self.log["filter_state"];
        state["jwt.deny_code"].as_str().or(state["ratelimit.limit"].as_str()).unwrap_or_default()
    }

    /// Whom the service saw as its user.
    pub(crate) fn users(&self) -> Vec<String> {
        let body: Value = serde_json::from_slice(&self.response.body).unwrap_or_default();
        serde_json::from_value(body["users"].clone()).unwrap_or_default()
    }

    /// Whether everything is as expected.
    pub(crate) fn is_as_expected(&self) -> bool {
        let Expected { status, by, why, users } = &self.expected;
        self.response.status == *status && self.by() == *by && self.why() == *why && self.users() == *users
    }
}

fn served(users: &'static [&'static str]) -> Expected {
    Expected { status: 200, by: None, why: "", users }
}

fn refused(status: u16, why: &'static str) -> Expected {
    Expected { status, by: Some("jwt-auth"), why, users: &[] }
}

/// What the filters do, in twenty requests.
fn steps() -> Result<Vec<Step>, Error> {
    let alice = token("rsa-1", &json!({ "sub": "alice" }))?;
    let bob = token("ec-1", &json!({ "sub": "bob" }))?;
    let root = token("rsa-1", &json!({ "sub": "root", "realm_access": { "roles": ["admin"] } }))?;
    let expired = token("rsa-1", &json!({ "sub": "alice", "exp": "-1h" }))?;
    let elsewhere = token("rsa-1", &json!({ "sub": "alice", "aud": "another-api" }))?;
    let (head, signature) = alice.rsplit_once('.').ok_or("a token without a signature")?;
    let (first, rest) = signature.split_at(1);
    let tampered = format!("{head}.{}{rest}", if first == "A" { "B" } else { "A" });

    let get = |path: &str| Request::new("GET", path);
    let by = |request: Request, token: &str| request.header("authorization", &format!("Bearer {token}"));
    let mut steps = Vec::new();
    let mut step = |what, request, expected| steps.push(Step { what, request, expected });

    step("public path, no token", get("/healthz"), served(&[]));
    step("no token", get("/content/lessons"), refused(401, "token_missing"));
    step("a good token", by(get("/content/lessons"), &alice), served(&["alice"]));
    step(
        "a good token, and a header that claims more",
        by(get("/content/lessons"), &alice).header("x-user-id", "root").header("x_user_id", "root"),
        served(&["alice"]),
    );
    step("the same header on a public path", get("/healthz").header("x-user-id", "root"), served(&[]));
    step("an expired token", by(get("/content/lessons"), &expired), refused(401, "token_expired"));
    step(
        "a token for another audience",
        by(get("/content/lessons"), &elsewhere),
        refused(401, "audience_mismatch"),
    );
    step(
        "a token with another signature",
        by(get("/content/lessons"), &tampered),
        refused(401, "signature_invalid"),
    );
    step("two tokens", by(by(get("/content/lessons"), &alice), &root), refused(400, "several_tokens"));
    step("a user on an admin path", by(get("/admin/reports"), &alice), refused(403, "claims_forbidden"));
    step("an admin on it", by(get("/admin/reports"), &root), served(&["root"]));
    step(
        "a path that means two things",
        by(get("/content/..;/admin"), &alice),
        refused(400, "path_ambiguous"),
    );
    step("one service calls the next", by(get("/content/recommended"), &root), served(&["root"]));
    for _ in 0..5 {
        step("within the limit of 5 a minute", by(get("/content/lessons"), &bob), served(&["bob"]));
    }
    let limited = Expected { status: 429, by: Some("rate-limit"), why: "per-user", users: &[] };
    step("one too many", by(get("/content/lessons"), &bob), limited);
    step("another user is not touched by that", by(get("/content/lessons"), &alice), served(&["alice"]));
    Ok(steps)
}

/// Sends every request through the first sidecar, one after the other.
pub(crate) fn send_all(mesh: &Mesh) -> Result<Vec<Outcome>, Error> {
    let mut outcomes = Vec::new();
    for Step { what, request, expected } in steps()? {
        let response = request.send(mesh.content.address)?;
        let log = mesh.content.envoy.access_log_entry(response.client_port)?;
        let line = format!("{} {}", request.method, request.path);
        let token = envoy::values(&request.headers, "authorization")
            .first()
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::to_owned);
        outcomes.push(Outcome { what, line, expected, response, log, token });
    }
    Ok(outcomes)
}

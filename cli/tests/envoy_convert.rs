//! The same requests through Istio's own filters, as istiod translates the resources of `testdata/convert`, and through what
//! `mesh-filters convert` makes of them, in one Envoy. Both let in the same requests, or the difference is one that is meant: it is
//! listed here, counted, and in docs/migrate.md.
//!
//! `CONVERT_REQUESTS` is how many requests each run sends, and `CONVERT_SEED` which. A difference that is not meant is made as small
//! as it can be before it is shown.
#![allow(
    clippy::restriction,
    clippy::format_push_string,
    clippy::similar_names,
    clippy::struct_excessive_bools
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy::{Bootstrap, Cluster, Envoy, HttpFilter, Listener, Node, Upstream, Wasm};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The resources with keys inside, as `tests/convert/translate` has them.
fn with_keys(text: &str) -> String {
    let all: Value =
        serde_json::from_str(&fs::read_to_string(root().join("testdata/keys/jwks.json")).unwrap()).unwrap();
    let keys = all["keys"].as_array().unwrap();
    let keys: Vec<&Value> = keys.iter().filter(|key| key["kid"] == "rsa-1" || key["kid"] == "ec-1").collect();
    let inline = json!({ "keys": keys }).to_string();
    text.lines()
        .map(|line| match line.find("jwksUri:") {
            Some(at) => format!("{}jwks: '{inline}'\n", &line[..at]),
            None => format!("{line}\n"),
        })
        .collect::<Vec<_>>()
        .concat()
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// The first plugin that `convert` makes.
fn plugin(input: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("input.yaml");
    fs::write(&file, input).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mesh-filters"))
        .args(["convert", "--mode", "enforce", "--only", "plugins"])
        .arg(&file)
        .output()
        .unwrap();
    let made = String::from_utf8(output.stdout).unwrap();
    documents(&made).into_iter().find(|document| document["kind"] == "WasmPlugin").unwrap()
}

/// One set of resources, and what its requests are made of.
struct Case {
    name: String,
    pools: Pools,
}

/// What a request can have in each place. The first of each is the plainest.
#[derive(Default)]
struct Pools {
    methods: Vec<String>,
    paths: Vec<String>,
    hosts: Vec<String>,
    places: Vec<Place>,
    issuers: Vec<String>,
    subjects: Vec<Option<Value>>,
    audiences: Vec<Option<Value>>,
    /// Headers that policies name.
    headers: Vec<(String, String)>,
    /// Claims that policies name, by their path, and values.
    claims: Vec<(Vec<String>, Vec<Option<Value>>)>,
}

#[derive(Clone, PartialEq, Debug)]
enum Place {
    Header(String, String),
    Query(String),
    Cookie(String),
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn add<T: PartialEq>(list: &mut Vec<T>, one: T) {
    if !list.contains(&one) {
        list.push(one);
    }
}

impl Pools {
    fn of(documents: &[Value]) -> Self {
        let mut pools = Self::default();
        for method in ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            pools.methods.push(method.to_owned());
        }
        for path in ["/", "/other", "/healthz", "//", "/a//b", "/%61", "/x;y", "/x%2Fy"] {
            pools.paths.push(path.to_owned());
        }
        pools.hosts = ["service.test", "SERVICE.test:8080", "a.b..c"].map(str::to_owned).to_vec();
        pools.subjects = vec![Some("alice".into()), None, Some("".into())];
        pools.audiences = vec![None, Some("other".into()), Some(json!(["orders", "x"]))];
        for document in documents {
            for rule in document["spec"]["jwtRules"].as_array().into_iter().flatten() {
                pools.add_issuer(rule);
            }
            for rule in document["spec"]["rules"].as_array().into_iter().flatten() {
                pools.add_rule(rule);
            }
        }
        add(&mut pools.issuers, "https://unknown.example/".to_owned());
        add(&mut pools.places, Place::Header("x-other".to_owned(), String::new()));
        add(&mut pools.places, Place::Header("authorization".to_owned(), "bearer ".to_owned()));
        pools
    }

    fn add_issuer(&mut self, rule: &Value) {
        add(&mut self.issuers, rule["issuer"].as_str().unwrap().to_owned());
        let (headers, params, cookies) = (&rule["fromHeaders"], &rule["fromParams"], &rule["fromCookies"]);
        for header in headers.as_array().into_iter().flatten() {
            let prefix = header["prefix"].as_str().unwrap_or_default();
            let prefix = if prefix == "Bearer" { "Bearer " } else { prefix };
            add(
                &mut self.places,
                Place::Header(header["name"].as_str().unwrap().to_lowercase(), prefix.to_owned()),
            );
        }
        texts(params).for_each(|name| add(&mut self.places, Place::Query(name.to_owned())));
        texts(cookies).for_each(|name| add(&mut self.places, Place::Cookie(name.to_owned())));
        if headers.is_null() && params.is_null() && cookies.is_null() {
            add(&mut self.places, Place::Header("authorization".to_owned(), "Bearer ".to_owned()));
            add(&mut self.places, Place::Query("access_token".to_owned()));
        }
        for audience in texts(&rule["audiences"]) {
            self.audiences.insert(0, Some(audience.into()));
            let bare = audience.trim_start_matches("https://").trim_end_matches('/');
            add(&mut self.audiences, Some(format!("http://{bare}").into()));
        }
    }

    fn add_rule(&mut self, rule: &Value) {
        for from in rule["from"].as_array().into_iter().flatten() {
            for name in ["requestPrincipals", "notRequestPrincipals"] {
                for principal in texts(&from["source"][name]) {
                    let subject = principal.rsplit('/').next().unwrap().replace('*', "x");
                    add(&mut self.subjects, Some(subject.into()));
                }
            }
        }
        for to in rule["to"].as_array().into_iter().flatten() {
            let operation = &to["operation"];
            for path in texts(&operation["paths"]).chain(texts(&operation["notPaths"])) {
                let plain = path.replace("{**}", "x/y").replace("{*}", "x");
                let plain = plain.strip_prefix('*').map(|end| format!("/a{end}")).unwrap_or(plain);
                let bare = plain.trim_end_matches('*').trim_end_matches('/');
                for path in [&plain.replace('*', "z"), bare] {
                    for end in ["", "/", "/more", "more", "?a=/orders/1"] {
                        add(&mut self.paths, format!("{path}{end}"));
                    }
                }
            }
            for method in texts(&operation["methods"]).chain(texts(&operation["notMethods"])) {
                add(&mut self.methods, method.to_owned());
            }
            for host in texts(&operation["hosts"]).chain(texts(&operation["notHosts"])) {
                let plain = host.trim_end_matches(":*").replace('*', "a.b");
                for host in [
                    plain.clone(),
                    format!("{plain}:8080"),
                    plain.to_uppercase(),
                    format!("x.{plain}"),
                    format!("x{plain}"),
                ] {
                    add(&mut self.hosts, host);
                }
            }
        }
        for condition in rule["when"].as_array().into_iter().flatten() {
            self.add_condition(condition);
        }
    }

    fn add_condition(&mut self, condition: &Value) {
        let key = condition["key"].as_str().unwrap();
        if let Some(name) = key.strip_prefix("request.headers[") {
            let name = name.trim_end_matches(']').to_owned();
            self.headers
                .extend(texts(&condition["values"]).take(1).map(|value| (name.clone(), value.to_owned())));
        }
        let path: Vec<String> = match key {
            "request.auth.audiences" => vec!["aud".to_owned()],
            "request.auth.presenter" => vec!["azp".to_owned()],
            _ => match key.strip_prefix("request.auth.claims[") {
                Some(names) => names.trim_end_matches(']').split("][").map(str::to_owned).collect(),
                None => return,
            },
        };
        let mut values = vec![None];
        for value in texts(&condition["values"]).chain(texts(&condition["notValues"])) {
            let value = value.trim_matches('*');
            values.extend([
                Some(json!(value)),
                Some(json!([value, "other"])),
                Some(json!(format!("{value} more"))),
                Some(json!(format!("{value}more"))),
                Some(json!(format!("more{value}"))),
                Some(json!({ value: true })),
            ]);
        }
        values.extend([
            Some(json!("")),
            Some(json!([])),
            Some(json!("other")),
            Some(json!(5)),
            Some(json!(true)),
            Some(Value::Null),
        ]);
        if path == ["iss"] {
            return;
        }
        match self.claims.iter_mut().find(|(known, _)| *known == path) {
            Some((_, known)) => values.into_iter().for_each(|value| add(known, value)),
            None => self.claims.push((path, values)),
        }
    }
}

/// What each choice of a request is about. Claims follow.
const METHOD: usize = 0;
const PATH: usize = 1;
const HOST: usize = 2;
const TOKEN: usize = 3;
const PLACE: usize = 4;
const ISSUER: usize = 5;
const SUBJECT: usize = 6;
const AUDIENCE: usize = 7;
const SECOND: usize = 8;
const PREFLIGHT: usize = 9;
/// Whether the headers that policies name are left out.
const HEADERS: usize = 10;
const CLAIMS: usize = 11;

const GOOD: usize = 1;
const UNSIGNED: usize = 8;
const NO_EXPIRY: usize = 6;
const BY_RSA: usize = 7;

/// A request, as positions in pools.
type Choices = Vec<usize>;

/// What makes a request what the filter takes it for. Where the old filters decide about that request as the new ones do about the
/// first, the difference is meant.
#[derive(Default, Clone, Copy)]
struct Taken {
    slash: Option<bool>,
    port: bool,
    text: bool,
    scheme: bool,
    preflight: bool,
    empty: bool,
}

impl Case {
    fn sizes(&self) -> Vec<usize> {
        let pools = &self.pools;
        let mut sizes = vec![
            pools.methods.len(),
            pools.paths.len(),
            pools.hosts.len(),
            UNSIGNED + 1,
            pools.places.len(),
            pools.issuers.len(),
            pools.subjects.len(),
            pools.audiences.len(),
            3,
            2,
            2,
        ];
        sizes.extend(pools.claims.iter().map(|(_, values)| values.len()));
        sizes
    }

    /// The request as bytes.
    fn written(&self, choices: &Choices, taken: Taken) -> Vec<u8> {
        let pools = &self.pools;
        let mut path = pools.paths[choices[PATH]].clone();
        if let Some(wanted) = taken.slash {
            let (start, query) =
                path.split_once('?').map_or((path.as_str(), None), |(start, query)| (start, Some(query)));
            let start =
                format!("{}{}", start.trim_end_matches('/'), if wanted || start == "/" { "/" } else { "" });
            path = query.map_or(start.clone(), |query| format!("{start}?{query}"));
        }
        let mut host = pools.hosts[choices[HOST]].clone();
        if taken.port {
            host = host.split(':').next().unwrap().to_owned();
        }
        let mut headers = String::new();
        for (name, value) in pools.headers.iter().filter(|_| choices[HEADERS] == 0) {
            headers.push_str(&format!("{name}: {value}\r\n"));
        }
        let token = self.token(choices, taken);
        let place = match &pools.places[choices[PLACE]] {
            Place::Header(name, prefix) if prefix == "bearer " && taken.scheme => {
                Place::Header(name.clone(), "Bearer ".to_owned())
            }
            place => place.clone(),
        };
        let mut put = |place: &Place, token: &str| match place {
            Place::Header(name, prefix) => headers.push_str(&format!("{name}: {prefix}{token}\r\n")),
            Place::Cookie(name) => headers.push_str(&format!("cookie: {name}={token}\r\n")),
            Place::Query(name) => {
                path = format!("{path}{}{name}={token}", if path.contains('?') { '&' } else { '?' });
            }
        };
        if let Some(token) = &token {
            put(&place, token);
            let others = pools.places.iter().find(|other| **other != place);
            match choices[SECOND] {
                1 => others.into_iter().for_each(|other| put(other, token)),
                2 => others.into_iter().for_each(|other| put(other, "a.b.c")),
                _ => {}
            }
        }
        let mut method = pools.methods[choices[METHOD]].as_str();
        if choices[PREFLIGHT] == 1 {
            method = "OPTIONS";
            if !taken.preflight {
                headers.push_str("origin: https://app.example\r\naccess-control-request-method: GET\r\n");
            }
        }
        format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n").into_bytes()
    }

    fn token(&self, choices: &Choices, taken: Taken) -> Option<String> {
        if choices[TOKEN] == 0 {
            return None;
        }
        let mut claims =
            json!({ "iss": self.pools.issuers[choices[ISSUER]], "exp": unix_now() / 3600 * 3600 + 7200 });
        let text = |value: &Value| match value {
            Value::Number(_) | Value::Bool(_) if taken.text => Value::String(value.to_string()),
            Value::Array(list) if taken.empty && list.is_empty() => json!("x"),
            Value::String(text) if taken.empty && text.is_empty() => json!("x"),
            Value::Object(_) if taken.empty => json!("x"),
            value => value.clone(),
        };
        let mut set = |path: &[String], value: &Option<Value>| {
            let Some(value) = value else { return };
            let mut at = &mut claims;
            for name in path {
                at = &mut at[name.as_str()];
            }
            *at = text(value);
        };
        set(&["sub".to_owned()], &self.pools.subjects[choices[SUBJECT]]);
        set(&["aud".to_owned()], &self.pools.audiences[choices[AUDIENCE]]);
        for ((path, values), choice) in self.pools.claims.iter().zip(&choices[CLAIMS..]) {
            set(path, &values[*choice]);
        }
        let header = json!({ "alg": "ES256", "kid": "ec-1", "typ": "JWT" });
        Some(match choices[TOKEN] {
            2 => "no-token".to_owned(),
            3 => {
                let token = minted("ec-1", &header, &claims);
                let (start, signature) = token.rsplit_once('.').unwrap();
                format!("{start}.{}", signature.chars().rev().collect::<String>())
            }
            4 => {
                claims["exp"] = json!(unix_now() / 3600 * 3600 - 7200);
                minted("ec-1", &header, &claims)
            }
            5 => minted("rsa-2", &json!({ "alg": "RS256", "kid": "rsa-1" }), &claims),
            NO_EXPIRY => {
                claims.as_object_mut().unwrap().remove("exp");
                minted("ec-1", &header, &claims)
            }
            BY_RSA => minted("rsa-1", &json!({ "alg": "RS256", "kid": "rsa-1" }), &claims),
            UNSIGNED => {
                let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
                format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims))
            }
            _ => minted("ec-1", &header, &claims),
        })
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

thread_local! {
    static MINTED: RefCell<HashMap<String, String>> = RefCell::default();
    static KEYS: HashMap<&'static str, EncodingKey> = ["ec-1", "rsa-1", "rsa-2"]
        .map(|name| {
            let pem = fs::read(root().join(format!("testdata/keys/{name}.pem"))).unwrap();
            let key = if name == "ec-1" { EncodingKey::from_ec_pem(&pem) } else { EncodingKey::from_rsa_pem(&pem) };
            (name, key.unwrap())
        })
        .into();
}

fn minted(key: &'static str, header: &Value, claims: &Value) -> String {
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let known = MINTED.with_borrow(|known| known.get(&format!("{key} {text}")).cloned());
    known.unwrap_or_else(|| {
        let algorithm = if key == "ec-1" { Algorithm::ES256 } else { Algorithm::RS256 };
        let signature =
            KEYS.with(|keys| jsonwebtoken::crypto::sign(text.as_bytes(), &keys[key], algorithm).unwrap());
        let token = format!("{text}.{signature}");
        MINTED.with_borrow_mut(|known| known.insert(format!("{key} {text}"), token.clone()));
        token
    })
}

/// A connection that is kept, since a new one for each request would use up the ports.
struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

/// What a client learns.
#[derive(Debug, Clone, PartialEq)]
struct Answer {
    status: u16,
    code: String,
}

impl Answer {
    fn is_allowed(&self) -> bool {
        self.status == 200
    }
}

impl Client {
    fn send(&mut self, request: &[u8]) -> Answer {
        let stream =
            self.stream.get_or_insert_with(|| BufReader::new(TcpStream::connect(self.address).unwrap()));
        stream.get_mut().write_all(request).unwrap();
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {line:?}")).parse().unwrap();
        let (mut length, mut code, mut closes) = (0, String::new(), false);
        loop {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name {
                "content-length" => length = value.parse().unwrap(),
                "x-deny-code" => value.clone_into(&mut code),
                "connection" => closes = value == "close",
                _ => {}
            }
        }
        if !request.starts_with(b"HEAD ") {
            std::io::copy(&mut stream.by_ref().take(length), &mut std::io::sink()).unwrap();
        }
        if closes {
            self.stream = None;
        }
        Answer { status, code }
    }
}

/// A generator that gives the same numbers for the same seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

struct Pair {
    case: Case,
    old: Client,
    new: Client,
}

impl Pair {
    /// Why the two differ, if that is meant; `None` if they do not differ.
    fn difference(&mut self, choices: &Choices) -> Result<Option<&'static str>, String> {
        let request = self.case.written(choices, Taken::default());
        let (old, new) = (self.old.send(&request), self.new.send(&request));
        if old.is_allowed() == new.is_allowed() {
            return Ok(None);
        }
        let pools = &self.case.pools;
        let path = &pools.paths[choices[PATH]];
        let spelled = pools.audiences[choices[AUDIENCE]].as_ref().and_then(Value::as_str);
        let mut values =
            pools.claims.iter().zip(&choices[CLAIMS..]).map(|((_, values), choice)| &values[*choice]);
        let meant = match new.code.as_str() {
            "several_tokens" if choices[SECOND] != 0 => Some("several_tokens"),
            "path_ambiguous" if path.contains("//") || path.contains('%') || path.contains(';') => {
                Some("path_ambiguous")
            }
            "authority_invalid" if pools.hosts[choices[HOST]].contains("..") => Some("authority_invalid"),
            "claims_invalid" if choices[TOKEN] == NO_EXPIRY => Some("claims_invalid"),
            "audience_mismatch" if spelled.is_some_and(|text| text.contains("://")) => {
                Some("audience_mismatch")
            }
            "claims_forbidden" if values.any(|value| value.as_ref().is_some_and(Value::is_object)) => {
                Some("a claim that cannot be compared")
            }
            _ => None,
        };
        if meant.is_some() && !new.is_allowed() {
            return Ok(meant);
        }
        let all = [
            ("slash", Taken { slash: Some(false), ..Taken::default() }),
            ("slash", Taken { slash: Some(true), ..Taken::default() }),
            ("port", Taken { port: true, ..Taken::default() }),
            ("claim as text", Taken { text: true, ..Taken::default() }),
            ("empty or composed claim", Taken { empty: true, ..Taken::default() }),
            ("letter case of the scheme", Taken { scheme: true, ..Taken::default() }),
            ("preflight", Taken { preflight: true, ..Taken::default() }),
        ];
        for (name, taken) in all {
            if self.old.send(&self.case.written(choices, taken)).is_allowed() == new.is_allowed() {
                return Ok(Some(name));
            }
        }
        // Several at once.
        for slash in [None, Some(false), Some(true)] {
            let taken = Taken { slash, port: true, text: true, scheme: true, preflight: true, empty: true };
            if self.old.send(&self.case.written(choices, taken)).is_allowed() == new.is_allowed() {
                return Ok(Some("several of these"));
            }
        }
        Err(format!(
            "{}: old {} and new {} {}\n{}",
            self.case.name,
            old.status,
            new.status,
            new.code,
            String::from_utf8_lossy(&request)
        ))
    }

    /// The plainest request that still makes a difference that is not meant.
    fn shrunk(&mut self, mut choices: Choices) -> String {
        let mut shown = self.difference(&choices).unwrap_err();
        loop {
            let before = choices.clone();
            for n in 0..choices.len() {
                for smaller in 0..choices[n] {
                    let mut one = choices.clone();
                    one[n] = smaller;
                    if let Err(text) = self.difference(&one) {
                        (choices, shown) = (one, text);
                        break;
                    }
                }
            }
            if choices == before {
                return shown;
            }
        }
    }
}

fn natives(filters: &Value) -> Vec<HttpFilter> {
    let native = |filter: &Value| HttpFilter::Native {
        name: filter["name"].as_str().unwrap().to_owned(),
        config: filter["typed_config"].clone(),
    };
    filters["http"].as_array().unwrap().iter().map(native).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn old_and_new_let_in_the_same_requests() {
    let upstream = Upstream::start().unwrap();
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/filters/jwt-auth.wasm");
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("testdata/convert/istiod"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 12, "{}", files.len());
    let (mut cases, mut listeners) = (Vec::new(), Vec::new());
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let input =
            with_keys(&fs::read_to_string(root().join(format!("testdata/convert/{name}.yaml"))).unwrap());
        let translated: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let mut config = plugin(&input)["spec"]["pluginConfig"].clone();
        config["denyResponse"] = json!({ "codeHeader": "x-deny-code" });
        let wasm = Wasm::new(&name, module, config.to_string());
        let new = [vec![HttpFilter::Wasm(wasm)], natives(&translated["new"])].concat();
        for (form, filters) in [("old", natives(&translated["old"])), ("new", new)] {
            let mut listener = Listener::new(&format!("{name}-{form}"), "service", filters);
            // As Istio does.
            listener.normalize_path = true;
            listeners.push(listener);
        }
        cases.push(Case { name, pools: Pools::of(&documents(&input)) });
    }
    let bootstrap = Bootstrap {
        node: Node::new("orders", "shop", "v1"),
        clusters: vec![Cluster::new("service", upstream.address())],
    };
    let envoy = Envoy::start(&bootstrap, &listeners, 1).unwrap();
    let client = |name: &str, form: &str| Client {
        address: envoy.address(&format!("{name}-{form}")).unwrap(),
        stream: None,
    };
    let mut pairs: Vec<Pair> = cases
        .into_iter()
        .map(|case| Pair { old: client(&case.name, "old"), new: client(&case.name, "new"), case })
        .collect();
    let (requests, mut random) = (number("CONVERT_REQUESTS", 2000), Random(number("CONVERT_SEED", 1)));
    let mut counted: BTreeMap<&str, u64> = BTreeMap::new();
    let mut both: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for n in 0..requests {
        if n % 500 == 0 {
            upstream.take_received();
        }
        let at = usize::try_from(n).unwrap() % pairs.len();
        let pair = &mut pairs[at];
        let sizes = pair.case.sizes();
        let mut choices: Choices = sizes.iter().map(|size| random.below(*size)).collect();
        // Most requests are plain in most places, so that some are let in.
        for (place, often) in
            [(TOKEN, 2), (PLACE, 3), (SECOND, 8), (PREFLIGHT, 8), (HOST, 1), (SUBJECT, 2), (AUDIENCE, 3)]
        {
            if random.below(often + 1) > 0 {
                choices[place] = if place == TOKEN {
                    [GOOD, BY_RSA][random.below(2)]
                } else if place == HOST {
                    random.below(sizes[HOST])
                } else {
                    0
                };
            }
        }
        // The second value of a claim is the one that a policy names.
        for choice in &mut choices[CLAIMS..] {
            if random.below(2) == 0 {
                *choice = 1;
            }
        }
        match pair.difference(&choices) {
            Ok(Some(meant)) => *counted.entry(meant).or_default() += 1,
            Ok(None) => {
                let request = pair.case.written(&choices, Taken::default());
                both.entry(pair.case.name.clone()).or_default().insert(pair.new.send(&request).is_allowed());
            }
            Err(_) => {
                wrong.push(pair.shrunk(choices));
                // Each set of resources is shown once.
                pairs.remove(at);
                if pairs.is_empty() {
                    break;
                }
            }
        }
    }
    println!("{requests} requests; differences that are meant: {counted:?}");
    assert!(wrong.is_empty(), "{}\nmeant: {counted:?}", wrong.join("\n"));
    // No request has a certificate, which this policy asks for.
    both.remove("peer-and-token");
    for (name, seen) in both {
        assert_eq!(seen.len(), 2, "{name}: some requests are let in, and some are not");
    }
}

/// Whether a port that is not HTTP is closed: a policy denies everything there, or none allows anything.
fn is_closed(filters: &Value) -> bool {
    filters["tcp"].as_array().unwrap().iter().any(|filter| {
        let rules = &filter["typed_config"]["rules"];
        let is_empty = rules["policies"].as_object().is_none_or(serde_json::Map::is_empty);
        !rules.is_null() && (rules["action"] == "DENY") != is_empty
    })
}

#[test]
fn a_port_that_is_not_http_stays_closed() {
    let mut closed = 0;
    for entry in fs::read_dir(root().join("testdata/convert/istiod")).unwrap() {
        let file = entry.unwrap().path();
        let translated: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let (old, new) = (is_closed(&translated["old"]), is_closed(&translated["new"]));
        assert_eq!(old, new, "{}", file.display());
        closed += u32::from(old);
    }
    assert!(closed > 10, "{closed}");
}

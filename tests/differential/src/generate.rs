//! Scenarios from a seed: configurations that the schemas allow, tokens, and requests that have to do with them.
//!
//! The configurations come from `docs/schema`, so that a new option is tried as soon as it is there. A schema does not know which
//! values go together. [`Generator::scenario`] therefore takes away parts of a configuration until the filters accept it; now and
//! then it leaves one as it is, since all hosts must also refuse the same.

use std::collections::BTreeMap;
use std::fs;

use fastrand::Rng;
use serde_json::{Map, Value, json};

use crate::shrink;
use crate::words::{self, Words};

/// The single filters, each with its key in mesh-filters.
const FILTERS: [(&str, &str); 3] =
    [("jwt-auth", "jwtAuth"), ("rate-limit", "rateLimit"), ("trace-tags", "traceTags")];

/// A part of a configuration as errors name it: `limits[0].rate`.
fn named(path: &[String]) -> String {
    // The first is the name of the filter.
    path[1..].iter().fold(String::new(), |text, step| match step.parse::<usize>() {
        Ok(index) => format!("{text}[{index}]"),
        Err(_) if text.is_empty() => step.clone(),
        Err(_) => format!("{text}.{step}"),
    })
}

/// A source of scenarios.
#[derive(Debug)]
pub struct Generator {
    rng: Rng,
    schemas: BTreeMap<&'static str, Value>,
}

impl Generator {
    /// The scenarios of a seed.
    ///
    /// # Panics
    /// Where `docs/schema` is not to be read.
    pub fn new(seed: u64) -> Self {
        let schema = |(filter, _): (&'static str, &str)| {
            let text = fs::read_to_string(cases::repository().join(format!("docs/schema/{filter}.json")));
            (filter, serde_json::from_str(&text.unwrap()).unwrap())
        };
        Self { rng: Rng::with_seed(seed), schemas: FILTERS.map(schema).into() }
    }

    /// A file of cases with one case: one configuration and so many requests. `refusal` says why the filters
    /// refuse the configuration of such a file, if they do.
    ///
    /// # Panics
    /// Where a list of words is empty.
    pub fn scenario(&mut self, requests: usize, refusal: impl Fn(&Value) -> Option<String>) -> Value {
        let chosen: Vec<_> = FILTERS.into_iter().filter(|_| self.rng.u8(..10) < 6).collect();
        let chosen = if chosen.is_empty() { vec![self.rng.choice(FILTERS).unwrap()] } else { chosen };
        let joined = self.rng.bool();
        let mut configurations = Map::new();
        for (filter, key) in chosen {
            let name = if joined { key } else { filter };
            configurations.insert(name.to_owned(), self.configuration(filter));
        }
        let filters = if joined { json!({ "mesh-filters": configurations }) } else { json!(configurations) };
        let mut file = json!({
            "proxy": self.rng.choice(["sidecar", "sidecar", "gateway", "other"]).unwrap(),
            "env": words::environment(),
            "filters": filters,
            "issuer": words::issuer(),
            "limitService": { "code": self.rng.choice([1, 1, 2]).unwrap() },
            "tokens": {},
            "cases": [{ "name": "generated", "steps": [{ "request": {}, "expect": { "status": 200 } }] }],
        });
        // One refused configuration in eight stays.
        if self.rng.u8(..8) > 0 {
            self.repair(&mut file, refusal);
        }
        file["tokens"] = self.tokens();
        let words = Words::of(&file["filters"]);
        let mut steps: Vec<_> = (0..requests).map(|_| self.step(&words)).collect();
        steps[0]["expect"]["filterState"] = words.filter_state();
        file["cases"][0]["steps"] = json!(steps);
        file
    }

    /// Takes away what the filters refuse until they accept the rest, or nothing is left.
    fn repair(&mut self, file: &mut Value, refusal: impl Fn(&Value) -> Option<String>) {
        while let Some(reasons) = refusal(file) {
            let filters = &mut file["filters"];
            let refused = shrink::parts(filters)
                .into_iter()
                .filter(|path| reasons.contains(&format!("{}: ", named(path))));
            let Some(mut path) = refused.max_by_key(Vec::len) else {
                // It is about a whole configuration, and does not say where.
                let parts = shrink::parts(filters);
                let Some(path) = (0..3).filter_map(|_| self.rng.choice(&parts)).max_by_key(|path| path.len())
                else {
                    return;
                };
                shrink::remove(filters, path);
                continue;
            };
            // An object is refused for its parts as often as for itself.
            let inner = shrink::parts(shrink::get(filters, &path));
            if self.rng.u8(..4) > 0
                && let Some(inner) = self.rng.choice(&inner)
            {
                path.extend(inner.clone());
            }
            shrink::remove(filters, &path);
        }
    }

    fn configuration(&mut self, filter: &str) -> Value {
        let schema = self.schemas[filter].clone();
        self.value(&schema, &schema, "Config", "", 0)
    }

    /// A value that a schema allows. `definition` and `property` say which words fit there.
    fn value(
        &mut self,
        root: &Value,
        schema: &Value,
        definition: &str,
        property: &str,
        depth: usize,
    ) -> Value {
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.rsplit('/').next().unwrap_or_default();
            return self.value(root, &root["$defs"][name], name, property, depth + 1);
        }
        if let Some(fixed) = schema.get("const") {
            return fixed.clone();
        }
        if property == "jwks" {
            return json!(self.rng.choice(words::KEY_SETS).unwrap());
        }
        if schema["type"] == "object" {
            return self.object(root, schema, definition, property, depth);
        }
        if let Some(choices) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
            let choice = self.rng.choice(choices).unwrap();
            return self.value(root, choice, definition, property, depth);
        }
        match schema["type"].as_str() {
            Some("array") => {
                let least = schema["minItems"].as_u64().unwrap_or(0).max(u64::from(self.rng.u8(..10) > 0));
                let items = least..=words::most(definition, property);
                let items = self.rng.u64(*items.start()..=(*items.end()).max(*items.start()));
                (0..items).map(|_| self.value(root, &schema["items"], definition, property, depth)).collect()
            }
            Some("boolean") => json!(self.rng.bool()),
            Some("integer" | "number") => {
                json!(self.rng.choice(words::numbers(definition, property)).unwrap())
            }
            _ => json!(self.rng.choice(words::texts(definition, property)).unwrap()),
        }
    }

    fn object(
        &mut self,
        root: &Value,
        schema: &Value,
        definition: &str,
        property: &str,
        depth: usize,
    ) -> Value {
        let mut object = Map::new();
        if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
            let names = words::texts(definition, &format!("{property}{{}}"));
            for _ in 0..self.rng.usize(1..=2) {
                let name = (*self.rng.choice(names).unwrap()).to_owned();
                object.insert(name, self.value(root, values, definition, property, depth + 1));
            }
            return object.into();
        }
        let required: Vec<_> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let groups = words::one_of(definition);
        let one = self.rng.choice(groups).copied();
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let wanted = if groups.contains(&name.as_str()) {
                one == Some(name)
            } else {
                required.contains(&name.as_str())
                    || depth < 8 && self.rng.u64(..100) < words::percent(definition, name)
            };
            if wanted {
                object.insert(name.clone(), self.value(root, schema, definition, name, depth + 1));
            }
        }
        object.into()
    }

    /// Good tokens and bad ones.
    fn tokens(&mut self) -> Value {
        let mut tokens = Map::new();
        for number in 0..12 {
            let mut claims = json!({
                "iss": self.rng.choice(words::ISSUERS).unwrap(),
                "aud": self.rng.choice(["api", "api", "web"]).unwrap(),
                "sub": self.rng.choice(words::SUBJECTS).unwrap(),
                "exp": self.rng.choice(["+30m", "+30m", "+30m", "+3d", "-30m"]).unwrap(),
                "iat": "-10m",
            });
            for _ in 0..self.rng.usize(..6) {
                let (name, value) = self.rng.choice(words::claims()).unwrap();
                claims[name] = value;
            }
            let mut token = json!({ "claims": claims, "key": self.rng.choice(["rsa-1", "rsa-1", "ec-1", "ed-1", "rsa-2"]).unwrap() });
            match self.rng.u8(..20) {
                0 => token["tamper"] = json!("signature"),
                1 => token["tamper"] = json!("payload"),
                2 => token["tamper"] = json!("noSignature"),
                3 => token["algorithm"] = json!("none"),
                4 => token["header"] = json!({ "kid": self.rng.choice(["other", "rsa-2"]).unwrap() }),
                5 => token["header"] = json!({ "kid": null }),
                6 => {
                    token["header"] = json!({ "typ": self.rng.choice(["at+jwt", "JOSE", "other"]).unwrap() });
                }
                7 => {
                    token =
                        json!({ "text": self.rng.choice(["a.b.c", "opaque", "..", "e30.e30."]).unwrap() });
                }
                8 => {
                    token["algorithm"] = json!("HS256");
                    token["secret"] = json!(words::HMAC_SECRET);
                }
                _ => {}
            }
            tokens.insert(format!("t{number}"), token);
        }
        tokens.into()
    }

    fn step(&mut self, words: &Words) -> Value {
        let mut request = json!({ "path": self.path(words) });
        if self.rng.u8(..3) == 0 {
            request["method"] = json!(self.rng.choice(words::METHODS).unwrap());
        }
        if self.rng.u8(..3) == 0 {
            request["authority"] = json!(self.rng.choice(words::HOSTS).unwrap());
        }
        if self.rng.u8(..4) == 0 {
            request["from"] = json!(self.rng.choice(["127.0.0.2", "127.0.1.9"]).unwrap());
        }
        match self.rng.u8(..12) {
            0 => request["protocol"] = json!("grpc"),
            1 | 2 => request["protocol"] = json!("http2"),
            _ => {}
        }
        let token = format!("t{}", self.rng.u8(..12));
        let mut headers = json!({ "x-request-id": "6f1c1f4e-3c0b-9d2a-8a51-0d8a2f1f0c11" });
        match self.rng.u8(..10) {
            0 => {}
            1 => {
                headers["authorization"] =
                    json!([format!("Bearer ${{token:{token}}}"), "Bearer ${token:t0}"]);
            }
            2 => headers["authorization"] = json!(self.rng.choice(words::AUTHORIZATIONS).unwrap()),
            3 => headers[self.rng.choice(words::HEADERS).unwrap()] = json!(format!("${{token:{token}}}")),
            4 => headers["cookie"] = json!(format!("session=${{token:{token}}}; user=u1")),
            _ => request["token"] = json!(token),
        }
        for _ in 0..self.rng.usize(..4) {
            let name = (*self.rng.choice(&words.headers).unwrap()).clone();
            let value = |rng: &mut Rng| rng.choice(words::HEADER_VALUES).unwrap();
            headers[name] = if self.rng.u8(..6) == 0 {
                json!([value(&mut self.rng), value(&mut self.rng)])
            } else {
                json!(value(&mut self.rng))
            };
        }
        request["headers"] = headers;
        json!({ "request": request, "expect": { "status": 200 } })
    }

    /// A path of the configuration or another, perhaps written in another way.
    fn path(&mut self, words: &Words) -> String {
        let mut path = self.rng.choice(&words.paths).unwrap().clone();
        while let Some((before, rest)) = path.split_once('{') {
            let after = rest.split_once('}').map_or("", |(_, after)| after);
            path = format!("{before}{}{after}", self.rng.choice(["7", "abc", "a%20b", ""]).unwrap());
        }
        while path.contains('*') {
            path = path.replacen('*', self.rng.choice(["", "x", "x/y", "1"]).unwrap(), 1);
        }
        if self.rng.u8(..4) == 0 {
            let at = self.rng.usize(..=path.len());
            let at = (0..=at).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
            path.insert_str(at.max(1).min(path.len()), self.rng.choice(words::PATH_NOISE).unwrap());
        }
        if self.rng.u8(..10) == 0 {
            path = path.to_ascii_uppercase();
        }
        match self.rng.u8(..6) {
            0 => path += self.rng.choice(words::QUERIES).unwrap(),
            1 => {
                let name = self.rng.choice(["token", "access_token", "Token"]).unwrap();
                path = format!("{path}?{name}=${{token:t{}}}&q=1", self.rng.u8(..12));
            }
            _ => {}
        }
        path
    }
}

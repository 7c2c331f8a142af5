//! The JSON Schemas in docs/schema, that of the values of the Helm chart, and the lists of options in the documents are made from
//! the configuration types, and the configuration of every case fits them. `UPDATE=1` writes all.
#![allow(clippy::restriction)]

mod options;
mod validate;
mod values;

use std::path::{Path, PathBuf};

use plugin_kit::config::PROPERTY_ORDER;
use serde_json::{Value, json};

use self::validate::validate;

fn schemas() -> [(&'static str, Value); 4] {
    let mut mesh_filters = mesh_filters::config::Parts::schema();
    mesh_filters["$defs"]["Parts"]["minProperties"] = json!(1);
    let parts = mesh_filters["$defs"]["Parts"]["properties"].as_object_mut().unwrap();
    for (key, part) in [("traceTags", "trace-tags"), ("jwtAuth", "jwt-auth"), ("rateLimit", "rate-limit")] {
        parts[key]["$ref"] = json!(format!("{part}.json"));
    }
    let mut jwt_auth = jwt_auth::config::Config::schema();
    let mut rate_limit = rate_limit::config::Config::schema();
    let mut trace_tags = trace_tags::config::Config::schema();
    for schema in [&mut jwt_auth, &mut rate_limit, &mut trace_tags] {
        narrow(schema);
    }
    [
        ("jwt-auth", jwt_auth),
        ("rate-limit", rate_limit),
        ("trace-tags", trace_tags),
        ("mesh-filters", mesh_filters),
    ]
}

/// What the parsers hold of texts and of objects as a whole, as far as a schema can say it.
fn narrow(schema: &mut Value) {
    const NAME: &str = "^[A-Za-z0-9_-]+$";
    const URL: &str = "^https?://[^@ ]+$";
    let algorithms =
        jwt_auth::keys::algorithm::Algorithm::ALL.iter().map(|one| one.name()).collect::<Vec<_>>();
    let algorithms = format!("^({})$", algorithms.join("|"));
    for (pointer, keyword, value) in [
        ("RequestMatch/properties/paths/items", "pattern", json!("^/[^%?#;\\\\]*$")),
        ("Selector/properties/paths/items", "pattern", json!("^/[^%?#;\\\\]*$")),
        ("RequestMatch/properties/methods/items", "pattern", json!("^[A-Z-]+$")),
        ("Selector/properties/methods/items", "pattern", json!("^[A-Z-]+$")),
        (
            "RequestMatch/properties/principals/items",
            "pattern",
            json!("^(spiffe://)?[a-z0-9._-]+/[A-Za-z0-9._/-]+$"),
        ),
        (
            "Selector/properties/principals/items",
            "pattern",
            json!("^(spiffe://)?[a-z0-9._-]+/[A-Za-z0-9._/-]+$"),
        ),
        ("AddressMatch/properties/cidrs/items", "pattern", json!("^[0-9A-Fa-f.:]+(/[0-9]+)?$")),
        ("Provider/properties/jwksUri", "pattern", json!(URL)),
        ("Provider/properties/algorithms/items", "pattern", json!(algorithms)),
        ("Provider/properties/maxKeysTried", "minimum", json!(1)),
        ("Provider/properties/maxKeysTried", "maximum", json!(100)),
        ("Provider", "anyOf", json!([{ "required": ["issuer"] }, { "required": ["trustDomain"] }])),
        ("Discovery/properties/uri", "pattern", json!(URL)),
        ("Introspection/properties/uri", "pattern", json!(URL)),
        ("Introspection/properties/clientId", "pattern", json!("^.+$")),
        ("Revoked/properties/uri", "pattern", json!(URL)),
        ("Rule/properties/name", "pattern", json!(NAME)),
        ("Rule", "anyOf", json!([{ "required": ["allow"] }, { "required": ["require"] }])),
        ("Limit/properties/name", "pattern", json!(NAME)),
        ("Tag/properties/name", "pattern", json!("^[A-Za-z0-9._-]+$")),
        ("Tag/properties/maxLength", "minimum", json!(1)),
        ("Tag/properties/maxLength", "maximum", json!(1024)),
        ("When/properties/statusFrom", "minimum", json!(100)),
        ("When/properties/statusFrom", "maximum", json!(599)),
        ("When/properties/percentage", "minimum", json!(0)),
        ("When/properties/percentage", "maximum", json!(100)),
        ("Pseudonym/properties/keyId", "pattern", json!("^[A-Za-z0-9]{1,16}$")),
    ] {
        if let Some(Value::Object(found)) = schema.pointer_mut(&format!("/$defs/{pointer}")) {
            found.insert(keyword.to_owned(), value);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Holds that a file has this text, and with `UPDATE=1` writes it.
fn is_up_to_date(file: &Path, text: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(file, text).unwrap();
    }
    let written = std::fs::read_to_string(file).unwrap_or_default();
    assert!(written == text, "{} is stale: UPDATE=1 cargo test --workspace --test schema", file.display());
}

/// The schema without what only documents need.
fn without_order(mut schema: Value) -> Value {
    for definition in schema["$defs"].as_object_mut().unwrap().values_mut() {
        definition.as_object_mut().unwrap().remove(PROPERTY_ORDER);
    }
    schema
}

#[test]
fn schema_of_each_configuration_type_is_in_docs() {
    for (name, schema) in schemas() {
        let schema = without_order(schema);
        is_up_to_date(&root().join(format!("docs/schema/{name}.json")), &format!("{schema:#}\n"));
    }
}

#[test]
fn schema_of_the_values_of_the_chart_has_the_options_of_the_filters() {
    let schema = values::schema(&schemas().map(|(name, schema)| (name, without_order(schema))));
    is_up_to_date(&root().join("charts/mesh-filters/values.schema.json"), &format!("{schema:#}\n"));
}

#[test]
fn options_of_each_document_are_those_of_the_schema() {
    for (name, schema) in schemas() {
        let file = root().join(format!("docs/{name}.md"));
        let document = std::fs::read_to_string(&file).unwrap();
        is_up_to_date(&file, &options::fill(&document, &schema, &root().join("docs")));
    }
}

#[test]
fn every_property_and_value_has_a_description() {
    let mut bare = Vec::new();
    for (name, schema) in schemas() {
        options::without_description(&schema, name, &mut bare);
    }
    assert!(bare.is_empty(), "{}", bare.join("\n"));
}

#[test]
fn default_of_each_property_fits_its_schema() {
    let mut checked = 0;
    for (name, schema) in schemas() {
        for (definition, object) in schema["$defs"].as_object().unwrap() {
            for (option, property) in object["properties"].as_object().into_iter().flatten() {
                if let Some(default) = property.get("default") {
                    checked += 1;
                    let result = validate(&schema, property, default);
                    assert!(result.is_ok(), "{name}: {definition}.{option}{}", result.unwrap_err());
                }
            }
        }
    }
    assert!(checked > 60, "{checked} defaults");
}

/// Every configuration in a file that is not meant to be refused, with what it is called.
fn configurations(document: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    let refused = |holder: &Value| holder.get("refused").is_some();
    let cases = document["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    if cases.iter().any(|case| !refused(case) && case.get("filters").is_none()) {
        found.extend(document.get("filters").map(|filters| ("file".to_owned(), filters)));
    }
    for case in cases.iter().filter(|case| !refused(case)) {
        let name = case["name"].as_str().unwrap_or_default().to_owned();
        found.extend(case.get("filters").map(|filters| (name.clone(), filters)));
        for step in case["steps"].as_array().into_iter().flatten().filter(|step| !refused(step)) {
            found.extend(step.get("configure").map(|filters| (name.clone(), filters)));
        }
    }
    found
}

/// Every configuration in a file that must be refused, with what it is called and what the log says to it.
fn refusals(document: &Value) -> Vec<(String, &Value, String)> {
    let mut found = Vec::new();
    let said = |holder: &Value| {
        let texts = holder["refused"].as_array()?.iter().filter_map(Value::as_str);
        Some(texts.collect::<Vec<_>>().join("\n"))
    };
    for case in document["cases"].as_array().into_iter().flatten() {
        let name = case["name"].as_str().unwrap_or_default().to_owned();
        if let (Some(said), Some(filters)) = (said(case), case.get("filters").or(document.get("filters"))) {
            found.push((name.clone(), filters, said));
        }
        for step in case["steps"].as_array().into_iter().flatten() {
            if let (Some(said), Some(filters)) = (said(step), step.get("configure")) {
                found.push((name.clone(), filters, said));
            }
        }
    }
    found
}

/// What a parser refuses and a schema cannot, by a part of the error; and why it cannot.
const BEYOND_A_SCHEMA: [(&str, &str); 34] = [
    ("node id of this proxy", "the proxy is known where the filter runs"),
    ("a sidecar takes the address", "the proxy is known where the filter runs"),
    ("is not an origin", "`*` stands alone, and hosts have public suffixes"),
    ("CEL expression", "a schema reads no CEL"),
    ("regular expression of RE2", "a schema reads no RE2"),
    ("jwks: has no key", "the key set is read by the filter"),
    ("cannot be met: the issuers", "providers are looked up by name"),
    ("expected at most `1h`", "a schema compares no durations"),
    ("goes with `uri`", "the error is about other options of the object"),
    ("secrets[0]", "the variables are not in the configuration"),
    ("trustForwardedFrom", "an address is one of many texts with a slash"),
    ("has bits behind its prefix", "a schema does not count bits"),
    ("expected a window", "a schema compares no durations"),
    ("no claim is verified", "the error is about other options of the object"),
    ("the burst of", "a schema compares no numbers with each other"),
    ("could name its own cost", "the error is about which source it is"),
    (
        "expected at least one of `traceTags`",
        "the joined schema says `minProperties`, and its parts are checked here",
    ),
    ("there is no provider of this name", "providers are looked up by name"),
    ("goes with neither", "the error is about other options of the object"),
    ("expected `authorizationServers`", "the error is about other options of the document"),
    ("looks for opaque tokens where", "the error is about several providers"),
    ("is asked before the issuer has said", "the error is about other options of the document"),
    ("asks for a claim that `jwtAuth` does not publish", "the error is about another part of the document"),
    ("is an object; expected one of its attributes", "a schema does not know Envoy's attributes"),
    ("there is no rule of this name", "rules are looked up by name"),
    ("`global` beside `limits`", "the error is about another part of the document"),
    ("no limit has a `global`", "the error is about another part of the document"),
    ("names, one for each source", "a schema compares no lengths with each other"),
    ("entries: expected 1 names", "a schema compares no lengths with each other"),
    ("any client can send this", "the error is about which source it is"),
    ("is not known yet when the request goes on", "tags are looked up by name"),
    ("this tells who the user is", "the error is about which claim it is"),
    ("vmConfig.env has no variable", "the variables are not in the configuration"),
    ("the variable `", "the variables are not in the configuration"),
];

#[test]
fn refused_configuration_that_fits_its_schema_has_a_reason() {
    let schemas = schemas();
    let schema = |name: &str| &schemas.iter().find(|(known, _)| *known == name).unwrap().1;
    let (mut refused, mut fits, mut without) = (0, 0, Vec::new());
    for file in case_files(&root().join("testdata/cases")) {
        let document: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for (case, filters, said) in refusals(&document) {
            let mut all_fit = true;
            for (name, configuration) in filters.as_object().into_iter().flatten() {
                let parts: Vec<(&str, &Value)> = match name.as_str() {
                    "mesh-filters" => {
                        [("traceTags", "trace-tags"), ("jwtAuth", "jwt-auth"), ("rateLimit", "rate-limit")]
                            .iter()
                            .filter_map(|(key, name)| Some((*name, configuration.get(key)?)))
                            .collect()
                    }
                    name => vec![(name, configuration)],
                };
                for (name, configuration) in parts {
                    all_fit &= validate(schema(name), schema(name), configuration).is_ok();
                }
            }
            refused += 1;
            if all_fit {
                fits += 1;
                if !BEYOND_A_SCHEMA.iter().any(|(part, _)| said.contains(part)) {
                    without.push(format!("{}: {case}: {said}", file.file_name().unwrap().display()));
                }
            }
        }
    }
    // One more of them fits than before only if no schema can refuse it; then raise this number with the reason above.
    assert!(fits <= 42, "{fits} of {refused} refused configurations fit their schemas");
    assert!(without.is_empty(), "{refused} refused, {fits} fit:\n{}", without.join("\n"));
}

fn case_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { case_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn configuration_of_each_case_fits_its_schema() {
    let schemas = schemas();
    let schema = |name: &str| &schemas.iter().find(|(known, _)| *known == name).unwrap().1;
    let (mut checked, mut wrong) = (0, Vec::new());
    for file in case_files(&root().join("testdata/cases")) {
        let document: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        for (case, filters) in configurations(&document) {
            for (name, configuration) in filters.as_object().into_iter().flatten() {
                let parts: Vec<(&str, &Value)> = match name.as_str() {
                    "mesh-filters" => {
                        let names = [
                            ("traceTags", "trace-tags"),
                            ("jwtAuth", "jwt-auth"),
                            ("rateLimit", "rate-limit"),
                        ];
                        names
                            .iter()
                            .filter_map(|(key, name)| Some((*name, configuration.get(key)?)))
                            .collect()
                    }
                    name => vec![(name, configuration)],
                };
                for (name, configuration) in parts {
                    // One that is a text is sent as it is.
                    if configuration.is_object() {
                        checked += 1;
                        if let Err(error) = validate(schema(name), schema(name), configuration) {
                            wrong.push(format!("{}: {case}: {name}{error}", file.display()));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 100, "{checked} configurations");
    let unknown = json!({ "providers": { "a": { "issuer": "x", "jwks": "{}", "audience": ["b"] } } });
    let error = validate(schema("jwt-auth"), schema("jwt-auth"), &unknown).unwrap_err();
    assert_eq!(error, ".providers.a.audience is unknown");
}

#[test]
fn empty_list_that_would_mean_all_or_nothing_does_not_fit() {
    let schemas = schemas();
    let schema = |name: &str| &schemas.iter().find(|(known, _)| *known == name).unwrap().1;
    let rate = json!({ "requests": 1, "per": "1s" });
    for (name, configuration) in [
        ("jwt-auth", json!({ "providers": {} })),
        ("jwt-auth", json!({ "providers": { "a": { "issuer": "x", "jwks": "{}", "audiences": [] } } })),
        ("rate-limit", json!({ "limits": [] })),
        ("rate-limit", json!({ "limits": [{ "name": "a", "rate": rate, "match": { "headers": {} } }] })),
        ("rate-limit", json!({ "limits": [{ "name": "a", "rate": rate, "match": { "principals": [] } }] })),
        ("trace-tags", json!({ "tags": [{ "name": "a", "from": [] }] })),
    ] {
        let error = validate(schema(name), schema(name), &configuration).unwrap_err();
        assert!(error.ends_with("expected an entry"), "{configuration}: {error}");
    }
}

//! The JSON Schemas in docs/schema are those of the configuration types, and every case's configuration fits them.
//! `UPDATE=1` writes them anew.
#![allow(clippy::restriction)]

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

fn schemas() -> [(&'static str, Value); 4] {
    let part = |name: &str| json!({ "$ref": format!("{name}.json") });
    let mesh_filters = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mesh-filters: pluginConfig",
        "description": "The configurations of the filters. One that is missing does not run.",
        "type": "object",
        "properties": { "traceTags": part("trace-tags"), "jwtAuth": part("jwt-auth"), "rateLimit": part("rate-limit") },
        "additionalProperties": false,
        "minProperties": 1,
    });
    [
        ("jwt-auth", jwt_auth::config::Config::schema()),
        ("rate-limit", rate_limit::config::Config::schema()),
        ("trace-tags", trace_tags::config::Config::schema()),
        ("mesh-filters", mesh_filters),
    ]
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_schemas_are_those_of_the_types() {
    for (name, schema) in schemas() {
        let file = root().join(format!("docs/schema/{name}.json"));
        let text = format!("{schema:#}\n");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == text,
            "docs/schema/{name}.json is stale: UPDATE=1 cargo test --workspace --test schema"
        );
    }
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
fn every_case_fits_its_schema_and_what_is_unknown_does_not() {
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
fn an_empty_list_that_would_mean_all_or_nothing_does_not_fit() {
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

/// Whether `value` fits `schema`, as far as JSON Schema is used here; a keyword that is not known here is an error.
fn validate(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Some(keywords) = schema.as_object() else { return Ok(()) };
    let fails = |text: &str| Err(format!(" is {value}, expected {text}"));
    for (keyword, argument) in keywords {
        match keyword.as_str() {
            "$ref" => {
                let pointer = argument.as_str().unwrap().strip_prefix('#').unwrap();
                validate(root, root.pointer(pointer).unwrap(), value)?;
            }
            "type" => {
                let fits = match argument.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    return fails(argument.as_str().unwrap());
                }
            }
            "enum" if !argument.as_array().unwrap().contains(value) => return fails(&argument.to_string()),
            "anyOf" => {
                if !argument.as_array().unwrap().iter().any(|one| validate(root, one, value).is_ok()) {
                    return fails("one of several");
                }
            }
            "pattern" => {
                let pattern = regex_lite::Regex::new(argument.as_str().unwrap()).unwrap();
                if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                    return fails(pattern.as_str());
                }
            }
            "minimum" if value.as_f64() < argument.as_f64() => return fails("a greater number"),
            "maximum" if value.as_f64() > argument.as_f64() => return fails("a smaller number"),
            "minItems" if value.as_array().is_some_and(Vec::is_empty) => return fails("an entry"),
            "minProperties" if value.as_object().is_some_and(Map::is_empty) => return fails("an entry"),
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    validate(root, argument, item).map_err(|error| format!("[{n}]{error}"))?;
                }
            }
            "required" => {
                for name in argument.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        return Err(format!(" has no {name}"));
                    }
                }
            }
            "properties" => {
                for (name, schema) in argument.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        validate(root, schema, value).map_err(|error| format!(".{name}{error}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").unwrap_or(&Value::Null);
                for (name, value) in value.as_object().into_iter().flatten() {
                    if known.get(name).is_none() {
                        if *argument == json!(false) {
                            return Err(format!(".{name} is unknown"));
                        }
                        validate(root, argument, value).map_err(|error| format!(".{name}{error}"))?;
                    }
                }
            }
            "$schema" | "$defs" | "title" | "description" | "enum" | "minimum" | "maximum" | "minItems"
            | "minProperties" => {}
            other => panic!("keyword {other}"),
        }
    }
    Ok(())
}

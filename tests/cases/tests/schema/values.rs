//! The schema of the values of the Helm chart: what the chart itself reads, and the options of the filters.

use serde_json::{Map, Value, json};

/// The definitions of a filter's schema, under names that begin with the filter's.
fn definitions(filter: &str, schema: &Value) -> Map<String, Value> {
    let text = schema["$defs"].to_string().replace("\"#/$defs/", &format!("\"#/$defs/{filter}."));
    let definitions: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let named = definitions.into_iter().map(|(name, mut definition)| {
        if name == "Config" {
            // What all plugins share and what is a service's own make a configuration together.
            definition.as_object_mut().unwrap().remove("required");
        }
        (format!("{filter}.{name}"), definition)
    });
    named.collect()
}

fn object(description: &str, properties: &Value) -> Value {
    json!({ "type": "object", "description": description, "properties": properties, "additionalProperties": false })
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

/// Where a plugin stands in the chain.
fn place() -> [(&'static str, Value); 2] {
    let priority = "`priority` of the WasmPlugin: the highest is the first of its phase.";
    [
        ("phase", text("`phase` of the WasmPlugin.")),
        ("priority", json!({ "type": "integer", "description": priority })),
    ]
}

/// What all plugins of a filter share.
fn shared(filter: &str) -> Value {
    let mut properties = json!({
        "enabled": { "type": "boolean", "description": format!("Whether services have the plugin of {filter}.") },
        "image": object("The image of the filter.", &json!({
            "url": text("Its place: `oci://registry.example/mesh-filters/FILTER:VERSION`."),
            "sha256": text("Its digest, without `sha256:`."),
        })),
        "failStrategy": {
            "enum": ["FAIL_RELOAD", "FAIL_CLOSE", "FAIL_OPEN"],
            "description": "What becomes of requests while the module does not run.",
        },
        "config": own(filter),
    });
    for (name, schema) in place() {
        properties[name] = schema;
    }
    object(&format!("What the plugins of {filter} share."), &properties)
}

fn own(filter: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{filter}.Config") })
}

/// The schema of the values, from the schemas of the filters by their names.
pub(crate) fn schema(filters: &[(&str, Value)]) -> Value {
    let alone = filters.iter().filter(|(name, _)| *name != "mesh-filters");
    let all: Map<String, Value> = alone.flat_map(|(name, schema)| definitions(name, schema)).collect();
    let service = object(
        "A service: its pods, and what is its own in the configurations of the filters.",
        &json!({
            "app": text("The label `app` of the service's pods."),
            "namespace": text("The namespace of the service, if it is not that of the others."),
            "traceTags": own("trace-tags"),
            "jwtAuth": own("jwt-auth"),
            "rateLimit": own("rate-limit"),
            "rateLimitBeforeAuth": {
                "type": "object",
                "description": "Plugins of rate-limit that stand before jwt-auth, by the name that they end with.",
                "additionalProperties": own("rate-limit"),
            },
        }),
    );
    let before: Map<String, Value> =
        place().into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let mut schema = object(
        "The values of the chart mesh-filters.",
        &json!({
            "namespace": text("The namespace of the services; without it, that of the release."),
            "track": {
                "enum": ["", "stable", "canary"],
                "description": "The label `track` of the pods that the plugins are for; without it, all pods of the services.",
            },
            "imagePullSecret": text("The Secret by which images are pulled."),
            "pseudonymKey": text("The key of the pseudonyms of trace-tags and rate-limit, a secret."),
            "traceTags": shared("trace-tags"),
            "jwtAuth": shared("jwt-auth"),
            "rateLimit": shared("rate-limit"),
            "rateLimitBeforeAuth": object("Where the plugins of rate-limit before jwt-auth stand.", &before.into()),
            "services": {
                "type": "object",
                "description": "The services, by the name that their plugins end with.",
                "additionalProperties": service,
            },
            "global": { "type": "object", "description": "Helm adds it. The chart does not read it." },
        }),
    );
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["$defs"] = all.into();
    schema
}

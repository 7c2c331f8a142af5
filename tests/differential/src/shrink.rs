//! Takes away from a JSON value what is not needed to keep something true of it.

use serde_json::Value;

/// The way to a part of a value: a name or an index, as text, at each level.
pub type Path = Vec<String>;

/// The ways to all parts, outer ones before their inner ones.
pub fn parts(value: &Value) -> Vec<Path> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(array) => {
            array.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    let mut paths = Vec::new();
    for (name, child) in children {
        paths.push(vec![name.clone()]);
        paths.extend(parts(child).into_iter().map(|path| [vec![name.clone()], path].concat()));
    }
    paths
}

/// The part at the end of a way; `null` where it leads nowhere.
pub fn get<'a>(value: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(value, |value, step| match step.parse::<usize>() {
        Ok(index) if value.is_array() => &value[index],
        _ => &value[&**step],
    })
}

/// Takes a part away. Says whether it was there.
pub fn remove(value: &mut Value, path: &[String]) -> bool {
    match (value, path) {
        (Value::Object(object), [name]) => object.remove(name).is_some(),
        (Value::Array(array), [index]) => {
            let index = index.parse().ok().filter(|index| *index < array.len());
            index.map(|index: usize| array.remove(index)).is_some()
        }
        (Value::Object(object), [name, rest @ ..]) => {
            object.get_mut(name).is_some_and(|value| remove(value, rest))
        }
        (Value::Array(array), [index, rest @ ..]) => index
            .parse()
            .ok()
            .and_then(|index: usize| array.get_mut(index))
            .is_some_and(|value| remove(value, rest)),
        _ => false,
    }
}

/// Takes away runs of items from the list at a pointer, halves first, while `holds` stays true.
pub fn list(value: &mut Value, pointer: &str, mut holds: impl FnMut(&Value) -> bool) {
    let length = |value: &Value| value.pointer(pointer).and_then(Value::as_array).map_or(0, Vec::len);
    let mut run = length(value).div_ceil(2);
    while run > 0 {
        let mut from = 0;
        while from < length(value) {
            let mut smaller = value.clone();
            if let Some(Value::Array(items)) = smaller.pointer_mut(pointer) {
                items.drain(from..(from + run).min(items.len()));
            }
            if holds(&smaller) {
                *value = smaller;
            } else {
                from += run;
            }
        }
        run = if run == 1 { 0 } else { run.div_ceil(2) };
    }
}

/// Takes away one part after the other while `holds` stays true.
pub fn value(value: &mut Value, mut holds: impl FnMut(&Value) -> bool) {
    let mut at = 0;
    while let Some(path) = parts(value).get(at) {
        let mut smaller = value.clone();
        remove(&mut smaller, path);
        if holds(&smaller) {
            *value = smaller;
        } else {
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_needed_goes() {
        let needed = |value: &Value| {
            value["a"]["b"] == 1 && value["list"].as_array().is_some_and(|l| l.contains(&json!(7)))
        };
        let mut found = json!({ "a": { "b": 1, "c": [1, 2] }, "list": (0..20).collect::<Vec<_>>(), "d": {} });
        list(&mut found, "/list", needed);
        assert_eq!(found["list"], json!([7]));
        value(&mut found, needed);
        assert_eq!(found, json!({ "a": { "b": 1 }, "list": [7] }));
    }
}

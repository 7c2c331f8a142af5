//! The configurations of an earlier release are taken, or refused with a way on in `docs/upgrade.md`.
#![allow(clippy::restriction)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mesh_filters_cli::filters;
use plugin_kit::config::ConfigErrors;
use serde::Deserialize;
use serde_json::Value;

const NOTES: &str = "docs/upgrade.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// What a filter says to a configuration that it refuses.
fn refusal(filter: &str, config: &Value, variables: &BTreeMap<String, String>) -> Option<ConfigErrors> {
    filters::read(filter, config, variables).err()
}

/// The errors without their paths.
fn messages(refusal: Option<&ConfigErrors>) -> BTreeSet<String> {
    refusal.into_iter().flat_map(ConfigErrors::iter).map(|error| error.message.clone()).collect()
}

/// A configuration of 0.1.0 that the notes tell to change, the error that they show, and what they have in
/// its place.
struct Change {
    filter: String,
    before: Value,
    error: String,
    after: Value,
}

impl Change {
    fn refusal(&self) -> ConfigErrors {
        let refusal = refusal(&self.filter, &self.before, &variables());
        refusal.unwrap_or_else(|| panic!("{NOTES}: {} is taken", self.before))
    }
}

fn variables() -> BTreeMap<String, String> {
    BTreeMap::from([("PSEUDONYM_KEY".to_owned(), "Q2Vj4mM0s8yXgHn5tqB1rZ7oKd9wEf3u".to_owned())])
}

fn changes() -> Vec<Change> {
    let notes = read(NOTES);
    let mut changes = Vec::new();
    for piece in notes.split("```yaml 0.1.0\n").skip(1) {
        let mut blocks = piece.split("```");
        let before: Value = serde_saphyr::from_str(blocks.next().unwrap()).unwrap();
        let error = blocks.find_map(|block| block.strip_prefix("text\n")).expect("the error").to_owned();
        let after = blocks.find_map(|block| block.strip_prefix("yaml\n")).expect("what to write instead");
        let filter = before.as_object().unwrap().keys().find_map(|key| filters::by_member(key)).unwrap();
        let after = serde_saphyr::from_str(after).unwrap();
        changes.push(Change { filter: filter.to_owned(), before, error, after });
    }
    changes
}

#[test]
fn what_the_upgrade_notes_change_is_refused_before_with_the_error_that_they_show_and_taken_after() {
    let changes = changes();
    assert!(changes.len() > 7, "{}", changes.len());
    for change in changes {
        let error = format!("{}\n", change.refusal());
        assert_eq!(change.error, error, "{}", change.before);
        let after = refusal(&change.filter, &change.after, &variables());
        assert!(after.is_none(), "{}: {}", change.after, after.unwrap());
    }
}

/// A configuration that a release has taken.
#[derive(Deserialize)]
struct Taken {
    /// Where it stood in the release.
    from: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
    config: Value,
}

#[test]
fn a_configuration_of_the_last_release_is_taken_or_the_upgrade_notes_say_what_to_change() {
    let noted: BTreeSet<String> =
        changes().iter().flat_map(|change| messages(Some(&change.refusal()))).collect();
    let jwks = read("testdata/keys/jwks.json").replace('\n', " ");
    let (mut taken, mut refused) = (0, 0);
    for filter in filters::NAMES {
        let text = read(&format!("testdata/upgrade/0.1.0/{filter}.yaml")).replace("\"${jwks}\"", &jwks);
        for Taken { from, env, config } in serde_saphyr::from_str::<Vec<Taken>>(&text).unwrap() {
            let said = messages(refusal(filter, &config, &env).as_ref());
            let unknown: Vec<_> = said.difference(&noted).collect();
            assert!(unknown.is_empty(), "{filter}, {from}: {NOTES} has no way on for {unknown:?}");
            if said.is_empty() { taken += 1 } else { refused += 1 }
        }
    }
    // The notes say how few they are.
    assert!(taken > 140 && refused == 5, "{taken} taken, {refused} refused");
}

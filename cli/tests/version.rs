//! The version stands in the root `Cargo.toml`. What repeats it says the same.
#![allow(clippy::restriction)]

use std::fs;
use std::path::Path;

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap()
}

#[test]
fn the_changelog_begins_with_this_version() {
    let changelog = read("CHANGELOG.md");
    let latest = changelog.lines().find_map(|line| line.strip_prefix("## [")).unwrap();
    let (version, date) = latest.split_once("] - ").unwrap();
    assert_eq!(version, VERSION);
    let is_date = date.len() == "2026-12-01".len() && date.chars().all(|c| c.is_ascii_digit() || c == '-');
    assert!(date == "not released" || is_date, "{date}");
}

#[test]
fn the_first_resource_of_the_readme_has_the_image_of_this_version() {
    let readme = read("README.md");
    let image = readme.lines().find_map(|line| line.trim().strip_prefix("url: oci://")).unwrap();
    assert_eq!(image.rsplit(':').next(), Some(VERSION));
}

#[test]
fn the_upgrade_notes_lead_to_this_version() {
    assert!(read("docs/upgrade.md").contains(&format!(" to {VERSION}\n")));
}

/// The fuzz targets have a lock file of their own.
#[test]
fn the_lock_file_of_the_fuzz_targets_has_this_version() {
    let locked = read("fuzz/Cargo.lock");
    for package in ["plugin-kit", "jwt-auth", "rate-limit", "trace-tags"] {
        let entry = format!("name = \"{package}\"\nversion = \"{VERSION}\"\n");
        assert!(locked.contains(&entry), "{package}");
    }
}

#[test]
fn the_chart_has_this_version() {
    let chart = read("charts/mesh-filters/Chart.yaml");
    assert!(chart.contains(&format!("\nversion: {VERSION}\nappVersion: {VERSION}\n")), "{chart}");
}

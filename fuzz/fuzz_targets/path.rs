//! A pattern and a path: no panic, readings hold no query, and one reading has no segment that servers resolve.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugin_kit::path::{PathCase, PathPattern, Readings};

fuzz_target!(|input: (&str, &[u8])| {
    let (pattern, target) = input;
    for case in [PathCase::Sensitive, PathCase::Insensitive] {
        let pattern = PathPattern::parse(pattern, case);
        let matches = |reading: &[u8]| pattern.as_ref().is_ok_and(|pattern| pattern.matches(reading));
        match Readings::of(target, case) {
            Readings::One(path) => {
                matches(&path);
                if *path != b"*"[..] {
                    assert_eq!(path.first(), Some(&b'/'));
                    assert!(path.len() == 1 || path.last() != Some(&b'/'));
                    let mut segments = path.split(|byte| *byte == b'/').skip(1);
                    assert!(
                        path.len() == 1
                            || segments.all(|segment| ![&b""[..], b".", b".."].contains(&segment))
                    );
                }
            }
            Readings::Several(paths) => {
                assert!(!paths.is_empty());
                for path in paths {
                    matches(&path);
                }
            }
            Readings::None => {}
        }
    }
});

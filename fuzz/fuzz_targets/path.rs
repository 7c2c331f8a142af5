//! A pattern and a path: no panic, readings hold no query or are there without it too, and one reading has no segment that
//! servers resolve.
#![no_main]

use libfuzzer_sys::fuzz_target;
use plugin_kit::request::path::{PathCase, PathPattern, Readings};

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
                assert!(!paths.is_empty() && paths.len() <= 128);
                let is_delimiter = |byte: &u8| matches!(byte, b'?' | b'#');
                for path in &paths {
                    matches(path);
                    assert_eq!(path.first(), Some(&b'/'));
                    // Each reading with a delimiter in it is there cut too.
                    if let Some(at) = path.iter().position(is_delimiter) {
                        let cut = path[..at]
                            .strip_suffix(b"/")
                            .filter(|cut| !cut.is_empty())
                            .unwrap_or(&path[..at]);
                        assert!(paths.iter().any(|path| path == cut));
                    }
                }
            }
            Readings::None => {}
        }
    }
});

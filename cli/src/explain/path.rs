//! How a proxy changes a path before its filters see it.

/// How a proxy normalises paths: `meshConfig.pathNormalization.normalization` of Istio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Normalization {
    /// The path stays as it is.
    None,
    /// Envoy's `normalize_path`: `.` and `..` are followed, `\` is `/`, and what needs no escape has none.
    Base,
    /// The same, and Envoy's `merge_slashes`.
    MergeSlashes,
    /// The same, where `%2F` and `%5C` are slashes.
    DecodeAndMergeSlashes,
}

/// The path of a request after normalisation; its query stays as it is.
pub(super) fn normalized(path: &str, how: Normalization) -> String {
    let (path, query) = path.split_at(path.find('?').unwrap_or(path.len()));
    let mut path = path.to_owned();
    if how >= Normalization::DecodeAndMergeSlashes {
        for (escape, slash) in [("%2F", "/"), ("%2f", "/"), ("%5C", "\\"), ("%5c", "\\")] {
            path = path.replace(escape, slash);
        }
    }
    if how >= Normalization::Base && path.starts_with('/') {
        path = canonical(&path);
    }
    while how >= Normalization::MergeSlashes && path.contains("//") {
        path = path.replace("//", "/");
    }
    path + query
}

fn canonical(path: &str) -> String {
    let path = unescaped(path).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    let mut all = path.split('/').skip(1).peekable();
    while let Some(segment) = all.next() {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
        // `/a/..` is `/`, not the empty path.
        if all.peek().is_none() && [".", ".."].contains(&segment) {
            segments.push("");
        }
    }
    format!("/{}", segments.join("/"))
}

/// The unreserved characters of RFC 3986 section 2.3 without their escapes.
fn unescaped(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('%') {
        let code = behind.get(..2).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let character = code.and_then(|code| u8::from_str_radix(code, 16).ok()).map(char::from);
        text.push_str(before);
        let plain = character.filter(|c| c.is_ascii_alphanumeric() || "-._~".contains(*c));
        text.push(plain.unwrap_or('%'));
        rest = if plain.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_normalised_as_istio_names_it() {
        use Normalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
        for (path, expected) in [
            ("/a/./b/../c?x=/../y", ["/a/./b/../c?x=/../y", "/a/c?x=/../y", "/a/c?x=/../y", "/a/c?x=/../y"]),
            ("//healthz", ["//healthz", "//healthz", "/healthz", "/healthz"]),
            (
                "/a%2f..%2Fhealthz",
                ["/a%2f..%2Fhealthz", "/a%2f..%2Fhealthz", "/a%2f..%2Fhealthz", "/healthz"],
            ),
            ("/x/%2e%2E/he%61lthz", ["/x/%2e%2E/he%61lthz", "/healthz", "/healthz", "/healthz"]),
            (r"/a\b", [r"/a\b", "/a/b", "/a/b", "/a/b"]),
            ("/a/..", ["/a/..", "/", "/", "/"]),
            ("/../../a/.", ["/../../a/.", "/a/", "/a/", "/a/"]),
            ("/%zz%2", ["/%zz%2", "/%zz%2", "/%zz%2", "/%zz%2"]),
            ("/é%c3%a9%", ["/é%c3%a9%", "/é%c3%a9%", "/é%c3%a9%", "/é%c3%a9%"]),
            ("*", ["*", "*", "*", "*"]),
            ("", ["", "", "", ""]),
        ] {
            for (how, expected) in [None, Base, MergeSlashes, DecodeAndMergeSlashes].into_iter().zip(expected)
            {
                assert_eq!(normalized(path, how), expected, "{path} {how:?}");
            }
        }
    }
}

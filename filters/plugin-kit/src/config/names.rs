//! Names in errors: which are shown, and which one was meant.

/// A name that the operator has written, as an error shows it. Names are not secret. But a text that does not look like a name may
/// be a secret in the wrong place, so it is replaced by `…`.
pub fn shown_name(name: &str) -> &str {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/\\".contains(&byte);
    if name.len() <= 40 && name.bytes().all(good) { name } else { "…" }
}

/// The name that is most similar to `found`, if one is so similar that it was probably meant.
pub fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&found.to_ascii_lowercase(), &name.to_ascii_lowercase()), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

/// `` `a` ``, `` `a` or `b` ``, `` one of `a`, `b`, `c` ``.
pub fn one_of<T: AsRef<str>>(names: &[T]) -> String {
    match names {
        [] => "nothing".to_owned(),
        [name] => format!("`{}`", name.as_ref()),
        [a, b] => format!("`{}` or `{}`", a.as_ref(), b.as_ref()),
        names => {
            let mut text = "one of ".to_owned();
            for (n, name) in names.iter().enumerate() {
                text.push_str(if n == 0 { "`" } else { ", `" });
                text.push_str(name.as_ref());
                text.push('`');
            }
            text
        }
    }
}

/// The error for a text that is not one of these names. The text is shown only if it is nearly one of them: anything else may be a
/// secret in the wrong place.
pub fn not_one_of<T: AsRef<str>>(found: &str, names: &[T]) -> String {
    let is_nearly = |name: &T| {
        let (found, name) = (found.to_ascii_lowercase(), name.as_ref().to_ascii_lowercase());
        found.len() <= name.len().saturating_add(2) && strsim::levenshtein(&found, &name) <= 2
    };
    let shown = if names.iter().any(is_nearly) { format!("`{found}`") } else { "another text".to_owned() };
    format!("expected {}, found {shown}{}", one_of(names), hint(found, names))
}

pub(super) fn hint<T: AsRef<str>>(found: &str, names: &[T]) -> String {
    match nearest(found, names.iter().map(AsRef::as_ref)) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => String::new(),
    }
}

//! Finds where an expression of a configuration is wrong, and why.

use cel::Program;
use mesh_filters_cli::decide::is_function;
use plugin_kit::request::cel::{NOT_CEL, NOT_RE2, bounds, re2};

use crate::document::offset_of;

/// An error in an expression.
pub(crate) struct Fault {
    /// The place, in bytes.
    pub(crate) at: usize,
    /// The reason.
    pub(crate) why: String,
}

/// The error in the expression `text`, which a filter refused with `message`. `None` if the message is not
/// about an expression, or if the parsers here find no error.
pub(crate) fn fault(message: &str, text: &str) -> Option<Fault> {
    match message {
        NOT_CEL => of_cel(text),
        NOT_RE2 => of_regex(text),
        _ => None,
    }
}

fn of_cel(text: &str) -> Option<Fault> {
    if let Err((at, _)) = bounds(text) {
        let why = "this text does not end, or has an escape that CEL does not have".to_owned();
        return Some(Fault { at, why });
    }
    let program = match Program::compile(text) {
        Ok(program) => program,
        Err(errors) => {
            let first = errors.errors.first()?;
            let number = |number: isize| u64::try_from(number).unwrap_or(0);
            let at = offset_of(text, number(first.pos.0), number(first.pos.1));
            return Some(Fault { at, why: plainly(&first.msg) });
        }
    };
    let references = program.references();
    let unknown = references.functions().into_iter().filter(|name| !is_function(name));
    let (at, name) = unknown.filter_map(|name| Some((call(text, name)?, name))).min()?;
    Some(Fault { at, why: format!("the proxy has no function `{name}`") })
}

/// The message of the parser without its list of all tokens that it would have accepted.
fn plainly(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let message = message.split(" expecting ").next().unwrap_or_default();
    if message.contains("<EOF>") {
        return "it ends too early".to_owned();
    }
    let unexpected = [
        "mismatched input ",
        "extraneous input ",
        "no viable alternative at input ",
        "token recognition error at: ",
    ];
    match unexpected.iter().find_map(|start| message.strip_prefix(start)) {
        Some(input) => format!("`{}` is not expected here", input.trim_matches('\'').trim()),
        None => message.lines().next().unwrap_or_default().to_owned(),
    }
}

/// The place of a call of this function, outside literals.
fn call(text: &str, name: &str) -> Option<usize> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let (mut quote, mut before) = (None, ' ');
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match quote {
            Some(_) if character == '\\' => drop(characters.next()),
            Some(end) if character == end => quote = None,
            None if matches!(character, '"' | '\'') => quote = Some(character),
            None if !is_part(before)
                && text[at..].strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('(')) =>
            {
                return Some(at);
            }
            _ => {}
        }
        before = character;
    }
    None
}

fn of_regex(text: &str) -> Option<Fault> {
    let Err(error) = regex_syntax::parse(text) else {
        return re2::refused(text).map(|fault| Fault { at: fault.at, why: fault.why.to_owned() });
    };
    let (span, why) = match error {
        regex_syntax::Error::Parse(error) => (*error.span(), error.kind().to_string()),
        regex_syntax::Error::Translate(error) => (*error.span(), error.kind().to_string()),
        _ => return None,
    };
    Some(Fault { at: span.start.offset, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_of_an_expression_is_where_it_is() {
        for (text, at, why) in [
            ("jwt.sub ==", 10, "it ends too early"),
            ("jwt.sub = 'é'", 8, ""),
            ("'é' == jwt.sub )", 16, "`)` is not expected here"),
            ("request.path.split('/')[1]", 13, "the proxy has no function `split`"),
            ("'split(' + split ('a') + x.other()", 11, "the proxy has no function `split`"),
            ("true &&\n  # x", 10, ""),
            ("jwt.sub == 'a", 11, "this text does not end"),
        ] {
            let fault = fault(NOT_CEL, text).unwrap();
            assert_eq!(fault.at, at, "{text}: {}", fault.why);
            assert!(!fault.why.is_empty() && fault.why.contains(why), "{text}: {}", fault.why);
        }
        for (text, at, why) in [
            ("/orders/(", 8, "unclosed group"),
            ("é[z-a]", 3, "invalid character class range"),
            ("(?=x)", 0, "look-around"),
            ("a**{", 3, "repetition"),
            ("/a**", 3, "repeats no repetition"),
        ] {
            let fault = fault(NOT_RE2, text).unwrap();
            assert_eq!(fault.at, at, "{text}: {}", fault.why);
            assert!(fault.why.contains(why), "{text}: {}", fault.why);
        }
        assert!(fault("is empty", "(").is_none() && fault(NOT_CEL, "true").is_none());
    }
}

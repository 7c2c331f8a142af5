//! The matcher of values: `anyOf`, `allOf`, `noneOf` and `present` of a header or a claim.

use super::text::{Comparison, RawText, Regexes, TextTest};
use super::truth::{Truth, all, any, not};
use crate::config::{Code, ErrorList, JsonPath, NonEmpty};
use crate::host::Environment;
use crate::request::claim::ClaimValues;

crate::config_object! {
    /// A test of the values of a header or a claim. All parts that are given must hold.
    #[derive(Debug, Clone, Default)]
    pub struct RawValueTest {
        /// At least one of the values must be one of these.
        pub any_of: NonEmpty<Vec<RawText>> = NonEmpty::default(),
        /// Each of these must be one of the values.
        pub all_of: NonEmpty<Vec<RawText>> = NonEmpty::default(),
        /// None of the values may be one of these. It also holds if there is no value.
        pub none_of: NonEmpty<Vec<RawText>> = NonEmpty::default(),
        /// Whether there must be a value (`true`) or must not be one (`false`). A claim that is null is not a value.
        pub present: Option<bool>,
    }
}

/// A test of the values of a header or a claim. All parts that are given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueTest {
    any_of: Vec<TextTest>,
    all_of: Vec<TextTest>,
    none_of: Vec<TextTest>,
    present: Option<bool>,
}

impl ValueTest {
    /// Reads a test of a claim, or notes under `path` what is wrong with it.
    pub fn compile(raw: &RawValueTest, path: &JsonPath, errors: &mut ErrorList) -> Option<Self> {
        Self::compile_with(raw, None, path, errors)
    }

    /// Reads a test of a header. With an `environment`, regular expressions can test its values.
    pub(super) fn compile_with(
        raw: &RawValueTest,
        environment: Option<&dyn Environment>,
        path: &JsonPath,
        errors: &mut ErrorList,
    ) -> Option<Self> {
        if raw.any_of.is_empty() && raw.all_of.is_empty() && raw.none_of.is_empty() && raw.present.is_none() {
            errors.add(path, "tests nothing; expected `anyOf`, `allOf`, `noneOf` or `present`");
            return None;
        }
        let mut list = |texts: &[RawText], name: &str| {
            let path = path.field(name);
            let compiled = texts
                .iter()
                .enumerate()
                .filter_map(|(n, text)| TextTest::compile(text, environment, &path.index(n), errors));
            // The tests that cost host calls come last.
            let is_free = |test: &TextTest| !matches!(test.kind, Comparison::Regex(_));
            let (mut tests, others): (Vec<_>, Vec<_>) = compiled.partition(is_free);
            tests.extend(others);
            (tests.len() == texts.len()).then_some(tests)
        };
        let lists = (list(&raw.any_of, "anyOf"), list(&raw.all_of, "allOf"), list(&raw.none_of, "noneOf"));
        let (Some(any_of), Some(all_of), Some(none_of)) = lists else { return None };
        let has = |test: &TextTest| none_of.contains(test);
        let wanted = !any_of.is_empty() || !all_of.is_empty();
        let message = if raw.present == Some(false) && wanted {
            Some("never holds: `present: false` stands beside a value that must be there")
        } else if all_of.iter().any(has) || (!any_of.is_empty() && any_of.iter().all(has)) {
            Some("never holds: `noneOf` has a value that must be there")
        } else {
            None
        };
        if let Some(message) = message {
            errors.note(Code::NeverHolds, path, message);
        }
        Some(Self { any_of, all_of, none_of, present: raw.present })
    }

    /// Whether the test holds for a header with these values.
    pub(super) fn truth_of_header<'a>(
        &self,
        values: impl Iterator<Item = &'a [u8]> + Clone,
        regex: Regexes<'_>,
    ) -> Truth {
        let present = values.clone().next().is_some();
        self.truth(values, present, false, regex)
    }

    /// Whether the test holds for a claim; `None` if that is in doubt, since the claim has a value that cannot be compared with a
    /// text. A demand then fails, a limit counts, and an exemption does not exempt.
    pub fn decides_claim(&self, claim: &ClaimValues<'_>) -> Option<bool> {
        let known = claim.known().iter().map(|value| value.as_bytes());
        // A claim is tested by no regular expression, so no host call can fail.
        self.truth(known, claim.is_present(), claim.has_more(), &|_, _| Ok(None)).ok().flatten()
    }

    /// Whether the test holds for a header or claim with these `known` values, and with `more` that cannot be compared.
    #[allow(clippy::needless_pass_by_value)]
    fn truth<'a>(
        &self,
        known: impl Iterator<Item = &'a [u8]> + Clone,
        present: bool,
        more: bool,
        regex: Regexes<'_>,
    ) -> Truth {
        if self.present.is_some_and(|wanted| wanted != present) {
            return Ok(Some(false));
        }
        let has = |test: &TextTest| {
            let found = any(known.clone(), |value| test.holds(value, regex))?;
            Ok(found.filter(|found| *found || !more))
        };
        let parts: [&dyn Fn() -> Truth; 3] = [
            &|| if self.any_of.is_empty() { Ok(Some(true)) } else { any(&self.any_of, has) },
            &|| all(&self.all_of, has),
            &|| not(any(&self.none_of, has)),
        ];
        all(parts, |part| part())
    }
}

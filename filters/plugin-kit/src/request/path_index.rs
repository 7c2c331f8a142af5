//! Which of many conditions can hold for a path, without asking each.

use crate::request::matcher::RequestMatch;
use crate::request::path::first_segment;

/// Conditions by the first segment of their paths. A platform's rules are about `/users/…`, `/content/…` and so on, so
/// that few of a thousand are left to ask.
#[derive(Debug, Default)]
pub struct PathIndex {
    /// The conditions by the first segment of their paths, in the order of segments.
    by_first_segment: Vec<(Vec<u8>, Vec<usize>)>,
    /// The conditions that may hold for any path.
    anywhere: Vec<usize>,
}

impl PathIndex {
    /// The index of these conditions, by their positions.
    pub fn new<'a>(conditions: impl IntoIterator<Item = &'a RequestMatch>) -> Self {
        let mut index = Self::default();
        for (position, condition) in conditions.into_iter().enumerate() {
            match condition.first_segments() {
                Some(segments) => segments.into_iter().for_each(|segment| index.insert(segment, position)),
                None => index.anywhere.push(position),
            }
        }
        index
    }

    fn find(&self, segment: &[u8]) -> Result<usize, usize> {
        self.by_first_segment.binary_search_by(|(known, _)| known.as_slice().cmp(segment))
    }

    fn insert(&mut self, segment: &[u8], position: usize) {
        match self.find(segment) {
            Err(at) => self.by_first_segment.insert(at, (segment.to_vec(), vec![position])),
            Ok(at) => {
                let positions = self.by_first_segment.get_mut(at).map(|(_, positions)| positions);
                // A condition may have several paths of the same first segment.
                if let Some(positions) = positions.filter(|positions| positions.last() != Some(&position)) {
                    positions.push(position);
                }
            }
        }
    }

    /// The positions of all conditions that can hold where the path is read as `reading`, in order.
    pub fn candidates(&self, reading: &[u8]) -> impl Iterator<Item = usize> + '_ {
        let here = if self.by_first_segment.is_empty() {
            None
        } else {
            self.find(first_segment(reading)).ok().and_then(|at| self.by_first_segment.get(at))
        };
        let here = here.map(|(_, positions)| positions.as_slice()).unwrap_or_default();
        let mut here = here.iter().copied().peekable();
        let mut anywhere = self.anywhere.iter().copied().peekable();
        std::iter::from_fn(move || match (here.peek(), anywhere.peek()) {
            (Some(a), Some(b)) if a < b => here.next(),
            (Some(_), None) => here.next(),
            _ => anywhere.next(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{ErrorList, JsonPath};
    use crate::request::headers::HeaderMap;
    use crate::request::matcher::{Parts, Request};
    use crate::request::path::{PathCase, Readings};
    use crate::testing::{AnyCel, FakeHost};

    fn condition(paths: &[String]) -> RequestMatch {
        RequestMatch::compile(
            Parts { paths, ..Parts::default() },
            PathCase::Insensitive,
            &|_: &str| None,
            &JsonPath::root(),
            &mut ErrorList::default(),
        )
        .unwrap()
    }

    fn pattern() -> impl Strategy<Value = String> {
        let segment = prop_oneof![Just("a"), Just("B"), Just("{*}"), Just("{**}"), Just("ab")];
        (prop::collection::vec(segment, 0..3), any::<bool>()).prop_filter_map(
            "one {**}",
            |(segments, below)| {
                let several = segments.iter().filter(|segment| **segment == "{**}").count() > 1;
                let path =
                    format!("/{}{}", segments.join("/"), if below { "/*" } else { "" }).replace("//", "/");
                let good = crate::request::path::PathPattern::parse(&path, PathCase::Insensitive).is_ok();
                (!several && good).then_some(path)
            },
        )
    }

    proptest! {
        #[test]
        fn no_condition_that_holds_is_left_out(
            rules in prop::collection::vec(prop::collection::vec(pattern(), 0..3), 0..8),
            path in "(/(a|B|b|ab|c)){0,3}/?",
        ) {
            let conditions: Vec<RequestMatch> = rules.iter().map(|paths| condition(paths)).collect();
            let index = PathIndex::new(&conditions);
            let head = HeaderMap::from_pairs([(":path", path.as_str()), (":method", "GET")]);
            let request = Request::of(&head);
            if let Readings::One(reading) = Readings::of(request.target, PathCase::Insensitive) {
                let facts = FakeHost::default();
                let exchange = crate::request::exchange::Exchange::new(1, &facts);
                let holds = |n: &usize| conditions[*n].matches(&exchange, &request, &reading).unwrap() == Some(true);
                let all: Vec<usize> = (0..conditions.len()).filter(holds).collect();
                let found: Vec<usize> = index.candidates(&reading).filter(holds).collect();
                prop_assert_eq!(found, all);
            }
        }
    }

    #[test]
    fn a_regular_expression_may_match_anywhere() {
        let (paths, path_regexes) = (["/a".to_owned()], ["/b".to_owned()]);
        let parts = Parts { paths: &paths, path_regexes: &path_regexes, ..Parts::default() };
        let case = PathCase::Sensitive;
        let condition = RequestMatch::compile(
            parts,
            case,
            &AnyCel::default(),
            &JsonPath::root(),
            &mut ErrorList::default(),
        )
        .unwrap();
        let index = PathIndex::new([&condition]);
        assert_eq!(index.candidates(b"/b").collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn others_are_not_asked() {
        let conditions: Vec<RequestMatch> =
            (0..1000).map(|n| condition(&[format!("/service-{n}/*")])).collect();
        let index = PathIndex::new(&conditions);
        assert_eq!(index.candidates(b"/service-7/x").collect::<Vec<_>>(), [7]);
        assert_eq!(index.candidates(b"/service-7").collect::<Vec<_>>(), [7]);
        assert_eq!(index.candidates(b"/").count(), 0);
    }
}

//! Patterns of paths: of many, only those are tried that could match.
//!
//! Each is looked at once for what every path that it matches begins with. Where that tells a whole first segment, the
//! pattern is found by it; the others are compared by their beginnings before they are tried.

use std::{
    collections::{HashMap, hash_map},
    iter,
};

use regex::Regex;
use regex_syntax::hir::literal::Extractor;
use tollgate_model::PathMatch;

/// What is found by patterns, in its order.
#[derive(Debug)]
pub(super) struct Patterns<T> {
    by_segment: HashMap<String, Vec<Pattern<T>>>,
    rest: Vec<Pattern<T>>,
}

#[derive(Debug)]
struct Pattern<T> {
    regex: Regex,
    begins: String,
    order: usize,
    found: T,
}

impl<T> Default for Patterns<T> {
    fn default() -> Self {
        Self { by_segment: HashMap::new(), rest: Vec::new() }
    }
}

impl<T> Patterns<T> {
    /// All in the order in which they are to be found. What is no pattern is left out.
    ///
    /// `known` has each pattern once: many hosts have the same ones, and what is used often stays near.
    pub(super) fn new(
        all: impl IntoIterator<Item = T>,
        path: impl Fn(&T) -> &PathMatch,
        known: &mut HashMap<String, Regex>,
    ) -> Self {
        let mut patterns = Self::default();
        for (order, found) in all.into_iter().enumerate() {
            let PathMatch::Regex(regex) = path(&found) else { continue };
            let regex = match known.entry(regex.as_str().to_owned()) {
                hash_map::Entry::Occupied(known) => known.get().clone(),
                hash_map::Entry::Vacant(place) => place.insert(regex.clone()).clone(),
            };
            let begins = beginning(regex.as_str());
            let list = match first_segment(&begins) {
                Some(segment) => patterns.by_segment.entry(segment.to_owned()).or_default(),
                None => &mut patterns.rest,
            };
            list.push(Pattern { regex, begins, order, found });
        }
        patterns
    }

    /// Whatever this path is found by, in order.
    pub(super) fn find<'a>(&'a self, path: &str) -> impl Iterator<Item = &'a T> {
        let own = first_segment(path).and_then(|segment| self.by_segment.get(segment));
        let mut own = own.into_iter().flatten().peekable();
        let mut rest = self.rest.iter().peekable();
        let in_order = iter::from_fn(move || match (own.peek(), rest.peek()) {
            (Some(one), Some(other)) if one.order < other.order => own.next(),
            (Some(_), None) => own.next(),
            _ => rest.next(),
        });
        let matching = in_order.filter(|it| path.starts_with(it.begins.as_str()) && it.regex.is_match(path));
        matching.map(|pattern| &pattern.found)
    }
}

/// The first segment of a path, where another one follows.
fn first_segment(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split_once('/').map(|(segment, _)| segment)
}

/// What everything that this pattern matches begins with, as far as that is easily told.
fn beginning(pattern: &str) -> String {
    let Ok(hir) = regex_syntax::parse(pattern) else { return String::new() };
    let literals = Extractor::new().extract(&hir);
    let common = literals.longest_common_prefix().unwrap_or_default();
    // Up to a whole character.
    let whole = common.utf8_chunks().next().map(|chunk| chunk.valid());
    whole.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn regex(pattern: &str) -> PathMatch {
        PathMatch::Regex(Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap())
    }

    #[test]
    fn a_beginning_is_common_to_all_that_matches() {
        for (pattern, begins) in [
            ("/team-7/v[0-9]+/.*", "/team-7/v"),
            ("/v[0-9]+", "/v"),
            ("/(a|b)/x", "/"),
            ("/ab|/ac", "/a"),
            ("/a|b", ""),
            ("(?i)/team/x", "/"),
            (".*", ""),
            ("/a?b", "/"),
            ("/(team)/x", "/team/x"),
        ] {
            assert_eq!(beginning(&format!(r"\A(?:{pattern})\z")), begins, "{pattern}");
        }
    }

    #[test]
    fn many_patterns_are_told_apart_by_their_first_segment() {
        let all: Vec<PathMatch> = (0..1_000).map(|n| regex(&format!("/team-{n}/v[0-9]+"))).collect();
        let patterns = Patterns::new(all, |it| it, &mut HashMap::new());
        assert!(patterns.rest.is_empty() && patterns.by_segment.values().all(|list| list.len() == 1));
        assert_eq!(patterns.find("/team-7/v1").count(), 1);
        assert_eq!(patterns.find("/team-7/x").count() + patterns.find("/team-7").count(), 0);
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_one_by_one_would_find(
            patterns in proptest::collection::vec(
                prop::sample::select(vec![
                    "/a/.*", "/a/b", "/(a|b)/c?", "(?i)/A/b", "/[ab]/.*", ".*", "/a", "/a/|/b/", "/é/.*", "/b/x{0,2}",
                ]),
                0..12,
            ),
            path in prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/A/b", "/b/c", "/b/", "/b/xx", "/é/x", "/c/d"]),
        ) {
            let all: Vec<PathMatch> = patterns.iter().map(|pattern| regex(pattern)).collect();
            let expected: Vec<usize> = (0..all.len()).filter(|n| all[*n].matches(path)).collect();
            let known = &mut HashMap::new();
            let indexed = Patterns::new(all.iter().enumerate(), |(_, it)| it, known);
            let found: Vec<usize> = indexed.find(path).map(|(n, _)| *n).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

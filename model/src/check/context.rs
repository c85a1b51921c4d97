//! Where problems are collected, and the checks that every kind has use for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

use tollgate_proto::v1;

use super::API_VERSION;
use crate::{
    Field, Kind, LogIndex, Money, Name, Problem, Problems, Timestamp, nearest::hint, parse_duration, parse_size,
    resource::MAX_WEIGHT,
};

/// One resource under check.
pub(super) struct Context {
    kind: Kind,
    pub(super) name: Name,
    pub(super) version: LogIndex,
    problems: Problems,
}

/// What a value means, or that it will mean something later.
#[derive(Clone, Copy)]
pub(super) enum Value<T> {
    Is(T),
    NotYet,
}

/// A label's name and value each fit where a DNS label does.
const MAX_LABEL_BYTES: usize = 63;

impl Context {
    /// Checks what every kind has: `apiVersion`, `kind`, `metadata`.
    pub(super) fn new(kind: Kind, api_version: &str, given_kind: &str, metadata: Option<&v1::Metadata>) -> Self {
        let none = v1::Metadata::default();
        let given = metadata.unwrap_or(&none);
        let version = LogIndex(given.resource_version.unwrap_or(0));
        let mut context = Self { kind, name: Name::new(&given.name), version, problems: Problems::default() };
        match api_version {
            API_VERSION => {}
            "" => context.add(&Field::root("apiVersion"), format!("is missing: it must be {API_VERSION}")),
            other => context.add(&Field::root("apiVersion"), format!("`{other}` is unknown: it must be {API_VERSION}")),
        }
        if given_kind != kind.as_str() {
            context.add(&Field::root("kind"), format!("must be {kind}"));
        }
        let metadata = Field::root("metadata");
        if given.name.is_empty() {
            context.add(&metadata.field("name"), "is missing");
        } else if let Err(rule) = Name::parse(&given.name) {
            context.add(&metadata.field("name"), rule);
        }
        context.labels(&given.labels, &metadata.field("labels"));
        context
    }

    /// What is wrong with them.
    pub(super) fn labels(&mut self, labels: &BTreeMap<String, String>, at: &Field<'_>) {
        let plain = |text: &str| {
            text.len() <= MAX_LABEL_BYTES
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'/'))
        };
        for (name, value) in labels {
            if name.is_empty() || !plain(name) || !plain(value) {
                self.add(&at.key(name), "name and value must be up to 63 of A-Z, a-z, 0-9, '-', '.', '_', '/'");
            }
        }
    }

    /// Notes a problem.
    pub(super) fn add(&mut self, at: &Field<'_>, message: impl Display) {
        self.problems.push(Problem {
            kind: Some(self.kind),
            name: self.name.to_string(),
            field: at.to_string(),
            message: message.to_string(),
            at: None,
        });
    }

    /// The checked resource, unless something was wrong.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Problems> {
        self.problems.or(value)
    }

    /// The problems: something without which there is no resource was wrong.
    pub(super) fn refuse<T>(self) -> Result<T, Problems> {
        debug_assert!(!self.problems.is_empty(), "told by whoever found it");
        Err(self.problems)
    }

    /// The value, or `None` and a problem.
    pub(super) fn keep<T>(&mut self, at: &Field<'_>, result: Result<T, impl Display>) -> Option<T> {
        result.map_err(|message| self.add(at, message)).ok()
    }

    /// One of a fixed set of words; `None` when absent or wrong.
    pub(super) fn word<T: Copy>(&mut self, at: &Field<'_>, text: &str, words: &[(&str, Value<T>)]) -> Option<T> {
        if text.is_empty() {
            return None;
        }
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, Value::Is(value))) => Some(*value),
            Some((_, Value::NotYet)) => {
                self.add(at, format!("`{text}` is not supported yet"));
                None
            }
            None => {
                let names = || words.iter().map(|(word, _)| *word);
                let all = names().collect::<Vec<_>>().join(" | ");
                self.add(at, format!("`{text}` is unknown{}: {all}", hint(text, names())));
                None
            }
        }
    }

    /// As [`Self::word`], and it must be there.
    pub(super) fn required_word<T: Copy>(
        &mut self,
        at: &Field<'_>,
        text: &str,
        words: &[(&str, Value<T>)],
    ) -> Option<T> {
        if text.is_empty() {
            let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" | ");
            self.add(at, format!("is missing: {all}"));
        }
        self.word(at, text, words)
    }

    /// A duration greater than zero; `None` when absent or wrong.
    pub(super) fn duration(&mut self, at: &Field<'_>, text: &str) -> Option<Duration> {
        if text.is_empty() {
            return None;
        }
        let duration = self.keep(at, parse_duration(text))?;
        if duration.is_zero() {
            self.add(at, "must be longer than zero");
            return None;
        }
        Some(duration)
    }

    /// A size in bytes; `None` when absent or wrong.
    pub(super) fn size(&mut self, at: &Field<'_>, text: &str) -> Option<u64> {
        if text.is_empty() { None } else { self.keep(at, parse_size(text)) }
    }

    /// An amount of money, not negative; `None` when absent or wrong.
    pub(super) fn money(&mut self, at: &Field<'_>, text: &str) -> Option<Money> {
        if text.is_empty() {
            return None;
        }
        let money = self.keep(at, Money::parse(text))?;
        if money.0 < 0 {
            self.add(at, "must not be negative");
            return None;
        }
        Some(money)
    }

    /// An RFC 3339 instant; `None` when absent or wrong.
    pub(super) fn timestamp(&mut self, at: &Field<'_>, text: &str) -> Option<Timestamp> {
        if text.is_empty() { None } else { self.keep(at, Timestamp::parse(text)) }
    }

    /// The name of another resource or of a zone, already known to be there.
    pub(super) fn name(&mut self, at: &Field<'_>, text: &str) -> Option<Name> {
        self.keep(at, Name::parse(text))
    }

    /// Names, each once.
    pub(super) fn names(&mut self, at: &Field<'_>, texts: &[String]) -> Vec<Name> {
        self.once(at, texts);
        texts.iter().enumerate().filter_map(|(n, text)| self.name(&at.index(n), text)).collect()
    }

    /// Tells of every item that was there before.
    pub(super) fn once<T: Ord + Display>(&mut self, at: &Field<'_>, items: &[T]) {
        let mut seen = BTreeSet::new();
        for (n, item) in items.iter().enumerate() {
            if !seen.insert(item) {
                self.add(&at.index(n), format!("`{item}` is there twice"));
            }
        }
    }

    /// A weight: 1 when absent.
    pub(super) fn weight(&mut self, at: &Field<'_>, weight: Option<u32>) -> u32 {
        let weight = weight.unwrap_or(1);
        if weight > MAX_WEIGHT {
            self.add(at, format!("must be at most {MAX_WEIGHT}"));
        }
        weight.min(MAX_WEIGHT)
    }
}

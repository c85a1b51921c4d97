//! The routing table: from host and path to a route in a few hash lookups, whatever the number of routes.
//!
//! Precedence (CONTRACT.md): exact host, then longest wildcard suffix, then any; exact path, then longest prefix (on
//! path segments), then regex, then a route without a path; a method match; more header matches; more query matches.
//! Where these tell no difference: a condition on the model, more cookies, the name, the order within the route.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use regex::Regex;
use tollgate_model::{HostPattern, PathMatch, RouteMatch};

use super::{
    Plan,
    conditions::{Facts, Holds, hold},
    patterns::Patterns,
};

/// All routes of one configuration.
#[derive(Debug, Default)]
pub(crate) struct Table {
    exact: HashMap<String, HostTable>,
    /// By suffix: `.example.com`.
    suffixes: HashMap<String, HostTable>,
    any: HostTable,
}

/// The routes of one host pattern.
#[derive(Debug, Default)]
struct HostTable {
    exact: HashMap<String, Vec<Entry>>,
    prefixes: HashMap<String, Vec<Entry>>,
    /// The lengths that occur among the prefixes, longest first.
    prefix_lengths: Vec<usize>,
    /// Until all are known.
    unsorted: Vec<Entry>,
    regexes: Patterns<Entry>,
    any: Vec<Entry>,
}

/// One of the matches of one route.
#[derive(Debug, Clone)]
struct Entry {
    plan: Arc<Plan>,
    index: usize,
}

/// What the table says: a route, and which of its matches it is.
#[derive(Debug, Clone)]
pub(crate) enum Found<'a> {
    Route(&'a Arc<Plan>, usize),
    /// It depends on the model: ask again when the body has been read. This route's body limit holds until then.
    NeedsModel(&'a Arc<Plan>, usize),
    Nothing,
}

impl Table {
    pub(crate) fn new<'a>(plans: impl IntoIterator<Item = &'a Arc<Plan>>) -> Self {
        let mut table = Self::default();
        for plan in plans {
            for host in &plan.route.hosts {
                let host = match host {
                    HostPattern::Exact(name) => table.exact.entry(name.clone()).or_default(),
                    HostPattern::Suffix(suffix) => table.suffixes.entry(suffix.clone()).or_default(),
                    HostPattern::Any => &mut table.any,
                };
                for index in 0..plan.route.matches.len() {
                    host.add(Entry { plan: Arc::clone(plan), index });
                }
            }
        }
        let known = &mut HashMap::new();
        table.any.finish(known);
        table.exact.values_mut().chain(table.suffixes.values_mut()).for_each(|host| host.finish(known));
        table
    }

    pub(crate) fn find(&self, facts: &Facts<'_>) -> Found<'_> {
        self.candidates(facts).next().unwrap_or(Found::Nothing)
    }

    /// All that could be, first things first; what comes behind a route that needs no model is never asked.
    pub(crate) fn candidates<'a, 'f>(&'a self, facts: &'f Facts<'f>) -> impl Iterator<Item = Found<'a>> + use<'a, 'f> {
        let exact = self.exact.get(facts.host).into_iter();
        let suffixes = dots(facts.host).filter_map(|suffix| self.suffixes.get(suffix));
        let hosts = exact.chain(suffixes).chain([&self.any]);
        hosts.flat_map(|host| host.candidates(facts))
    }

    /// The routes that a request can have whose model is not read yet: whatever that is, none comes behind one that needs none.
    pub(crate) fn could_be<'a, 'f>(
        &'a self,
        facts: &'f Facts<'f>,
    ) -> impl Iterator<Item = &'a Arc<Plan>> + use<'a, 'f> {
        let mut was_last = false;
        self.candidates(facts).map_while(move |found| {
            let (plan, is_last) = match found {
                Found::NeedsModel(plan, _) => (plan, false),
                Found::Route(plan, _) => (plan, true),
                Found::Nothing => return None,
            };
            (!std::mem::replace(&mut was_last, is_last)).then_some(plan)
        })
    }
}

/// The host's suffixes that begin with a dot, longest first. The dot is never the first character.
fn dots(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').map(|(at, _)| &host[at..])
}

impl HostTable {
    fn add(&mut self, entry: Entry) {
        match &entry.wanted().path {
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().push(entry),
            PathMatch::Prefix(prefix) => self.prefixes.entry(prefix.clone()).or_default().push(entry),
            PathMatch::Regex(_) => self.unsorted.push(entry),
            PathMatch::Any => self.any.push(entry),
        }
    }

    fn finish(&mut self, known: &mut HashMap<String, Regex>) {
        let lists = self.exact.values_mut().chain(self.prefixes.values_mut());
        for list in lists.chain([&mut self.unsorted, &mut self.any]) {
            list.sort_by(|a, b| a.rank().cmp(&b.rank()));
        }
        self.prefix_lengths = self.prefixes.keys().map(String::len).collect();
        self.prefix_lengths.sort_unstable_by_key(|&length| Reverse(length));
        self.prefix_lengths.dedup();
        let patterns = std::mem::take(&mut self.unsorted);
        self.regexes = Patterns::new(patterns, |entry| &entry.wanted().path, known);
    }

    fn candidates<'a, 'f>(&'a self, facts: &'f Facts<'f>) -> impl Iterator<Item = Found<'a>> + use<'a, 'f> {
        let path = facts.path;
        let exact = self.exact.get(path).into_iter().flatten();
        let prefixes = self.prefix_lengths.iter().filter_map(move |&length| {
            let on_segment = path.len() == length || path.as_bytes().get(length) == Some(&b'/');
            self.prefixes.get(path.get(..length).filter(|_| on_segment)?)
        });
        let entries = exact.chain(prefixes.flatten()).chain(self.regexes.find(path)).chain(&self.any);
        entries.filter_map(|entry| entry.find(facts))
    }
}

impl Entry {
    fn wanted(&self) -> &RouteMatch {
        &self.plan.route.matches[self.index]
    }

    /// Smaller comes first.
    fn rank(&self) -> impl Ord + '_ {
        let wanted = self.wanted();
        let counts = (wanted.headers.len(), wanted.query.len());
        let ours = (wanted.models.is_empty(), Reverse(wanted.cookies.len()));
        (wanted.methods.is_empty(), Reverse(counts), ours, &self.plan.route.name, self.index)
    }

    fn find(&self, facts: &Facts<'_>) -> Option<Found<'_>> {
        match hold(self.wanted(), facts) {
            Holds::Yes => Some(Found::Route(&self.plan, self.index)),
            Holds::DependsOnModel => Some(Found::NeedsModel(&self.plan, self.index)),
            Holds::No => None,
        }
    }
}

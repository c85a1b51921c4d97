//! What nodes tell each other of the upstreams that they share: keys that a provider refuses, and how much is under way.
//!
//! Each word says all of it, as one node has met it by itself: what is lost is said again, and what is no longer said is over. A
//! node that hears nothing goes by what it finds out alone. Nothing here is replicated: it is old within a second, and the log
//! would have to write it. Who carries the words is not here.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use tollgate_model::{Kind, LogIndex, Name};

use crate::{balance::Load, compiled::Compiled, gateway::Gateway};

/// What one word has of each at most: some hundred kilobytes, whatever names are like.
const MOST: usize = 512;
/// That a key is well is said for so long: some words may be lost.
const WELL_FOR: Duration = Duration::from_secs(5);

/// All that a node has to say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamsWord {
    /// Keys that it has rested.
    pub resting: Vec<KeyRests>,
    /// Keys that it has found well of late.
    pub well: Vec<KeyIsWell>,
    /// What it has under way; nothing to upstreams that are not named.
    pub loads: Vec<UpstreamLoad>,
}

/// A provider's key, by its place: never the key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    /// Whose it is.
    pub provider: Name,
    /// Of the provider's resource: in another one another key may stand there.
    pub version: LogIndex,
    /// Counted from 0.
    pub key: u32,
}

/// It is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRests {
    /// Which.
    pub place: KeyPlace,
    /// Until it is tried. A duration, as clocks differ.
    pub left: Duration,
    /// Since it was refused last.
    pub age: Duration,
    /// With this status; 0 where that is not known.
    pub status: u16,
}

/// It is taken again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyIsWell {
    /// Which.
    pub place: KeyPlace,
    /// Since that was found.
    pub age: Duration,
}

/// What a node has under way to one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamLoad {
    /// A service or a provider.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// Requests.
    pub in_flight: u64,
    /// Sent again at once, or that may be until its next interval.
    pub again: u64,
}

impl Gateway {
    /// What the other nodes are to be told now.
    #[must_use]
    pub fn upstreams_word(&self) -> UpstreamsWord {
        let (compiled, now) = (self.compiled(), Instant::now());
        let mut word = UpstreamsWord::default();
        for provider in compiled.providers.values() {
            provider.keys.tell(WELL_FOR, now, &mut word);
        }
        for (kind, name, endpoints) in upstreams(&compiled) {
            let Load { in_flight, again } = endpoints.told_load();
            if in_flight > 0 || again > 0 {
                let (in_flight, again) = (in_flight as u64, again as u64);
                word.loads.push(UpstreamLoad { kind, name: name.clone(), in_flight, again });
            }
        }
        word.bound();
        word
    }

    /// Another node has said this, just now.
    pub fn hear_peer(&self, node: u64, word: &UpstreamsWord) {
        let mut word = word.clone();
        word.bound();
        let (compiled, now) = (self.compiled(), Instant::now());
        for provider in compiled.providers.values() {
            provider.keys.hear(node, &word, now);
        }
        let loads: HashMap<_, _> = word.loads.iter().map(|load| ((load.kind, load.name.as_str()), load)).collect();
        let count = |said: u64| usize::try_from(said.min(u64::from(u32::MAX))).unwrap_or(usize::MAX);
        for (kind, name, endpoints) in upstreams(&compiled) {
            let load = loads.get(&(kind, name.as_str()));
            let load = load.map(|it| Load { in_flight: count(it.in_flight), again: count(it.again) });
            endpoints.hear(node, load.unwrap_or_default(), now);
        }
    }

    /// The interval is over in which the other nodes are told once: this one may send more again from now on, by what they have said.
    /// What it takes for itself is in its next word, which is to be said at once.
    pub fn begin_interval(&self) {
        let now = Instant::now();
        upstreams(&self.compiled()).for_each(|(_, _, endpoints)| endpoints.begin_interval(now));
    }
}

fn upstreams(compiled: &Compiled) -> impl Iterator<Item = (Kind, &Name, &crate::upstream::Endpoints)> {
    let providers = compiled.providers.iter().map(|(name, it)| (Kind::Provider, name, &*it.endpoints));
    let services = compiled.services.iter().map(|(name, it)| (Kind::Service, name, &*it.endpoints));
    providers.chain(services)
}

impl UpstreamsWord {
    /// Where there is too much to say, what matters most is said.
    fn bound(&mut self) {
        self.resting.truncate(MOST);
        self.well.truncate(MOST);
        if self.loads.len() > MOST {
            self.loads.sort_by_key(|load| std::cmp::Reverse(load.in_flight.max(load.again)));
            self.loads.truncate(MOST);
        }
    }
}

//! Takes single values out of a [`Source`], each checked for what its key wants; problems are collected, not returned.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use tollgate_consensus::MAX_NODE_ID;
use tollgate_gateway::AccessLogField;
use tollgate_model::{parse_duration, parse_network, parse_size, secret::ClusterKey};

use super::{
    Members, log_filter,
    source::{ConfigProblem, Located, Origin, Source, Value},
};

/// More connections or requests than a node can have: each takes files and kilobytes.
const MAX_BOUND: usize = 1_000_000;
/// Log filter of a node that names none.
const LOG_FILTER: &str = "info";
/// The longest path of a typo that a suggestion is made for, as edits from a known key.
const SUGGESTION_EDITS: usize = 3;
/// The values not taken yet, and the problems so far.
pub(super) struct Take<'a> {
    source: Source,
    base: &'a Path,
    /// Whether the files that are named are looked into.
    look: bool,
    taken: BTreeSet<String>,
}

impl<'a> Take<'a> {
    pub(super) fn new(source: Source, base: &'a Path, look: bool) -> Take<'a> {
        Take { source, base, look, taken: BTreeSet::new() }
    }

    /// Adds a problem for every value that nobody took, and ends.
    pub(super) fn finish(mut self, known: &[&str]) -> Result<(), Vec<ConfigProblem>> {
        let unknown: Vec<_> = self
            .source
            .values
            .iter()
            .filter(|(path, _)| !self.taken.contains(*path))
            .map(|(p, l)| (p.clone(), l.origin.clone()))
            .collect();
        for (path, origin) in unknown {
            self.add(&path, unknown_key(&path, known), origin);
        }
        let sections: BTreeSet<&str> = known.iter().flat_map(|key| parents(key)).collect();
        let strangers: Vec<_> = self
            .source
            .tables
            .iter()
            .filter(|(path, _)| !sections.contains(path.as_str()))
            .filter(|(path, _)| !self.source.values.keys().any(|key| key.starts_with(&format!("{path}."))))
            .map(|(path, origin)| (path.clone(), origin.clone()))
            .collect();
        for (path, origin) in strangers {
            self.add(&path, "is not a section of a node configuration".to_owned(), origin);
        }
        if self.source.broken {
            // What stands behind the mistake was not read: whether it is missing, nobody knows.
            self.source.problems.retain(|problem| problem.origin != Origin::Missing);
        }
        if self.source.problems.is_empty() {
            return Ok(());
        }
        self.source.problems.sort_by_key(|problem| match problem.origin {
            Origin::File { line, column } => (0, line, column),
            Origin::Env(_) => (1, 0, 0),
            Origin::Missing => (2, 0, 0),
        });
        Err(self.source.problems)
    }

    /// Reports `key` when it is given.
    pub(super) fn refuse(&mut self, key: &str, message: &str) {
        if let Some(found) = self.raw(key) {
            self.add(key, message.to_owned(), found.origin);
        }
    }

    pub(super) fn node_id(&mut self, key: &str) -> Option<u64> {
        let found = self.required(key)?;
        let number = match &found.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        let id = number.filter(|id| (1..=MAX_NODE_ID).contains(id));
        if id.is_none() {
            self.add(key, format!("must be a whole number from 1 to {MAX_NODE_ID}"), found.origin);
        }
        id
    }

    pub(super) fn name(&mut self, key: &str) -> Option<String> {
        let (text, origin) = self.required_text(key)?;
        let fits = !text.is_empty()
            && text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !fits {
            self.add(key, "must be 1 to 63 letters, digits, '-', '.' or '_', such as \"az-a\"".to_owned(), origin);
            return None;
        }
        Some(text)
    }

    pub(super) fn path(&mut self, key: &str) -> Option<PathBuf> {
        let (text, origin) = self.required_text(key)?;
        self.checked_path(key, &text, origin)
    }

    pub(super) fn optional_path(&mut self, key: &str) -> Option<PathBuf> {
        let found = self.raw(key)?;
        let (text, origin) = self.text(key, found)?;
        self.checked_path(key, &text, origin)
    }

    /// A directory; it may have to be made yet, below one that is there.
    pub(super) fn directory(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        self.look_into(key, &path, |path| {
            let there = path.ancestors().find_map(|path| fs::metadata(path).ok().map(|found| (path, found)));
            let Some((there, found)) = there else { return Ok(()) };
            if !found.is_dir() {
                anyhow::bail!("{} is no directory", there.display());
            }
            // The system's own trees, where a directory can't be made whoever asks.
            if there.starts_with("/proc") || there.starts_with("/sys") {
                anyhow::bail!("nothing can be kept in {}", there.display());
            }
            Ok(())
        });
        Some(path)
    }

    /// A file that has to be there already.
    pub(super) fn file(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        self.look_into(key, &path, |path| {
            let file = File::open(path)?;
            if file.metadata()?.is_dir() { Err(io::Error::from(io::ErrorKind::IsADirectory).into()) } else { Ok(()) }
        });
        Some(path)
    }

    /// A file that has to be there, where it is named.
    pub(super) fn optional_file(&mut self, key: &str) -> Option<PathBuf> {
        if self.is_given(key) { self.file(key) } else { None }
    }

    pub(super) fn optional_address(&mut self, key: &str) -> Option<SocketAddr> {
        if self.is_given(key) { self.address(key) } else { None }
    }

    pub(super) fn is_given(&self, key: &str) -> bool {
        self.source.values.contains_key(key)
    }

    /// Whether the files that are named are looked into.
    pub(super) fn looks(&self) -> bool {
        self.look
    }

    /// The cluster key's file.
    pub(super) fn key_file(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.optional_path(key)?;
        self.look_into(key, &path, |path| Ok(ClusterKey::read(path).map(drop)?));
        Some(path)
    }

    fn look_into(&mut self, key: &str, path: &Path, look: impl FnOnce(&Path) -> anyhow::Result<()>) {
        if self.look
            && let Err(error) = look(path)
            && let Some(origin) = self.raw(key).map(|found| found.origin)
        {
            self.add(key, format!("{} can't be used: {error:#}", path.display()), origin);
        }
    }

    fn checked_path(&mut self, key: &str, text: &str, origin: Origin) -> Option<PathBuf> {
        if text.is_empty() {
            self.add(key, "is empty: name a path".to_owned(), origin);
            return None;
        }
        Some(self.base.join(text))
    }

    pub(super) fn address(&mut self, key: &str) -> Option<SocketAddr> {
        let (text, origin) = self.required_text(key)?;
        let address = text.parse().ok();
        if address.is_none() {
            self.add(key, format!("'{text}' is not an address: write IP:PORT, such as \"0.0.0.0:8080\""), origin);
        }
        address
    }

    /// What others dial: as given, or the listening address when that names one interface.
    pub(super) fn advertise(&mut self, key: &str, listen: Option<SocketAddr>) -> Option<String> {
        let Some(found) = self.raw(key) else {
            let listen = listen?;
            if listen.ip().is_unspecified() {
                self.add(
                    key,
                    "is missing: with a listen address of every interface, say which one peers dial".to_owned(),
                    Origin::Missing,
                );
                return None;
            }
            return Some(listen.to_string());
        };
        let (text, origin) = self.text(key, found)?;
        if !is_host_port(&text) {
            self.add(key, format!("'{text}' is not HOST:PORT"), origin);
            return None;
        }
        Some(text)
    }

    pub(super) fn networks(&mut self, key: &str) -> Vec<IpNet> {
        let Some((items, origin)) = self.list(key) else { return Vec::new() };
        let mut networks = Vec::new();
        for item in items {
            match parse_network(&item) {
                Ok(network) => networks.push(network),
                Err(error) => self.add(key, format!("'{item}' {error}"), origin.clone()),
            }
        }
        networks
    }

    /// Whether proxies say whom connections are from; somebody must be believed then.
    pub(super) fn proxy_protocol(&mut self, key: &str, trusted_proxies: &[IpNet]) -> bool {
        let is_on = self.switch(key);
        if is_on && trusted_proxies.is_empty() {
            self.refuse(key, "is on, and no proxy is trusted: list in http.trusted_proxies who may say it");
        }
        is_on
    }

    /// Off where it is not given.
    fn switch(&mut self, key: &str) -> bool {
        let Some(found) = self.raw(key) else { return false };
        let value = match &found.value {
            Value::Flag(value) => Some(*value),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        value.unwrap_or_else(|| {
            self.add(key, "must be true or false".to_owned(), found.origin);
            false
        })
    }

    pub(super) fn members(&mut self, id: Option<u64>) -> Option<Members> {
        let bootstrap = self.list("cluster.bootstrap");
        let join = self.list("cluster.join");
        match (bootstrap, join) {
            (Some((items, origin)), None) => self.bootstrap(&items, origin, id),
            (None, Some((items, origin))) => self.join(items, origin),
            (Some(_), Some((_, origin))) => {
                self.add(
                    "cluster.join",
                    "stands beside cluster.bootstrap: a first member has one, a later member the other".to_owned(),
                    origin,
                );
                None
            }
            (None, None) => {
                let message =
                    "is missing: list the first members, \"1@10.0.0.1:7000\", or give cluster.join".to_owned();
                self.add("cluster.bootstrap", message, Origin::Missing);
                None
            }
        }
    }

    fn bootstrap(&mut self, items: &[String], origin: Origin, id: Option<u64>) -> Option<Members> {
        let key = "cluster.bootstrap";
        let mut members = Vec::new();
        for item in items {
            let parsed = item.split_once('@').and_then(|(id, address)| Some((id.parse::<u64>().ok()?, address)));
            match parsed {
                Some((id, address)) if (1..=MAX_NODE_ID).contains(&id) && is_host_port(address) => {
                    members.push((id, address.to_owned()))
                }
                _ => {
                    self.add(key, format!("'{item}' is not ID@HOST:PORT, such as \"1@10.0.0.1:7000\""), origin.clone())
                }
            }
        }
        let ids: BTreeSet<u64> = members.iter().map(|(id, _)| *id).collect();
        let addresses: BTreeSet<&str> = members.iter().map(|(_, address)| address.as_str()).collect();
        if members.is_empty() || ids.len() < members.len() || addresses.len() < members.len() {
            self.add(
                key,
                "must list every first member once, each with an id and an address of its own".to_owned(),
                origin,
            );
            return None;
        }
        if let Some(id) = id.filter(|id| !ids.contains(id)) {
            self.add(key, format!("does not list this node, {id}: a later member has cluster.join instead"), origin);
            return None;
        }
        Some(Members::Bootstrap(members))
    }

    fn join(&mut self, items: Vec<String>, origin: Origin) -> Option<Members> {
        if items.is_empty() {
            self.add("cluster.join", "is empty: name at least one peer".to_owned(), origin);
            return None;
        }
        for item in items.iter().filter(|item| !is_host_port(item)) {
            self.add("cluster.join", format!("'{item}' is not HOST:PORT"), origin.clone());
        }
        Some(Members::Join(items))
    }

    pub(super) fn duration(&mut self, key: &str, default: Duration) -> Duration {
        self.optional_duration(key).unwrap_or(default)
    }

    pub(super) fn optional_duration(&mut self, key: &str) -> Option<Duration> {
        let found = self.raw(key)?;
        let (text, origin) = self.text(key, found)?;
        parse_duration(&text).map_err(|error| self.add(key, error, origin)).ok()
    }

    pub(super) fn size(&mut self, key: &str, default: u64) -> u64 {
        self.optional_size(key).unwrap_or(default)
    }

    pub(super) fn optional_size(&mut self, key: &str) -> Option<u64> {
        let found = self.raw(key)?;
        let (text, origin) = self.text(key, found)?;
        let size = parse_size(&text).and_then(|size| match size {
            0 => Err("must be greater than zero".to_owned()),
            size => Ok(size),
        });
        size.map_err(|error| self.add(key, error, origin)).ok()
    }

    pub(super) fn count(&mut self, key: &str, default: u64) -> u64 {
        let Some(found) = self.raw(key) else { return default };
        let count = match &found.value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        count.unwrap_or_else(|| {
            self.add(key, "must be a whole number, 0 or more".to_owned(), found.origin);
            default
        })
    }

    /// `10%`, as a part of 1.
    pub(super) fn part(&mut self, key: &str, default: f64) -> f64 {
        let Some(found) = self.raw(key) else { return default };
        let Some((text, origin)) = self.text(key, found) else { return default };
        let percent = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
            Some(percent) => percent / 100.0,
            None => {
                self.add(key, format!("'{text}' is no part: write it as \"10%\""), origin);
                default
            }
        }
    }

    /// All of them where none are named.
    pub(super) fn access_log_fields(&mut self, key: &str) -> Vec<AccessLogField> {
        let Some((names, origin)) = self.list(key) else { return AccessLogField::ALL.to_vec() };
        let mut fields = Vec::new();
        for name in &names {
            match AccessLogField::of(name) {
                Some(field) if fields.contains(&field) => {
                    self.add(key, format!("'{name}' is named twice"), origin.clone())
                }
                Some(field) => fields.push(field),
                None => {
                    let known = AccessLogField::ALL.map(AccessLogField::name).join(", ");
                    self.add(key, format!("'{name}' is no field of the access log: they are {known}"), origin.clone());
                }
            }
        }
        if names.is_empty() {
            self.add(key, "names no field: leave it out for all of them".to_owned(), origin);
        }
        fields
    }

    /// A bound that must let something through.
    pub(super) fn bound(&mut self, key: &str) -> Option<usize> {
        let found = self.raw(key)?;
        let bound = match &found.value {
            Value::Integer(number) => usize::try_from(*number).ok(),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        let bound = bound.filter(|bound| (1..=MAX_BOUND).contains(bound));
        if bound.is_none() {
            self.add(key, format!("must be a whole number, 1 to {MAX_BOUND}"), found.origin);
        }
        bound
    }

    pub(super) fn log_filter(&mut self, key: &str) -> String {
        let Some(found) = self.raw(key) else { return LOG_FILTER.to_owned() };
        let Some((text, origin)) = self.text(key, found) else { return LOG_FILTER.to_owned() };
        if let Err(wrong) = log_filter::check(&text) {
            self.add(key, format!("{wrong}: write it as \"info\" or \"warn,tollgate_gateway=debug\""), origin);
        }
        text
    }

    /// As many as are given.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        self.list(key).map_or_else(Vec::new, |(items, _)| items)
    }

    /// The place of a word among those that there are; the first where none is given.
    pub(super) fn choice(&mut self, key: &str, words: &[&str]) -> usize {
        let Some((text, origin)) = self.raw(key).and_then(|found| self.text(key, found)) else { return 0 };
        let found = words.iter().position(|word| *word == text);
        if found.is_none() {
            self.add(key, format!("'{text}' is none of {}", words.join(", ")), origin);
        }
        found.unwrap_or_default()
    }

    fn list(&mut self, key: &str) -> Option<(Vec<String>, Origin)> {
        let found = self.raw(key)?;
        match found.value {
            Value::List(items) => Some((items, found.origin)),
            Value::Raw(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
                Some((items, found.origin))
            }
            _ => {
                self.add(key, "must be a list of text: [\"…\"]".to_owned(), found.origin);
                None
            }
        }
    }

    fn required_text(&mut self, key: &str) -> Option<(String, Origin)> {
        let found = self.required(key)?;
        self.text(key, found)
    }

    fn text(&mut self, key: &str, found: Located) -> Option<(String, Origin)> {
        match found.value {
            Value::Text(text) | Value::Raw(text) => Some((text, found.origin)),
            Value::Integer(_) => {
                self.add(key, "must be text in quotes, not a number".to_owned(), found.origin);
                None
            }
            Value::List(_) => {
                self.add(key, "must be text in quotes, not a list".to_owned(), found.origin);
                None
            }
            Value::Flag(_) => {
                self.add(key, "must be text in quotes, not true or false".to_owned(), found.origin);
                None
            }
            Value::Other(what) => {
                self.add(key, format!("must be text in quotes, not {what}"), found.origin);
                None
            }
        }
    }

    fn required(&mut self, key: &str) -> Option<Located> {
        let found = self.raw(key);
        if found.is_none() {
            self.add(key, "is missing".to_owned(), Origin::Missing);
        }
        found
    }

    fn raw(&mut self, key: &str) -> Option<Located> {
        self.taken.insert(key.to_owned());
        self.source.values.get(key).cloned()
    }

    fn add(&mut self, field: &str, message: String, origin: Origin) {
        self.source.problems.push(ConfigProblem { field: field.to_owned(), message, origin });
    }
}

fn unknown_key(path: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|key| (strsim::damerau_levenshtein(key, path), key)).min();
    match nearest {
        Some((edits, key)) if edits <= SUGGESTION_EDITS => {
            format!("is not a key of a node configuration: did you mean `{key}`?")
        }
        _ => "is not a key of a node configuration".to_owned(),
    }
}

fn parents(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('.').map(|(at, _)| &key[..at])
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

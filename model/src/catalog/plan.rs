//! What a change does: first the set as it would be, then whether that set may be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tollgate_proto::{
    state::v1::{ConfigAction, ConfigChange, ConfigOutcome, ConfigProblem, DeleteResource, PutResource},
    v1,
};

use super::{
    Catalog, Change, Decision, Stored,
    credentials::{credential_hashes, field, taken},
    currencies::{Payers, mixed},
    has_labels,
    references::{missing, references},
    rewrites::untold,
    without_version,
};
use crate::{
    Kind, LogIndex, Name,
    check::{identity, kind_and_name, metadata_mut},
    nearest::hint,
    secret::has_plain_secret,
};

pub(super) fn plan(catalog: &Catalog, at: LogIndex, change: &ConfigChange) -> Decision {
    let mut plan = Plan { catalog, at, after: BTreeMap::new(), changes: Vec::new(), outcome: ConfigOutcome::default() };
    let payers = Payers::after(catalog, change);
    for put in &change.puts {
        plan.put(put, &change.apply_set, &payers);
    }
    for delete in &change.deletes {
        plan.delete(delete);
    }
    if change.prune {
        plan.prune(change);
    }
    plan.check_references(&change.puts);
    plan.check_deleted();
    plan.check_credentials();
    plan.check_currencies();
    plan.check_rewrites();
    plan.decide()
}

type Key = (Kind, Name);

struct Plan<'a> {
    catalog: &'a Catalog,
    at: LogIndex,
    /// What the change is about, as it would be afterwards: `None` is gone.
    after: BTreeMap<Key, Option<Arc<Stored>>>,
    changes: Vec<Change>,
    outcome: ConfigOutcome,
}

impl Plan<'_> {
    fn put(&mut self, put: &PutResource, apply_set: &str, payers: &Payers<'_>) {
        let Some(resource) = &put.resource else { return self.problem(None, "", "", "is no resource") };
        let Some((kind, metadata)) = identity(resource) else { return self.problem(None, "", "", "has no kind") };
        let none = v1::Metadata::default();
        let metadata = metadata.unwrap_or(&none);
        let name = match Name::parse(&metadata.name) {
            Ok(name) => name,
            Err(rule) => return self.problem(Some(kind), &metadata.name, "metadata.name", rule),
        };
        if has_plain_secret(resource) {
            return self.problem(Some(kind), &name, "spec", "holds a plain secret, which must not be stored");
        }
        let filled = match payers.fill_in(resource) {
            Ok(filled) => filled,
            Err(message) => return self.problem(Some(kind), &name, "spec.currency", &message),
        };
        let resource = filled.as_ref().unwrap_or(resource);
        let key = (kind, name);
        let before = self.catalog.get(kind, &key.1).cloned();
        self.expect_version(&key, before.as_deref(), put.expected_version.or(metadata.resource_version));
        let version = before.as_ref().map_or(LogIndex(0), |stored| stored.version);
        let set = match (&before, apply_set) {
            (Some(before), "") => before.apply_set.clone(), // applied by hand, it stays where it belongs
            (_, set) => set.to_owned(),
        };
        let same = before.as_ref().is_some_and(|before| with_version(resource, version) == before.resource);
        let stored = match &before {
            Some(before) if same && before.apply_set == set => Arc::clone(before),
            _ if same => Arc::new(Stored { resource: with_version(resource, version), version, apply_set: set }),
            _ => Arc::new(Stored { resource: with_version(resource, self.at), version: self.at, apply_set: set }),
        };
        let action = match &before {
            None => "created",
            Some(_) if same => "unchanged",
            Some(_) => "updated",
        };
        self.record(key, action, before, Some(stored));
    }

    fn delete(&mut self, delete: &DeleteResource) {
        let kind = match delete.kind.parse::<Kind>() {
            Ok(kind) => kind,
            Err(unknown) => return self.problem(None, &delete.name, "", &unknown.to_string()),
        };
        let Some(before) = self.catalog.get(kind, &delete.name).cloned() else {
            let hint = hint(&delete.name, self.catalog.kind(kind).keys().map(Name::as_str));
            return self.problem(Some(kind), &delete.name, "", &format!("there is none of that name{hint}"));
        };
        let key = (kind, Name::new(&delete.name));
        self.expect_version(&key, Some(&before), delete.expected_version);
        self.record(key, "deleted", Some(before), None);
    }

    /// What the same set brought before, or what carries the labels, and is not in this change. With both a set and
    /// labels, only what is in both.
    fn prune(&mut self, change: &ConfigChange) {
        if change.apply_set.is_empty() && change.selector.is_empty() {
            return self.problem(None, "", "", "prune needs a set or a selector: it never reaches beyond one");
        }
        let catalog = self.catalog;
        for kind in Kind::EXPORT_ORDER.into_iter().rev() {
            for (name, stored) in catalog.kind(kind) {
                let in_set = change.apply_set.is_empty() || stored.apply_set == change.apply_set;
                let key = (kind, name.clone());
                if in_set && has_labels(&stored.resource, &change.selector) && !self.after.contains_key(&key) {
                    self.record(key, "deleted", Some(Arc::clone(stored)), None);
                }
            }
        }
    }

    fn expect_version(&mut self, key: &Key, before: Option<&Stored>, expected: Option<u64>) {
        let current = before.map_or(0, |stored| stored.version.0);
        let Some(expected) = expected.filter(|expected| *expected != current) else { return };
        let message = match (expected, current) {
            (0, current) => format!("is there already, with version {current}"),
            (expected, 0) => format!("was changed since version {expected}: it is not there any more"),
            (expected, current) if expected > current => {
                format!("version {expected} is later than its last, {current}: was it read from another cluster?")
            }
            (expected, current) => format!("was changed since version {expected}: it has version {current} now"),
        };
        self.outcome.conflict = true;
        self.problem(Some(key.0), &key.1, "metadata.resourceVersion", &message);
    }

    fn record(&mut self, key: Key, action: &str, before: Option<Arc<Stored>>, after: Option<Arc<Stored>>) {
        let (kind, name) = key.clone();
        if self.after.insert(key, after.clone()).is_some() {
            return self.problem(Some(kind), &name, "", "is there twice in one change");
        }
        self.outcome.actions.push(ConfigAction {
            kind: kind.as_str().to_owned(),
            name: name.to_string(),
            action: action.to_owned(),
            resource_version: after.as_ref().map_or(self.at, |stored| stored.version).0,
        });
        let same = before.as_ref().zip(after.as_ref()).is_some_and(|(before, after)| Arc::ptr_eq(before, after));
        if !same {
            self.changes.push(Change { kind, name, before, after });
        }
    }

    /// Whatever is put refers to what will be there. What is wrong otherwise is looked at all the same.
    fn check_references(&mut self, puts: &[PutResource]) {
        let named = |resource| kind_and_name(resource).map(|(kind, name)| (kind, name, resource));
        let mut resources: Vec<_> = puts.iter().filter_map(|put| named(put.resource.as_ref()?)).collect();
        resources.sort_by_key(|(kind, name, _)| (*kind, *name));
        let mut wrong = Vec::new();
        for (kind, name, resource) in resources {
            references(resource, &mut |field, target, text| {
                if let Some(message) = self.missing(target, text) {
                    wrong.push((kind, name, field.to_string(), message));
                }
            });
        }
        for (kind, name, field, message) in wrong {
            self.problem(Some(kind), name, &field, &message);
        }
    }

    fn missing(&self, kind: Kind, name: &str) -> Option<String> {
        match self.after.get(&(kind, Name::new(name))) {
            Some(Some(_)) => None,
            Some(None) => Some(format!("{} `{name}` is deleted by the same change", kind.singular())),
            None if self.catalog.get(kind, name).is_some() => None,
            None => {
                let put = self.after.iter().filter(|((other, _), after)| *other == kind && after.is_some());
                let known = self.catalog.kind(kind).keys().chain(put.map(|((_, name), _)| name)).map(Name::as_str);
                Some(missing(kind, name, known))
            }
        }
    }

    /// Nothing that stays refers to what is deleted.
    fn check_deleted(&mut self) {
        let gone: BTreeSet<&Key> = self.after.iter().filter(|(_, after)| after.is_none()).map(|(key, _)| key).collect();
        if gone.is_empty() {
            return;
        }
        let mut wrong: BTreeMap<Key, Vec<String>> = BTreeMap::new();
        for kind in Kind::ALL {
            for (name, stored) in self.catalog.kind(kind) {
                if self.after.contains_key(&(kind, name.clone())) {
                    continue; // gone too, or checked as it will be
                }
                references(&stored.resource, &mut |field, target, text| {
                    if let Some(key) = gone.get(&(target, Name::new(text))) {
                        wrong.entry((*key).clone()).or_default().push(format!("{} {name} ({field})", kind.singular()));
                    }
                });
            }
        }
        for ((kind, name), by) in wrong {
            self.problem(Some(kind), &name, "", &format!("cannot be deleted: it is referred to by {}", some_of(&by)));
        }
    }

    /// No two consumers share a credential: who a caller is must have one answer.
    fn check_credentials(&mut self) {
        let mut owners: BTreeMap<&str, &Name> = BTreeMap::new();
        let mut wrong = Vec::new();
        for ((kind, name), stored) in &self.after {
            let Some(stored) = stored else { continue };
            for (n, hash) in credential_hashes(&stored.resource) {
                let here = Some(*owners.entry(hash).or_insert(name));
                let there =
                    self.catalog.hashes.get(hash).filter(|owner| {
                        *owner != name && !self.after.contains_key(&(Kind::Consumer, (*owner).clone()))
                    });
                if let Some(other) = here.filter(|owner| *owner != name).or(there) {
                    wrong.push((*kind, name.clone(), field(n), taken(other)));
                }
            }
        }
        for (kind, name, field, message) in wrong {
            self.problem(Some(kind), &name, &field, &message);
        }
    }

    /// No price is in another currency than its tenants pay in, whichever of them is changed.
    fn check_currencies(&mut self) {
        let concerned = |kind: Kind| self.after.keys().any(|(other, _)| *other == kind);
        if !concerned(Kind::Price) && !concerned(Kind::Tenant) {
            return;
        }
        let there = |kind: Kind, name: &str| match self.after.get(&(kind, Name::new(name))) {
            Some(after) => after.as_ref(),
            None => self.catalog.get(kind, name),
        };
        let put = self.after.iter().filter(|((kind, _), after)| *kind == Kind::Price && after.is_some());
        let names: BTreeSet<&Name> =
            self.catalog.kind(Kind::Price).keys().chain(put.map(|((_, name), _)| name)).collect();
        let mut wrong = Vec::new();
        for name in names {
            let Some(price) = there(Kind::Price, name) else { continue };
            let found = mixed(&price.resource, |tenant| there(Kind::Tenant, tenant));
            wrong.extend(found.into_iter().map(|(field, message)| (name.clone(), field, message)));
        }
        for (name, field, message) in wrong {
            self.problem(Some(Kind::Price), &name, &field, &message);
        }
    }

    /// No route tells a host to a service that names its own, whichever of them is changed.
    fn check_rewrites(&mut self) {
        if !self.after.keys().any(|(kind, _)| matches!(kind, Kind::Route | Kind::Service)) {
            return;
        }
        let there = |kind: Kind, name: &str| match self.after.get(&(kind, Name::new(name))) {
            Some(after) => after.as_ref(),
            None => self.catalog.get(kind, name),
        };
        let put = self.after.keys().filter(|(kind, _)| *kind == Kind::Route).map(|(_, name)| name);
        let names: BTreeSet<&Name> = self.catalog.kind(Kind::Route).keys().chain(put).collect();
        let mut wrong = Vec::new();
        for name in names {
            let Some(route) = there(Kind::Route, name) else { continue };
            let service = |name: &str| there(Kind::Service, name).map(|stored| &stored.resource);
            wrong.extend(untold(&route.resource, service).map(|message| (name.clone(), message)));
        }
        for (name, message) in wrong {
            self.problem(Some(Kind::Route), &name, "spec.rewrite.host", &message);
        }
    }

    fn problem(&mut self, kind: Option<Kind>, name: &str, field: &str, message: &str) {
        self.outcome.problems.push(ConfigProblem {
            kind: kind.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
            name: name.to_owned(),
            field: field.to_owned(),
            message: message.to_owned(),
        });
    }

    fn decide(mut self) -> Decision {
        if !self.outcome.problems.is_empty() {
            self.outcome.actions.clear();
            return Decision { outcome: self.outcome, changes: Vec::new(), version: self.catalog.version };
        }
        let changed = self.outcome.actions.iter().any(|action| action.action != "unchanged");
        let version = if changed { self.at } else { self.catalog.version };
        Decision { outcome: self.outcome, changes: self.changes, version }
    }
}

/// The first few of what may be thousands.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

fn with_version(resource: &v1::Resource, version: LogIndex) -> v1::Resource {
    let mut resource = without_version(resource);
    if let Some(metadata) = metadata_mut(&mut resource) {
        metadata.resource_version = Some(version.0);
    }
    resource
}

//! Which limits a request could meet, without looking at all of them.

use std::{collections::HashMap, sync::Arc};

use crate::{KeyPart, Limit, Name, Subject};

/// Each limit under the narrowest thing that it names, and so at most once for each request.
#[derive(Debug, Default)]
pub(super) struct LimitIndex {
    by_consumer: HashMap<Name, Vec<Arc<Limit>>>,
    by_tenant: HashMap<Name, Vec<Arc<Limit>>>,
    by_route: HashMap<Name, Vec<Arc<Limit>>>,
    all: Vec<Arc<Limit>>,
    /// Some limit tells its accounts apart by a credential.
    pub(super) by_credential: bool,
}

impl LimitIndex {
    pub(super) fn new<'a>(limits: impl Iterator<Item = &'a Arc<Limit>>) -> Self {
        let mut index = Self::default();
        for limit in limits {
            index.by_credential |= limit.per.iter().any(KeyPart::is_credential);
            let (map, names) = if !limit.consumers.is_empty() {
                (&mut index.by_consumer, &limit.consumers)
            } else if !limit.tenants.is_empty() {
                (&mut index.by_tenant, &limit.tenants)
            } else if !limit.routes.is_empty() {
                (&mut index.by_route, &limit.routes)
            } else {
                index.all.push(Arc::clone(limit));
                continue;
            };
            for name in names {
                map.entry(name.clone()).or_default().push(Arc::clone(limit));
            }
        }
        index
    }

    /// Every limit that concerns the request, and some that do not.
    pub(super) fn candidates<'a>(&'a self, subject: &Subject<'_>) -> impl Iterator<Item = &'a Arc<Limit>> + use<'a> {
        let under = |map: &'a HashMap<Name, Vec<Arc<Limit>>>, name: Option<&str>| -> &'a [Arc<Limit>] {
            name.and_then(|name| map.get(name)).map_or(&[], Vec::as_slice)
        };
        let consumer = under(&self.by_consumer, subject.consumer);
        let tenant = under(&self.by_tenant, subject.tenant);
        let route = under(&self.by_route, Some(subject.route));
        consumer.iter().chain(tenant).chain(route).chain(&self.all)
    }
}

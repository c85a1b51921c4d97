//! Subsets: the endpoints of an upstream that have some labels, balanced among themselves.
//!
//! What is known of an endpoint, and what counts for the upstream as a whole, is the same in every part that it is in.

use std::{collections::BTreeMap, sync::Arc};

use tollgate_model::{Labels, Subset};

use super::Endpoints;

/// More than routes mean of one upstream. Beyond it those that nobody means any more are let go of with all others, and made anew.
const MAX_PARTS: usize = 256;

/// By labels. None where nobody with them has requests.
pub(super) type Parts = BTreeMap<Labels, Option<Arc<Endpoints>>>;

impl Endpoints {
    /// Those that a route means. None where there are none that have requests.
    pub(in crate::upstream) fn of(self: &Arc<Self>, subset: &Subset) -> Option<Arc<Self>> {
        let part = self.part(&subset.labels);
        part.or_else(|| subset.or_any.then(|| Arc::clone(self)))
    }

    fn part(&self, labels: &Labels) -> Option<Arc<Self>> {
        let mut parts = self.parts.lock();
        if let Some(part) = parts.get(labels) {
            return part.clone();
        }
        if parts.len() >= MAX_PARTS {
            parts.clear();
        }
        let part = self.make_part(labels).map(Arc::new);
        parts.insert(Arc::clone(labels), part.clone());
        part
    }

    fn make_part(&self, labels: &Labels) -> Option<Self> {
        let has = |(name, value): (&String, &String), of: &Labels| of.get(name) == Some(value);
        let is_meant = |of: &Labels| labels.iter().all(|label| has(label, of));
        let endpoints: Vec<_> = self.endpoints.iter().filter(|it| is_meant(&it.labels)).cloned().collect();
        let has_requests = endpoints.iter().any(|it| it.weight > 0);
        let (upstream, spread, totals) = (self.upstream.clone(), self.spread.clone(), Arc::clone(&self.totals));
        has_requests.then(|| Self::with(upstream, endpoints, spread, totals, None))
    }
}

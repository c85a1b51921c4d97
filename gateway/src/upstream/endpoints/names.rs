//! From the endpoints that somebody has declared to those that requests are sent to: one for each address of a name.

use std::sync::Arc;

use tollgate_model::{Endpoint, Name};

use crate::upstream::{
    At, Origin,
    dns::{self, Named},
    known::Totals,
};

/// Of one upstream, all its names together; but one of each.
const MAX_ADDRESSES: usize = 1_000;

/// The names of an upstream, and its endpoints with their origins. What is known of a name `before` is known still.
pub(super) fn origins<'a>(
    upstream: &Name,
    endpoints: &'a [Endpoint],
    totals: &Arc<Totals>,
    before: &[Arc<Named>],
) -> (Vec<Arc<Named>>, Vec<(&'a Endpoint, Origin)>) {
    let most = (MAX_ADDRESSES / endpoints.len().max(1)).max(1);
    let (mut names, mut origins) = (Vec::new(), Vec::new());
    for endpoint in endpoints {
        let Some(origin) = Origin::new(endpoint) else { continue };
        let Some(host) = dns::name(origin.authority.host()) else {
            origins.push((endpoint, origin));
            continue;
        };
        let is = |it: &&Arc<Named>| it.is(host);
        let named = match names.iter().find(is) {
            Some(named) => Arc::clone(named),
            None => {
                let known = before.iter().find(is).cloned();
                let named = known.unwrap_or_else(|| Named::new(upstream, host, totals));
                names.push(Arc::clone(&named));
                named
            }
        };
        let addresses = named.addresses();
        if addresses.is_empty() {
            origins.push((endpoint, Origin { at: At::Unknown(named), ..origin }));
            continue;
        }
        let at = |address| Origin { at: At::Address(address), ..origin.clone() };
        origins.extend(addresses.iter().copied().take(most).map(|address| (endpoint, at(address))));
    }
    (names, origins)
}

//! A route with what is remembered between its requests.

use std::sync::Arc;

use http::HeaderValue;
use tollgate_model::{Backend, PathMatch, Route, RouteAction};

use super::split::{Asker, Choice, Split};
use crate::balance::Rotation;

/// A route as requests meet it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) route: Arc<Route>,
    rotation: Rotation,
    /// Where turns are not all that decides.
    split: Option<Box<Split>>,
}

impl Plan {
    pub(crate) fn new(route: Arc<Route>) -> Self {
        let weights: Vec<u32> = backends(&route).iter().map(|backend| backend.weight).collect();
        let sticky = route.traffic.as_ref().and_then(|traffic| traffic.sticky.as_ref());
        let split = Split::new(backends(&route), sticky).map(Box::new);
        Self { rotation: Rotation::new(&weights), split, route }
    }

    /// How the path was taken by the match of this index.
    pub(crate) fn matched_path(&self, index: usize) -> &PathMatch {
        self.route.matches.get(index).map_or(&PathMatch::Any, |matched| &matched.path)
    }

    /// The backend whose turn it is, by weight.
    fn next_backend(&self) -> Option<&Backend> {
        backends(&self.route).get(self.rotation.next()?)
    }

    /// The backend for a request, and the cookie that its caller is to be told, if any.
    ///
    /// `asker` says who asks, where that matters; `fresh` makes what a new cookie says.
    pub(crate) fn select<'a>(
        &self,
        asker: impl FnOnce() -> Asker<'a>,
        fresh: impl FnOnce() -> u128,
    ) -> Option<(&Backend, Option<HeaderValue>)> {
        let backends = backends(&self.route);
        let choice = self.split.as_ref().map_or(Choice::ByTurns, |split| split.choose(backends, &asker(), fresh));
        match choice {
            Choice::Backend(index, told) => backends.get(index).map(|backend| (backend, told)),
            Choice::ByTurns => self.next_backend().map(|backend| (backend, None)),
        }
    }
}

fn backends(route: &Route) -> &[Backend] {
    match &route.action {
        RouteAction::Forward { backends, .. } => backends,
        RouteAction::Redirect { .. } | RouteAction::Respond { .. } => &[],
    }
}

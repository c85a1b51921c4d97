//! A route with what is remembered between its requests.

use std::sync::Arc;

use tollgate_model::{Backend, Route, RouteAction};

use crate::balance::Rotation;

/// A route as requests meet it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) route: Arc<Route>,
    rotation: Rotation,
}

impl Plan {
    pub(crate) fn new(route: Arc<Route>) -> Self {
        let weights: Vec<u32> = match &route.action {
            RouteAction::Forward { backends, .. } => backends.iter().map(|backend| backend.weight).collect(),
            RouteAction::Redirect { .. } | RouteAction::Respond { .. } => Vec::new(),
        };
        Self { rotation: Rotation::new(&weights), route }
    }

    /// The backend whose turn it is, by weight.
    pub(crate) fn next_backend(&self) -> Option<&Backend> {
        match &self.route.action {
            RouteAction::Forward { backends, .. } => backends.get(self.rotation.next()?),
            RouteAction::Redirect { .. } | RouteAction::Respond { .. } => None,
        }
    }
}

//! Routes by themselves: which one a request would be for, without a gateway that serves it.

use std::sync::Arc;

use http::{request, uri::Scheme};
use tollgate_model::{ConfigView, Name};

use super::{Facts, Found, Model, Plan, Table};
use crate::normalize::{Target, join_cookies};

/// The routing table of a configuration.
#[derive(Debug)]
pub struct Matcher(Table);

/// A request's head, read once.
#[derive(Debug)]
pub struct Asked {
    head: request::Parts,
    target: Target,
}

impl Asked {
    /// None where the head names no host, or several, or no path that could be sent on.
    #[must_use]
    pub fn read(mut head: request::Parts) -> Option<Self> {
        let target = Target::read(&head, &Scheme::HTTP).ok()?;
        join_cookies(&mut head.headers);
        Some(Self { head, target })
    }
}

impl Matcher {
    /// All routes of this configuration.
    #[must_use]
    pub fn new(view: &ConfigView) -> Self {
        let plans: Vec<_> = view.routes.values().map(|route| Arc::new(Plan::new(Arc::clone(route)))).collect();
        Self(Table::new(&plans))
    }

    /// The route, or the first that could be, where that depends on a model.
    #[must_use]
    pub fn find(&self, asked: &Asked) -> Option<&Name> {
        let facts = Facts {
            host: asked.target.host.name(),
            path: &asked.target.path,
            method: &asked.head.method,
            headers: &asked.head.headers,
            query: asked.target.query.as_deref(),
            model: Model::Unread,
        };
        match self.0.find(&facts) {
            Found::Route(plan, _) | Found::NeedsModel(plan, _) => Some(&plan.route.name),
            Found::Nothing => None,
        }
    }
}

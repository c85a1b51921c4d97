//! An endpoint that has a request.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{Uri, uri::PathAndQuery};

use super::{At, Endpoints, known::Totals};
use crate::balance::Tried;

/// One request in flight to an upstream.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) endpoints: Arc<Endpoints>,
    /// So many were before it.
    pub(super) before: usize,
}

impl Busy {
    pub(super) fn new(endpoints: &Arc<Endpoints>) -> Self {
        let before = endpoints.totals().in_flight.fetch_add(1, Ordering::Relaxed);
        Self { endpoints: Arc::clone(endpoints), before }
    }

    /// It has found its endpoint.
    pub(super) fn at(self, index: usize) -> Taken {
        self.endpoints.load(index, |load| load.fetch_add(1, Ordering::Relaxed));
        Taken { busy: self, index }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.endpoints.totals().in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An endpoint with one request, until its answer has been read.
#[derive(Debug)]
pub(crate) struct Taken {
    busy: Busy,
    index: usize,
}

impl Taken {
    /// The endpoint's URI for `path` (and query).
    pub(crate) fn uri(&self, path: &str) -> Option<Uri> {
        self.busy.endpoints.origin(self.index)?.uri(path)
    }

    /// The same for a target that is one already.
    pub(crate) fn uri_of(&self, target: PathAndQuery) -> Option<Uri> {
        self.busy.endpoints.origin(self.index)?.uri_of(target)
    }

    /// Where connections to it go.
    pub(crate) fn at(&self) -> Option<&At> {
        self.busy.endpoints.origin(self.index).map(|origin| &origin.at)
    }

    /// Whether there is another address of its name that was not tried.
    pub(super) fn has_siblings(&self, tried: &Tried) -> bool {
        self.busy.endpoints.sibling(self.index, tried).is_some()
    }

    /// That one, for the same request.
    pub(super) fn sibling(&self, tried: &mut Tried) -> Option<Self> {
        self.busy.endpoints.take_sibling(self.index, tried)
    }

    /// Whether it is one of those that were tried.
    pub(crate) fn is_among(&self, tried: &Tried) -> bool {
        tried.contains(self.index)
    }

    /// It answered, and not that it has failed. `took` is asked where it counts, and says how long its answer took to begin,
    /// if that says something of the endpoint.
    pub(crate) fn is_fine(&self, took: impl FnOnce() -> Option<Duration>) {
        self.busy.endpoints.is_fine(self.index, took);
    }

    /// It did not answer, or that it has failed. `took` is how long it was waited for in vain, if it was.
    pub(crate) fn has_failed(&self, took: impl FnOnce() -> Option<Duration>) {
        self.busy.endpoints.has_failed(self.index, took);
    }

    /// For whoever gets to know how it went once its answer is being read.
    pub(crate) fn report(&self) -> Report {
        Report { endpoints: Arc::clone(&self.busy.endpoints), index: self.index }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.busy.endpoints.load(self.index, |load| load.fetch_sub(1, Ordering::Relaxed));
    }
}

/// How a request went at an endpoint.
#[derive(Debug)]
pub(crate) struct Report {
    endpoints: Arc<Endpoints>,
    index: usize,
}

impl Report {
    /// As [`Taken::is_fine`].
    pub(crate) fn is_fine(&self, took: impl FnOnce() -> Option<Duration>) {
        self.endpoints.is_fine(self.index, took);
    }

    /// As [`Taken::has_failed`].
    pub(crate) fn has_failed(&self, took: impl FnOnce() -> Option<Duration>) {
        self.endpoints.has_failed(self.index, took);
    }
}

/// Leave to send a request again.
#[derive(Debug)]
pub(crate) struct Again(Arc<Totals>);

impl Again {
    /// With how many others there are.
    pub(super) fn new(totals: &Arc<Totals>) -> (Self, usize) {
        let others = totals.again.fetch_add(1, Ordering::Relaxed);
        (Self(Arc::clone(totals)), others)
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.0.again.fetch_sub(1, Ordering::Relaxed);
    }
}

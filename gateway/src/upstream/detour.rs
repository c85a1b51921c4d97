//! The other addresses of an endpoint's name, for a request that can't reach the one that it was meant for.
//!
//! Whoever connects to a name tries its addresses in turn, and so must who has chosen one of them: nothing was sent, so this is no
//! retry, and needs no leave. What can't be reached has failed, as far as endpoints are watched.

use std::time::Duration;

use super::{Pool, Taken, Wire, place::Place};
use crate::balance::Tried;
use http::uri::PathAndQuery;

/// So long an address is waited for while there is another one: a handshake around the world takes less.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many others one attempt tries: what a name has beyond them is for retries.
const MOST: u32 = 4;

/// What is needed to send a request elsewhere.
#[derive(Debug)]
pub(crate) struct Detour<'a> {
    taken: &'a mut Taken,
    tried: &'a mut Tried,
    wire: &'a Wire,
    made: u32,
}

impl<'a> Detour<'a> {
    /// Of a request whose endpoint is `taken`, now and in the end.
    pub(crate) fn new(taken: &'a mut Taken, tried: &'a mut Tried, wire: &'a Wire) -> Self {
        Self { taken, tried, wire, made: 0 }
    }

    /// How long a connection to the endpoint of now is made, where there is another one.
    pub(super) fn patience(&self) -> Option<Duration> {
        (self.made < MOST && self.taken.has_siblings(self.tried)).then_some(PATIENCE)
    }

    /// A place at another one.
    pub(super) fn next(&mut self, pool: &Pool) -> Option<Place> {
        if self.made == MOST {
            return None;
        }
        self.made += 1;
        let other = self.taken.sibling(self.tried)?;
        self.taken.has_failed(|| None);
        *self.taken = other;
        // Its path is that of the request, which knows it.
        let origin = self.taken.uri_of(PathAndQuery::from_static("/"))?;
        pool.place(self.wire, &origin, self.taken.at())
    }
}

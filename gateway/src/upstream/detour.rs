//! The other addresses of an endpoint's name, for a request that can't reach the one that it was meant for.
//!
//! Whoever connects to a name tries its addresses in turn, and so must who has chosen one of them: nothing was sent, so this is no
//! retry, and needs no leave. What can't be reached has failed, as far as endpoints are watched.

use std::time::Duration;

use http::Uri;
use tokio::time::Instant;

use super::{Pool, Taken, Wire, lane::Place};
use crate::balance::Tried;

/// So long an address is waited for while there is another one: a handshake around the world takes less.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is needed to send a request elsewhere.
#[derive(Debug)]
pub(crate) struct Detour<'a> {
    /// Where it is to go, in the end.
    pub(crate) taken: &'a mut Taken,
    pub(crate) tried: &'a mut Tried,
    pub(crate) wire: &'a Wire,
    /// Its origin, whatever its path.
    pub(crate) uri: Uri,
}

impl Detour<'_> {
    /// Until when the endpoint of now is waited for, where there is another one.
    pub(super) fn by(&self) -> Option<Instant> {
        self.taken.has_siblings(self.tried).then(|| Instant::now() + PATIENCE)
    }

    /// A place at another one.
    pub(super) fn next(&mut self, pool: &Pool) -> Option<Place> {
        let other = self.taken.sibling(self.tried)?;
        self.taken.has_failed(|| None);
        *self.taken = other;
        pool.place(self.wire, &self.uri, self.taken.at())
    }
}

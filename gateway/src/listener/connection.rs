//! What is known of one client connection.

use std::{
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use http::{HeaderValue, uri::Scheme};
use tollgate_model::tls::Described;

use super::{refusal::Refusal, switch::Switch};
use crate::{headers, tls::Secured};

/// One client connection, shared by its socket and its exchanges.
///
/// The counters are written by one task (HTTP/1 answers in order), so relaxed ordering is enough.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    /// Whether that is whom it is from. A proxy may not know, and then nobody is believed who speaks through it.
    pub(crate) is_known: bool,
    /// What TLS says of it; nothing where it is in clear text.
    pub(crate) secured: Option<Secured>,
    heads: AtomicU64,
    taken: AtomicU64,
    answered: AtomicU64,
    refused: OnceLock<Refused>,
    in_body: AtomicBool,
    pub(crate) switch: Switch,
    /// Of the peer, once somebody was told.
    address: OnceLock<HeaderValue>,
}

/// A head that is answered with a refusal.
#[derive(Debug)]
pub(crate) struct Refused {
    number: u64,
    pub(crate) why: Refusal,
    /// What it asked for, where that could be read.
    pub(crate) path: Option<String>,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, secured: Option<Secured>) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            peer,
            is_known: true,
            secured,
            heads: zero(),
            taken: zero(),
            answered: zero(),
            refused: OnceLock::new(),
            in_body: AtomicBool::new(false),
            switch: Switch::default(),
            address: OnceLock::new(),
        }
    }

    /// The same, of which only the proxy that it came through is known.
    pub(super) fn of_nobody(self) -> Self {
        Self { is_known: false, ..self }
    }

    /// As in a URI.
    pub(crate) fn scheme(&self) -> Scheme {
        if self.secured.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// As upstreams are told it.
    pub(crate) fn peer_address(&self) -> &HeaderValue {
        self.address.get_or_init(|| headers::address(self.peer.ip()))
    }

    /// Whose certificate was verified, if one was given.
    pub(crate) fn client(&self) -> Option<&Described> {
        self.secured.as_ref()?.client.as_ref()
    }

    pub(super) fn heads_passed(&self, heads: u64) {
        self.heads.fetch_add(heads, Ordering::Relaxed);
    }

    /// The request after those that passed is refused; it is the last one of this connection.
    pub(super) fn refuse(&self, why: Refusal, path: Option<String>) {
        let number = self.heads.fetch_add(1, Ordering::Relaxed);
        let first = self.refused.set(Refused { number, why, path }).is_ok();
        debug_assert!(first, "nothing is read behind a refused head");
    }

    /// Whether the body of the last head is still on its way.
    pub(super) fn set_in_body(&self, in_body: bool) {
        self.in_body.store(in_body, Ordering::Relaxed);
    }

    /// Some of the body of the request that is being answered is still to come (HTTP/1): an answer now closes the
    /// connection (RFC 9110 §10.1.1 asks to say so).
    pub(crate) fn awaits_body(&self) -> bool {
        self.is_at_last() && self.in_body.load(Ordering::Relaxed)
    }

    /// The request that is being answered is the last whose head has passed.
    fn is_at_last(&self) -> bool {
        self.taken.load(Ordering::Relaxed) == self.heads.load(Ordering::Relaxed)
    }

    /// Nothing behind the request that is being answered was read: the connection may be switched by its answer.
    pub(crate) fn may_switch(&self) -> bool {
        self.is_at_last() && self.switch.is_held()
    }

    /// The answer of the request that is being answered is decided, and with it what follows it on the connection.
    pub(crate) fn decided(&self, switched: bool) {
        if self.is_at_last() {
            self.switch.decide(switched);
        }
    }

    /// No head has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.heads.load(Ordering::Relaxed) == 0
    }

    /// A head has passed whose answer is not out yet.
    pub(super) fn is_busy(&self) -> bool {
        self.heads.load(Ordering::Relaxed) != self.answered.load(Ordering::Relaxed)
    }

    /// Called once for each request of the connection, in order: the refusal, if this one is to be refused.
    pub(crate) fn take_request(&self) -> Option<&Refused> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        self.refused.get().filter(|refused| refused.number == number)
    }

    /// A request's answer is out, or was given up.
    pub(crate) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

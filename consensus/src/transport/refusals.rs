//! Connections between nodes that came to nothing, and why: told in the log once a minute for each peer, and remembered
//! for whoever waits for one.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{AlertDescription, CertificateError, Error};
use tokio::time::Instant;

/// A peer comes again many times a second.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Peers that are remembered: more than a cluster has. Strangers beyond that within a minute are not told.
const MAX_PEERS: usize = 200;

/// What was told, and the last trouble with each address that this node dials.
#[derive(Default)]
pub(crate) struct Refusals {
    told: Mutex<HashMap<String, Instant>>,
    last: Mutex<BTreeMap<String, String>>,
}

impl Refusals {
    /// A handshake failed; `peer` is an address, or what is known of one. What is no matter of TLS is not told.
    pub(crate) fn tell(&self, peer: &str, error: &io::Error) {
        let Some(advice) = tls_error(error).map(advice) else {
            tracing::debug!(peer, %error, "peer connection failed");
            return;
        };
        if self.is_due(peer, Instant::now()) {
            tracing::warn!(peer, %error, advice, "TLS handshake between nodes failed: a certificate was not accepted");
        }
    }

    fn is_due(&self, peer: &str, now: Instant) -> bool {
        let mut told = self.told.lock();
        if told.len() >= MAX_PEERS {
            told.retain(|_, at| now.duration_since(*at) < TELL_EVERY);
        }
        match told.get(peer) {
            Some(at) if now.duration_since(*at) < TELL_EVERY => false,
            None if told.len() >= MAX_PEERS => false,
            _ => {
                told.insert(peer.to_owned(), now);
                true
            }
        }
    }

    /// What became of dialling an address.
    pub(crate) fn note<T>(&self, address: &str, dialled: &io::Result<T>) {
        let mut last = self.last.lock();
        match dialled {
            Ok(_) => drop(last.remove(address)),
            Err(error) => {
                if last.len() >= MAX_PEERS {
                    last.clear();
                }
                let what =
                    if tls_error(error).is_some() { "TLS handshake failed, certificate not accepted: " } else { "" };
                last.insert(address.to_owned(), format!("{what}{error}"));
            }
        }
    }

    /// Why an address could not be dialled the last time, if it could not.
    pub(crate) fn last(&self, address: &str) -> Option<String> {
        self.last.lock().get(address).cloned()
    }

    /// All addresses that could not be dialled the last time, each with the reason.
    pub(crate) fn all(&self) -> Vec<String> {
        self.last.lock().iter().map(|(address, why)| format!("{address}: {why}")).collect()
    }
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What an operator can do.
fn advice(error: &Error) -> &'static str {
    use AlertDescription as Alert;
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the peer's certificate has expired: renew its `[peer.tls]` files"
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "the peer's certificate is not valid yet: compare the clocks of both nodes"
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the peer has the certificate of another node: compare its `[node] id` with its `[peer.tls] cert`",
        Error::InvalidCertificate(_) => {
            "the peer's certificate is not of this cluster's CA: compare `[peer.tls]` of both nodes"
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "the peer takes this node's certificate for expired: renew `[peer.tls]` here, or compare the clocks"
        }
        Error::AlertReceived(_) => {
            "the peer does not accept this node's certificate: compare `[peer.tls]` of both nodes"
        }
        _ => {
            "whoever is there does not speak as a node of this cluster: look who dials, or is dialled, at this address"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_told_once_a_minute() {
        let refusals = Refusals::default();
        let now = Instant::now();
        assert!(refusals.is_due("a", now) && refusals.is_due("b", now));
        assert!(!refusals.is_due("a", now + TELL_EVERY / 2));
        assert!(refusals.is_due("a", now + TELL_EVERY));
        for n in 0..MAX_PEERS {
            refusals.is_due(&n.to_string(), now + TELL_EVERY);
        }
        assert!(!refusals.is_due("one more", now + TELL_EVERY), "a crowd of strangers does not fill the log");
        assert!(refusals.is_due("one more", now + TELL_EVERY * 3));
    }

    #[test]
    fn the_last_trouble_is_known_until_the_address_answers() {
        let refusals = Refusals::default();
        let expired = Error::InvalidCertificate(CertificateError::Expired);
        refusals.note::<()>("a:1", &Err(io::Error::new(io::ErrorKind::InvalidData, expired)));
        refusals.note::<()>("b:1", &Err(io::ErrorKind::ConnectionRefused.into()));
        let all = refusals.all();
        assert!(all[0].starts_with("a:1: TLS handshake failed, certificate not accepted: "), "{all:?}");
        assert_eq!(all[1], "b:1: connection refused");
        refusals.note("a:1", &Ok(()));
        assert_eq!((refusals.last("a:1"), refusals.all().len()), (None, 1));
    }
}

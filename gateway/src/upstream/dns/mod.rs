//! Endpoints that are given by a name: who asks for its addresses, when, and what is done with the answers.
//!
//! Each address of a name is an endpoint of its own, balanced and watched like any other. One task for each upstream asks again when
//! an answer is over (`resolving.rs`); requests never wait for that, but for the very first answer. Connections to an address that has
//! left the answer finish what they have and get nothing new.

mod answers;
mod named;
mod resolver;
mod resolving;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns;
use tower_service::Service;

pub(crate) use named::Named;
pub(crate) use resolving::Resolvers;

/// Where the connections of an endpoint go.
#[derive(Debug, Clone)]
pub(crate) enum At {
    /// Its host is an address, or `localhost`, which is one wherever it is asked for (RFC 6761 §6.3).
    Itself,
    /// One of its name's.
    Address(IpAddr),
    /// Nobody knows yet: whoever connects waits for the first answer.
    Unknown(Arc<Named>),
}

/// What connections are told apart by, besides their scheme and authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum AtKey {
    Itself,
    Address(IpAddr),
    Unknown(u64),
}

impl At {
    pub(super) fn key(&self) -> AtKey {
        match self {
            Self::Itself => AtKey::Itself,
            Self::Address(address) => AtKey::Address(*address),
            Self::Unknown(named) => AtKey::Unknown(named.number()),
        }
    }

    /// The addresses to connect to, with this port.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let at = |address: &IpAddr| SocketAddr::new(*address, port);
        match self {
            Self::Itself => Ok(itself(host)?.iter().map(at).collect()),
            Self::Address(address) => Ok(vec![at(address)]),
            Self::Unknown(named) => {
                let found = named.first().await.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
                Ok(found.iter().map(at).collect())
            }
        }
    }
}

impl PartialEq for At {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for At {}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself => Ok(()),
            Self::Address(address) => write!(f, " at {address}"),
            Self::Unknown(_) => write!(f, " at an unknown address"),
        }
    }
}

/// The name that somebody has to be asked for; none for what is an address itself.
pub(super) fn name(host: &str) -> Option<&str> {
    itself(host).is_err().then_some(host)
}

fn itself(host: &str) -> io::Result<Vec<IpAddr>> {
    let plain = host.strip_suffix('.').unwrap_or(host);
    let is_localhost = |it: &str| it.eq_ignore_ascii_case("localhost");
    if is_localhost(plain) || plain.rsplit_once('.').is_some_and(|(_, last)| is_localhost(last)) {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let unbracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = unbracketed.parse().map_err(|_| io::Error::new(io::ErrorKind::NotFound, "it is a name"))?;
    Ok(vec![address])
}

/// What hyper's connector asks, with whatever was known beforehand.
#[derive(Debug, Clone)]
pub(super) struct Lookup(pub(super) At);

impl Service<dns::Name> for Lookup {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Self::Future {
        let at = self.0.clone();
        Box::pin(async move { Ok(at.addresses(name.as_str(), 0).await?.into_iter()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_for_what_is_an_address() {
        for host in ["192.0.2.1", "[2001:db8::1]", "localhost", "LOCALHOST.", "a.localhost"] {
            assert_eq!(name(host), None, "{host}");
        }
        for host in ["a.test", "localhost.test", "192.0.2.1.test", "1"] {
            assert_eq!(name(host), Some(host));
        }
    }
}

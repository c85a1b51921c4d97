//! How nodes talk: tonic over mutual TLS. Three connections to each peer, so that nothing waits behind a megabyte.

mod client;
mod guard;
mod listener;
mod network;
mod refusals;
mod service;
mod snapshot;
pub(crate) mod tls;
pub(crate) mod wire;

pub(crate) use client::{ANY_NODE, Lane, Peer, Peers, Target};
pub(crate) use listener::serve;
pub(crate) use network::Network;
pub(crate) use service::PeerService;

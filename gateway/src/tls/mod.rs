//! TLS to clients: which certificate a connection is served, and what is then known of its client.
//!
//! What always holds: a handshake is bounded in time and in number; a session is resumed only under the very certificate
//! and the very rules that it began under; who was let in under one host's rules is not taken for a client of another's.

mod accept;
mod expiry;
mod files;
mod hosts;
mod served;

pub(crate) use accept::{Handshakes, accept};
pub(crate) use expiry::Expiry;
pub use files::{FileCertificate, TlsFileError, TlsFiles};
pub(crate) use hosts::{Host, Hosts, admits};
pub(crate) use served::{Agreed, Secured, Served};

//! Certificates and keys as they are given: PEM, and what must be known of X.509.
//!
//! Pure. Whom to trust is rustls's to say, what is served when is the gateway's.

mod chain;
mod ended;
mod subject;

pub use chain::{Authorities, Chain, MAX_PEM_BYTES, PemError, private_key, staple};
pub use ended::ended;
pub use subject::Described;

//! Who calls, and who pays.

use std::fmt;

use crate::{Currency, LogIndex, Name, TimeZone, Timestamp};

/// Who pays.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tenant {
    /// Unique among tenants.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// How it pays. What it owes is reckoned; that credit runs out is not enforced yet.
    pub billing: Billing,
    /// For day and month windows, and bills.
    pub time_zone: TimeZone,
}

/// How a tenant pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Billing {
    /// Before, afterwards, or not at all.
    pub mode: BillingMode,
    /// Present unless the mode is none.
    pub currency: Option<Currency>,
}

/// When a tenant pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BillingMode {
    /// From credit.
    Prepaid,
    /// By invoice.
    Postpaid,
    /// Not at all.
    None,
}

/// Who calls.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Consumer {
    /// Unique among consumers.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// Who pays for it.
    pub tenant: Name,
    /// Any number, so that keys can be rotated.
    pub credentials: Vec<Credential>,
}

/// What proves who calls.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The keyed hash of the API key.
    pub hash: [u8; 32],
    /// The cluster key that the hash was made with.
    pub key_id: String,
    /// From then on it proves nothing.
    pub expires_at: Option<Timestamp>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

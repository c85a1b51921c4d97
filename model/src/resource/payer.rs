//! Who calls, and who pays.

use std::{fmt, time::Duration};

use super::{Algorithm, Durability, Limit, Mode, Priority, ProviderKey, Reserve, Unit, WhenUnavailable};
use crate::{Currency, LogIndex, Money, Name, TimeZone, Timestamp, Window};

/// Who pays.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tenant {
    /// Unique among tenants.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// How it pays.
    pub billing: Billing,
    /// For day and month windows, and bills.
    pub time_zone: TimeZone,
    /// What it means to be billed in a month.
    pub budget: Option<Budget>,
}

/// What a tenant means to be billed in a month: who passes it is told, and never refused.
#[derive(Debug, Clone)]
pub struct Budget {
    /// In the tenant's currency.
    pub monthly: Money,
    /// Percent of it, in their order, each once.
    pub thresholds: Vec<u32>,
    /// Who is told.
    pub webhook: Option<Webhook>,
}

/// Where calls go that tell of something.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// With scheme and host.
    pub url: http::Uri,
    /// What they are signed with; absent while it is not sealed yet.
    pub secret: Option<ProviderKey>,
}

/// How a tenant pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Billing {
    /// Before, afterwards, or not at all.
    pub mode: BillingMode,
    /// Present unless the mode is none.
    pub currency: Option<Currency>,
    /// What has to be written down of a request before credit is spent on it.
    pub durability: Durability,
    /// How long after a month's end its bill takes what was admitted in it.
    pub grace: Duration,
}

impl Billing {
    /// Where nothing else is said: longer than any call takes, and than a node is down without anybody looking.
    pub const GRACE: Duration = Duration::from_hours(24);
}

impl Tenant {
    /// What a tenant that pays in advance has to spend, as the limit that all its calls of models meet. How much that is, the
    /// ledger alone knows.
    #[must_use]
    pub fn purse(&self) -> Option<Limit> {
        let currency = self.billing.currency.filter(|_| self.billing.mode == BillingMode::Prepaid)?;
        Some(Limit {
            name: purse_of(&self.name),
            version: LogIndex(0),
            tenants: vec![self.name.clone()],
            consumers: Vec::new(),
            routes: Vec::new(),
            models: Vec::new(),
            cidrs: Vec::new(),
            per: Vec::new(),
            unit: Unit::Cost(currency),
            limit: u64::MAX,
            window: Window::Month,
            algorithm: Algorithm::Never,
            durability: self.billing.durability,
            mode: Mode::Enforce,
            reserve: Reserve::Full,
            when_unavailable: WhenUnavailable::Deny,
        })
    }
}

/// Before the tenant's name in that of its purse; no name of a limit has a colon.
const PURSE: &str = "credits:";

/// What the account of a tenant's credit is called, among those of limits.
#[must_use]
pub fn purse_of(tenant: &str) -> Name {
    Name::new(&[PURSE, tenant].concat())
}

/// Whose purse it is, if it is one.
#[must_use]
pub fn tenant_of_purse(limit: &str) -> Option<&str> {
    limit.strip_prefix(PURSE)
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
    /// Of its calls, in place of their routes'; theirs where it has none.
    pub priority: Option<Priority>,
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

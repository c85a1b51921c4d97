//! What may be used, and by whom.

use crate::{Glob, LogIndex, Name, Window};

/// A rule about usage in a fixed window.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limit {
    /// Unique among limits.
    pub name: Name,
    /// The last change.
    pub version: LogIndex,
    /// Any of these; all when empty.
    pub tenants: Vec<Name>,
    /// Any of these; all when empty.
    pub consumers: Vec<Name>,
    /// Any of these; all when empty.
    pub routes: Vec<Name>,
    /// The model asked for is any of these; all, also requests without a model, when empty.
    pub models: Vec<Glob>,
    /// One account for each combination of these; one in all when empty.
    pub per: Vec<KeyPart>,
    /// What is counted.
    pub unit: Unit,
    /// How much of it, greater than zero.
    pub limit: u64,
    /// In what time.
    pub window: Window,
    /// What has to be written down before a request is sent out.
    pub durability: Durability,
}

/// What a crash may make of what was used (QUOTA.md 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// After a crash a bound of it counts.
    Memory,
    /// What had ended counts to the unit, as long as the disk is there.
    Journal,
    /// As that, even if the disk is lost: the log holds each request before it is sent out.
    Quorum,
}

impl Durability {
    /// That of a limit which does not say: what is billed survives a crash.
    #[must_use]
    pub const fn default_of(unit: Unit) -> Self {
        match unit {
            Unit::Requests => Self::Memory,
            Unit::Tokens | Unit::InputTokens | Unit::OutputTokens => Self::Journal,
        }
    }
}

impl Limit {
    /// Whether this request is one that the limit is about. A limit per consumer or tenant is about those only: callers
    /// that nobody asked who they are do not share an account.
    #[must_use]
    pub fn concerns(&self, subject: &Subject<'_>) -> bool {
        let among = |names: &[Name], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|known| &**known == name))
        };
        let known = |part: &KeyPart| match part {
            KeyPart::Tenant => subject.tenant.is_some(),
            KeyPart::Consumer => subject.consumer.is_some(),
            KeyPart::Route | KeyPart::Model => true,
        };
        self.per.iter().all(known)
            && among(&self.tenants, subject.tenant)
            && among(&self.consumers, subject.consumer)
            && among(&self.routes, Some(subject.route))
            && (self.models.is_empty()
                || subject.model.is_some_and(|model| self.models.iter().any(|glob| glob.matches(model))))
    }

    /// The account of this request: the values of `per`, in its order. A model that a request does not name is empty,
    /// which is no name.
    #[must_use]
    pub fn key(&self, subject: &Subject<'_>) -> Vec<String> {
        let value = |part: &KeyPart| match part {
            KeyPart::Tenant => subject.tenant.unwrap_or_default(),
            KeyPart::Consumer => subject.consumer.unwrap_or_default(),
            KeyPart::Route => subject.route,
            KeyPart::Model => subject.model.unwrap_or_default(),
        };
        self.per.iter().map(|part| value(part).to_owned()).collect()
    }
}

/// What limits know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// Who pays; absent without authentication.
    pub tenant: Option<&'a str>,
    /// Who calls; absent without authentication.
    pub consumer: Option<&'a str>,
    /// The matched route.
    pub route: &'a str,
    /// The model asked for; absent where the request names none.
    pub model: Option<&'a str>,
}

/// What tells one account of a limit from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPart {
    /// Who pays.
    Tenant,
    /// Who calls.
    Consumer,
    /// The matched route.
    Route,
    /// The model asked for.
    Model,
}

impl KeyPart {
    /// Every part.
    pub const ALL: [Self; 4] = [Self::Tenant, Self::Consumer, Self::Route, Self::Model];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Consumer => "consumer",
            Self::Route => "route",
            Self::Model => "model",
        }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Input and output tokens.
    Tokens,
    /// Input tokens, cached ones too.
    InputTokens,
    /// Output tokens, reasoning too.
    OutputTokens,
    /// Requests.
    Requests,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::InputTokens, Self::OutputTokens, Self::Requests];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::InputTokens => "inputTokens",
            Self::OutputTokens => "outputTokens",
            Self::Requests => "requests",
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::fmt::Display for KeyPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

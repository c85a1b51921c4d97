//! What may be used, and by whom.

use ipnet::IpNet;

use super::{KeyPart, Subject};
use crate::{Glob, LogIndex, Name, Window};

/// Half of what 64 bits hold, so that no sum of two amounts overflows.
pub(crate) const MAX_LIMIT: u64 = u64::MAX / 2;

/// A rule about usage in a window, or at a moment.
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
    /// The client's address is in any of these; all when empty.
    pub cidrs: Vec<IpNet>,
    /// One account for each combination of these; one in all when empty.
    pub per: Vec<KeyPart>,
    /// What is counted.
    pub unit: Unit,
    /// How much of it; zero admits nothing.
    pub limit: u64,
    /// In what time. Means nothing for [`Unit::Concurrency`].
    pub window: Window,
    /// How windows follow one another. Means nothing for [`Unit::Concurrency`].
    pub algorithm: Algorithm,
    /// What has to be written down before a request is sent out.
    pub durability: Durability,
    /// Whether it refuses.
    pub mode: Mode,
    /// What is held for a request before it is sent on.
    pub reserve: Reserve,
    /// What becomes of a request when nobody can decide.
    pub when_unavailable: WhenUnavailable,
}

/// What becomes of a request once its node has no lease and no quorum: neither yes nor no can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenUnavailable {
    /// It is refused, as undecided.
    #[default]
    Deny,
    /// It goes on without this limit, and is counted apart.
    Allow,
}

/// Whether a limit refuses what is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It counts and reports, and never refuses.
    Shadow,
}

impl Mode {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// How much of what a request can use is held for it before it is sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reserve {
    /// All: the limit is never over.
    #[default]
    Full,
    /// What the prompt takes. The rest is counted after, and may be over: it blocks the account until the window turns.
    Prompt,
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
            Unit::Requests | Unit::Concurrency => Self::Memory,
            Unit::Tokens | Unit::InputTokens | Unit::OutputTokens => Self::Journal,
        }
    }
}

impl Limit {
    /// Whether this request is one that the limit is about. A limit per consumer, tenant, provider or address is about
    /// requests that have one: callers that nobody asked who they are do not share an account.
    #[must_use]
    pub fn concerns(&self, subject: &Subject<'_>) -> bool {
        let among = |names: &[Name], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|known| &**known == name))
        };
        let within = |ip: std::net::IpAddr| self.cidrs.iter().any(|net| net.contains(&ip));
        self.per.iter().all(|part| subject.has(part))
            && among(&self.tenants, subject.tenant)
            && among(&self.consumers, subject.consumer)
            && among(&self.routes, Some(subject.route))
            && (self.models.is_empty()
                || subject.model.is_some_and(|model| self.models.iter().any(|glob| glob.matches(model))))
            && (self.cidrs.is_empty() || subject.ip.is_some_and(within))
    }

    /// The account of this request: the values of `per`, in its order, each fit for the ledger (see [`KeyPart`]).
    #[must_use]
    pub fn key(&self, subject: &Subject<'_>) -> Vec<String> {
        self.per.iter().map(|part| subject.value(part, self.per.len())).collect()
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
    /// Requests in flight: each takes one permit and gives it back, whatever it used.
    Concurrency,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 5] = [Self::Tokens, Self::InputTokens, Self::OutputTokens, Self::Requests, Self::Concurrency];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::InputTokens => "inputTokens",
            Self::OutputTokens => "outputTokens",
            Self::Requests => "requests",
            Self::Concurrency => "concurrency",
        }
    }
}

/// How the windows of a limit follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// One after the other, on the clock.
    Fixed,
    /// At every moment: any window of that length holds at most the limit.
    Sliding,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::Fixed, Self::Sliding];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Sliding => "sliding",
        }
    }

    /// What counts where a limit does not say.
    #[must_use]
    pub const fn default_for(window: Window) -> Self {
        match window {
            Window::Second | Window::Minute => Self::Sliding,
            Window::Hour | Window::Day | Window::Month => Self::Fixed,
        }
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

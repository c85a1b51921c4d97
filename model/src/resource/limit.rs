//! What may be used, and by whom.

use ipnet::IpNet;

use super::{KeyPart, Subject};
use crate::{Currency, Glob, LogIndex, Money, Name, Window};

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
            Unit::Tokens | Unit::InputTokens | Unit::OutputTokens | Unit::Cost(_) => Self::Journal,
        }
    }
}

impl Limit {
    /// Whether this request is one that the limit is about. A limit per consumer, tenant, provider or address is about
    /// requests that have one: callers that nobody asked who they are do not share an account. A limit on cost is about those that
    /// are billed in its currency.
    #[must_use]
    pub fn concerns(&self, subject: &Subject<'_>) -> bool {
        let among = |names: &[Name], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|known| &**known == name))
        };
        let within = |ip: std::net::IpAddr| self.cidrs.iter().any(|net| net.contains(&ip));
        let is_billed = |currency| subject.currency == Some(currency);
        self.per.iter().all(|part| subject.has(part))
            && self.unit.currency().is_none_or(is_billed)
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
    /// What requests cost those who are billed in this currency, in its pico-units. Those of another are another unit: what is
    /// counted in one account is never of two.
    Cost(Currency),
    /// Requests in flight: each takes one permit and gives it back, whatever it used.
    Concurrency,
}

impl Unit {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::InputTokens => "inputTokens",
            Self::OutputTokens => "outputTokens",
            Self::Requests => "requests",
            Self::Cost(_) => "cost",
            Self::Concurrency => "concurrency",
        }
    }

    /// What it counts money in.
    #[must_use]
    pub const fn currency(self) -> Option<Currency> {
        match self {
            Self::Cost(currency) => Some(currency),
            _ => None,
        }
    }

    /// All of it in one word, which [`Unit::from_tag`] reads: `tokens`, `cost:USD`.
    #[must_use]
    pub fn tag(self) -> String {
        match self {
            Self::Cost(currency) => format!("{}:{currency}", self.as_str()),
            _ => self.as_str().to_owned(),
        }
    }

    /// What [`Unit::tag`] has written.
    #[must_use]
    pub fn from_tag(tag: &str) -> Option<Self> {
        match tag {
            "tokens" => Some(Self::Tokens),
            "inputTokens" => Some(Self::InputTokens),
            "outputTokens" => Some(Self::OutputTokens),
            "requests" => Some(Self::Requests),
            "concurrency" => Some(Self::Concurrency),
            _ => tag.strip_prefix("cost:").and_then(|code| Currency::parse(code).ok()).map(Self::Cost),
        }
    }

    /// So much of it, without its name: `1000`, and of money the decimal.
    #[must_use]
    pub fn amount(self, units: u64) -> String {
        match self {
            Self::Cost(_) => Money(units.into()).to_string(),
            _ => units.to_string(),
        }
    }

    /// What people call it: `tokens`, and of money the currency.
    #[must_use]
    pub fn noun(&self) -> &str {
        match self {
            Self::Cost(currency) => currency.as_str(),
            _ => self.as_str(),
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
    /// Not at all: what is used is gone, and the account's capacity is its own. Of what tenants have paid in; no limit says so.
    Never,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Fixed, Self::Sliding, Self::Never];

    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Sliding => "sliding",
            Self::Never => "never",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_survives_its_tag_and_no_other_word_is_one() {
        let usd = Unit::Cost(Currency::parse("USD").unwrap());
        for unit in [Unit::Tokens, Unit::InputTokens, Unit::OutputTokens, Unit::Requests, Unit::Concurrency, usd] {
            assert_eq!(Unit::from_tag(&unit.tag()), Some(unit));
        }
        for wrong in ["", "cost", "cost:", "cost:usd", "USD", "Tokens"] {
            assert_eq!(Unit::from_tag(wrong), None, "{wrong}");
        }
        assert_eq!((usd.amount(1_500_000_000_000), usd.noun()), ("1.5".to_owned(), "USD"));
        assert_eq!((Unit::Tokens.amount(7), Unit::Tokens.noun()), ("7".to_owned(), "tokens"));
    }
}

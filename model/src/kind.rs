//! The kinds of resources.

use std::{fmt, str::FromStr};

use crate::nearest::hint;

/// What a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An ordinary upstream.
    Service,
    /// An LLM upstream.
    Provider,
    /// Match and backends.
    Route,
    /// Who pays.
    Tenant,
    /// Who calls.
    Consumer,
    /// What may be used, and by whom.
    Limit,
    /// What it costs.
    Price,
    /// What clients over TLS are served.
    Certificate,
}

impl Kind {
    /// Every kind, in the order of the contract.
    pub const ALL: [Self; 8] = [
        Self::Service,
        Self::Provider,
        Self::Route,
        Self::Tenant,
        Self::Consumer,
        Self::Limit,
        Self::Price,
        Self::Certificate,
    ];

    /// The order of an export: nothing comes before what it refers to.
    pub const EXPORT_ORDER: [Self; 8] = [
        Self::Tenant,
        Self::Consumer,
        Self::Service,
        Self::Provider,
        Self::Route,
        Self::Limit,
        Self::Price,
        Self::Certificate,
    ];

    /// As it is written in `kind:`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Provider => "Provider",
            Self::Route => "Route",
            Self::Tenant => "Tenant",
            Self::Consumer => "Consumer",
            Self::Limit => "Limit",
            Self::Price => "Price",
            Self::Certificate => "Certificate",
        }
    }

    /// Lower case, for sentences and command lines.
    #[must_use]
    pub fn singular(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Provider => "provider",
            Self::Route => "route",
            Self::Tenant => "tenant",
            Self::Consumer => "consumer",
            Self::Limit => "limit",
            Self::Price => "price",
            Self::Certificate => "certificate",
        }
    }

    /// Lower case, several.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Provider => "providers",
            Self::Route => "routes",
            Self::Tenant => "tenants",
            Self::Consumer => "consumers",
            Self::Limit => "limits",
            Self::Price => "prices",
            Self::Certificate => "certificates",
        }
    }

    /// Exactly as in `kind:`, which is the only spelling that files and the log may use.
    #[must_use]
    pub fn from_exact(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A kind that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind `{given}`{hint}: the kinds are {}", KindList)]
pub struct UnknownKind {
    given: String,
    hint: String,
}

struct KindList;

impl fmt::Display for KindList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Kind::ALL.map(Kind::as_str).join(", "))
    }
}

impl UnknownKind {
    pub(crate) fn new(given: &str) -> Self {
        Self { given: given.to_owned(), hint: hint(given, Kind::ALL.map(Kind::as_str)) }
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    /// Singular or plural, in any case: for command lines and requests.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let lower = text.to_ascii_lowercase();
        Self::ALL
            .into_iter()
            .find(|kind| lower == kind.singular() || lower == kind.plural())
            .ok_or_else(|| UnknownKind::new(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_read_in_singular_or_plural_and_any_case() {
        for kind in Kind::ALL {
            for text in [kind.singular(), kind.plural(), kind.as_str(), &kind.plural().to_uppercase()] {
                assert_eq!(text.parse(), Ok(kind));
            }
            assert_eq!(Kind::from_exact(kind.as_str()), Some(kind));
            assert_eq!(Kind::from_exact(kind.singular()), None);
        }
    }

    #[test]
    fn an_unknown_kind_names_the_nearest() {
        let error = "Rout".parse::<Kind>().unwrap_err().to_string();
        assert!(error.starts_with("unknown kind `Rout` (did you mean `Route`?): the kinds are Service,"), "{error}");
        assert!(!"gateway".parse::<Kind>().unwrap_err().to_string().contains("did you mean"));
    }
}

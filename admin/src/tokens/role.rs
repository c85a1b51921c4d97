//! What the holder of a token is.

use std::{fmt, str::FromStr};

/// A role of the admin plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything, tokens included.
    Admin,
    /// Everything but admin tokens.
    Operator,
    /// Reads, and credits and bills.
    Billing,
    /// Reads.
    Viewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Billing, Self::Viewer];

    /// Whether its holder makes and revokes tokens of another role. Whoever could make an admin token would be an admin.
    #[must_use]
    pub fn gives(self, other: Role) -> bool {
        match self {
            Self::Admin => true,
            Self::Operator => other != Self::Admin,
            Self::Billing | Self::Viewer => false,
        }
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Billing => "billing",
            Self::Viewer => "viewer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A role that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {0:?}: the roles are admin, operator, billing, viewer")]
pub struct UnknownRole(String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

//! Names of resources and zones.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

/// The name of a resource or a zone: cheap to clone, compared as text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// What a name must look like, for messages.
pub(crate) const RULE: &str =
    "must be 1 to 253 of a-z, 0-9, '-', '.', '_', beginning and ending with a letter or a digit";

/// DNS's bound, so that a name fits wherever a host name does.
const MAX_BYTES: usize = 253;

impl Name {
    /// Takes text that was checked before, or that only names what somebody asked for.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// Checks the text.
    ///
    /// # Errors
    /// The rule that it breaks, as a sentence about the name.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if is_valid(text) { Ok(Self::new(text)) } else { Err(RULE) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_valid(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    let bytes = text.as_bytes();
    bytes.len() <= MAX_BYTES && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().copied().all(inner)
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_begin_and_end_with_a_letter_or_digit() {
        for good in ["a", "0", "gpt-4o", "per-consumer-tpm", "gpt-3.5_x", &"a".repeat(253)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "ä", "a\0b", ".a", &"a".repeat(254)] {
            assert_eq!(Name::parse(bad), Err(RULE), "{bad}");
        }
    }
}

//! Patterns for model names.

use std::fmt;

/// A pattern in which every `*` stands for any run of characters, also none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob(Box<str>);

impl Glob {
    /// Takes any text: there is no wrong pattern.
    #[must_use]
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches nothing but its own text.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        !self.0.contains('*')
    }

    /// How much of the text it pins down: of two patterns that match, the longer is the more specific.
    #[must_use]
    pub fn literal_len(&self) -> usize {
        self.0.len() - self.0.matches('*').count()
    }

    /// Whether the whole of `text` matches. Linear in the text for each `*`: no backtracking beyond the last one.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return *self.0 == *text };
        let Some(mut text) = text.strip_prefix(head) else { return false };
        let mut parts = rest.split('*').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return text.ends_with(part);
            }
            let Some(found) = text.find(part) else { return false };
            text = &text[found + part.len()..];
        }
        true
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, spelled out.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|n| slow(rest, &text[n..])),
            Some((byte, rest)) => text.split_first().is_some_and(|(t, tail)| t == byte && slow(rest, tail)),
        }
    }

    #[test]
    fn a_star_stands_for_any_run() {
        assert!(Glob::new("gpt-4o*").matches("gpt-4o-mini"));
        assert!(Glob::new("gpt-4o*").matches("gpt-4o"));
        assert!(!Glob::new("gpt-4o*").matches("gpt-4"));
        assert!(Glob::new("*").matches(""));
        assert!(!Glob::new("a*a").matches("a"));
        assert!(!Glob::new("").matches("a"));
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(Glob::new(&pattern).matches(&text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}

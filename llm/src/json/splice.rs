//! Changing a few places of a JSON text and nothing else.

use std::ops::Range;

use bytes::Bytes;

/// Replacements of ranges of a text (an empty range inserts), applied in the order of their places.
#[derive(Debug, Default)]
pub(crate) struct Splice(Vec<(Range<usize>, String)>);

impl Splice {
    pub(crate) fn replace(&mut self, range: Range<usize>, text: impl Into<String>) {
        self.0.push((range, text.into()));
    }

    pub(crate) fn insert(&mut self, at: usize, text: impl Into<String>) {
        self.replace(at..at, text);
    }

    /// The text with all replacements made; the same buffer when there are none. Ranges must not overlap.
    pub(crate) fn apply(mut self, text: &Bytes) -> Bytes {
        self.0.retain(|(range, new)| text[range.clone()] != *new.as_bytes());
        if self.0.is_empty() {
            return text.clone();
        }
        self.0.sort_by_key(|(range, _)| range.start);
        let added: usize = self.0.iter().map(|(_, new)| new.len()).sum();
        let mut out = Vec::with_capacity(text.len() + added);
        let mut from = 0;
        for (range, new) in self.0 {
            out.extend_from_slice(&text[from..range.start]);
            out.extend_from_slice(new.as_bytes());
            from = range.end;
        }
        out.extend_from_slice(&text[from..]);
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let text = Bytes::from_static(b"{\"a\": 1, \"b\":2}");
        let mut splice = Splice::default();
        splice.insert(14, ",\"c\":3");
        splice.replace(6..7, "10");
        assert_eq!(splice.apply(&text), "{\"a\": 10, \"b\":2,\"c\":3}");
    }

    #[test]
    fn without_a_change_the_buffer_is_the_same() {
        let text = Bytes::from_static(b"{\"a\":1}");
        let mut splice = Splice::default();
        splice.replace(5..6, "1");
        assert_eq!(splice.apply(&text).as_ptr(), text.as_ptr());
    }
}

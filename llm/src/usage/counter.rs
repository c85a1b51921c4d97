//! Counting the output that goes by.

use crate::json::Str;
use crate::tokens::{self, Vocabulary};

/// How much text is collected before it is tokenised: tokens that a cut tears apart stay below one in a hundred.
const FOLD_BYTES: usize = 4_096;

/// Counts text in tokens without keeping it: a few kilobytes at most, whatever the length of the answer.
///
/// A vocabulary is used only once it is loaded (the bound of the request has done that), so that counting never
/// stalls a stream.
#[derive(Debug)]
pub(crate) struct Counter {
    vocabulary: Option<Vocabulary>,
    folded: u64,
    buffer: String,
    ascii_bytes: u64,
    other_bytes: u64,
}

impl Counter {
    pub(crate) fn new(vocabulary: Option<Vocabulary>) -> Counter {
        Counter { vocabulary, folded: 0, buffer: String::new(), ascii_bytes: 0, other_bytes: 0 }
    }

    /// Takes a piece of output text.
    pub(crate) fn text(&mut self, text: Str<'_>) {
        let (ascii, other) = text.sizes();
        self.ascii_bytes += ascii;
        self.other_bytes += other;
        if self.vocabulary.is_some() {
            self.buffer.push_str(&text.decode());
            if self.buffer.len() > FOLD_BYTES {
                self.fold();
            }
        }
    }

    /// Tokens so far, with what is not folded yet estimated.
    pub(crate) fn estimate(&self) -> u64 {
        self.folded + tokens::estimate(self.ascii_bytes, self.other_bytes)
    }

    /// Tokens so far, as exactly as can be told.
    pub(crate) fn total(&self) -> u64 {
        self.folded + self.unfolded()
    }

    fn fold(&mut self) {
        self.folded += self.unfolded();
        self.buffer.clear();
        self.ascii_bytes = 0;
        self.other_bytes = 0;
    }

    fn unfolded(&self) -> u64 {
        match self.vocabulary.filter(|vocabulary| vocabulary.is_loaded()) {
            Some(vocabulary) => vocabulary.count(&self.buffer),
            None => tokens::estimate(self.ascii_bytes, self.other_bytes),
        }
    }
}

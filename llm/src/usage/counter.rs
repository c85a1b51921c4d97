//! Counting the output that goes by.

use crate::json::Str;
use crate::tokens::{self, Vocabulary};

/// How much text is collected before it is tokenised: some 20 µs of work at a time.
const FOLD_BYTES: usize = 512;

/// A model may write a text in more tokens than its vocabulary makes of it; more than one in 64 has not been seen.
const FEW: u64 = 64;

/// What the tags around one call of a tool come to, its name and arguments aside.
const CALL_TOKENS: u64 = 64;

/// Counts text in tokens without keeping it: a few kilobytes at most, whatever the length of the answer.
///
/// A vocabulary is used only once it is loaded (the bound of the request has done that), so that counting never
/// stalls a stream.
#[derive(Debug)]
pub(crate) struct Counter {
    vocabulary: Option<Vocabulary>,
    folded: u64,
    /// The most that the folded text can have been.
    most_folded: u64,
    buffer: String,
    ascii_bytes: u64,
    other_bytes: u64,
    /// Of all text.
    bytes: u64,
    calls: u64,
}

impl Counter {
    pub(crate) fn new(vocabulary: Option<Vocabulary>) -> Counter {
        Counter {
            vocabulary,
            folded: 0,
            most_folded: 0,
            buffer: String::new(),
            ascii_bytes: 0,
            other_bytes: 0,
            bytes: 0,
            calls: 0,
        }
    }

    /// Takes a piece of output text.
    pub(crate) fn text(&mut self, text: Str<'_>) {
        let (ascii, other) = text.sizes();
        self.ascii_bytes += ascii;
        self.other_bytes += other;
        self.bytes += ascii + other;
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

    /// Takes note of a call of a tool.
    pub(crate) fn call(&mut self) {
        self.calls += 1;
    }

    /// The most tokens that have gone by, for one look at two numbers: what is not folded yet counts by its bytes.
    pub(crate) fn most(&self) -> u64 {
        self.most_folded + self.ascii_bytes + self.other_bytes + self.calls * CALL_TOKENS
    }

    /// The same with what is not folded yet tokenised, where the vocabulary is loaded.
    pub(crate) fn most_exactly(&self) -> u64 {
        self.most_folded + self.most_of(&self.buffer) + self.calls * CALL_TOKENS
    }

    /// The most tokens of several texts that came mixed: only their bytes bound them.
    pub(crate) fn most_mixed(&self) -> u64 {
        self.bytes + self.calls * CALL_TOKENS
    }

    /// Counts the buffer up to where the next word begins, so that no token is torn apart.
    fn fold(&mut self) {
        let at = self.buffer.rfind(' ').filter(|at| *at > 0).unwrap_or(self.buffer.len());
        let rest = self.buffer.split_off(at);
        let other = rest.bytes().filter(|byte| !byte.is_ascii()).count() as u64;
        let ascii = rest.len() as u64 - other;
        (self.ascii_bytes, self.other_bytes) = (self.ascii_bytes - ascii, self.other_bytes - other);
        self.folded += self.unfolded();
        self.most_folded += self.most_of(&self.buffer);
        self.buffer = rest;
        (self.ascii_bytes, self.other_bytes) = (ascii, other);
    }

    fn unfolded(&self) -> u64 {
        match self.loaded() {
            Some(vocabulary) => vocabulary.count(&self.buffer),
            None => tokens::estimate(self.ascii_bytes, self.other_bytes),
        }
    }

    /// The most tokens of what is not folded, which is `text` where there is a vocabulary.
    fn most_of(&self, text: &str) -> u64 {
        let bytes = self.ascii_bytes + self.other_bytes;
        self.loaded().map_or(bytes, |vocabulary| {
            let count = vocabulary.count(text);
            bytes.min(count + count.div_ceil(FEW))
        })
    }

    fn loaded(&self) -> Option<Vocabulary> {
        self.vocabulary.filter(|vocabulary| vocabulary.is_loaded())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Cursor;

    fn counted(model: &str, pieces: &[&str]) -> Counter {
        crate::preload(model);
        let mut counter = Counter::new(Vocabulary::of(model));
        for piece in pieces {
            let json = serde_json::json!(piece).to_string();
            counter.text(Cursor::new(&json).string().unwrap());
        }
        counter
    }

    #[test]
    fn folding_tears_no_token_apart() {
        let text = "The Übermensch said:  \"I don't   know\"\n\n 1234567 (naïve) 你好 ".repeat(80);
        let chars: Vec<String> = text.chars().map(String::from).collect();
        let pieces: Vec<&str> = chars.iter().map(String::as_str).collect();
        assert_eq!(counted("gpt-4o", &pieces).total(), Vocabulary::O200k.count(&text));
    }

    #[test]
    fn the_most_is_never_below_the_tokens_and_close_to_them_where_they_can_be_told() {
        for text in ["one two three four ".repeat(500), "你好，世界。".repeat(300), "fn f(a: u8) {}\n".repeat(90)]
        {
            let pieces: Vec<String> =
                text.chars().collect::<Vec<_>>().chunks(7).map(|it| it.iter().collect()).collect();
            let mut so_far = String::new();
            let mut counter = counted("gpt-4o", &[]);
            for piece in pieces {
                so_far.push_str(&piece);
                let json = serde_json::json!(piece).to_string();
                counter.text(Cursor::new(&json).string().unwrap());
                let tokens = Vocabulary::O200k.count(&so_far);
                let (most, exactly) = (counter.most(), counter.most_exactly());
                assert!(tokens <= exactly && exactly <= most, "{tokens} {exactly} {most}");
                assert!(exactly <= tokens + tokens / 16 + 2, "{exactly} for {tokens}");
                assert!(most <= exactly + FOLD_BYTES as u64 + 8, "{most} for {exactly}");
            }
        }
    }

    #[test]
    fn an_unknown_vocabulary_is_bounded_by_bytes_and_calls_by_their_tags() {
        let mut counter = counted("mock-1", &["one", " two ü"]);
        assert_eq!((counter.most(), counter.most_exactly(), counter.most_mixed()), (10, 10, 10));
        counter.call();
        assert_eq!((counter.most(), counter.most_exactly(), counter.most_mixed()), (74, 74, 74));
    }
}

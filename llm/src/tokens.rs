//! OpenAI's published vocabularies, for the model names that they are known for and no others.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use tiktoken_rs::CoreBPE;
use tiktoken_rs::tokenizer::{Tokenizer, get_tokenizer};

/// The longest run, of white space or of anything else, that the tokenizer is given. Its regular expression backtracks
/// over white space and gives up (by panicking) at a million characters; other runs cost more than linear time
/// (measured: 65 KB 30 ms, 5 MB 4.7 s). Nobody writes either.
const MAX_RUN_BYTES: usize = 65_536;

/// A published vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vocabulary {
    /// gpt-4, gpt-3.5, text-embedding-3…
    Cl100k,
    /// gpt-4o, gpt-4.1, gpt-5, o1, o3, o4-mini…
    O200k,
}

/// Whose rules a model's name is known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// OpenAI's hosted models.
    OpenAi,
    /// OpenAI's open models.
    Harmony,
    /// All others.
    Unknown,
}

/// Longer names than that are looked up each time.
const MAX_REMEMBERED_BYTES: usize = 128;

thread_local! {
    /// The name that was asked for last, and what it was found to use: a call asks for the one or two names it has a dozen times.
    static LAST: RefCell<(String, Option<Tokenizer>)> = const { RefCell::new((String::new(), None)) };
}

fn tokenizer(model: &str) -> Option<Tokenizer> {
    if model.len() > MAX_REMEMBERED_BYTES {
        return get_tokenizer(model);
    }
    LAST.with_borrow_mut(|(last, found)| {
        if last != model {
            *found = get_tokenizer(model);
            model.clone_into(last);
        }
        *found
    })
}

/// The family of a model, by the names that vocabularies are known for.
pub(crate) fn family(model: &str) -> Family {
    match tokenizer(model) {
        Some(Tokenizer::O200kBase | Tokenizer::Cl100kBase) => Family::OpenAi,
        Some(Tokenizer::O200kHarmony) => Family::Harmony,
        _ => Family::Unknown,
    }
}

/// Models that think whether or not they are asked to, and show none or only a summary of it; also after `ft:`.
const THINK_UNSEEN: [&str; 7] = ["o1", "o3", "o4", "gpt-5", "codex", "gemini-2.5", "gemini-3"];

/// Whether a model of that name is known to think without being asked to, and not to show it.
pub(crate) fn thinks_unseen(model: &str) -> bool {
    let model = model.strip_prefix("ft:").unwrap_or(model);
    THINK_UNSEEN.iter().any(|prefix| model.starts_with(prefix))
}

/// Whether the vocabulary of a model of that name is known: then what goes by is counted closely, else by its bytes.
#[must_use]
pub fn has_vocabulary(model: &str) -> bool {
    Vocabulary::of(model).is_some()
}

static LOADED: [AtomicBool; 2] = [AtomicBool::new(false), AtomicBool::new(false)];

impl Vocabulary {
    /// The vocabulary that a model of that name is known to use. The name decides, never the provider's type: an
    /// OpenAI-compatible server runs models with any vocabulary.
    pub(crate) fn of(model: &str) -> Option<Vocabulary> {
        match tokenizer(model)? {
            Tokenizer::O200kBase | Tokenizer::O200kHarmony => Some(Vocabulary::O200k),
            Tokenizer::Cl100kBase => Some(Vocabulary::Cl100k),
            _ => None,
        }
    }

    /// Whether counting needs no loading first.
    pub(crate) fn is_loaded(self) -> bool {
        LOADED[self as usize].load(Ordering::Acquire)
    }

    /// The tokens of a text, in which nothing is a special token. Loads the vocabulary the first time. Never more
    /// than its bytes, as every token of a byte-level vocabulary is at least one byte.
    pub(crate) fn count(self, text: &str) -> u64 {
        if has_absurd_run(text) {
            return text.len() as u64;
        }
        self.load().count_ordinary(text) as u64
    }

    /// Loads the vocabulary: 50 to 140 ms the first time.
    pub(crate) fn load(self) -> &'static CoreBPE {
        let loaded = match self {
            Vocabulary::Cl100k => tiktoken_rs::cl100k_base_singleton(),
            Vocabulary::O200k => tiktoken_rs::o200k_base_singleton(),
        };
        LOADED[self as usize].store(true, Ordering::Release);
        loaded
    }
}

/// Loads the vocabulary of a model, if it is one that a vocabulary is known for; up to 140 ms the first time, so not
/// for an async thread. Everything that needs a vocabulary loads it by itself too.
pub fn preload(model: &str) {
    if let Some(vocabulary) = Vocabulary::of(model) {
        vocabulary.load();
    }
}

/// What a text probably is in tokens of an unknown vocabulary: 4 bytes of ASCII a token, 3 of anything else.
pub(crate) fn estimate(ascii_bytes: u64, other_bytes: u64) -> u64 {
    ascii_bytes.div_ceil(4) + other_bytes.div_ceil(3)
}

fn has_absurd_run(text: &str) -> bool {
    if text.len() <= MAX_RUN_BYTES {
        return false;
    }
    let mut run = 0;
    let mut space = false;
    text.chars().any(|character| {
        let same = character.is_whitespace() == space;
        space = character.is_whitespace();
        run = character.len_utf8() + if same { run } else { 0 };
        run > MAX_RUN_BYTES
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_decide_and_only_known_ones() {
        for (model, expected) in [
            ("gpt-4o", Some(Vocabulary::O200k)),
            ("gpt-4o-mini-2024-07-18", Some(Vocabulary::O200k)),
            ("o3", Some(Vocabulary::O200k)),
            ("o4-mini", Some(Vocabulary::O200k)),
            ("gpt-4-turbo", Some(Vocabulary::Cl100k)),
            ("gpt-3.5-turbo", Some(Vocabulary::Cl100k)),
            ("text-embedding-3-small", Some(Vocabulary::Cl100k)),
            ("ft:gpt-4o:acme::x", Some(Vocabulary::O200k)),
            ("claude-sonnet-4-5", None),
            ("qwen-max", None),
            ("mock-small", None),
        ] {
            assert_eq!(Vocabulary::of(model), expected, "{model}");
        }
    }

    #[test]
    fn known_texts_have_their_published_counts() {
        assert_eq!(Vocabulary::Cl100k.count("tiktoken is great!"), 6);
        assert_eq!(Vocabulary::O200k.count("Hello, world!"), 4);
        assert!(Vocabulary::O200k.is_loaded());
    }

    #[test]
    fn absurd_texts_are_counted_in_bytes_and_do_not_panic() {
        for piece in [" ", "\n", "a", "\u{3000}", "\u{3000} ", "!", " \n"] {
            let text = piece.repeat(1_200_000);
            let count = Vocabulary::O200k.count(&text);
            assert!(count > 0 && count <= text.len() as u64, "{piece:?}");
        }
    }
}

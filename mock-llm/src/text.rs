//! Text of an exactly known number of tokens.

/// Each of these, with the space before it, is a single token in OpenAI's vocabularies, so that whoever counts the text
/// itself finds the same number.
const WORDS: [&str; 10] = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/// The words number `from` to `from + count`, each but the very first with a space before it.
pub(crate) fn words(from: u64, count: u64) -> String {
    let mut text = String::new();
    for position in from..from.saturating_add(count) {
        if position > 0 {
            text.push(' ');
        }
        text.push_str(WORDS[usize::try_from(position % 10).expect("below ten")]);
    }
    text
}

/// How many words a text has: its tokens, by the usage rule.
pub(crate) fn count(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_text_with_as_many_words_as_tokens() {
        let joined: String = [words(0, 3), words(3, 1), words(4, 8)].concat();
        assert_eq!(joined, words(0, 12));
        assert_eq!(joined, "one two three four five six seven eight nine ten one two");
        assert_eq!(count(&joined), 12);
    }
}

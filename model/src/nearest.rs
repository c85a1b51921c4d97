//! The nearest valid word for a typo.

/// A third of the longer word may differ at the most: beyond that a suggestion misleads.
const MAX_DIFFERENCE: f64 = 1.0 / 3.0;

/// The candidate that `word` was most likely meant to be. Letter case, `-` and `_` count for nothing.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = plain(word);
    let least = 1.0 - MAX_DIFFERENCE - f64::EPSILON; // exactly a third is a third, however it is rounded
    let mut best: Option<(f64, &'a str)> = None;
    for candidate in candidates {
        let plain = plain(candidate);
        let mut similarity = strsim::normalized_damerau_levenshtein(&word, &plain);
        if word.len() >= 3 && (plain.starts_with(&word) || word.starts_with(&plain) && plain.len() >= 3) {
            similarity = similarity.max(least); // cut short, or grown
        }
        if similarity >= least && best.is_none_or(|(so_far, _)| similarity > so_far) {
            best = Some((similarity, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn plain(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '-' | '_')).flat_map(char::to_lowercase).take(100).collect()
}

/// " (did you mean `x`?)", or nothing.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |found| format!(" (did you mean `{found}`?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_nonsense_finds_none() {
        let fields = ["backends", "fallbacks", "timeouts", "firstByte"];
        assert_eq!(nearest("backend", fields), Some("backends"));
        assert_eq!(nearest("first_byte", fields), Some("firstByte"));
        assert_eq!(nearest("timeots", fields), Some("timeouts"));
        assert_eq!(nearest("fallbakc", fields), Some("fallbacks"));
        let kinds = ["Service", "Provider", "Route", "Tenant", "Consumer", "Limit", "Price"];
        assert_eq!(nearest("Banana", kinds), None);
        assert_eq!(nearest("Tenent", kinds), Some("Tenant"));
        assert_eq!(nearest("wat", ["was"]), Some("was"), "one of three is a third");
        assert_eq!(nearest("xyzzy", fields), None);
        assert_eq!(nearest("", fields), None);
    }
}

//! Log filters: levels, and levels of single targets.
//!
//! The filter itself takes a word that is no level for the name of a target, so that a node with `log = "inf"` would say
//! nothing at all: such a word is refused here.

use tollgate_model::nearest;
use tracing_subscriber::EnvFilter;

/// Every level, in the order of what they let through.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Whether each part of a filter is a level, or a target and its level.
pub(super) fn check(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split(',').filter(|part| !part.trim().is_empty()).collect();
    if parts.is_empty() {
        return Err("is empty".to_owned());
    }
    // What stands in brackets is about spans, and has commas of its own: the filter's own grammar judges it.
    if !text.contains(['[', ']', '{', '}']) {
        parts.into_iter().try_for_each(part)?;
    }
    EnvFilter::try_new(text).map(drop).map_err(|error| format!("is not a log filter: {error}"))
}

fn part(part: &str) -> Result<(), String> {
    let Some((target, level)) = part.split_once('=') else { return self::level(part) };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.' | '/');
    if target.is_empty() || !target.chars().all(fits) {
        return Err(format!("'{part}' names no target"));
    }
    self::level(level)
}

fn level(word: &str) -> Result<(), String> {
    if LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word)) {
        return Ok(());
    }
    let meant = nearest(word, LEVELS).map_or_else(String::new, |level| format!(" (did you mean '{level}'?)"));
    Err(format!("'{word}' is no level{meant}: {}", LEVELS.join(" | ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_with_the_nearest_one() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,tollgate_quota=debug",
            "warn,hyper::proto=trace",
            "tollgate_gateway=debug",
            "info,tollgate_gateway[exchange{route=chat}]=debug",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("inf", "'inf' is no level (did you mean 'info'?)"),
            ("info,debgu", "did you mean 'debug'?"),
            ("tollgate_quota", "'tollgate_quota' is no level: off"),
            ("info,tollgate_quota=inf", "did you mean 'info'?"),
            ("info,=debug", "names no target"),
            ("info,a b=debug", "names no target"),
            ("info,a=", "'' is no level"),
            ("", "is empty"),
            (" , ", "is empty"),
            ("info, debug", "' debug' is no level (did you mean 'debug'?)"),
            ("info,a[=debug", "is not a log filter"),
        ] {
            let wrong = check(bad).unwrap_err();
            assert!(wrong.contains(says), "{bad}: {wrong}");
        }
    }
}

//! What an upstream is asked for in place of what the caller asked for, and where a redirect leads.

use std::borrow::Cow;

use regex::Regex;

use crate::PathMatch;

/// What becomes of host and path on the way to an upstream.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// With its port, if it has one.
    pub host: Option<String>,
    /// The path's.
    pub path: Option<PathRewrite>,
}

/// Another path in place of the one that came. The query stays.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// In place of the prefix that was matched; without a slash at its end, so `/` is empty here.
    Prefix(String),
    /// In place of the whole path.
    Whole(String),
    /// What the template makes of the pattern's groups; a path that it does not match stays as it is.
    Regex {
        /// Anchored at both ends.
        pattern: Regex,
        /// With groups that the pattern has.
        to: Template,
    },
}

/// Where a redirect leads.
#[derive(Debug, Clone)]
pub enum RedirectTo {
    /// There, whatever was asked for. A valid header value.
    Fixed(String),
    /// To what is made of the request: what is absent stays.
    Built {
        /// `http` or `https`.
        scheme: Option<&'static str>,
        /// With its port, if it has one.
        host: Option<String>,
        /// The path's.
        path: Option<PathRewrite>,
    },
}

/// Bytes that a rewritten path has at most: half of what a whole head may have.
pub const MAX_REWRITTEN_BYTES: usize = 32 * 1024;

impl PathRewrite {
    /// The new path, which is not normalised yet; none where it would be too long.
    ///
    /// `matched` is how the route took the path.
    #[must_use]
    pub fn rewrite<'a>(&'a self, path: &'a str, matched: &PathMatch) -> Option<Cow<'a, str>> {
        let rewritten = match self {
            Self::Whole(whole) => Cow::Borrowed(whole.as_str()),
            Self::Prefix(prefix) => {
                let taken = match matched {
                    PathMatch::Prefix(taken) => taken.as_str(),
                    PathMatch::Any | PathMatch::Exact(_) | PathMatch::Regex(_) => "",
                };
                let rest = path.strip_prefix(taken).unwrap_or(path);
                let whole = format!("{prefix}{rest}");
                if whole.is_empty() { Cow::Borrowed("/") } else { Cow::Owned(whole) }
            }
            Self::Regex { pattern, to } => match pattern.captures(path) {
                Some(groups) => Cow::Owned(to.fill(|group| groups.get(group).map_or("", |group| group.as_str()))?),
                None => Cow::Borrowed(path),
            },
        };
        (rewritten.len() <= MAX_REWRITTEN_BYTES).then_some(rewritten)
    }
}

/// Text with places for a pattern's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
}

impl Template {
    /// Reads `$1`, `${1}`, `$name`, `${name}` and `$$`.
    pub(crate) fn parse(text: &str, pattern: &Regex) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, after) = (&rest[..at], &rest[at + 1..]);
            if let Some(more) = after.strip_prefix('$') {
                pieces.push(Piece::Text(format!("{before}$")));
                rest = more;
                continue;
            }
            pieces.push(Piece::Text(before.to_owned()));
            let (name, more) = reference(after).ok_or("has a `$` without a group behind it: write $$ for a dollar")?;
            let group = group(pattern, name).ok_or_else(|| format!("`${name}` is no group of the pattern"))?;
            pieces.push(Piece::Group(group));
            rest = more;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        Ok(Self(pieces))
    }

    /// The text with its groups filled in; none once that is too long for a path.
    fn fill<'a>(&self, group: impl Fn(usize) -> &'a str) -> Option<String> {
        let mut filled = String::new();
        for piece in &self.0 {
            filled += match piece {
                Piece::Text(text) => text,
                Piece::Group(number) => group(*number),
            };
            if filled.len() > MAX_REWRITTEN_BYTES {
                return None;
            }
        }
        Some(filled)
    }

    /// Without its groups: what stands there whatever they are.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Group(_) => None,
        })
    }

    /// With a letter for each group, so that a segment that has one is seen to be more than its text.
    pub(crate) fn example(&self) -> String {
        self.0.iter().map(|piece| if let Piece::Text(text) = piece { text } else { "x" }).collect()
    }

    /// Whether it can begin with this character.
    pub(crate) fn may_begin_with(&self, first: char) -> bool {
        match self.0.first() {
            Some(Piece::Text(text)) => text.starts_with(first),
            Some(Piece::Group(_)) => true,
            None => false,
        }
    }
}

/// The name behind a dollar, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    if let Some(inner) = text.strip_prefix('{') {
        return inner.split_once('}').filter(|(name, _)| !name.is_empty());
    }
    let digits = text.starts_with(|first: char| first.is_ascii_digit());
    let belongs = |c: char| if digits { c.is_ascii_digit() } else { c.is_ascii_alphanumeric() || c == '_' };
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn group(pattern: &Regex, name: &str) -> Option<usize> {
    match name.parse::<usize>() {
        Ok(number) => (number < pattern.captures_len()).then_some(number),
        Err(_) => pattern.capture_names().position(|known| known == Some(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(matched: &str, to: &str, path: &str) -> String {
        let rewrite = PathRewrite::Prefix(to.into());
        rewrite.rewrite(path, &PathMatch::Prefix(matched.into())).unwrap().into_owned()
    }

    #[test]
    fn a_prefix_takes_the_place_of_the_matched_one() {
        for (matched, to, path, expected) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "", "/foo/", "/"),
            ("", "/api", "/", "/api/"),
            ("", "/api", "/x", "/api/x"),
        ] {
            assert_eq!(prefix(matched, to, path), expected, "{matched} {to} {path}");
        }
        let any = PathRewrite::Prefix("/api".into());
        assert_eq!(any.rewrite("/x", &PathMatch::Any).as_deref(), Some("/api/x"));
    }

    #[test]
    fn groups_are_filled_in_and_only_those_that_there_are() {
        let pattern = Regex::new(r"\A(?:/(?<team>[^/]+)/v([0-9]+)(/.*)?)\z").unwrap();
        for (to, expected) in [
            ("/${team}s/$2$3", "/reds/1/x"),
            ("/$team$3", "/red/x"),
            ("/$$/$1", "/$/red"),
            ("/$2x", "/1x"),
            ("$0", "/red/v1/x"),
            ("/fixed", "/fixed"),
        ] {
            let to = Template::parse(to, &pattern).unwrap();
            let rewrite = PathRewrite::Regex { pattern: pattern.clone(), to };
            assert_eq!(rewrite.rewrite("/red/v1/x", &PathMatch::Any).as_deref(), Some(expected));
            assert_eq!(rewrite.rewrite("/other", &PathMatch::Any).as_deref(), Some("/other"), "it stays");
        }
        for wrong in ["/$4", "/$nobody", "/${team", "/$", "/${}", "/$-"] {
            assert!(Template::parse(wrong, &pattern).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_path_that_would_be_too_long_is_none() {
        let pattern = Regex::new(r"\A(?:(.*))\z").unwrap();
        let to = Template::parse(&"$1".repeat(500), &pattern).unwrap();
        let rewrite = PathRewrite::Regex { pattern, to };
        let path = format!("/{}", "a".repeat(MAX_REWRITTEN_BYTES / 500));
        assert_eq!(rewrite.rewrite(&path, &PathMatch::Any), None);
        assert!(rewrite.rewrite("/a", &PathMatch::Any).is_some());
    }
}

//! What tells one account of a limit from another: values of a request, made fit to be kept.
//!
//! **Absent and empty are one value**, the empty one: a client that leaves a header out and one that sends it empty share
//! an account. Only a limit per tenant, consumer, provider or address leaves requests alone that have none.
//!
//! **A digest stands for a value** that is not fit to be kept as it is, so that different values keep different accounts:
//! one that is too long for its share of [`KEY_BYTES`], is no text or holds a control character, and one that probably is
//! a secret, as accounts are shown to people: every cookie, and headers and query parameters whose name says so. It is
//! written as `sha256:` and 64 hexadecimal digits; what a client sends in that form is digested again, so that nobody can
//! name another's account.

use std::fmt;

use http::HeaderName;

use crate::{Name, nearest::hint};

/// Bytes of all key values of one account together, with one for each as separator.
pub const KEY_BYTES: usize = 1_024;
/// So that a digest always fits into a value's share of [`KEY_BYTES`].
pub const MAX_KEY_PARTS: usize = 8;
/// Longest name of a header, cookie or query parameter.
const MAX_NAME_BYTES: usize = 128;
const DIGEST: &str = "sha256:";

/// What a limit has an account for each of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPart {
    /// Who pays.
    Tenant,
    /// Who calls.
    Consumer,
    /// The matched route.
    Route,
    /// The model asked for.
    Model,
    /// The provider that is tried first. Fallbacks and retries are charged to it, too: what is reserved is reserved once.
    Provider,
    /// The client's address.
    Ip,
    /// A request header, by its name in lower case; several values as one, joined by a comma.
    Header(Name),
    /// The first cookie of this name.
    Cookie(Name),
    /// The first query parameter of this name.
    Query(Name),
}

impl KeyPart {
    /// How parts are written.
    const WORDS: [&str; 9] =
        ["tenant", "consumer", "route", "model", "provider", "ip", "header:NAME", "cookie:NAME", "query:NAME"];

    /// Reads a part as [`fmt::Display`] writes it. Names of headers are taken in any case.
    ///
    /// # Errors
    /// What is wrong, for whoever wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "tenant" => Self::Tenant,
            "consumer" => Self::Consumer,
            "route" => Self::Route,
            "model" => Self::Model,
            "provider" => Self::Provider,
            "ip" => Self::Ip,
            _ => match text.split_once(':') {
                Some(("header", name)) => Self::Header(header_name(name)?),
                Some(("cookie", name)) => Self::Cookie(cookie_name(name)?),
                Some(("query", name)) => Self::Query(query_name(name)?),
                _ => {
                    let all = Self::WORDS.join(" | ");
                    return Err(format!("`{text}` is unknown{}: {all}", hint(text, Self::WORDS)));
                }
            },
        })
    }

    /// Whether its value is probably a secret, and kept as a digest.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        match self {
            Self::Cookie(_) => true,
            Self::Header(name) | Self::Query(name) => sounds_secret(name),
            Self::Tenant | Self::Consumer | Self::Route | Self::Model | Self::Provider | Self::Ip => false,
        }
    }

    /// Whether it is a header that may hold a credential of ours, which is removed before limits are asked.
    #[must_use]
    pub fn is_credential(&self) -> bool {
        matches!(self, Self::Header(name) if CREDENTIALS.contains(&name.as_str()))
    }
}

/// Where credentials are taken from.
const CREDENTIALS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

fn sounds_secret(name: &str) -> bool {
    const WORDS: [&str; 10] =
        ["auth", "key", "token", "secret", "session", "password", "passwd", "cookie", "credential", "signature"];
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

fn bounded(name: &str) -> Result<&str, String> {
    match name.len() {
        0 => Err("has no name after the colon".to_owned()),
        1..=MAX_NAME_BYTES => Ok(name),
        _ => Err(format!("has a name longer than {MAX_NAME_BYTES} bytes")),
    }
}

fn header_name(name: &str) -> Result<Name, String> {
    let parsed = HeaderName::try_from(bounded(name)?);
    parsed.map(|name| Name::new(name.as_str())).map_err(|_| format!("`{}` is no header's name", name.escape_debug()))
}

fn cookie_name(name: &str) -> Result<Name, String> {
    // RFC 6265 §4.1.1: a token, as a header's name is, but compared with its case.
    let is_token = HeaderName::try_from(bounded(name)?).is_ok();
    if is_token { Ok(Name::new(name)) } else { Err(format!("`{}` is no cookie's name", name.escape_debug())) }
}

fn query_name(name: &str) -> Result<Name, String> {
    if bounded(name)?.chars().any(char::is_control) {
        return Err(format!("`{}` holds a control character", name.escape_debug()));
    }
    Ok(Name::new(name))
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant => f.pad("tenant"),
            Self::Consumer => f.pad("consumer"),
            Self::Route => f.pad("route"),
            Self::Model => f.pad("model"),
            Self::Provider => f.pad("provider"),
            Self::Ip => f.pad("ip"),
            Self::Header(name) => write!(f, "header:{}", name.as_str()),
            Self::Cookie(name) => write!(f, "cookie:{}", name.as_str()),
            Self::Query(name) => write!(f, "query:{}", name.as_str()),
        }
    }
}

/// The value as it is kept: itself, or its digest.
pub(super) fn fit(value: &[u8], is_secret: bool, parts: usize) -> String {
    let share = KEY_BYTES / parts.max(1) - 1;
    let plain = std::str::from_utf8(value).ok().filter(|text| {
        text.is_empty()
            || !is_secret && text.len() <= share && !text.starts_with(DIGEST) && !text.chars().any(char::is_control)
    });
    plain.map_or_else(|| digest(value), str::to_owned)
}

fn digest(value: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value);
    format!("{DIGEST}{}", hex::encode(digest))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::{Sent, Subject};

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn value(part: &str, sent: Sent<'_>) -> String {
        let subject = Subject { sent: Some(sent), ..Subject::of_route("r") };
        subject.value(&KeyPart::parse(part).unwrap(), 1)
    }

    #[test]
    fn parts_are_read_as_they_are_written() {
        for text in ["tenant", "consumer", "route", "model", "provider", "ip", "header:x-a", "cookie:Sid", "query:q[]"]
        {
            assert_eq!(KeyPart::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(KeyPart::parse("header:X-Team").unwrap(), KeyPart::parse("header:x-team").unwrap());
        assert_ne!(KeyPart::parse("cookie:A").unwrap(), KeyPart::parse("cookie:a").unwrap());
        let long = format!("query:{}", "a".repeat(129));
        for (text, expected) in [
            ("header:", "no name"),
            ("header:a b", "no header's name"),
            ("cookie:a=b", "no cookie's name"),
            ("query:a\0b", "control character"),
            (long.as_str(), "longer than 128 bytes"),
            ("ipp", "did you mean `ip`"),
            ("body:x", "is unknown"),
        ] {
            let problem = KeyPart::parse(text).unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn a_value_is_found_where_the_client_put_it() {
        let map = headers(&[("x-team", b"red"), ("x-team", b"blue"), ("cookie", b"a=1; plan=gold=1;b=2")]);
        let sent = Sent { headers: Some(&map), credentials: None, query: Some("t=a%20b+c&t=2&%75=x") };
        assert_eq!(value("header:X-Team", sent), "red, blue");
        assert_eq!(value("query:t", sent), "a b c");
        assert_eq!(value("query:u", sent), "x");
        assert_eq!(value("cookie:plan", sent), digest(b"gold=1"));
        let gone = headers(&[("authorization", b"Bearer sk-1")]);
        let sent = Sent { credentials: Some(&gone), ..sent };
        assert_eq!(value("header:authorization", sent), digest(b"Bearer sk-1"));
    }

    #[test]
    fn absent_and_empty_are_one_value() {
        let map = headers(&[("x-empty", b""), ("cookie", b"sid=")]);
        let sent = Sent { headers: Some(&map), credentials: None, query: Some("q&r=") };
        for part in ["header:x-empty", "header:x-none", "cookie:sid", "cookie:none", "query:q", "query:r", "query:s"] {
            assert_eq!(value(part, sent), "", "{part}");
        }
        assert_eq!(value("header:x-none", Sent::default()), "");
    }

    #[test]
    fn what_is_not_fit_to_be_kept_is_kept_as_a_digest() {
        let long = vec![b'a'; 10_000];
        let longer = vec![b'a'; 10_001];
        let map = headers(&[("x-long", &long), ("x-longer", &longer), ("x-bytes", b"\xff"), ("x-mark", b"sha256:1")]);
        let sent = Sent { headers: Some(&map), credentials: None, query: Some("nul=a%00b&bell=%07&uni=%C3%A4&key=k") };
        assert_eq!(value("header:x-long", sent), digest(&long));
        assert_ne!(value("header:x-long", sent), value("header:x-longer", sent));
        assert_eq!(value("header:x-bytes", sent), digest(b"\xff"));
        assert_eq!(value("header:x-mark", sent), digest(b"sha256:1"), "nobody names another's account");
        assert_eq!(value("query:nul", sent), digest(b"a\0b"));
        assert_eq!(value("query:bell", sent), digest(b"\x07"));
        assert_eq!(value("query:uni", sent), "ä");
        assert_eq!(value("query:key", sent), digest(b"k"), "by its name a secret");
    }

    #[test]
    fn all_values_of_a_key_fit_together() {
        for parts in 1..=MAX_KEY_PARTS {
            let share = KEY_BYTES / parts - 1;
            let plain = fit(&vec![b'a'; share], false, parts);
            assert_eq!(plain.len(), share);
            let long = fit(&vec![b'a'; share + 1], false, parts);
            assert!(long.starts_with(DIGEST) && long.len() <= share, "{parts}: {}", long.len());
            assert!(parts * (plain.len() + 1) <= KEY_BYTES);
        }
    }
}

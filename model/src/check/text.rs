//! Texts with a syntax of their own: hosts, addresses, URLs, paths, patterns.

use std::net::Ipv6Addr;

use http::{Uri, uri::Scheme};
use regex::{Regex, RegexBuilder};

/// Longer patterns are a program, not a match.
const MAX_PATTERN_BYTES: usize = 1024;

/// Memory for one compiled pattern: a counted repetition can need any amount.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// A pattern that must match the whole text.
pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!("is longer than {MAX_PATTERN_BYTES} bytes"));
    }
    compile(pattern)?; // by itself first: `a)|(b` must not become right by what is put around it
    compile(&format!(r"\A(?:{pattern})\z"))
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern)
        .size_limit(MAX_COMPILED_BYTES)
        .dfa_size_limit(MAX_COMPILED_BYTES)
        .nest_limit(64)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "is too large once compiled: use fewer or smaller repetitions".to_owned(),
        // The last line says what is wrong; those before it draw the pattern.
        error => format!(
            "is no regular expression: {}",
            error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")
        ),
    })
}

/// A path to compare a normalised path with: what could never match is refused.
pub(super) fn path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("must begin with `/`".to_owned());
    }
    if let Some(wrong) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '\\')) {
        return Err(format!("holds {wrong:?}, which no path has: percent-encode it"));
    }
    let inner = text.strip_suffix('/').unwrap_or(text);
    if inner.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("has an empty segment, `.` or `..`: paths are normalised before they are compared".to_owned());
    }
    Ok(())
}

/// A host without a port, in lower case: a DNS name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn host(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(inner) = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner
            .parse::<Ipv6Addr>()
            .map(|address| format!("[{address}]"))
            .map_err(|_| format!("`{text}` is no IPv6 address"));
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if lower.len() <= 253 && lower.split('.').all(label) {
        return Ok(lower);
    }
    let port =
        lower.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    if port {
        Err(format!("`{text}` has a port: hosts are compared without"))
    } else {
        Err(format!("`{text}` is no host name"))
    }
}

/// A host with a port, or without one.
pub(super) fn authority(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err(format!("`{text}` is a URL: give the host alone, or host:port"));
    }
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    if has_port { address(text) } else { host(text) }
}

/// `host:port`, as an authority.
pub(super) fn address(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err(format!("`{text}` is a URL: give host:port, and `protocol` for the scheme"));
    }
    if text.contains('@') {
        return Err("has a user name: credentials do not belong into an address".to_owned());
    }
    let (host_text, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port: give host:port"))?;
    let host = host(host_text).map_err(|_| format!("`{text}` is not host:port"))?;
    Ok(format!("{host}:{}", self::port(port)?))
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 => Ok(port),
        _ => Err(format!("`{text}` is no port: 1 to 65535")),
    }
}

/// The base URL of a provider, without a slash at its end.
pub(super) fn base_url(text: &str) -> Result<Uri, String> {
    /// What is appended to a base; a base that ends in it was copied from an example call.
    const OPERATIONS: [&str; 5] = ["/chat/completions", "/completions", "/embeddings", "/responses", "/messages"];
    let shown = if text.contains('@') { "the URL" } else { text };
    if text.contains('#') {
        return Err(format!("`{shown}` has a fragment"));
    }
    let uri: Uri = text.parse().map_err(|_| format!("`{shown}` is no URL such as https://api.openai.com/v1"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(format!("`{shown}` is no URL such as https://api.openai.com/v1: it has no scheme or no host"));
    };
    if ![&Scheme::HTTP, &Scheme::HTTPS].contains(&scheme) {
        return Err(format!("`{}` is no scheme for a provider: http | https", scheme.as_str()));
    }
    if authority.as_str().contains('@') {
        return Err("has a user name or a password: give the key in `keys`".to_owned());
    }
    let host = host(authority.host())?;
    let port = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    let port = match port.strip_prefix(':') {
        None => String::new(),
        Some(text) => format!(":{}", self::port(text)?),
    };
    if uri.query().is_some() {
        return Err("has a query: only scheme, host, port and path can be given".to_owned());
    }
    let base = uri.path().trim_end_matches('/');
    if let Some(operation) = OPERATIONS.into_iter().find(|operation| base.ends_with(operation)) {
        return Err(format!("ends in `{operation}`, which is appended to it: leave that out"));
    }
    format!("{scheme}://{host}{port}{}", if base.is_empty() { "/" } else { base })
        .parse()
        .map_err(|_| format!("`{shown}` is no URL such as https://api.openai.com/v1"))
}

/// Text that can stand in a header and is no space: keys, model names.
pub(super) fn visible(text: &str, max_bytes: usize) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > max_bytes {
        return Err(format!("is longer than {max_bytes} bytes"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds a space, a control character or a character beyond ASCII".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_the_whole_text_and_are_bounded() {
        assert!(regex("/v[0-9]+|/x").unwrap().is_match("/v12"));
        assert!(!regex("/v[0-9]+|/x").unwrap().is_match("/v12/x"));
        assert!(regex("(").unwrap_err().starts_with("is no regular expression: "), "{}", regex("(").unwrap_err());
        assert!(regex("a)|(b").is_err());
        assert!(regex("(a{1000}){1000}").unwrap_err().starts_with("is too large"));
        assert!(regex(&"a".repeat(1025)).is_err());
        assert!(regex(&"(".repeat(500)).is_err());
    }

    #[test]
    fn paths_are_normalised_ones() {
        for good in ["/", "/v1", "/v1/", "/a%20b/c", "/*"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["", "v1", "/a?b", "/a#b", "/a b", "/ä", "//", "/a//b", "/./a", "/a/..", "/a\\b"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_without_a_port() {
        for (given, kept) in [
            ("API.Example.com", "api.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("[::0:1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(host(given), Ok(kept.to_owned()));
        }
        for bad in ["", "a..b", "-a.b", "a b", "a/b", "ä.de", "[::1", "::1", "*.a.b", &"a".repeat(64)] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert!(host("a.com:80").unwrap_err().contains("has a port"));
    }

    #[test]
    fn an_address_is_host_and_port() {
        assert_eq!(address("10.0.0.5:8080"), Ok("10.0.0.5:8080".to_owned()));
        assert_eq!(address("[::1]:80"), Ok("[::1]:80".to_owned()));
        for bad in ["", "a", "a:", ":80", "a:0", "a:65536", "a:+80", "http://a:80", "u@a:80", "a:80/x", "::1:80"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_has_a_port_or_none() {
        for (given, kept) in
            [("A.com", "a.com"), ("a.com:81", "a.com:81"), ("[::1]", "[::1]"), ("[::1]:81", "[::1]:81")]
        {
            assert_eq!(authority(given), Ok(kept.to_owned()));
        }
        for bad in ["", "a:", "a:0", "http://a", "u@a", "a/x", "::1", "[::1", "a b"] {
            assert!(authority(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_base_url_has_scheme_host_port_and_path() {
        for (given, kept) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            ("http://127.0.0.1:8081/v1/", "http://127.0.0.1:8081/v1"),
            ("https://Example.com", "https://example.com/"),
            ("http://[::1]:80/", "http://[::1]:80/"),
        ] {
            assert_eq!(base_url(given).map(|uri| uri.to_string()), Ok(kept.to_owned()));
        }
        for bad in [
            "",
            "api.openai.com",
            "/v1",
            "ftp://a/v1",
            "https://",
            "https://a:0/",
            "https://a:99999/",
            "https://a:/",
            "https://a/?x=1",
            "https://a/#x",
            "https://a/v1/chat/completions",
            "https://a b/",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
        let error = base_url("https://user:hunter2@a/v1").unwrap_err();
        assert!(error.contains("keys") && !error.contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = (regex(&text), path(&text), host(&text), address(&text), authority(&text), base_url(&text), visible(&text, 10));
        }
    }
}

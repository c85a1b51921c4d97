//! Paths in one form: what a route is matched by and what an upstream is sent are the same text.
//!
//! - Percent-encoded unreserved characters are decoded, other escapes are upper case (RFC 3986 §6.2.2).
//! - Dot segments are resolved, whether encoded or not; above the root there is nothing to be had.
//! - Empty segments are dropped: `//` is `/`.
//! - An encoded slash stays encoded and is no separator, but a segment in which it hides a dot segment is refused, and
//!   so are backslashes, NULs, `..;` and escapes that are none: upstreams do not agree on their meaning.

use std::borrow::Cow;

/// The normal form of a path, or none when it has no safe one.
pub(crate) fn normalize(path: &str) -> Option<Cow<'_, str>> {
    if !path.starts_with('/') {
        return None;
    }
    if is_normal(path.as_bytes()) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            segment if hides_dots(segment) => return None,
            segment => segments.push(segment),
        }
    }
    let is_directory = decoded.ends_with('/') || decoded.ends_with("/.") || decoded.ends_with("/..");
    let mut normal =
        segments.iter().fold(String::with_capacity(decoded.len()), |normal, segment| normal + "/" + segment);
    if is_directory || normal.is_empty() {
        normal.push('/');
    }
    Some(Cow::Owned(normal))
}

/// Nothing in it that could have another form.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        if matches!(byte, b'%' | b'\\') || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

fn decode_unreserved(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        decoded.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).filter(|escape| escape.starts_with('%'))?;
        let byte =
            u8::from_str_radix(escape.get(1..).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?, 16).ok()?;
        match byte {
            0 | b'\\' => return None,
            b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => decoded.push(char::from(byte)),
            _ => decoded.push_str(&escape.to_ascii_uppercase()),
        }
        rest = &rest[at + 3..];
    }
    decoded.push_str(rest);
    Some(decoded)
}

/// A dot segment to some upstreams: behind an encoded slash, or with parameters.
fn hides_dots(segment: &str) -> bool {
    segment.split("%2F").any(|part| {
        let part = part.split(';').next().unwrap_or(part);
        let part = part.split("%3B").next().unwrap_or(part);
        part == "." || part == ".."
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_has_one_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/v1/chat", "/v1/chat"),
            ("/v1/chat/", "/v1/chat/"),
            ("//v1///chat", "/v1/chat"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/%61/%2E%2e/%7euser", "/~user"),
            ("/a%2fb%3a", "/a%2Fb%3A"),
            ("/.well-known/x", "/.well-known/x"),
            ("/..a/b..", "/..a/b.."),
            ("/a;x=1/b", "/a;x=1/b"),
        ] {
            assert_eq!(normalize(path).as_deref(), Some(normal), "{path}");
        }
    }

    #[test]
    fn what_upstreams_read_differently_is_refused() {
        for path in [
            "",
            "a",
            "/..",
            "/a/../..",
            "/%2e%2e/a",
            "/a\\b",
            "/a%5Cb",
            "/a%00",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/..%2fa",
            "/a%2F..%2Fb",
            "/..;/a",
            "/..%3b/a",
            "/.;x/a",
        ] {
            assert_eq!(normalize(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/([a.%2eEfF/;~]|%2[eEfF]|/){0,24}") {
            if let Some(once) = normalize(&path) {
                let twice = normalize(&once);
                prop_assert_eq!(twice.as_deref(), Some(&*once));
                prop_assert!(!once.contains("//") && !once.contains("/./") && !once.contains("/../"));
            }
        }
    }
}

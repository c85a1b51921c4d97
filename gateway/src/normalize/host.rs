//! Host and port of a request.

use std::net::Ipv6Addr;

use crate::listener::Malformed;

/// A host as in `host` or `:authority`: lower case, without userinfo, one form for what means the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    text: String,
    name_len: usize,
}

/// DNS's bound with the final dot, or a bracketed address, and `:65535`.
const MAX_BYTES: usize = 254 + 6;

impl Host {
    /// `default_port` says nothing where it is named: it is the scheme's.
    pub(crate) fn parse(text: &[u8], default_port: u16) -> Result<Self, Malformed> {
        Self::read(text, default_port).ok_or(Malformed::Host)
    }

    fn read(text: &[u8], default_port: u16) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_BYTES)?;
        let name_len = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
        let (name, port) = text.split_at(name_len);
        let port = match port.strip_prefix(':') {
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse::<u16>().ok()?),
            None if port.is_empty() => None,
            _ => return None,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if !is_name(&name) {
            return None;
        }
        let name_len = name.len();
        let mut text = name;
        if let Some(port) = port.filter(|port| *port != default_port) {
            text.push(':');
            text.push_str(&port.to_string());
        }
        Some(Self { text, name_len })
    }

    /// Without the port: what routes are matched by.
    pub(crate) fn name(&self) -> &str {
        &self.text[..self.name_len]
    }

    /// With the port, as it is sent on.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

fn is_name(name: &str) -> bool {
    if let Some(address) = name.strip_prefix('[') {
        return address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_host_is_the_same() {
        for (text, name, whole) in [
            ("Example.COM", "example.com", "example.com"),
            ("example.com:80", "example.com", "example.com"),
            ("example.com.:8080", "example.com", "example.com:8080"),
            ("a:", "a", "a"),
            ("127.0.0.1:9", "127.0.0.1", "127.0.0.1:9"),
            ("[::1]:9", "[::1]", "[::1]:9"),
        ] {
            let host = Host::parse(text.as_bytes(), 80).unwrap();
            assert_eq!((host.name(), host.as_str()), (name, whole), "{text}");
        }
        for (text, whole) in [("a:443", "a"), ("a:80", "a:80")] {
            assert_eq!(Host::parse(text.as_bytes(), 443).unwrap().as_str(), whole, "over TLS");
        }
    }

    #[test]
    fn anything_else_is_no_host() {
        for text in [
            "", ".", "a b", "user@a", "a/b", "a:b", "a:1:2", "a:65536", "[::1", "[::1]x", "[x]", "a\0", "ä", "a,b",
            "a?b", "a#b",
        ] {
            assert_eq!(Host::parse(text.as_bytes(), 80), Err(Malformed::Host), "{text:?}");
        }
    }
}

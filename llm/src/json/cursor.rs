//! A pull parser over JSON text: validates as it goes, allocates nothing, never recurses.
//!
//! The caller asks for what it expects next; whatever it does not care for is skipped (and still validated). The
//! text is UTF-8 already, so that strings are slices.

use std::borrow::Cow;
use std::ops::Range;

use super::MAX_DEPTH;

/// Where and why a text is not JSON, or not the JSON that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {at}")]
pub(crate) struct JsonError {
    pub(crate) reason: &'static str,
    pub(crate) at: usize,
}

/// What a value is, known from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

/// A string as it stands in the text, without its quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Str<'a> {
    raw: &'a str,
    /// How many escapes of two bytes it has, each for one of ASCII.
    short_escapes: usize,
    /// Whether it has escapes of the form `\u1234`.
    unicode_escapes: bool,
}

/// A place in a JSON text.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// An opening bracket was just read: the next member needs no comma.
    fresh: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Cursor<'a> {
        Cursor { text, at: 0, depth: 0, fresh: false }
    }

    /// The kind of the next value.
    pub(crate) fn peek(&mut self) -> Result<Kind, JsonError> {
        self.space();
        match self.byte() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.error("expected a value")),
            None => Err(self.error("unexpected end")),
        }
    }

    /// Enters an object; read it with [`Self::next_key`].
    pub(crate) fn enter_object(&mut self) -> Result<(), JsonError> {
        self.open(b'{', "expected an object")
    }

    /// Enters an array; read it with [`Self::next_item`].
    pub(crate) fn enter_array(&mut self) -> Result<(), JsonError> {
        self.open(b'[', "expected an array")
    }

    /// The next key of the object that was entered last; its value must be read before the next call.
    pub(crate) fn next_key(&mut self) -> Result<Option<Str<'a>>, JsonError> {
        if self.at_end_of_members(b'}')? {
            return Ok(None);
        }
        let key = self.string()?;
        self.space();
        self.expect(b':', "expected a colon")?;
        Ok(Some(key))
    }

    /// Whether the array that was entered last has another item, which must then be read.
    pub(crate) fn next_item(&mut self) -> Result<bool, JsonError> {
        Ok(!self.at_end_of_members(b']')?)
    }

    /// Reads a string.
    pub(crate) fn string(&mut self) -> Result<Str<'a>, JsonError> {
        self.space();
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let (mut short_escapes, mut unicode_escapes) = (0, false);
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let stop = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            // Without an early end, so that it is done many bytes at a time.
            let control = rest[..stop].iter().fold(false, |found, byte| found | (*byte < 0x20));
            if control {
                return Err(self.error("control character in a string"));
            }
            self.at += stop;
            match self.byte() {
                Some(b'"') => break,
                Some(_) if self.escape()? == 2 => short_escapes += 1,
                Some(_) => unicode_escapes = true,
                None => return Err(self.error("unexpected end of a string")),
            }
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(Str { raw, short_escapes, unicode_escapes })
    }

    /// Skips any value and says where it stands.
    pub(crate) fn skip(&mut self) -> Result<Range<usize>, JsonError> {
        self.space();
        let start = self.at;
        match self.peek()? {
            Kind::Object | Kind::Array => self.skip_nested()?,
            _ => self.scalar()?,
        }
        Ok(start..self.at)
    }

    /// Reads any value as the text it stands in.
    pub(crate) fn raw(&mut self) -> Result<&'a str, JsonError> {
        let span = self.skip()?;
        Ok(&self.text[span])
    }

    /// Nothing but white space may be left.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        self.space();
        match self.byte() {
            None => Ok(()),
            Some(_) => Err(self.error("text after the end of the value")),
        }
    }

    /// Where the next value stands.
    pub(crate) fn position(&mut self) -> usize {
        self.space();
        self.at
    }

    /// Where the value that was read last ends.
    pub(crate) fn position_before_space(&self) -> usize {
        self.at
    }

    fn open(&mut self, bracket: u8, reason: &'static str) -> Result<(), JsonError> {
        self.space();
        self.expect(bracket, reason)?;
        if self.depth == MAX_DEPTH {
            return Err(self.error("nested too deep"));
        }
        self.depth += 1;
        self.fresh = true;
        Ok(())
    }

    fn at_end_of_members(&mut self, bracket: u8) -> Result<bool, JsonError> {
        self.space();
        if self.byte() == Some(bracket) {
            self.at += 1;
            self.depth -= 1;
            self.fresh = false;
            return Ok(true);
        }
        if self.fresh {
            self.fresh = false;
        } else {
            self.expect(b',', "expected a comma or the end")?;
            self.space();
        }
        Ok(false)
    }

    /// Skips an object or array without recursion: bit n of `objects` says whether level n is an object.
    fn skip_nested(&mut self) -> Result<(), JsonError> {
        let floor = self.depth;
        let mut objects = 0_u128;
        loop {
            let in_object = match self.peek()? {
                Kind::Object => Some(true),
                Kind::Array => Some(false),
                _ => None,
            };
            match in_object {
                Some(true) => self.enter_object()?,
                Some(false) => self.enter_array()?,
                None => self.scalar()?,
            }
            if let Some(object) = in_object {
                let level = self.depth - 1;
                objects = objects & !(1 << level) | u128::from(object) << level;
            }
            loop {
                if self.depth == floor {
                    return Ok(());
                }
                let more = match objects >> (self.depth - 1) & 1 {
                    1 => self.next_key()?.is_some(),
                    _ => self.next_item()?,
                };
                if more {
                    break;
                }
            }
        }
    }

    fn scalar(&mut self) -> Result<(), JsonError> {
        match self.byte() {
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.number(),
        }
    }

    fn literal(&mut self, literal: &'static str) -> Result<(), JsonError> {
        if !self.text[self.at..].starts_with(literal) {
            return Err(self.error("expected a value"));
        }
        self.at += literal.len();
        Ok(())
    }

    /// RFC 8259 §6: `-? int frac? exp?`.
    fn number(&mut self) -> Result<(), JsonError> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.error("expected a digit")),
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(self.error("expected a digit")) } else { Ok(()) }
    }

    /// Passes an escape and says how long it is.
    fn escape(&mut self) -> Result<usize, JsonError> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        let length = match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if rest.len() >= 5 && rest[1..5].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return Err(self.error("bad escape in a string")),
        };
        self.at += length;
        Ok(length)
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
        }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn expect(&mut self, byte: u8, reason: &'static str) -> Result<(), JsonError> {
        if self.byte() != Some(byte) {
            return Err(self.error(if self.at >= self.text.len() { "unexpected end" } else { reason }));
        }
        self.at += 1;
        Ok(())
    }

    pub(crate) fn error(&self, reason: &'static str) -> JsonError {
        JsonError { reason, at: self.at }
    }
}

impl<'a> Str<'a> {
    /// The text that is meant; half a surrogate pair becomes U+FFFD.
    pub(crate) fn decode(self) -> Cow<'a, str> {
        if self.short_escapes == 0 && !self.unicode_escapes {
            return Cow::Borrowed(self.raw);
        }
        let mut text = String::with_capacity(self.raw.len());
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            text.push_str(&rest[..at]);
            let (character, length) = unescape(&rest[at..]);
            text.push(character);
            rest = &rest[at + length..];
        }
        text.push_str(rest);
        Cow::Owned(text)
    }

    /// The bytes of the text that is meant: those of ASCII characters, and all others.
    pub(crate) fn sizes(self) -> (u64, u64) {
        let mut sizes = plain_sizes(self.raw);
        if !self.unicode_escapes {
            return (sizes.0 - self.short_escapes as u64, sizes.1);
        }
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            let (character, length) = unescape(&rest[at..]);
            sizes.0 -= length as u64;
            match character.len_utf8() {
                1 => sizes.0 += 1,
                bytes => sizes.1 += bytes as u64,
            }
            rest = &rest[at + length..];
        }
        sizes
    }
}

fn plain_sizes(text: &str) -> (u64, u64) {
    let other = text.bytes().filter(|byte| !byte.is_ascii()).count();
    ((text.len() - other) as u64, other as u64)
}

/// The character that an escape at the beginning of `text` (checked by the cursor) stands for, and its length.
fn unescape(text: &str) -> (char, usize) {
    let bytes = text.as_bytes();
    let simple = match bytes[1] {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unicode(text),
        other => char::from(other),
    };
    (simple, 2)
}

fn unescape_unicode(text: &str) -> (char, usize) {
    let unit = |at: usize| text.get(at + 2..at + 6).and_then(|hex| u16::from_str_radix(hex, 16).ok());
    let first = unit(0).unwrap_or(0);
    let second = text.get(6..8).filter(|next| *next == "\\u").and_then(|_| unit(6));
    let units = [first, second.unwrap_or(0)];
    match char::decode_utf16(units).next() {
        Some(Ok(character)) => (character, if character.len_utf16() == 2 { 12 } else { 6 }),
        _ => (char::REPLACEMENT_CHARACTER, 6),
    }
}

#[cfg(test)]
mod tests;

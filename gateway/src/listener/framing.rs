//! Where one HTTP/1 request ends and the next one begins, followed on the raw bytes.
//!
//! Only as strict as needed to stay in step with hyper's own decoder, which reads the same bytes after this: whatever
//! it would refuse in a body is an error here too.

use super::head::Framing;

/// Bytes of trailers, or of one chunk's extensions, at most.
const MAX_CHUNK_LINE: usize = 16 * 1024;

/// The rest of a request's body.
#[derive(Debug, Clone, Copy)]
pub(super) enum Remaining {
    Length(u64),
    Chunked(Chunked),
}

/// The bytes can't be a body as framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadBody;

impl Remaining {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Remaining::Length(length),
            Framing::Chunked => Remaining::Chunked(Chunked { at: At::SizeFirst, size: 0, line: 0 }),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        match self {
            Remaining::Length(left) => *left == 0,
            Remaining::Chunked(chunked) => chunked.at == At::Done,
        }
    }

    /// How many of `bytes` belong to the body.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, BadBody> {
        match self {
            Remaining::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Remaining::Chunked(chunked) => chunked.take(bytes),
        }
    }
}

/// A chunked body being read (RFC 9112 §7.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunked {
    at: At,
    size: u64,
    /// Bytes of the current line, or of all trailers.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    SizeFirst,
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunked {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, BadBody> {
        let mut taken = 0;
        while taken < bytes.len() && self.at != At::Done {
            if self.at == At::Data {
                let data = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len() - taken);
                taken += data;
                self.size -= data as u64;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
            } else {
                self.at = self.step(bytes[taken])?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    fn step(&mut self, byte: u8) -> Result<At, BadBody> {
        self.line += 1;
        if self.line > MAX_CHUNK_LINE {
            return Err(BadBody);
        }
        Ok(match (self.at, byte) {
            (At::SizeFirst | At::Size, _) if byte.is_ascii_hexdigit() => {
                self.size = grow(self.size, byte).ok_or(BadBody)?;
                At::Size
            }
            (At::Size, b';' | b' ' | b'\t') => At::Extension,
            (At::Size | At::Extension, b'\r') => At::SizeLf,
            (At::Extension, _) if byte != b'\n' => At::Extension,
            (At::SizeLf, b'\n') if self.size == 0 => self.line_of(At::TrailerStart),
            (At::SizeLf, b'\n') => self.line_of(At::Data),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => self.line_of(At::SizeFirst),
            (At::TrailerStart, b'\r') => At::EndLf,
            (At::TrailerStart, b' ' | b'\t') => return Err(BadBody),
            (At::TrailerStart | At::Trailer, _) if byte != b'\n' && byte != b'\r' && byte != 0 => At::Trailer,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::TrailerStart,
            (At::EndLf, b'\n') => At::Done,
            _ => return Err(BadBody),
        })
    }

    fn line_of(&mut self, next: At) -> At {
        self.line = 0;
        next
    }
}

fn grow(size: u64, digit: u8) -> Option<u64> {
    let value = char::from(digit).to_digit(16)?;
    size.checked_mul(16)?.checked_add(u64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(bytes: &[u8]) -> Result<(usize, bool), BadBody> {
        let mut remaining = Remaining::new(Framing::Chunked);
        let mut taken = 0;
        for byte in bytes.chunks(1) {
            taken += remaining.take(byte)?;
        }
        let mut whole = Remaining::new(Framing::Chunked);
        assert_eq!(whole.take(bytes), Ok(taken), "cut or whole, the same");
        Ok((taken, remaining.is_done()))
    }

    #[test]
    fn a_body_ends_where_its_framing_says() {
        let mut five = Remaining::new(Framing::Length(5));
        assert_eq!((five.take(b"abc"), five.is_done()), (Ok(3), false));
        assert_eq!((five.take(b"defgh"), five.is_done()), (Ok(2), true));
        assert_eq!(chunked(b"3\r\nabc\r\n0\r\n\r\nGET"), Ok((13, true)));
        assert_eq!(chunked(b"a;x=1\r\n0123456789\r\n00\r\nT: v\r\n\r\n"), Ok((31, true)));
        assert_eq!(chunked(b"3\r\nab"), Ok((5, false)));
    }

    #[test]
    fn loose_chunks_are_refused() {
        for bytes in [
            &b"3\nabc\r\n"[..],
            b"3\r\nabcd\r\n",
            b"x\r\n",
            b"\r\n",
            b"3;a\nb\r\n",
            b"fffffffffffffffff\r\n",
            b"0\r\nT: v\n\r\n",
            b"0\r\n T: v\r\n\r\n",
        ] {
            assert_eq!(chunked(bytes), Err(BadBody), "{bytes:?}");
        }
    }
}

//! A file, byte by byte, with the line that each is in.

use std::io::{self, BufRead};

use super::line::FileError;

/// Text between two marks at most: names and figures are short.
pub(super) const MAX_TEXT_BYTES: usize = 4_096;

/// What is left of a file.
pub(super) struct Bytes<R> {
    from: R,
    line: u64,
}

/// Why no more of a file is read.
#[derive(Debug)]
pub(super) enum Stop {
    /// What it says is wrong.
    File(FileError),
    /// It can't be read.
    Source(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Source(error)
    }
}

impl From<FileError> for Stop {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

impl<R: BufRead> Bytes<R> {
    /// From its beginning; a byte order mark is passed over.
    pub(super) fn new(mut from: R) -> io::Result<Self> {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        if from.fill_buf()?.starts_with(MARK) {
            from.consume(MARK.len());
        }
        Ok(Self { from, line: 1 })
    }

    /// The line that the next byte is in.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The next byte, which stays.
    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.from.fill_buf()?.first().copied())
    }

    /// The next byte.
    pub(super) fn next(&mut self) -> io::Result<Option<u8>> {
        let byte = self.peek()?;
        if let Some(byte) = byte {
            self.from.consume(1);
            self.line += u64::from(byte == b'\n');
        }
        Ok(byte)
    }

    /// The next byte that is no white space, which stays.
    pub(super) fn skip_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(b' ' | b'\t' | b'\r' | b'\n') => drop(self.next()?),
                other => return Ok(other),
            }
        }
    }

    /// What is wrong here.
    pub(super) fn wrong<T>(&self, field: &str, why: impl Into<String>) -> Result<T, Stop> {
        Err(FileError::new(self.line, field, why).into())
    }
}

//! How rows become bytes.

use std::io;

use super::cell::Cell;

/// Writes rows in a format. The same rows are the same bytes, wherever and whenever they are written.
pub trait Encode: Send {
    /// What stands before the first row.
    ///
    /// # Errors
    /// What the format can't hold.
    fn begin(&mut self, into: &mut Vec<u8>) -> io::Result<()>;

    /// Adds a row. Its bytes may come with those of a later one.
    ///
    /// # Errors
    /// `InvalidData`: the format can't hold a value, named.
    fn row(&mut self, cells: &[Cell<'_>], into: &mut Vec<u8>) -> io::Result<()>;

    /// What stands behind the last row.
    ///
    /// # Errors
    /// As for [`Encode::row`].
    fn finish(&mut self, into: &mut Vec<u8>) -> io::Result<()>;
}

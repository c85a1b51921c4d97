//! The bill, as finance takes it away: rows of the ledger in a schema and a format.
//!
//! What is written of a row depends on the row alone, and rows come in the order of the ledger. So an export that goes on behind a
//! [`Cursor`] writes the very bytes that one uninterrupted export would have gone on with.

mod cursor;
mod events;
mod source;
mod text;

pub use cursor::{Cursor, CursorError, Query};
pub use events::{COLUMNS, Cell, event};
pub use source::Source;
pub use text::TextFormat;

//! The bill, as finance takes it away: rows of the ledger in a schema and a format.
//!
//! What goes out depends on the query and the ledger alone, and rows come in a stable order. So an export that goes on at a
//! [`Cursor`] writes the very bytes that one uninterrupted export would have gone on with ([`Export`] has how).
//! A format is an [`Encode`]; that of Parquet is a crate of its own.

mod cell;
mod costs;
mod cursor;
mod encode;
mod events;
mod focus;
pub(crate) mod groups;
mod leaf;
mod query;
mod run;
mod source;
mod summary;
mod sums;
mod text;

pub use cell::{Cell, Column, Kind};
pub use costs::{COSTS, cost};
pub use cursor::{AtByte, Cursor, CursorError};
pub use encode::Encode;
pub(crate) use events::digest;
pub use events::{COLUMNS, EVENTS, event};
pub(crate) use leaf::{digest as leaf_digest, event_id, seq_of};
pub use query::{FocusVersion, Format, Query, Schema};
pub use run::{Chunk, Export, ExportError};
pub use source::{Source, Tenants, Terms};
pub use summary::SUMMARY;
pub(crate) use text::is_formula;
pub use text::{Text, TextFormat};

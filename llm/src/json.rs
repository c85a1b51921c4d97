//! JSON as bytes: read once, without building a tree.

mod cursor;
pub(crate) mod splice;

pub(crate) use cursor::{Cursor, JsonError, Kind, Str};

/// How deep objects and arrays may be nested; real requests stay below 20 even with large tool schemas.
pub(crate) const MAX_DEPTH: usize = 100;

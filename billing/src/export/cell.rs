//! What an export's rows are made of, whatever the format.

use std::borrow::Cow;

use tollgate_model::{Money, Timestamp};

/// A value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<'a> {
    /// What somebody may have chosen: a name, a model.
    Text(Cow<'a, str>),
    /// A count, a number of a node.
    Number(u64),
    /// An exact decimal; never a float.
    Decimal(Money),
    /// An instant.
    Time(Timestamp),
    /// Nothing is known, or there is none.
    Absent,
}

impl<'a> Cell<'a> {
    /// Text, or nothing where it is empty.
    pub(super) fn text(text: &'a str) -> Self {
        if text.is_empty() { Self::Absent } else { Self::Text(Cow::Borrowed(text)) }
    }

    /// Text made for this row.
    pub(super) fn owned(text: impl Into<String>) -> Self {
        Self::Text(Cow::Owned(text.into()))
    }
}

/// A column of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// As it is called in every format.
    pub name: &'static str,
    /// What it holds, where it holds something.
    pub kind: Kind,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Cell::Text`].
    Text,
    /// [`Cell::Number`].
    Number,
    /// [`Cell::Decimal`].
    Decimal,
    /// [`Cell::Time`].
    Time,
}

impl Column {
    pub(super) const fn text(name: &'static str) -> Self {
        Self { name, kind: Kind::Text }
    }

    pub(super) const fn number(name: &'static str) -> Self {
        Self { name, kind: Kind::Number }
    }

    pub(super) const fn decimal(name: &'static str) -> Self {
        Self { name, kind: Kind::Decimal }
    }

    pub(super) const fn time(name: &'static str) -> Self {
        Self { name, kind: Kind::Time }
    }
}

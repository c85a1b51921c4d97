//! Where an export goes on.

use super::query::Query;

/// A place in an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// Behind a row of the ledger: the last that was looked at, whether or not it was exported.
    AfterRow(u64),
    /// Within an export that is one piece.
    AtByte(AtByte),
}

/// A place in an export of the ledger up to some row, which is the same bytes whenever it is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtByte {
    /// The last row of the ledger that it may have.
    pub until: u64,
    /// How many bytes of it there are already.
    pub bytes: u64,
    /// The beginning of the hash of these.
    pub digest: String,
}

/// Why a cursor is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// It was cut, or typed.
    #[error("cursor: is none that an export gave")]
    Malformed,
    /// It is of an export with another tenant, time, schema or format.
    #[error("cursor: is of an export with another tenant, time, schema or format; give what that one was given")]
    OfAnother,
}

/// Tells cursors from other text.
const PREFIX: &str = "tg1";
pub(super) const DIGEST_DIGITS: usize = 16;

impl Query {
    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let tenant = self.tenant.as_deref().unwrap_or_default();
        for text in [tenant, self.schema.as_str(), self.format.as_str(), &self.issuer] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.update(&self.from.0.to_le_bytes()).update(&self.to.0.to_le_bytes());
        if !self.costs {
            hasher.update(b"without costs");
        }
        hasher.finalize().to_hex()[..DIGEST_DIGITS].to_owned()
    }
}

impl Cursor {
    /// As an export hands it out.
    #[must_use]
    pub fn write(&self, query: &Query) -> String {
        let digest = query.digest();
        match self {
            Self::AfterRow(seq) => format!("{PREFIX}-{digest}-{seq:x}"),
            Self::AtByte(at) => format!("{PREFIX}-{digest}-{:x}-{:x}-{}", at.until, at.bytes, at.digest),
        }
    }

    /// Reads what [`Cursor::write`] gave for the same query.
    ///
    /// # Errors
    /// When it is no cursor, or that of another query.
    pub fn read(text: &str, query: &Query) -> Result<Self, CursorError> {
        let parts: Vec<&str> = text.split('-').collect();
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => u64::from_str_radix(text, 16).map_err(|_| CursorError::Malformed),
            false => Err(CursorError::Malformed),
        };
        let is_digest = |text: &str| text.len() == DIGEST_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (digest, cursor) = match parts[..] {
            [PREFIX, digest, seq] => (digest, Self::AfterRow(number(seq)?)),
            [PREFIX, digest, until, bytes, of_bytes] if is_digest(of_bytes) => {
                let at = AtByte { until: number(until)?, bytes: number(bytes)?, digest: of_bytes.to_owned() };
                (digest, Self::AtByte(at))
            }
            _ => return Err(CursorError::Malformed),
        };
        if !is_digest(digest) {
            return Err(CursorError::Malformed);
        }
        let fits = digest == query.digest() && matches!(cursor, Self::AfterRow(_)) == query.is_by_row();
        if fits { Ok(cursor) } else { Err(CursorError::OfAnother) }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_model::Timestamp;

    use super::*;
    use crate::export::{FocusVersion, Format, Schema};

    fn query() -> Query {
        Query {
            tenant: Some("acme".into()),
            from: Timestamp(1),
            to: Timestamp(2),
            schema: Schema::Events,
            format: Format::Csv,
            issuer: "us".into(),
            costs: true,
        }
    }

    #[test]
    fn a_cursor_goes_on_with_its_own_query_alone() {
        let cursor = Cursor::AfterRow(u64::MAX);
        let text = cursor.write(&query());
        assert_eq!(Cursor::read(&text, &query()), Ok(cursor));
        for other in [
            Query { tenant: None, ..query() },
            Query { from: Timestamp(0), ..query() },
            Query { to: Timestamp(3), ..query() },
            Query { schema: Schema::Focus(FocusVersion::V1_2), ..query() },
            Query { format: Format::Jsonl, ..query() },
            Query { issuer: "others".into(), ..query() },
            Query { costs: false, ..query() },
        ] {
            assert_eq!(Cursor::read(&text, &other), Err(CursorError::OfAnother));
        }
    }

    #[test]
    fn a_place_in_one_piece_is_no_place_behind_a_row() {
        let one_piece = Query { format: Format::Parquet, ..query() };
        let cursor = Cursor::AtByte(AtByte { until: 9, bytes: 10, digest: "0123456789abcdef".into() });
        assert_eq!(Cursor::read(&cursor.write(&one_piece), &one_piece), Ok(cursor.clone()));
        assert_eq!(Cursor::read(&cursor.write(&query()), &query()), Err(CursorError::OfAnother));
        assert_eq!(Cursor::read(&Cursor::AfterRow(9).write(&one_piece), &one_piece), Err(CursorError::OfAnother));
    }

    #[test]
    fn what_no_export_gave_is_no_cursor() {
        let text = Cursor::AfterRow(5).write(&query());
        for wrong in [
            "",
            "tg1",
            "5",
            &text[1..],
            &text[..text.len() - 2],
            &format!("{text}-0"),
            &format!("{text}-1-xyz"),
            &text.replace("tg1", "tg2"),
            &text.replace("-5", "-+5"),
        ] {
            assert_eq!(Cursor::read(wrong, &query()), Err(CursorError::Malformed), "{wrong}");
        }
    }
}

//! Where an export goes on.

use tollgate_model::Timestamp;

/// Which rows are exported, and how: what two exports must have in common for one to go on behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Of this tenant only.
    pub tenant: Option<String>,
    /// Admitted from then on.
    pub from: Timestamp,
    /// And before this.
    pub to: Timestamp,
    /// `events`, `summary` or `focus`.
    pub schema: String,
    /// `csv`, `jsonl` or `parquet`.
    pub format: String,
}

/// A place in an export: behind a row of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The last row that was looked at, whether or not it was exported.
    pub after_seq: u64,
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
const DIGEST_DIGITS: usize = 16;

impl Query {
    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let tenant = self.tenant.as_deref().unwrap_or_default();
        for text in [tenant, &self.schema, &self.format] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.update(&self.from.0.to_le_bytes()).update(&self.to.0.to_le_bytes());
        hasher.finalize().to_hex()[..DIGEST_DIGITS].to_owned()
    }
}

impl Cursor {
    /// As an export hands it out.
    #[must_use]
    pub fn write(self, query: &Query) -> String {
        format!("{PREFIX}-{}-{:x}", query.digest(), self.after_seq)
    }

    /// Reads what [`Cursor::write`] gave for the same query.
    ///
    /// # Errors
    /// When it is no cursor, or that of another query.
    pub fn read(text: &str, query: &Query) -> Result<Self, CursorError> {
        let mut parts = text.split('-');
        let (Some(PREFIX), Some(digest), Some(seq), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CursorError::Malformed);
        };
        let after_seq = u64::from_str_radix(seq, 16).map_err(|_| CursorError::Malformed)?;
        let is_digest = digest.len() == DIGEST_DIGITS && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (is_digest, digest == query.digest()) {
            (false, _) => Err(CursorError::Malformed),
            (true, false) => Err(CursorError::OfAnother),
            (true, true) => Ok(Self { after_seq }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Query {
        Query {
            tenant: Some("acme".into()),
            from: Timestamp(1),
            to: Timestamp(2),
            schema: "events".into(),
            format: "csv".into(),
        }
    }

    #[test]
    fn a_cursor_goes_on_with_its_own_query_alone() {
        let cursor = Cursor { after_seq: u64::MAX };
        let text = cursor.write(&query());
        assert_eq!(Cursor::read(&text, &query()), Ok(cursor));
        for other in [
            Query { tenant: None, ..query() },
            Query { from: Timestamp(0), ..query() },
            Query { to: Timestamp(3), ..query() },
            Query { schema: "focus".into(), ..query() },
            Query { format: "jsonl".into(), ..query() },
        ] {
            assert_eq!(Cursor::read(&text, &other), Err(CursorError::OfAnother));
        }
    }

    #[test]
    fn what_no_export_gave_is_no_cursor() {
        let text = Cursor { after_seq: 5 }.write(&query());
        for wrong in
            ["", "tg1", "5", &text[1..], &text[..text.len() - 2], &format!("{text}-0"), &text.replace("tg1", "tg2")]
        {
            assert_eq!(Cursor::read(wrong, &query()), Err(CursorError::Malformed), "{wrong}");
        }
    }
}

//! What is asked of an export.

use tollgate_model::Timestamp;

use super::{cell::Column, costs::COSTS, events::EVENTS, focus, summary::SUMMARY};

/// Which rows are exported, and how: what two exports must have in common for one to go on behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Of this tenant only.
    pub tenant: Option<String>,
    /// Admitted from then on.
    pub from: Timestamp,
    /// And before this.
    pub to: Timestamp,
    /// Which columns, and whether rows are added up.
    pub schema: Schema,
    /// Which bytes.
    pub format: Format,
    /// Who sends the bill: FOCUS names it.
    pub issuer: String,
    /// With what upstreams bill: that is none of a tenant's business.
    pub costs: bool,
}

/// What a row of an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// A row of the ledger.
    Events,
    /// All of one tenant, consumer, route, provider and model, in one currency.
    Summary,
    /// A charge of one hour, as FinOps FOCUS has it.
    Focus(FocusVersion),
    /// An attempt that an upstream bills.
    Cost,
}

/// Which edition of FOCUS names the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FocusVersion {
    /// 1.2.
    V1_2,
    /// 1.3, which calls providers and publishers otherwise.
    V1_3,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a header row.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

impl Schema {
    /// Reads its name; FOCUS also has a version, 1.2 when empty.
    ///
    /// # Errors
    /// A sentence that names the field and lists what there is.
    pub fn parse(schema: &str, focus_version: &str) -> Result<Self, String> {
        let version = match focus_version {
            "" | "1.2" => FocusVersion::V1_2,
            "1.3" => FocusVersion::V1_3,
            other => return Err(format!("focus_version: `{other}` is none of 1.2 | 1.3")),
        };
        match schema {
            "focus" => Ok(Self::Focus(version)),
            "events" | "summary" | "cost" if !focus_version.is_empty() => {
                Err(format!("focus_version: schema `{schema}` has no versions"))
            }
            "events" => Ok(Self::Events),
            "summary" => Ok(Self::Summary),
            "cost" => Ok(Self::Cost),
            other => Err(format!("schema: `{other}` is none of events | summary | focus | cost")),
        }
    }

    /// Its name, with its version.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Summary => "summary",
            Self::Focus(FocusVersion::V1_2) => "focus-1.2",
            Self::Focus(FocusVersion::V1_3) => "focus-1.3",
            Self::Cost => "cost",
        }
    }

    /// The columns of its rows.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Events => &EVENTS,
            Self::Summary => &SUMMARY,
            Self::Focus(version) => focus::columns(version),
            Self::Cost => &COSTS,
        }
    }
}

impl Format {
    /// Reads its name.
    ///
    /// # Errors
    /// A sentence that names the field and lists what there is.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "csv" => Ok(Self::Csv),
            "jsonl" => Ok(Self::Jsonl),
            "parquet" => Ok(Self::Parquet),
            other => Err(format!("format: `{other}` is none of csv | jsonl | parquet")),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

impl Query {
    /// Whether bytes depend on their own row alone. If so an export goes on behind any row; all others are one piece.
    #[must_use]
    pub fn is_by_row(&self) -> bool {
        matches!(self.schema, Schema::Events | Schema::Cost) && self.format != Format::Parquet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused_by_its_field() {
        assert_eq!(Schema::parse("focus", ""), Ok(Schema::Focus(FocusVersion::V1_2)));
        assert_eq!(Schema::parse("focus", "1.3"), Ok(Schema::Focus(FocusVersion::V1_3)));
        assert!(Schema::parse("focus", "0.9").unwrap_err().starts_with("focus_version: `0.9`"));
        assert!(Schema::parse("events", "1.3").unwrap_err().starts_with("focus_version: "));
        assert!(Schema::parse("event", "").unwrap_err().starts_with("schema: `event`"));
        assert!(Format::parse("CSV").unwrap_err().starts_with("format: `CSV`"));
        for format in [Format::Csv, Format::Jsonl, Format::Parquet] {
            assert_eq!(Format::parse(format.as_str()), Ok(format));
        }
    }
}

//! What one line of a file says.

use tollgate_model::{Currency, Money, Timestamp};

/// Seconds since the epoch are less than this until the year 5138; greater numbers are milliseconds, or microseconds.
const MOST_SECONDS: u64 = 100_000_000_000;

/// Letters of a name in a message.
const MAX_NAME: usize = 64;

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, field `{field}`: {why}")]
pub struct FileError {
    /// From 1.
    pub line: u64,
    /// As the file calls it, or as it should.
    pub field: String,
    /// Why.
    pub why: String,
}

impl FileError {
    pub(super) fn new(line: u64, field: &str, why: impl Into<String>) -> Self {
        let field = field.chars().filter(|it| !it.is_control()).take(MAX_NAME).collect();
        Self { line, field, why: why.into() }
    }
}

/// What is compared, in its order; then the cost.
pub(super) const FIGURES: [&str; 6] =
    ["requests", "input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"];
const REQUESTS: usize = 0;
const INPUT: usize = 1;
const CACHED: usize = 2;
const WRITTEN: usize = 3;
const OUTPUT: usize = 4;
const REASONING: usize = 5;

/// What a column is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Time,
    Model,
    ProviderModel,
    Provider,
    Request,
    /// One of [`FIGURES`].
    Figure(usize),
    Uncached,
    Cost,
    Currency,
}

/// What a column of this name is, if that is known.
pub(super) fn field(name: &str) -> Option<Field> {
    let letters = name.chars().filter(char::is_ascii_alphanumeric).map(|it| it.to_ascii_lowercase());
    Some(match &*letters.collect::<String>() {
        "date" | "day" | "time" | "timestamp" | "starttime" | "startingat" | "createdat" | "usagedateutc" => {
            Field::Time
        }
        "model" | "modelversion" => Field::Model,
        "providermodel" => Field::ProviderModel,
        "provider" => Field::Provider,
        "requestid" | "xrequestid" | "clientrequestid" => Field::Request,
        "requests" | "nummodelrequests" | "nrequests" => Field::Figure(REQUESTS),
        "inputtokens" | "prompttokens" | "ncontexttokenstotal" => Field::Figure(INPUT),
        "uncachedinputtokens" | "usageinputtokensnocache" => Field::Uncached,
        "cachedinputtokens" | "inputcachedtokens" | "cachereadinputtokens" | "usageinputtokenscacheread" => {
            Field::Figure(CACHED)
        }
        "cachewritetokens"
        | "inputcachewritetokens"
        | "cachecreationinputtokens"
        | "ephemeral5minputtokens"
        | "ephemeral1hinputtokens"
        | "usageinputtokenscachewrite5m"
        | "usageinputtokenscachewrite1h" => Field::Figure(WRITTEN),
        "outputtokens" | "completiontokens" | "ngeneratedtokenstotal" | "usageoutputtokens" => Field::Figure(OUTPUT),
        "reasoningtokens" | "outputreasoningtokens" => Field::Figure(REASONING),
        "cost" => Field::Cost,
        "currency" => Field::Currency,
        _ => return None,
    })
}

/// What a line says, as far as it was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Partial {
    at: Option<Timestamp>,
    model: Option<String>,
    provider_model: Option<String>,
    provider: Option<String>,
    request: Option<String>,
    figures: [Option<u64>; FIGURES.len()],
    uncached: Option<u64>,
    cost: Option<Money>,
    currency: Option<Currency>,
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) line: u64,
    pub(super) at: Option<Timestamp>,
    pub(super) model: String,
    pub(super) provider: Option<String>,
    pub(super) request: Option<String>,
    pub(super) figures: [Option<u64>; FIGURES.len()],
    pub(super) cost: Option<(Currency, Money)>,
}

impl Partial {
    /// Takes in a value; one that is empty says nothing.
    pub(super) fn set(&mut self, field: Field, name: &str, text: &str, line: u64) -> Result<(), FileError> {
        if text.is_empty() {
            return Ok(());
        }
        let wrong = |why: String| FileError::new(line, name, why);
        let once = |was: Option<()>| was.map_or(Ok(()), |()| Err(wrong("is given twice".to_owned())));
        match field {
            // Of several the first: the others say the same less exactly, or when it ended.
            Field::Time => self.at = Some(self.at.map_or_else(|| time(text), Ok).map_err(wrong)?),
            Field::Model => once(put(&mut self.model, text.to_owned()))?,
            Field::ProviderModel => once(put(&mut self.provider_model, text.to_owned()))?,
            Field::Provider => once(put(&mut self.provider, text.to_owned()))?,
            Field::Request => once(put(&mut self.request, text.to_owned()))?,
            Field::Figure(figure) => {
                let count = count(text).map_err(wrong)?;
                let known = &mut self.figures[figure];
                once(known.filter(|_| figure != WRITTEN).map(drop))?;
                let sum = known.unwrap_or(0).checked_add(count);
                *known = Some(sum.ok_or_else(|| wrong("is more than there can be".to_owned()))?);
            }
            Field::Uncached => once(put(&mut self.uncached, count(text).map_err(wrong)?))?,
            Field::Cost => once(put(&mut self.cost, Money::parse(text).map_err(wrong)?))?,
            Field::Currency => {
                let currency = Currency::parse(&text.to_ascii_uppercase()).map_err(wrong)?;
                once(put(&mut self.currency, currency))?;
            }
        }
        Ok(())
    }

    /// Takes the figures of an object within this one that is a part of it.
    pub(super) fn take_figures(&mut self, part: &Self, name: &str, line: u64) -> Result<(), FileError> {
        for (figure, count) in part.figures.iter().enumerate() {
            if let Some(count) = count {
                self.set(Field::Figure(figure), name, &count.to_string(), line)?;
            }
        }
        Ok(())
    }

    /// What it says, and where it says nothing, what those around it say. No figures: those are of one line alone.
    pub(super) fn within(&self, around: &Self) -> Self {
        let or = |own: &Option<String>, other: &Option<String>| own.clone().or_else(|| other.clone());
        Self {
            at: self.at.or(around.at),
            model: or(&self.model, &around.model),
            provider_model: or(&self.provider_model, &around.provider_model),
            provider: or(&self.provider, &around.provider),
            request: or(&self.request, &around.request),
            currency: self.currency.or(around.currency),
            ..Self::default()
        }
    }

    fn has_figures(&self) -> bool {
        self.figures.iter().any(Option::is_some) || self.uncached.is_some() || self.cost.is_some()
    }

    /// The line that this is, if it says what was used.
    pub(super) fn finish(&self, around: &Self, line: u64) -> Result<Option<Line>, FileError> {
        if !self.has_figures() {
            return Ok(None);
        }
        let wrong = |field: &str, why: &str| FileError::new(line, field, why);
        let said = self.within(around);
        let model = said.provider_model.or(said.model);
        let model = model.ok_or_else(|| wrong("model", "is missing: take the report by model"))?;
        if said.at.is_none() && said.request.is_none() {
            return Err(wrong("date", "is missing, before what was used: a day, or a request_id"));
        }
        let cost = match (self.cost, said.currency) {
            (Some(cost), Some(currency)) => Some((currency, cost)),
            (Some(_), None) => return Err(wrong("currency", "is missing: what is the cost in?")),
            (None, _) => None,
        };
        let mut figures = self.figures;
        if let (Some(uncached), None) = (self.uncached, figures[INPUT]) {
            let mut parts = [figures[CACHED], figures[WRITTEN]].into_iter().flatten();
            let all = parts.try_fold(uncached, u64::checked_add);
            figures[INPUT] = Some(all.ok_or_else(|| wrong("input_tokens", "is more than there can be"))?);
        }
        let (provider, request) = (said.provider, said.request);
        Ok(Some(Line { line, at: said.at, model: undated(&model).to_owned(), provider, request, figures, cost }))
    }
}

/// Some, where there is one already.
fn put<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).map(drop)
}

fn count(text: &str) -> Result<u64, String> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match (is_digits, text.parse()) {
        (true, Ok(count)) => Ok(count),
        (true, Err(_)) => Err(format!("`{}` is more than there can be", short(text))),
        _ => Err(format!("`{}` is no whole number", short(text))),
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("`{}` is no day such as 2026-11-01, no RFC 3339 time and no Unix time", short(text));
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: u64 = text.parse().map_err(|_| wrong())?;
        let us = match number {
            _ if number < MOST_SECONDS => number * 1_000_000,
            _ if number < MOST_SECONDS * 1_000 => number * 1_000,
            _ => number,
        };
        return Some(Timestamp(us)).filter(|at| *at <= Timestamp::MAX).ok_or_else(wrong);
    }
    let day = (text.len() == 10).then(|| format!("{text}T00:00:00Z"));
    Timestamp::parse(day.as_deref().unwrap_or(text)).map_err(|_| wrong())
}

/// For a message.
fn short(text: &str) -> &str {
    text.get(..text.floor_char_boundary(64)).unwrap_or_default()
}

/// A model without the date that its snapshot may be named by: `-2024-08-06`, `-20250514` or `@20250514`.
pub(super) fn undated(model: &str) -> &str {
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = model.len();
    if let Some((name, date)) = bytes.checked_sub(9).and_then(|at| model.split_at_checked(at))
        && (date.starts_with('-') || date.starts_with('@'))
        && is_digits(&date[1..])
        && !name.is_empty()
    {
        return name;
    }
    if let Some((name, date)) = bytes.checked_sub(11).and_then(|at| model.split_at_checked(at))
        && let ["", year, month, day] = *date.split('-').collect::<Vec<_>>()
        && (year.len(), month.len(), day.len()) == (4, 2, 2)
        && [year, month, day].into_iter().all(is_digits)
        && !name.is_empty()
    {
        return name;
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_at_the_end_of_a_models_name_is_no_part_of_it() {
        for (model, name) in [
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("claude-opus-4-20250514", "claude-opus-4"),
            ("claude-opus-4@20250514", "claude-opus-4"),
            ("gpt-4o", "gpt-4o"),
            ("gpt-4-0613", "gpt-4-0613"),
            ("m-2024-8-06", "m-2024-8-06"),
            ("-20250514", "-20250514"),
            ("ü-2024ü08-06", "ü-2024ü08-06"),
            ("", ""),
        ] {
            assert_eq!(undated(model), name);
        }
    }

    #[test]
    fn a_time_is_read_as_reports_write_it() {
        let day = Timestamp(1_793_491_200_000_000);
        for text in [
            "2026-11-01",
            "2026-11-01T00:00:00Z",
            "2026-11-01T01:00:00+01:00",
            "1793491200",
            "1793491200000",
            "1793491200000000",
        ] {
            assert_eq!(time(text), Ok(day), "{text}");
        }
        for text in ["yesterday", "2026-13-01", "11/01/2026", "99999999999999999999", "2026-11-01 00:00"] {
            assert!(time(text).unwrap_err().starts_with('`'), "{text}");
        }
    }
}

//! Where the fields that we rely on stand in a request body.

use std::ops::Range;

use crate::dialect::Operation;
use crate::error::RequestError;
use crate::estimate::{Measure, walk};
use crate::json::{Cursor, JsonError, Kind};

/// The most choices that may be asked for; OpenAI's own limit for `n`.
const MAX_CHOICES: u64 = 128;

/// The largest bound on output tokens that is taken for one.
const MAX_OUTPUT_TOKENS: u64 = u32::MAX as u64;

/// All names for a bound on the output of one choice.
const BOUNDS: [Field; 3] = [Field::MaxTokens, Field::MaxCompletionTokens, Field::MaxOutputTokens];

/// The longest model name; it ends up in headers, labels and rows.
const MAX_MODEL_BYTES: usize = 256;

macro_rules! fields {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A field whose value decides something here: what is charged, where the request goes, what is injected.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($variant),* }

        impl Field {
            const ALL: &'static [Field] = &[$(Field::$variant),*];

            pub(super) fn name(self) -> &'static str {
                match self { $(Field::$variant => $name),* }
            }
        }
    };
}

fields! {
    Model = "model",
    Stream = "stream",
    StreamOptions = "stream_options",
    MaxTokens = "max_tokens",
    MaxCompletionTokens = "max_completion_tokens",
    MaxOutputTokens = "max_output_tokens",
    N = "n",
    BestOf = "best_of",
    Messages = "messages",
    System = "system",
    Prompt = "prompt",
    Input = "input",
    Instructions = "instructions",
    Tools = "tools",
    Background = "background",
    PreviousResponse = "previous_response_id",
    Conversation = "conversation",
}

/// Where one field's value stands, and what it is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    field: Field,
    kind: Kind,
    span: Range<usize>,
}

/// The places of all fields that we rely on.
#[derive(Debug, Default)]
pub(super) struct Fields {
    places: Vec<Place>,
    operation: Option<Operation>,
    /// Where the body's last value ends, so that another member can follow it.
    pub(super) last_value_end: usize,
    /// `stream_options.include_usage` as the caller wrote it.
    pub(super) include_usage: bool,
}

/// Reads a whole body: checks that it is one JSON object, notes the fields, measures the input.
pub(super) fn read(operation: Operation, text: &str) -> Result<(Fields, Measure), RequestError> {
    let mut fields = Fields { operation: Some(operation), ..Fields::default() };
    let mut measure = Measure::default();
    let mut cursor = Cursor::new(text);
    if cursor.peek().map_err(not_json)? != Kind::Object {
        return Err(RequestError::new("the body must be a JSON object"));
    }
    cursor.enter_object().map_err(not_json)?;
    while let Some(key) = cursor.next_key().map_err(not_json)? {
        let key = key.decode();
        let field = Field::ALL.iter().copied().find(|field| field.name().eq_ignore_ascii_case(&key));
        if let Some(field) = field {
            fields.refuse_ambiguity(field, &key)?;
        }
        let kind = cursor.peek().map_err(not_json)?;
        let start = cursor.position();
        walk::field(&mut cursor, &key, operation, &mut measure).map_err(not_json)?;
        fields.last_value_end = cursor.position_before_space();
        if let Some(field) = field {
            fields.places.push(Place { field, kind, span: start..fields.last_value_end });
        }
    }
    cursor.end().map_err(not_json)?;
    fields.include_usage = fields.read_include_usage(text)?;
    Ok((fields, measure))
}

fn not_json(error: JsonError) -> RequestError {
    RequestError::new(format!("the body is not valid JSON: {error}"))
}

impl Fields {
    /// Where the field stands, unless it is missing.
    pub(super) fn span(&self, field: Field) -> Option<Range<usize>> {
        self.place(field).map(|place| place.span.clone())
    }

    /// Whether the field is there with a value other than null.
    pub(super) fn has(&self, field: Field) -> bool {
        self.place(field).is_some_and(|place| place.kind != Kind::Null)
    }

    pub(super) fn kind(&self, field: Field) -> Option<Kind> {
        self.place(field).map(|place| place.kind)
    }

    pub(super) fn model(&self, text: &str) -> Result<String, RequestError> {
        let refuse = |message: &str| Err(RequestError::field("model", message));
        let Some(place) = self.place(Field::Model).filter(|place| place.kind != Kind::Null) else {
            return refuse("you must provide a model parameter");
        };
        if place.kind != Kind::String {
            return refuse("model must be a string");
        }
        let name = Cursor::new(&text[place.span.clone()]).string().map_err(not_json)?.decode().into_owned();
        if name.trim().is_empty() {
            return refuse("model must not be empty");
        }
        if name.len() > MAX_MODEL_BYTES || name.chars().any(char::is_control) {
            return refuse("model is not a possible name");
        }
        Ok(name)
    }

    pub(super) fn bool(&self, text: &str, field: Field) -> Result<Option<bool>, RequestError> {
        match self.value(text, field) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(RequestError::field(field.name(), format!("{} must be true or false", field.name()))),
        }
    }

    /// The bound on the output of one choice, under the operation's own names for it; the larger of two.
    pub(super) fn max_tokens(&self, text: &str) -> Result<Option<u64>, RequestError> {
        let least = if self.operation == Some(Operation::Completions) { 0 } else { 1 };
        let mut bound = None;
        for field in self.bound_fields() {
            bound = bound.max(self.integer(text, *field, least, MAX_OUTPUT_TOKENS)?);
        }
        self.refuse_foreign_bounds()?;
        Ok(bound)
    }

    /// The name that a bound has elsewhere: some servers take it for one, others don't, so that it bounds nothing.
    fn refuse_foreign_bounds(&self) -> Result<(), RequestError> {
        let own = self.bound_fields();
        let Some(right) = own.last() else { return Ok(()) };
        let foreign = BOUNDS.iter().find(|field| !own.contains(field) && self.has(**field));
        let Some(foreign) = foreign else { return Ok(()) };
        let message = format!("{} is not a field of this API: use {}", foreign.name(), right.name());
        Err(RequestError::field(foreign.name(), message))
    }

    /// The fields in which the operation takes a bound on its output.
    pub(super) fn bound_fields(&self) -> &'static [Field] {
        match self.operation {
            Some(Operation::ChatCompletions) => &[Field::MaxTokens, Field::MaxCompletionTokens],
            Some(Operation::Completions | Operation::Messages) => &[Field::MaxTokens],
            Some(Operation::Responses) => &[Field::MaxOutputTokens],
            _ => &[],
        }
    }

    /// How many answers are made: `best_of` of them where it is taken, of which `n` are shown. An API with one answer may be
    /// asked for one.
    pub(super) fn choices(&self, text: &str) -> Result<u64, RequestError> {
        let most = match self.operation {
            Some(Operation::ChatCompletions | Operation::Completions) => MAX_CHOICES,
            Some(Operation::Responses | Operation::Messages) => 1,
            _ => return Ok(1),
        };
        let mut choices = 1;
        for field in [Field::N, Field::BestOf] {
            choices = choices.max(self.integer(text, field, 1, most)?.unwrap_or(1));
        }
        Ok(choices)
    }

    /// What must be there, or must not.
    pub(super) fn check(&self, operation: Operation, text: &str) -> Result<(), RequestError> {
        let (required, kinds): (Field, &[Kind]) = match operation {
            Operation::ChatCompletions | Operation::Messages | Operation::CountTokens => {
                (Field::Messages, &[Kind::Array])
            }
            Operation::Completions => (Field::Prompt, &[Kind::String, Kind::Array]),
            Operation::Embeddings => (Field::Input, &[Kind::String, Kind::Array]),
            _ => return self.check_responses(text),
        };
        let name = required.name();
        match self.kind(required).filter(|kind| *kind != Kind::Null) {
            None => Err(RequestError::field(name, format!("{name} is missing"))),
            Some(kind) if !kinds.contains(&kind) && kinds.len() == 1 => {
                Err(RequestError::field(name, format!("{name} must be an array")))
            }
            Some(kind) if !kinds.contains(&kind) => {
                Err(RequestError::field(name, format!("{name} must be a string or an array")))
            }
            Some(_) => Ok(()),
        }
    }

    fn check_responses(&self, text: &str) -> Result<(), RequestError> {
        if self.bool(text, Field::Background)? == Some(true) {
            let message = "background responses are not supported: their usage would never be seen";
            return Err(RequestError::field("background", message));
        }
        Ok(())
    }

    fn integer(&self, text: &str, field: Field, least: u64, most: u64) -> Result<Option<u64>, RequestError> {
        let Some(value) = self.value(text, field) else { return Ok(None) };
        match value.parse::<u64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => {
                let name = field.name();
                let range =
                    if least == most { format!("{least}") } else { format!("an integer from {least} to {most}") };
                Err(RequestError::field(name, format!("{name} must be {range}")))
            }
        }
    }

    fn read_include_usage(&self, text: &str) -> Result<bool, RequestError> {
        let field = Field::StreamOptions;
        let Some(place) = self.place(field).filter(|place| place.kind != Kind::Null) else { return Ok(false) };
        if place.kind != Kind::Object {
            return Err(RequestError::field(field.name(), "stream_options must be an object"));
        }
        let mut found = None;
        let mut cursor = Cursor::new(&text[place.span.clone()]);
        cursor.enter_object().map_err(not_json)?;
        while let Some(key) = cursor.next_key().map_err(not_json)? {
            let value = cursor.raw().map_err(not_json)?;
            if !key.decode().eq_ignore_ascii_case("include_usage") {
                continue;
            }
            let wanted = match value {
                "true" => true,
                "false" | "null" => false,
                _ => {
                    return Err(RequestError::field(
                        "stream_options.include_usage",
                        "include_usage must be true or false",
                    ));
                }
            };
            if found.replace(wanted).is_some() {
                return Err(RequestError::field("stream_options.include_usage", "include_usage is there twice"));
            }
        }
        Ok(found.unwrap_or(false))
    }

    /// Two values for one field, or a spelling that some parsers take for the field and others do not, would let a
    /// provider read what we did not.
    fn refuse_ambiguity(&self, field: Field, key: &str) -> Result<(), RequestError> {
        let name = field.name();
        if key != name {
            return Err(RequestError::field(key, format!("unknown field {key:?}: did you mean {name:?}?")));
        }
        if self.place(field).is_some() {
            return Err(RequestError::field(name, format!("{name} is there twice, which is ambiguous")));
        }
        Ok(())
    }

    /// The text of a value that is not null.
    fn value<'a>(&self, text: &'a str, field: Field) -> Option<&'a str> {
        let place = self.place(field).filter(|place| place.kind != Kind::Null)?;
        Some(&text[place.span.clone()])
    }

    fn place(&self, field: Field) -> Option<&Place> {
        self.places.iter().find(|place| place.field == field)
    }
}

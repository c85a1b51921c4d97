//! The way through a request body: what in it is text, and what is something else.
//!
//! Whatever is not plainly text, an image, audio or a document is handed on as opaque JSON, so that nothing of an
//! input can be hidden from its bound by putting it into an unexpected place.

use std::borrow::Cow;

use crate::dialect::Operation;
use crate::json::{Cursor, JsonError, Kind, Str};

/// Takes what is found. What a sink does not care for, it ignores.
pub(crate) trait Sink {
    /// A text, as it stands in the body.
    fn text(&mut self, text: Str<'_>);
    /// A message begins.
    fn message(&mut self) {}
    /// The message names its role, once, as a text.
    fn role(&mut self) {}
    /// The message names who speaks.
    fn name(&mut self) {}
    /// One part of a message's content that is plain text.
    fn text_part(&mut self) {}
    /// One part of a message's content that is something else.
    fn part(&mut self) {}
    /// JSON that the provider renders by a rule of its own.
    fn opaque(&mut self, _json: &str) {}
    /// Tokens sent as numbers.
    fn tokens(&mut self, _count: u64) {}
    /// One prompt of a completion, or one input of an embedding.
    fn prompt(&mut self) {}
    /// An image, in low detail or not.
    fn image(&mut self, _low: bool) {}
    /// A document that can't be measured.
    fn document(&mut self) {}
    /// Audio, with the length of its base64 text.
    fn audio(&mut self, _bytes: usize) {}
    /// Output that the caller predicts.
    fn prediction(&mut self, _json: &str) {}
    /// There are tools.
    fn tools(&mut self) {}
    /// One of the provider's own tools that the caller runs.
    fn client_tool(&mut self) {}
    /// The provider adds context of its own.
    fn hidden(&mut self) {}
    /// The request asks for output that its stream does not show as text.
    fn hidden_output(&mut self) {}
}

/// Fields that no input tokens come from, whatever they hold.
const NO_INPUT: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "stop_sequences",
    "seed",
    "user",
    "metadata",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "presence_penalty",
    "frequency_penalty",
    "store",
    "service_tier",
    "tool_choice",
    "parallel_tool_calls",
    "prompt_cache_key",
    "safety_identifier",
    "encoding_format",
    "dimensions",
    "echo",
    "include",
    "truncation",
    "modalities",
    "reasoning_effort",
    "cache_control",
];

/// Fields by which the provider adds context that is not in the request.
const HIDDEN: &[&str] = &["previous_response_id", "conversation", "web_search_options", "mcp_servers", "container"];

/// Fields that ask for output which is billed and not shown in full: thoughts, sound.
const HIDDEN_OUTPUT: &[&str] =
    &["reasoning", "reasoning_effort", "thinking", "thinking_budget", "enable_thinking", "modalities", "audio"];

/// What those fields say when they ask for nothing.
const SAYS_NO: &[&str] = &["null", "false", "0", "{}", "\"none\"", "[\"text\"]"];

/// Walks a whole body.
pub(crate) fn body(text: &str, operation: Operation, sink: &mut impl Sink) -> Result<(), JsonError> {
    let mut cursor = Cursor::new(text);
    cursor.enter_object()?;
    while let Some(key) = cursor.next_key()? {
        field(&mut cursor, &key.decode(), operation, sink)?;
    }
    Ok(())
}

/// Walks the value of one field of the body.
pub(crate) fn field(
    cursor: &mut Cursor<'_>,
    key: &str,
    operation: Operation,
    sink: &mut impl Sink,
) -> Result<(), JsonError> {
    if HIDDEN_OUTPUT.contains(&key) {
        let json = Cursor::clone(cursor).raw()?;
        if !SAYS_NO.contains(&json) && !says(json, "type", &["disabled"]) {
            sink.hidden_output();
        }
    }
    match (key, operation) {
        ("messages", _) => messages(cursor, sink),
        ("input", Operation::Responses) => messages(cursor, sink),
        ("input", Operation::Embeddings) | ("prompt", Operation::Completions) => prompts(cursor, sink),
        ("system" | "instructions" | "suffix", _) => {
            sink.message();
            content(cursor, sink)
        }
        ("tools" | "functions", _) => tools(cursor, sink),
        ("prediction", Operation::ChatCompletions) => {
            sink.prediction(cursor.raw()?);
            Ok(())
        }
        _ if NO_INPUT.contains(&key) => cursor.skip().map(drop),
        _ => other(cursor, key, operation, sink),
    }
}

fn other(cursor: &mut Cursor<'_>, key: &str, operation: Operation, sink: &mut impl Sink) -> Result<(), JsonError> {
    let kind = cursor.peek()?;
    let json = cursor.raw()?;
    if matches!(kind, Kind::Null | Kind::Bool | Kind::Number) || matches!(json, "[]" | "\"\"") {
        return Ok(());
    }
    sink.opaque(json);
    if HIDDEN.contains(&key) || key == "prompt" && operation == Operation::Responses {
        sink.hidden();
    }
    Ok(())
}

/// A list of messages (or of a response's input items), or one text in its place.
fn messages(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), JsonError> {
    if cursor.peek()? != Kind::Array {
        sink.message();
        return content(cursor, sink);
    }
    cursor.enter_array()?;
    while cursor.next_item()? {
        message(cursor, sink)?;
    }
    Ok(())
}

fn message(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), JsonError> {
    sink.message();
    if cursor.peek()? != Kind::Object {
        return content(cursor, sink);
    }
    cursor.enter_object()?;
    let mut role = false;
    while let Some(key) = cursor.next_key()? {
        match (&*key.decode(), cursor.peek()?) {
            ("content", _) => content(cursor, sink)?,
            ("cache_control", _) | (_, Kind::Null | Kind::Bool) => cursor.skip().map(drop)?,
            ("type", Kind::String) => {
                if cursor.string()?.decode() == "item_reference" {
                    sink.hidden();
                }
            }
            ("role", Kind::String) if !role => {
                let text = cursor.string()?;
                role = !text.decode().is_empty();
                sink.text(text);
            }
            (key, Kind::String) => {
                match key {
                    "name" => sink.name(),
                    "tool_call_id" => sink.part(), // the tool's name is written in its place
                    _ => {}
                }
                sink.text(cursor.string()?);
            }
            _ => sink.opaque(cursor.raw()?),
        }
    }
    if role {
        sink.role();
    }
    Ok(())
}

/// A text, or parts. Parts may hold content again (tool results); the cursor bounds how deep.
fn content(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), JsonError> {
    match cursor.peek()? {
        Kind::String => sink.text(cursor.string()?),
        Kind::Array => {
            cursor.enter_array()?;
            while cursor.next_item()? {
                part(cursor, sink)?;
            }
        }
        Kind::Null => cursor.skip().map(drop)?,
        _ => sink.opaque(cursor.raw()?),
    }
    Ok(())
}

/// One part. What it is may stand after what it holds, so media is kept until the end.
fn part(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), JsonError> {
    if cursor.peek()? != Kind::Object {
        sink.part();
        return content(cursor, sink);
    }
    cursor.enter_object()?;
    let mut kind = None;
    let mut plain = true;
    let mut media = Media::default();
    while let Some(key) = cursor.next_key()? {
        match (&*key.decode(), cursor.peek()?) {
            ("type", Kind::String) => kind = Some(cursor.string()?),
            ("text", Kind::String) => sink.text(cursor.string()?),
            ("cache_control", _) | (_, Kind::Null | Kind::Bool) => cursor.skip().map(drop)?,
            ("content", _) => {
                plain = false;
                content(cursor, sink)?;
            }
            ("detail", Kind::String) => media.low = cursor.string()?.decode() == "low",
            ("image_url" | "source" | "input_audio" | "file" | "file_data" | "file_url" | "file_id", _) => {
                let key = key.decode();
                media.parts.push((key, cursor.raw()?));
            }
            _ => sink.opaque(cursor.raw()?),
        }
    }
    let kind = kind.map(Str::decode);
    match kind.as_deref() {
        Some("text" | "input_text" | "output_text") if plain => sink.text_part(),
        _ => sink.part(),
    }
    media.close(kind.as_deref(), sink);
    Ok(())
}

/// The media of one part, under the keys that it stands under.
#[derive(Default)]
struct Media<'a> {
    parts: Vec<(Cow<'a, str>, &'a str)>,
    low: bool,
}

impl Media<'_> {
    /// Only what stands where its kind of part has it is media.
    fn close(self, kind: Option<&str>, sink: &mut impl Sink) {
        for (key, json) in self.parts {
            match (kind.unwrap_or_default(), &*key) {
                ("image_url" | "input_image", "image_url") | ("image", "source") => {
                    sink.image(self.low || says(json, "detail", &["low"]));
                }
                ("input_image", "file_id") => sink.image(false),
                ("document", "source") if says(json, "type", &["text", "content"]) => sink.opaque(json),
                ("document", "source") | ("file", "file") => sink.document(),
                ("input_file", "file_data" | "file_url" | "file_id") => sink.document(),
                ("input_audio", "input_audio") => sink.audio(json.len()),
                _ => sink.opaque(json),
            }
        }
    }
}

/// Whether an object has a member `name` that is one of `values`, and has it once.
fn says(json: &str, name: &str, values: &[&str]) -> bool {
    let mut cursor = Cursor::new(json);
    let mut found = Vec::new();
    let read = (|| {
        cursor.enter_object()?;
        while let Some(key) = cursor.next_key()? {
            let matches = key.decode() == name;
            if matches && cursor.peek()? == Kind::String {
                found.push(values.contains(&&*cursor.string()?.decode()));
            } else {
                cursor.skip()?;
            }
        }
        Ok::<(), JsonError>(())
    })();
    read.is_ok() && found == [true]
}

/// One prompt or many, as texts or as tokens.
fn prompts(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), JsonError> {
    if cursor.peek()? != Kind::Array {
        sink.prompt();
        return content(cursor, sink);
    }
    cursor.enter_array()?;
    let mut tokens = 0;
    while cursor.next_item()? {
        match cursor.peek()? {
            Kind::Number => {
                cursor.skip()?;
                tokens += 1;
            }
            Kind::Array => {
                sink.prompt();
                token_list(cursor, sink)?;
            }
            _ => {
                sink.prompt();
                content(cursor, sink)?;
            }
        }
    }
    if tokens > 0 {
        sink.prompt();
        sink.tokens(tokens);
    }
    Ok(())
}

fn token_list(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), JsonError> {
    cursor.enter_array()?;
    let mut tokens = 0;
    while cursor.next_item()? {
        match cursor.peek()? {
            Kind::Number => cursor.skip().map(drop)?,
            _ => sink.opaque(cursor.raw()?),
        }
        tokens += 1;
    }
    sink.tokens(tokens);
    Ok(())
}

/// Tool definitions: text by a rule of the provider, plus what its own tools bring along.
fn tools(cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<(), JsonError> {
    if cursor.peek()? != Kind::Array {
        sink.opaque(cursor.raw()?);
        return Ok(());
    }
    cursor.enter_array()?;
    while cursor.next_item()? {
        let json = cursor.raw()?;
        sink.tools();
        sink.opaque(json);
        if says(json, "type", &["function", "custom"]) || !json.contains("\"type\"") {
            continue;
        }
        sink_own_tool(json, sink);
    }
    Ok(())
}

/// A tool that the provider itself brings. An Anthropic tool of the caller's own may have no type at all.
fn sink_own_tool(json: &str, sink: &mut impl Sink) {
    let Some(kind) = tool_type(json) else { return };
    let run_by_caller = ["bash_", "text_editor_", "computer_", "memory_"];
    if run_by_caller.iter().any(|prefix| kind.starts_with(prefix)) {
        sink.client_tool();
    } else {
        sink.hidden();
    }
}

fn tool_type(json: &str) -> Option<String> {
    let mut cursor = Cursor::new(json);
    cursor.enter_object().ok()?;
    while let Some(key) = cursor.next_key().ok()? {
        if key.decode() == "type" && cursor.peek().ok()? == Kind::String {
            return cursor.string().ok().map(|kind| kind.decode().into_owned());
        }
        cursor.skip().ok()?;
    }
    None
}

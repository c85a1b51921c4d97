//! The conversation: OpenAI's flat list of messages → Anthropic's turns of blocks.
//!
//! The system and developer messages that come first become `system`; one further on has no place there, and is refused
//! rather than moved, as is a turn of nothing rather than dropped: both would be another conversation. Tool results become blocks of the user's turn, and neighbours of one role become one turn, as
//! results have to stand together right after the calls. Thoughts of earlier turns (`reasoning_content`) are the
//! model's notes, which another provider can't verify, and are left out.

use serde_json::{Value, json};

use crate::dialect::object::Object;
use crate::error::RequestError;

pub(super) struct Conversation {
    pub(super) system: Vec<Value>,
    pub(super) messages: Vec<Value>,
    /// The last turn gives results of tools.
    pub(super) continues_tools: bool,
}

pub(super) fn translate(messages: Vec<Value>) -> Result<Conversation, RequestError> {
    let mut to = Conversation { system: Vec::new(), messages: Vec::new(), continues_tools: false };
    for (n, message) in messages.into_iter().enumerate() {
        let mut message = Object::new(message, format!("messages[{n}]"))?;
        let role = message.required_string("role")?;
        to.continues_tools = role == "tool";
        match role.as_str() {
            "system" | "developer" if to.messages.is_empty() => to.system.extend(texts(&mut message)?),
            "system" | "developer" => {
                let why = "must come first: the provider that serves this request takes no system message further on";
                return Err(message.refuse("role", &format!("{role} {why}")));
            }
            "user" => {
                let blocks = content(&mut message, user_part)?;
                to.turn("user", something(&message, blocks)?);
            }
            "assistant" => {
                let blocks = assistant(&mut message)?;
                to.turn("assistant", something(&message, blocks)?);
            }
            "tool" => {
                let result = tool_result(&mut message)?;
                to.turn("user", vec![result]);
            }
            _ => return Err(message.inexpressible("role")),
        }
        message.done()?;
    }
    if to.messages.is_empty() {
        let why = "messages must hold one that is not of the system: the provider that serves this request needs it";
        return Err(RequestError::field("messages", why));
    }
    Ok(to)
}

/// The blocks of a turn, which may not be empty.
fn something(message: &Object, blocks: Vec<Value>) -> Result<Vec<Value>, RequestError> {
    let why = "is empty: Anthropic, which serves this request, does not take empty content";
    if blocks.is_empty() { Err(message.refuse("content", why)) } else { Ok(blocks) }
}

impl Conversation {
    /// Adds blocks to the last turn if it is of the same role.
    fn turn(&mut self, role: &str, blocks: Vec<Value>) {
        if let Some(last) = self.messages.last_mut().filter(|last| last["role"] == role)
            && let Some(content) = last["content"].as_array_mut()
        {
            content.extend(blocks);
            return;
        }
        self.messages.push(json!({"role": role, "content": blocks}));
    }
}

type PartRule = fn(&str, Object) -> Result<Value, RequestError>;

/// A text or parts, as blocks.
fn content(message: &mut Object, rule: PartRule) -> Result<Vec<Value>, RequestError> {
    let path = message.path("content");
    match message.take("content") {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![json!({"type": "text", "text": text})]),
        Some(Value::Array(parts)) => {
            parts.into_iter().enumerate().map(|(n, part)| block(part, format!("{path}[{n}]"), rule)).collect()
        }
        Some(_) => Err(message.refuse("content", "must be a string or an array of parts")),
    }
}

fn block(part: Value, at: String, rule: PartRule) -> Result<Value, RequestError> {
    let mut part = Object::new(part, at)?;
    let kind = part.required_string("type")?;
    let cache = part.take("cache_control");
    let mut block = rule(&kind, part)?;
    if let Some(cache) = cache {
        block["cache_control"] = cache;
    }
    Ok(block)
}

fn texts(message: &mut Object) -> Result<Vec<Value>, RequestError> {
    content(message, text_part)
}

fn text_part(kind: &str, mut part: Object) -> Result<Value, RequestError> {
    if kind != "text" {
        return Err(part.inexpressible("type"));
    }
    let text = part.required_string("text")?;
    part.done()?;
    Ok(json!({"type": "text", "text": text}))
}

fn user_part(kind: &str, part: Object) -> Result<Value, RequestError> {
    match kind {
        "image_url" => image(part),
        "file" => file(part),
        _ => text_part(kind, part),
    }
}

fn image(mut part: Object) -> Result<Value, RequestError> {
    let mut image = part.object("image_url")?.ok_or_else(|| part.refuse("image_url", "is missing"))?;
    let url = image.required_string("url")?;
    image.only("detail", &[json!("auto"), json!("high")])?;
    let source = if url.starts_with("data:") {
        let (media, data) = data_url(&url).ok_or_else(|| image.refuse("url", "must be a base64 data URL"))?;
        json!({"type": "base64", "media_type": media, "data": data})
    } else {
        json!({"type": "url", "url": url})
    };
    image.done()?;
    part.done()?;
    Ok(json!({"type": "image", "source": source}))
}

fn file(mut part: Object) -> Result<Value, RequestError> {
    let mut file = part.object("file")?.ok_or_else(|| part.refuse("file", "is missing"))?;
    let title = file.string("filename")?;
    let Some(data) = file.string("file_data")? else { return Err(file.inexpressible("file_id")) };
    let (media, data) = data_url(&data).ok_or_else(|| file.refuse("file_data", "must be a base64 data URL"))?;
    if media != "application/pdf" {
        return Err(file.inexpressible("file_data"));
    }
    file.done()?;
    part.done()?;
    let mut block = json!({"type": "document", "source": {"type": "base64", "media_type": media, "data": data}});
    if let Some(title) = title {
        block["title"] = title.into();
    }
    Ok(block)
}

/// The media type and the base64 text of `data:image/png;base64,…`.
fn data_url(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let media = head.strip_suffix(";base64")?;
    let media = media.split(';').next().unwrap_or(media);
    (!media.is_empty()).then_some((media, data))
}

fn assistant(message: &mut Object) -> Result<Vec<Value>, RequestError> {
    message.ignore(&["reasoning_content", "reasoning"]);
    message.only("annotations", &[json!([])])?;
    let mut blocks = content(message, assistant_part)?;
    if let Some(refusal) = message.string("refusal")? {
        blocks.push(json!({"type": "text", "text": refusal}));
    }
    let path = message.path("tool_calls");
    for (n, call) in message.array("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
        blocks.push(tool_use(call, format!("{path}[{n}]"))?);
    }
    Ok(blocks)
}

fn assistant_part(kind: &str, mut part: Object) -> Result<Value, RequestError> {
    if kind != "refusal" {
        return text_part(kind, part);
    }
    let refusal = part.required_string("refusal")?;
    part.done()?;
    Ok(json!({"type": "text", "text": refusal}))
}

fn tool_use(call: Value, at: String) -> Result<Value, RequestError> {
    let mut call = Object::new(call, at)?;
    call.ignore(&["index"]);
    call.only("type", &[json!("function")])?;
    let id = call.required_string("id")?;
    let mut function = call.object("function")?.ok_or_else(|| call.refuse("function", "is missing"))?;
    let name = function.required_string("name")?;
    let arguments = function.string("arguments")?.unwrap_or_default();
    let input = match serde_json::from_str(&arguments) {
        Ok(Value::Object(input)) => Value::Object(input),
        _ if arguments.trim().is_empty() => json!({}),
        _ => return Err(function.refuse("arguments", "must be a JSON object, written as a string")),
    };
    function.done()?;
    call.done()?;
    Ok(json!({"type": "tool_use", "id": id, "name": name, "input": input}))
}

fn tool_result(message: &mut Object) -> Result<Value, RequestError> {
    let id = message.required_string("tool_call_id")?;
    let path = message.path("content");
    let content = match message.take("content") {
        None => Value::from(""),
        Some(Value::String(text)) => text.into(),
        Some(Value::Array(parts)) => {
            let blocks = parts.into_iter().enumerate().map(|(n, part)| block(part, format!("{path}[{n}]"), user_part));
            blocks.collect::<Result<Vec<Value>, RequestError>>()?.into()
        }
        Some(_) => return Err(message.refuse("content", "must be a string or an array of parts")),
    };
    Ok(json!({"type": "tool_result", "tool_use_id": id, "content": content}))
}

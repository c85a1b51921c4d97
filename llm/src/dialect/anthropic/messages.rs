//! The conversation: Anthropic's turns of blocks → OpenAI's flat list of messages.
//!
//! A user's turn with tool results becomes one `tool` message for each, before what else the turn says. An assistant's
//! turn at the end is a beginning that the answer is to continue: OpenAI would answer it instead, so it is refused.
//!
//! The one intended loss: thoughts of earlier turns (`thinking`, `redacted_thinking`). They are the model's notes, signed
//! or sealed for Anthropic, and no other provider can read them; clients send them back with every turn, so that a
//! refusal would end each conversation that falls back to another provider.

use serde_json::{Value, json};

use crate::dialect::object::{INEXPRESSIBLE, Object};
use crate::error::RequestError;

pub(super) fn translate(body: &mut Object) -> Result<Vec<Value>, RequestError> {
    let mut to = Vec::new();
    let system = system(body)?;
    if !system.is_empty() {
        to.push(json!({"role": "system", "content": system}));
    }
    let messages = body.array("messages")?.unwrap_or_default();
    let last = messages.len().saturating_sub(1);
    for (n, message) in messages.into_iter().enumerate() {
        let mut message = Object::new(message, format!("messages[{n}]"))?;
        match message.required_string("role")?.as_str() {
            "user" => user(&mut message, &mut to)?,
            "assistant" if n == last => {
                let why = "assistant can't come last: a beginning of the answer (prefill)";
                return Err(message.refuse("role", &format!("{why} {INEXPRESSIBLE}")));
            }
            "assistant" => assistant(&mut message, &mut to)?,
            "system" => {
                let text = joined(blocks(&mut message, "content")?)?;
                to.push(json!({"role": "system", "content": text}));
            }
            _ => return Err(message.inexpressible("role")),
        }
        message.done()?;
    }
    Ok(to)
}

fn system(body: &mut Object) -> Result<String, RequestError> {
    joined(blocks(body, "system")?)
}

/// A block with its `type` taken.
type Block = (String, Object);

/// The blocks under `key`; a text is one block.
fn blocks(message: &mut Object, key: &str) -> Result<Vec<Block>, RequestError> {
    let path = message.path(key);
    let values = match message.take(key) {
        None => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::String(text)) => vec![json!({"type": "text", "text": text})],
        Some(Value::Array(blocks)) => blocks,
        Some(_) => return Err(message.refuse(key, "must be a string or an array of blocks")),
    };
    let block = |(n, value)| {
        let mut block = Object::new(value, format!("{path}[{n}]"))?;
        block.ignore(&["cache_control"]);
        Ok((block.required_string("type")?, block))
    };
    values.into_iter().enumerate().map(block).collect()
}

/// Blocks that may only be texts, as one text.
fn joined(blocks: Vec<Block>) -> Result<String, RequestError> {
    let texts: Result<Vec<String>, RequestError> = blocks.into_iter().map(|(kind, block)| text(&kind, block)).collect();
    Ok(texts?.join("\n\n"))
}

fn text(kind: &str, mut block: Object) -> Result<String, RequestError> {
    if kind != "text" {
        return Err(block.inexpressible("type"));
    }
    let text = block.required_string("text")?;
    block.only("citations", &[json!([])])?;
    block.done()?;
    Ok(text)
}

fn user(message: &mut Object, to: &mut Vec<Value>) -> Result<(), RequestError> {
    let (mut parts, before) = (Vec::new(), to.len());
    for (kind, block) in blocks(message, "content")? {
        match kind.as_str() {
            "tool_result" => to.push(tool_result(block)?),
            "image" => parts.push(image(block)?),
            "document" => parts.push(document(block)?),
            _ => parts.push(json!({"type": "text", "text": text(&kind, block)?})),
        }
    }
    match parts.as_slice() {
        [] if to.len() > before => {}
        [] => to.push(json!({"role": "user", "content": ""})),
        [only] if only["type"] == "text" => to.push(json!({"role": "user", "content": only["text"]})),
        _ => to.push(json!({"role": "user", "content": parts})),
    }
    Ok(())
}

/// A failed call is told in words, as the message has no place for the flag.
fn tool_result(mut block: Object) -> Result<Value, RequestError> {
    let id = block.required_string("tool_use_id")?;
    let text = joined(blocks(&mut block, "content")?)?;
    let failed = block.bool("is_error")? == Some(true);
    block.done()?;
    let content = if failed { format!("Error: {text}") } else { text };
    Ok(json!({"role": "tool", "tool_call_id": id, "content": content}))
}

fn image(mut block: Object) -> Result<Value, RequestError> {
    let mut source = block.object("source")?.ok_or_else(|| block.refuse("source", "is missing"))?;
    let url = match source.required_string("type")?.as_str() {
        "url" => source.required_string("url")?,
        "base64" => data_url(&mut source)?,
        _ => return Err(source.inexpressible("type")),
    };
    source.done()?;
    block.done()?;
    Ok(json!({"type": "image_url", "image_url": {"url": url}}))
}

fn document(mut block: Object) -> Result<Value, RequestError> {
    let mut source = block.object("source")?.ok_or_else(|| block.refuse("source", "is missing"))?;
    let title = block.string("title")?;
    block.only("citations", &[json!({"enabled": false})])?;
    block.done()?;
    let part = match source.required_string("type")?.as_str() {
        "base64" => {
            let name = title.unwrap_or_else(|| "document.pdf".to_owned());
            json!({"type": "file", "file": {"filename": name, "file_data": data_url(&mut source)?}})
        }
        "text" => {
            source.ignore(&["media_type"]);
            let text = source.required_string("data")?;
            let text = title.map_or(text.clone(), |title| format!("{title}\n\n{text}"));
            json!({"type": "text", "text": text})
        }
        _ => return Err(source.inexpressible("type")),
    };
    source.done()?;
    Ok(part)
}

fn data_url(source: &mut Object) -> Result<String, RequestError> {
    let media = source.required_string("media_type")?;
    Ok(format!("data:{media};base64,{}", source.required_string("data")?))
}

fn assistant(message: &mut Object, to: &mut Vec<Value>) -> Result<(), RequestError> {
    let mut texts = Vec::new();
    let mut calls = Vec::new();
    for (kind, block) in blocks(message, "content")? {
        match kind.as_str() {
            "thinking" | "redacted_thinking" => {}
            "tool_use" => calls.push(tool_call(block)?),
            _ => texts.push(text(&kind, block)?),
        }
    }
    if texts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let content = if texts.is_empty() { Value::Null } else { texts.concat().into() };
    let mut message = json!({"role": "assistant", "content": content});
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    to.push(message);
    Ok(())
}

fn tool_call(mut block: Object) -> Result<Value, RequestError> {
    let id = block.required_string("id")?;
    let name = block.required_string("name")?;
    let input = block.take("input").unwrap_or_else(|| json!({}));
    block.only("caller", &[json!({"type": "direct"})])?;
    block.done()?;
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": input.to_string()}}))
}

//! `/v1/chat/completions` → `/v1/messages`: the fields of the body.
//!
//! Hints for a provider's cache (`prompt_cache_key`, `prompt_cache_retention`) are left out: they change no answer,
//! and each provider caches by rules of its own. Everything else that Anthropic has no counterpart for is refused,
//! unless its value asks for nothing (`n: 1`, `logprobs: false`).

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{messages, reasoning, tools};
use crate::dialect::object::Object;
use crate::error::RequestError;

pub(crate) fn translate(body: &Bytes, model: &str, max_tokens: Option<u64>) -> Result<Bytes, RequestError> {
    let mut from = parse(body)?;
    let mut to = Map::new();
    to.insert("model".into(), model.into());
    let max_tokens = max_tokens.ok_or_else(|| from.refuse("max_tokens", "is missing: this model needs a bound"))?;
    to.insert("max_tokens".into(), max_tokens.into());
    let conversation = messages::translate(from.array("messages")?.unwrap_or_default())?;
    if !conversation.system.is_empty() {
        to.insert("system".into(), conversation.system.into());
    }
    to.insert("messages".into(), conversation.messages.into());
    tools::translate(&mut from, &mut to)?;
    let effort = from.string("reasoning_effort")?;
    output_format(&mut from, &mut to)?;
    reasoning::translate(effort.as_deref(), model, max_tokens, conversation.continues_tools, &mut to)?;
    sampling(&mut from, &mut to)?;
    identity(&mut from, &mut to)?;
    if from.bool("stream")? == Some(true) {
        to.insert("stream".into(), true.into());
    }
    neutral(&mut from)?;
    from.done()?;
    Ok(Value::Object(to).to_string().into())
}

pub(super) fn parse(body: &Bytes) -> Result<Object, RequestError> {
    let value = serde_json::from_slice(body);
    Object::new(value.map_err(|error| RequestError::new(format!("the body is not valid JSON: {error}")))?, "")
}

/// `temperature`, `top_p`, `stop`.
pub(super) fn sampling(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    if let Some(temperature) = from.number("temperature")? {
        if temperature.as_f64().is_some_and(|temperature| temperature > 1.0) {
            return Err(from.refuse("temperature", "can't be above 1 for the provider that serves this request"));
        }
        to.insert("temperature".into(), temperature);
    }
    if let Some(top_p) = from.number("top_p")? {
        to.insert("top_p".into(), top_p);
    }
    match from.take("stop") {
        None => {}
        Some(Value::String(stop)) => {
            to.insert("stop_sequences".into(), json!([stop]));
        }
        Some(Value::Array(stops)) if stops.iter().all(Value::is_string) => {
            to.insert("stop_sequences".into(), stops.into());
        }
        Some(_) => return Err(from.refuse("stop", "must be a string or an array of strings")),
    }
    Ok(())
}

/// Who the caller's own user is, and which tier it wants.
fn identity(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    let user = from.string("user")?;
    if let Some(user) = from.string("safety_identifier")?.or(user) {
        to.insert("metadata".into(), json!({"user_id": user}));
    }
    match from.string("service_tier")?.as_deref() {
        None | Some("auto") => {}
        Some("default") => {
            to.insert("service_tier".into(), "standard_only".into());
        }
        Some(_) => return Err(from.inexpressible("service_tier")),
    }
    Ok(())
}

fn output_format(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    let Some(mut format) = from.object("response_format")? else { return Ok(()) };
    match format.required_string("type")?.as_str() {
        "text" => {}
        "json_schema" => {
            let mut schema = format.object("json_schema")?.ok_or_else(|| format.refuse("json_schema", "is missing"))?;
            // Constrained output is always strict there; the name and description only help the model to read it.
            schema.ignore(&["name", "description", "strict"]);
            let inner = schema.take("schema").ok_or_else(|| schema.refuse("schema", "is missing"))?;
            schema.done()?;
            to.insert("output_config".into(), json!({"format": {"type": "json_schema", "schema": inner}}));
        }
        _ => return Err(from.inexpressible("response_format")),
    }
    format.done()
}

/// What may stay only if it asks for nothing.
fn neutral(from: &mut Object) -> Result<(), RequestError> {
    from.ignore(&["model", "max_tokens", "max_completion_tokens", "stream_options"]);
    from.ignore(&["prompt_cache_key", "prompt_cache_retention"]);
    let no = [json!(false)];
    from.only("n", &[json!(1)])?;
    from.only("logprobs", &no)?;
    from.only("store", &no)?;
    from.only("presence_penalty", &[json!(0)])?;
    from.only("frequency_penalty", &[json!(0)])?;
    from.only("logit_bias", &[json!({})])?;
    from.only("metadata", &[json!({})])?;
    from.only("modalities", &[json!(["text"])])?;
    from.only("verbosity", &[json!("medium")])
}

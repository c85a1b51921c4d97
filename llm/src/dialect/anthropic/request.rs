//! `/v1/messages` → `/v1/chat/completions`: the fields of the body.
//!
//! `cache_control` marks are left out: they change no answer, and OpenAI caches prompts without being told. A budget
//! to think becomes the effort nearest to it. Everything else that has no counterpart is refused.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{messages, tools};
use crate::dialect::object::Object;
use crate::dialect::openai::wants_max_completion_tokens;
use crate::error::RequestError;

/// The most stop sequences that OpenAI takes.
const MAX_STOPS: usize = 4;

pub(crate) fn translate(body: &Bytes, model: &str, max_tokens: Option<u64>) -> Result<Bytes, RequestError> {
    let value = serde_json::from_slice(body);
    let value = value.map_err(|error| RequestError::new(format!("the body is not valid JSON: {error}")))?;
    let mut from = Object::new(value, "")?;
    let mut to = Map::new();
    to.insert("model".into(), model.into());
    to.insert("messages".into(), messages::translate(&mut from)?.into());
    if let Some(max) = max_tokens {
        let name = if wants_max_completion_tokens(model) { "max_completion_tokens" } else { "max_tokens" };
        to.insert(name.into(), max.into());
    }
    sampling(&mut from, &mut to)?;
    tools::translate(&mut from, &mut to)?;
    reasoning(&mut from, &mut to)?;
    identity(&mut from, &mut to)?;
    if from.bool("stream")? == Some(true) {
        to.insert("stream".into(), true.into());
        to.insert("stream_options".into(), json!({"include_usage": true}));
    }
    from.ignore(&["model", "max_tokens", "cache_control"]);
    from.done()?;
    Ok(Value::Object(to).to_string().into())
}

fn sampling(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    for key in ["temperature", "top_p"] {
        if let Some(value) = from.number(key)? {
            to.insert(key.into(), value);
        }
    }
    let stops = from.array("stop_sequences")?.unwrap_or_default();
    if stops.len() > MAX_STOPS {
        return Err(from.refuse("stop_sequences", "can't be more than 4 for the provider that serves this request"));
    }
    if !stops.iter().all(Value::is_string) {
        return Err(from.refuse("stop_sequences", "must be strings"));
    }
    if !stops.is_empty() {
        to.insert("stop".into(), stops.into());
    }
    Ok(())
}

/// `thinking` and `output_config` → `reasoning_effort` and `response_format`.
fn reasoning(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    let mut effort = thinking(from)?;
    if let Some(mut config) = from.object("output_config")? {
        match config.string("effort")?.as_deref() {
            None => {}
            Some("max") => effort = Some("xhigh"),
            Some("low") => effort = Some("low"),
            Some("medium") => effort = Some("medium"),
            Some("high") => effort = Some("high"),
            Some("xhigh") => effort = Some("xhigh"),
            Some(_) => return Err(config.inexpressible("effort")),
        }
        if let Some(mut format) = config.object("format")? {
            if format.required_string("type")? != "json_schema" {
                return Err(format.inexpressible("type"));
            }
            let schema = format.take("schema").ok_or_else(|| format.refuse("schema", "is missing"))?;
            format.done()?;
            let schema = json!({"name": "output", "schema": schema, "strict": true});
            to.insert("response_format".into(), json!({"type": "json_schema", "json_schema": schema}));
        }
        config.done()?;
    }
    if let Some(effort) = effort {
        to.insert("reasoning_effort".into(), effort.into());
    }
    Ok(())
}

fn thinking(from: &mut Object) -> Result<Option<&'static str>, RequestError> {
    let Some(mut thinking) = from.object("thinking")? else { return Ok(None) };
    // How thoughts are shown: OpenAI's chat completions never show them.
    thinking.ignore(&["display"]);
    let budget = thinking.number("budget_tokens")?.and_then(|budget| budget.as_u64());
    let effort = match (thinking.required_string("type")?.as_str(), budget) {
        ("disabled" | "adaptive", _) => None,
        ("enabled", Some(..4_096)) => Some("low"),
        ("enabled", Some(4_096..16_384)) => Some("medium"),
        ("enabled", Some(_)) => Some("high"),
        ("enabled", None) => return Err(thinking.refuse("budget_tokens", "is missing")),
        _ => return Err(thinking.inexpressible("type")),
    };
    thinking.done()?;
    Ok(effort)
}

fn identity(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    if let Some(mut metadata) = from.object("metadata")? {
        if let Some(user) = metadata.string("user_id")? {
            to.insert("user".into(), user.into());
        }
        metadata.done()?;
    }
    match from.string("service_tier")?.as_deref() {
        None | Some("auto") => Ok(()),
        Some("standard_only") => {
            to.insert("service_tier".into(), "default".into());
            Ok(())
        }
        Some(_) => Err(from.inexpressible("service_tier")),
    }
}

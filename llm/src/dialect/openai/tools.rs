//! Tools and the choice among them.

use serde_json::{Map, Value, json};

use crate::dialect::object::Object;
use crate::error::RequestError;

pub(super) fn translate(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    let tools = from.array("tools")?.unwrap_or_default();
    let has_tools = !tools.is_empty();
    if has_tools {
        let tools: Result<Vec<Value>, RequestError> =
            tools.into_iter().enumerate().map(|(n, tool)| definition(tool, &format!("tools[{n}]"))).collect();
        to.insert("tools".into(), tools?.into());
    }
    let mut choice = choice(from)?;
    if from.bool("parallel_tool_calls")? == Some(false) && has_tools {
        let choice = choice.get_or_insert_with(|| json!({"type": "auto"}));
        if choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = true.into();
        }
    }
    match choice {
        Some(choice) if has_tools => {
            to.insert("tool_choice".into(), choice);
        }
        Some(choice) if choice["type"] == "any" || choice["type"] == "tool" => {
            return Err(from.refuse("tool_choice", "names a tool, but there are none"));
        }
        _ => {}
    }
    Ok(())
}

fn definition(tool: Value, at: &str) -> Result<Value, RequestError> {
    let mut tool = Object::new(tool, at)?;
    if tool.required_string("type")? != "function" {
        return Err(tool.inexpressible("type"));
    }
    let mut function = tool.object("function")?.ok_or_else(|| tool.refuse("function", "is missing"))?;
    let mut to = Map::new();
    to.insert("name".into(), function.required_string("name")?.into());
    if let Some(description) = function.string("description")? {
        to.insert("description".into(), description.into());
    }
    let schema = function.take("parameters").unwrap_or_else(|| json!({"type": "object", "properties": {}}));
    to.insert("input_schema".into(), schema);
    if function.bool("strict")? == Some(true) {
        to.insert("strict".into(), true.into());
    }
    function.done()?;
    if let Some(cache) = tool.take("cache_control") {
        to.insert("cache_control".into(), cache);
    }
    tool.done()?;
    Ok(Value::Object(to))
}

fn choice(from: &mut Object) -> Result<Option<Value>, RequestError> {
    let refused = from.inexpressible("tool_choice");
    let path = from.path("tool_choice");
    match from.take("tool_choice") {
        None => Ok(None),
        Some(Value::String(choice)) => match choice.as_str() {
            "auto" => Ok(Some(json!({"type": "auto"}))),
            "none" => Ok(Some(json!({"type": "none"}))),
            "required" => Ok(Some(json!({"type": "any"}))),
            _ => Err(refused),
        },
        Some(value) => {
            let mut choice = Object::new(value, path)?;
            if choice.required_string("type")? != "function" {
                return Err(refused);
            }
            let mut function = choice.object("function")?.ok_or_else(|| choice.refuse("function", "is missing"))?;
            let name = function.required_string("name")?;
            function.done()?;
            choice.done()?;
            Ok(Some(json!({"type": "tool", "name": name})))
        }
    }
}

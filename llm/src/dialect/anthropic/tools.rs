//! Tools and the choice among them.

use serde_json::{Map, Value, json};

use crate::dialect::object::Object;
use crate::error::RequestError;

pub(super) fn translate(from: &mut Object, to: &mut Map<String, Value>) -> Result<(), RequestError> {
    let tools = from.array("tools")?.unwrap_or_default();
    if !tools.is_empty() {
        let tools: Result<Vec<Value>, RequestError> =
            tools.into_iter().enumerate().map(|(n, tool)| definition(tool, format!("tools[{n}]"))).collect();
        to.insert("tools".into(), tools?.into());
    }
    let Some(mut choice) = from.object("tool_choice")? else { return Ok(()) };
    let wanted = match choice.required_string("type")?.as_str() {
        "auto" => json!("auto"),
        "any" => json!("required"),
        "none" => json!("none"),
        "tool" => json!({"type": "function", "function": {"name": choice.required_string("name")?}}),
        _ => return Err(choice.inexpressible("type")),
    };
    to.insert("tool_choice".into(), wanted);
    if let Some(disable) = choice.bool("disable_parallel_tool_use")? {
        to.insert("parallel_tool_calls".into(), (!disable).into());
    }
    choice.done()
}

fn definition(tool: Value, at: String) -> Result<Value, RequestError> {
    let mut tool = Object::new(tool, at)?;
    tool.ignore(&["cache_control"]);
    tool.only("type", &[json!("custom")])?;
    let mut function = Map::new();
    function.insert("name".into(), tool.required_string("name")?.into());
    if let Some(description) = tool.string("description")? {
        function.insert("description".into(), description.into());
    }
    let schema = tool.take("input_schema").ok_or_else(|| tool.refuse("input_schema", "is missing"))?;
    function.insert("parameters".into(), schema);
    if let Some(strict) = tool.bool("strict")? {
        function.insert("strict".into(), strict.into());
    }
    tool.done()?;
    Ok(json!({"type": "function", "function": function}))
}

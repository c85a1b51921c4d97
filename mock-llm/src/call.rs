//! What a request asks for, read from its path and its JSON.

use serde_json::Value;

use crate::text;

/// An endpoint of one of the three APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Messages,
    MessagesCount,
    Gemini { stream: bool },
    GeminiCount,
    Models,
}

impl Operation {
    /// The endpoint at `path` and, where the path names it, the model. `/v1`, `/v1beta` and nothing before it are the same.
    pub(crate) fn at(method: &str, path: &str) -> Option<(Operation, Option<String>)> {
        let path = ["/v1beta", "/v1"].iter().find_map(|base| path.strip_prefix(base)).unwrap_or(path);
        let plain = |operation| Some((operation, None));
        match (method, path) {
            ("POST", "/chat/completions") => plain(Operation::Chat),
            ("POST", "/completions") => plain(Operation::Completions),
            ("POST", "/embeddings") => plain(Operation::Embeddings),
            ("POST", "/responses") => plain(Operation::Responses),
            ("POST", "/messages") => plain(Operation::Messages),
            ("POST", "/messages/count_tokens") => plain(Operation::MessagesCount),
            ("GET", "/models") => plain(Operation::Models),
            ("POST", _) => Operation::gemini(path.strip_prefix("/models/")?),
            _ => None,
        }
    }

    fn gemini(rest: &str) -> Option<(Operation, Option<String>)> {
        let (model, verb) = rest.rsplit_once(':')?;
        let operation = match verb {
            "generateContent" => Operation::Gemini { stream: false },
            "streamGenerateContent" => Operation::Gemini { stream: true },
            "countTokens" => Operation::GeminiCount,
            _ => return None,
        };
        Some((operation, Some(model.to_owned())))
    }

    /// Whether this endpoint makes text, as opposed to listing or counting.
    pub(crate) fn generates(self) -> bool {
        !matches!(self, Operation::Models | Operation::MessagesCount | Operation::GeminiCount)
    }
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    pub(crate) model: String,
    pub(crate) stream: bool,
    /// Whether an OpenAI stream shall end with a usage chunk.
    pub(crate) include_usage: bool,
    /// How many answers to the same prompt.
    pub(crate) choices: u64,
    /// The most tokens of one answer.
    pub(crate) max_output: Option<u64>,
    pub(crate) input: u64,
    /// How many vectors an embeddings request wants.
    pub(crate) inputs: u64,
    pub(crate) tool: Option<Tool>,
}

/// A tool that the answer may call.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// The request leaves no choice.
    pub(crate) required: bool,
}

impl Call {
    /// Reads a request's JSON; the model may stand in the path instead.
    pub(crate) fn parse(operation: Operation, path_model: Option<String>, body: &Value) -> Result<Call, String> {
        let Some(object) = body.as_object() else { return Err("the body is not a JSON object".into()) };
        let model = match path_model {
            Some(model) => model,
            None => object.get("model").and_then(Value::as_str).ok_or("there is no model")?.to_owned(),
        };
        let stream = match operation {
            Operation::Gemini { stream } => stream,
            _ => body["stream"].as_bool().unwrap_or(false),
        };
        Ok(Call {
            operation,
            model,
            stream,
            include_usage: body["stream_options"]["include_usage"].as_bool().unwrap_or(false),
            choices: choices(body),
            max_output: max_output(operation, body)?,
            input: input(operation, body),
            inputs: match &body["input"] {
                Value::Array(items) if items.iter().any(|item| !item.is_number()) => items.len() as u64,
                _ => 1,
            },
            tool: tool(body),
        })
    }
}

fn choices(body: &Value) -> u64 {
    let several = [&body["n"], &body["generationConfig"]["candidateCount"]];
    several.iter().find_map(|value| value.as_u64()).unwrap_or(1).clamp(1, 128)
}

fn max_output(operation: Operation, body: &Value) -> Result<Option<u64>, String> {
    let named = ["max_completion_tokens", "max_output_tokens", "max_tokens"].map(|name| &body[name]);
    let value = named.into_iter().chain([&body["generationConfig"]["maxOutputTokens"]]).find(|value| !value.is_null());
    match value {
        None if operation == Operation::Messages => Err("max_tokens: Field required".into()),
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| format!("{value} is no number of tokens")),
    }
}

/// The usage rule: one for each message and one for each word.
fn input(operation: Operation, body: &Value) -> u64 {
    match operation {
        Operation::Completions => words(&body["prompt"]),
        Operation::Embeddings => words(&body["input"]),
        Operation::Responses => match &body["input"] {
            Value::Array(items) => words(&body["instructions"]) + messages(items),
            one => words(&body["instructions"]) + words(one) + 1,
        },
        Operation::Gemini { .. } | Operation::GeminiCount => {
            words(&body["systemInstruction"]["parts"]) + list(&body["contents"])
        }
        Operation::Chat => list(&body["messages"]),
        Operation::Messages | Operation::MessagesCount => words(&body["system"]) + list(&body["messages"]),
        Operation::Models => 0,
    }
}

fn list(value: &Value) -> u64 {
    value.as_array().map_or(0, |items| messages(items))
}

fn messages(items: &[Value]) -> u64 {
    let one = |item: &Value| {
        let parts = ["content", "parts", "output", "text"].map(|field| words(&item[field]));
        1 + parts.iter().sum::<u64>() + if item.is_string() { words(item) } else { 0 }
    };
    items.iter().map(one).sum()
}

/// The words of a text, or of the texts in a list of parts; a list of numbers is one of tokens.
fn words(value: &Value) -> u64 {
    match value {
        Value::String(text) => text::count(text),
        Value::Array(items) => items.iter().map(words).sum(),
        Value::Object(part) => ["text", "content"].iter().filter_map(|field| part.get(*field)).map(words).sum(),
        Value::Number(_) => 1,
        _ => 0,
    }
}

fn tool(body: &Value) -> Option<Tool> {
    let first = &body["tools"][0];
    let names = [&first["function"]["name"], &first["name"], &first["functionDeclarations"][0]["name"]];
    let first = names.into_iter().find_map(Value::as_str)?;
    let choice = &body["tool_choice"];
    if choice.as_str() == Some("none") || choice["type"].as_str() == Some("none") {
        return None;
    }
    let named = [&choice["function"]["name"], &choice["name"]].into_iter().find_map(Value::as_str);
    let forced = choice.as_str() == Some("required")
        || choice["type"].as_str() == Some("any")
        || body["toolConfig"]["functionCallingConfig"]["mode"].as_str() == Some("ANY");
    Some(Tool { name: named.unwrap_or(first).to_owned(), required: forced || named.is_some() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn input_of(operation: Operation, body: Value) -> u64 {
        Call::parse(operation, Some("m".into()), &body).unwrap().input
    }

    #[test]
    fn a_prompt_costs_its_words_and_one_for_each_message() {
        let chat = json!({"messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "x y z"}}]},
        ]});
        assert_eq!(input_of(Operation::Chat, chat), 2 + 5);
        let claude =
            json!({"system": "be brief", "max_tokens": 1, "messages": [{"role": "user", "content": "what is this"}]});
        assert_eq!(input_of(Operation::Messages, claude), 1 + 5);
        let gemini = json!({"contents": [{"role": "user", "parts": [{"text": "what is"}, {"text": "this"}]}]});
        assert_eq!(input_of(Operation::Gemini { stream: false }, gemini), 1 + 3);
        assert_eq!(input_of(Operation::Completions, json!({"prompt": "what is this"})), 3);
        assert_eq!(input_of(Operation::Embeddings, json!({"input": ["what is", "this"]})), 3);
        assert_eq!(input_of(Operation::Responses, json!({"input": "what is this", "instructions": "be brief"})), 6);
    }

    #[test]
    fn paths_are_found_with_and_without_a_base() {
        for base in ["", "/v1"] {
            let found = Operation::at("POST", &format!("{base}/chat/completions"));
            assert_eq!(found, Some((Operation::Chat, None)));
        }
        let gemini = Operation::at("POST", "/v1beta/models/gem-1:streamGenerateContent");
        assert_eq!(gemini, Some((Operation::Gemini { stream: true }, Some("gem-1".into()))));
        assert_eq!(Operation::at("GET", "/v1/chat/completions"), None);
        assert_eq!(Operation::at("POST", "/v1/elsewhere"), None);
    }

    #[test]
    fn the_dialects_names_for_the_most_output_are_all_known() {
        let of = |operation, body| Call::parse(operation, Some("m".into()), &body).map(|call| call.max_output);
        assert_eq!(of(Operation::Chat, json!({"max_tokens": 5})), Ok(Some(5)));
        assert_eq!(of(Operation::Chat, json!({"max_completion_tokens": 6})), Ok(Some(6)));
        assert_eq!(of(Operation::Responses, json!({"max_output_tokens": 7, "input": ""})), Ok(Some(7)));
        assert_eq!(
            of(Operation::Gemini { stream: true }, json!({"generationConfig": {"maxOutputTokens": 8}})),
            Ok(Some(8))
        );
        assert!(of(Operation::Messages, json!({})).is_err());
        assert!(of(Operation::Chat, json!({"max_tokens": -1})).is_err());
    }
}

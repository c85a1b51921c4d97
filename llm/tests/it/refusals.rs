//! Input that is refused: by everyone, or because a provider's dialect has no words for it.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use tollgate_llm::{
    AiRequest, AnswerError, Dialect, MaxTokens, Operation, RequestError, StreamRelay, translate_answer, translate_error,
};

fn parse(operation: Operation, body: impl Into<Bytes>) -> Result<AiRequest, RequestError> {
    AiRequest::parse(operation, body.into())
}

fn refused(operation: Operation, body: impl Into<Bytes>) -> RequestError {
    parse(operation, body).expect_err("it is refused")
}

#[test]
fn what_is_not_a_request_is_refused_with_a_clear_message() {
    let deep = format!("{{\"model\":\"m\",\"messages\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for (body, message, param) in [
        ("", "valid JSON", None),
        ("{", "valid JSON", None),
        ("hello", "valid JSON", None),
        ("[]", "must be a JSON object", None),
        (r#"{"model":"m","messages":[]} x"#, "text after the end", None),
        (deep.as_str(), "nested too deep", None),
        (r#"{"messages":[]}"#, "provide a model", Some("model")),
        (r#"{"model":null,"messages":[]}"#, "provide a model", Some("model")),
        (r#"{"model":7,"messages":[]}"#, "must be a string", Some("model")),
        (r#"{"model":" ","messages":[]}"#, "must not be empty", Some("model")),
        (r#"{"model":"m\n","messages":[]}"#, "not a possible name", Some("model")),
        (r#"{"model":"m"}"#, "messages is missing", Some("messages")),
        (r#"{"model":"m","messages":"hi"}"#, "must be an array", Some("messages")),
        (r#"{"model":"a","model":"b","messages":[]}"#, "model is there twice", Some("model")),
        (r#"{"model":"a","messages":[],"mod\u0065l":"b"}"#, "model is there twice", Some("model")),
        (r#"{"model":"m","messages":[],"Max_Tokens":5}"#, "did you mean \"max_tokens\"", Some("Max_Tokens")),
        (r#"{"model":"m","messages":[],"stream":"yes"}"#, "must be true or false", Some("stream")),
        (r#"{"model":"m","messages":[],"max_tokens":-1}"#, "must be an integer", Some("max_tokens")),
        (r#"{"model":"m","messages":[],"max_tokens":1.5}"#, "must be an integer", Some("max_tokens")),
        (r#"{"model":"m","messages":[],"max_tokens":1e3}"#, "must be an integer", Some("max_tokens")),
        (r#"{"model":"m","messages":[],"max_tokens":99999999999999999999}"#, "must be an integer", Some("max_tokens")),
        (r#"{"model":"m","messages":[],"n":0}"#, "must be an integer", Some("n")),
        (r#"{"model":"m","messages":[],"n":100000}"#, "must be an integer", Some("n")),
        (r#"{"model":"m","messages":[],"stream_options":true}"#, "must be an object", Some("stream_options")),
    ] {
        let error = refused(Operation::ChatCompletions, Bytes::copy_from_slice(body.as_bytes()));
        assert!(error.message.contains(message), "{body}: {}", error.message);
        assert_eq!(error.param.as_deref(), param, "{body}");
    }
    let error = refused(Operation::Messages, &b"{\"model\":\"\xff\"}"[..]);
    assert!(error.message.contains("not valid UTF-8 at byte 10"), "{}", error.message);
    let error = refused(Operation::Responses, r#"{"model":"m","input":"x","background":true}"#);
    assert_eq!(error.param.as_deref(), Some("background"));
    assert_eq!(refused(Operation::Embeddings, r#"{"model":"m"}"#).param.as_deref(), Some("input"));
    assert_eq!(refused(Operation::Completions, r#"{"model":"m","prompt":7}"#).param.as_deref(), Some("prompt"));
}

/// A request with one more field, or with a message of its own, to a provider of the other dialect.
fn translated(operation: Operation, extra: Value) -> Result<Value, RequestError> {
    let mut body = json!({"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]});
    if operation == Operation::Completions {
        body = json!({"model": "m", "prompt": "hi"});
    }
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let to = if operation == Operation::Messages { Dialect::OpenAi } else { Dialect::Anthropic };
    let request = parse(operation, body.to_string())?;
    let sent = request.for_provider(to, "claude-opus-4-7", MaxTokens::Set(100))?;
    Ok(serde_json::from_slice(&sent.body).unwrap())
}

#[test]
fn a_conversation_that_anthropic_has_no_place_for_is_refused_rather_than_changed() {
    let turn = |role: &str, content: Value| json!({"role": role, "content": content});
    let (hi, empty) = (turn("user", "hi".into()), turn("user", "".into()));
    for (messages, param, message) in [
        (json!([empty]), "messages[0].content", "empty content"),
        (json!([turn("user", json!([]))]), "messages[0].content", "empty content"),
        (json!([hi, turn("assistant", "".into()), hi]), "messages[1].content", "empty content"),
        (json!([hi, turn("assistant", Value::Null), hi]), "messages[1].content", "empty content"),
        (json!([empty, turn("assistant", "hello".into()), hi]), "messages[0].content", "empty content"),
        (json!([hi, turn("system", "be brief".into())]), "messages[1].role", "must come first"),
        (json!([hi, turn("developer", "be brief".into()), hi]), "messages[1].role", "must come first"),
        (json!([turn("system", "be brief".into())]), "messages", "not of the system"),
        (json!([]), "messages", "not of the system"),
    ] {
        let error = translated(Operation::ChatCompletions, json!({"messages": messages})).expect_err("it is refused");
        assert_eq!(error.param.as_deref(), Some(param), "{messages}");
        assert!(error.message.contains(message) && error.message.contains(param), "{}", error.message);
    }
    let first = json!([turn("system", "a".into()), turn("developer", "b".into()), hi]);
    let sent = translated(Operation::ChatCompletions, json!({"messages": first})).unwrap();
    assert_eq!(sent["system"], json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]));
}

#[test]
fn a_beginning_of_the_answer_is_not_passed_off_as_a_turn() {
    let thought = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
    let said = json!({"type": "text", "text": "The answer is"});
    for content in [json!("The answer is"), json!([said]), json!([thought])] {
        let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]);
        let error = translated(Operation::Messages, json!({"messages": messages})).expect_err("it is refused");
        assert_eq!(error.param.as_deref(), Some("messages[1].role"));
        assert!(error.message.contains("prefill") && error.message.contains("can't be expressed"), "{}", error.message);
    }
    // The one loss that is intended: thoughts of earlier turns. A turn of nothing stays one.
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [thought, {"type": "redacted_thinking", "data": "x"}, said]},
        {"role": "user", "content": ""},
    ]);
    let sent = translated(Operation::Messages, json!({"messages": messages})).unwrap();
    let expected = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "The answer is"},
        {"role": "user", "content": ""},
    ]);
    assert_eq!(sent["messages"], expected);
}

fn inexpressible(operation: Operation, extra: Value) -> String {
    let error = translated(operation, extra.clone()).expect_err(&extra.to_string());
    error.param.unwrap_or_default()
}

#[test]
fn what_anthropic_has_no_words_for_is_refused_by_name() {
    let message = |message: Value| json!({"messages": [message]});
    let user = |part: Value| message(json!({"role": "user", "content": [part]}));
    for (extra, param) in [
        (json!({"n": 2}), "n"),
        (json!({"seed": 7}), "seed"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"logit_bias": {"50256": -100}}), "logit_bias"),
        (json!({"presence_penalty": 0.5}), "presence_penalty"),
        (json!({"frequency_penalty": -1}), "frequency_penalty"),
        (json!({"temperature": 1.5}), "temperature"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"functions": []}), "functions"),
        (json!({"store": true}), "store"),
        (json!({"metadata": {"a": "b"}}), "metadata"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"service_tier": "flex"}), "service_tier"),
        (json!({"brand_new": 1}), "brand_new"),
        (json!({"tools": [{"type": "custom", "custom": {"name": "x"}}]}), "tools[0].type"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"stop": 7}), "stop"),
        (message(json!({"role": "function", "name": "f", "content": "x"})), "messages[0].role"),
        (message(json!({"role": "user", "name": "bob", "content": "x"})), "messages[0].name"),
        (
            user(json!({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})),
            "messages[0].content[0].type",
        ),
        (user(json!({"type": "file", "file": {"file_id": "f"}})), "messages[0].content[0].file.file_id"),
        (
            user(json!({"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}})),
            "messages[0].content[0].image_url.detail",
        ),
        (user(json!({"type": "image_url", "image_url": {"url": "data:x"}})), "messages[0].content[0].image_url.url"),
        (
            message(json!({"role": "assistant", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{oops"}}]})),
            "messages[0].tool_calls[0].function.arguments",
        ),
    ] {
        assert_eq!(inexpressible(Operation::ChatCompletions, extra), param);
    }
    for (extra, param) in [
        (json!({"suffix": "x"}), "suffix"),
        (json!({"echo": true}), "echo"),
        (json!({"best_of": 3}), "best_of"),
        (json!({"logprobs": 3}), "logprobs"),
        (json!({"prompt": ["a", "b"]}), "prompt"),
        (json!({"prompt": [1, 2]}), "prompt"),
    ] {
        assert_eq!(inexpressible(Operation::Completions, extra), param);
    }
}

#[test]
fn what_openai_has_no_words_for_is_refused_by_name() {
    let user = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    for (extra, param) in [
        (json!({"top_k": 5}), "top_k"),
        (json!({"stop_sequences": ["a", "b", "c", "d", "e"]}), "stop_sequences"),
        (json!({"mcp_servers": [{"url": "https://x"}]}), "mcp_servers"),
        (json!({"container": "c"}), "container"),
        (json!({"service_tier": "priority"}), "service_tier"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (json!({"metadata": {"user_id": "u", "team": "t"}}), "metadata.team"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools[0].type"),
        (json!({"brand_new": {}}), "brand_new"),
        (
            user(json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
            "messages[0].content[0].source.type",
        ),
        (
            user(json!({"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}})),
            "messages[0].content[0].source.type",
        ),
        (
            user(json!({"type": "tool_result", "tool_use_id": "t", "content": [
                {"type": "image", "source": {"type": "url", "url": "https://x"}}]})),
            "messages[0].content[0].content[0].type",
        ),
    ] {
        assert_eq!(inexpressible(Operation::Messages, extra), param);
    }
}

#[test]
fn what_asks_for_nothing_is_not_refused() {
    let neutral = json!({
        "n": 1, "logprobs": false, "presence_penalty": 0.0, "frequency_penalty": 0, "seed": null, "store": false,
        "logit_bias": {}, "response_format": {"type": "text"}, "parallel_tool_calls": true, "tool_choice": "auto",
        "modalities": ["text"], "prompt_cache_key": "k", "service_tier": "auto", "functions": null,
    });
    let sent = translated(Operation::ChatCompletions, neutral).unwrap();
    let expected = json!({"model": "claude-opus-4-7", "max_tokens": 100,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]});
    assert_eq!(sent, expected);
}

#[test]
fn operations_that_a_dialect_does_not_have_are_refused() {
    for (operation, body, to) in [
        (Operation::Embeddings, r#"{"model":"m","input":"x"}"#, Dialect::Anthropic),
        (Operation::Responses, r#"{"model":"m","input":"x"}"#, Dialect::Anthropic),
        (Operation::CountTokens, r#"{"model":"m","messages":[]}"#, Dialect::OpenAi),
    ] {
        let request = parse(operation, body).unwrap();
        assert!(!request.served_by(to));
        let error = request.for_provider(to, "m", MaxTokens::Keep).unwrap_err();
        assert!(error.message.contains("not possible with a provider of type"), "{}", error.message);
    }
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    let chat = parse(Operation::ChatCompletions, r#"{"model":"m","messages":[]}"#).unwrap();
    let messages = parse(Operation::Messages, r#"{"model":"m","messages":[]}"#).unwrap();
    for request in [&chat, &messages] {
        for from in [Dialect::OpenAi, Dialect::Anthropic] {
            for garbage in ["", "<html></html>", "[]", "{}", "{\"choices\":", "{\"type\":\"message\"}", "\u{1}", "null"]
            {
                let answer = translate_answer(
                    request,
                    from,
                    "m",
                    MaxTokens::Keep,
                    0,
                    &Bytes::copy_from_slice(garbage.as_bytes()),
                );
                assert!(matches!(answer, Err(AnswerError::Garbage(_))), "{garbage:?} from {from:?}: {answer:?}");
            }
            let error = Bytes::from_static(br#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#);
            let answer = translate_answer(request, from, "m", MaxTokens::Keep, 0, &error);
            assert_eq!(answer, Err(AnswerError::Upstream("busy".to_owned())));
        }
    }
    let not_utf8 = Bytes::from_static(b"{\"choices\":[{\"text\":\"\xff\"}]}");
    assert!(translate_answer(&chat, Dialect::OpenAi, "m", MaxTokens::Keep, 0, &not_utf8).is_err());
}

proptest! {
    #[test]
    fn no_body_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for operation in [Operation::ChatCompletions, Operation::Messages, Operation::Embeddings, Operation::Responses] {
            let _ = AiRequest::parse(operation, Bytes::from(bytes.clone()));
        }
        let _ = translate_error(Dialect::Anthropic, 400, &Bytes::from(bytes));
    }

    #[test]
    fn no_json_panics_whatever_stands_where(value in any_value(), key in prop::sample::select(KEYS.to_vec())) {
        for operation in [Operation::ChatCompletions, Operation::Messages, Operation::Completions, Operation::Responses] {
            let mut body = json!({"model": "m", "messages": [], "prompt": "p", "max_tokens": 9, "stream": true});
            body[key] = value.clone();
            let Ok(request) = AiRequest::parse(operation, body.to_string().into()) else { continue };
            for to in [Dialect::OpenAi, Dialect::Anthropic] {
                if let Ok(sent) = request.for_provider(to, "served", MaxTokens::Set(7)) {
                    let sent: Value = serde_json::from_slice(&sent.body).unwrap();
                    prop_assert_eq!(&sent["model"], "served");
                }
                let answer = json!({"choices": [value.clone()], "content": [value.clone()], "type": "message", key: value.clone()});
                let _ = translate_answer(&request, to, "m", MaxTokens::Keep, 0, &answer.to_string().into());
                let event = format!("data: {}\n\n", json!({"type": "content_block_delta", "delta": value.clone(),
                    "choices": [{"delta": value.clone()}], key: value.clone()}));
                let _ = StreamRelay::new(&request, to, "m", MaxTokens::Keep, 0).push(&event.into());
            }
            prop_assert!(request.input_bound("m") >= request.input_estimate("m") / 2);
        }
    }
}

const KEYS: &[&str] = &[
    "messages",
    "system",
    "tools",
    "tool_choice",
    "stop",
    "stop_sequences",
    "response_format",
    "thinking",
    "metadata",
    "output_config",
    "stream_options",
    "prompt",
    "input",
    "usage",
    "content",
    "error",
    "delta",
    "message",
];

/// Values made of the words that the dialects are made of.
fn any_value() -> impl Strategy<Value = Value> {
    let words = [
        "text",
        "user",
        "assistant",
        "tool",
        "system",
        "image_url",
        "image",
        "tool_use",
        "tool_result",
        "function",
        "data:image/png;base64,AAAA",
        "{}",
        "{\"a\":1}",
        "base64",
        "json_schema",
        "document",
        "file",
        "",
        "hi",
    ];
    let keys = [
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "source",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "id",
        "tool_use_id",
        "tool_call_id",
        "input",
        "parameters",
        "input_schema",
        "data",
        "media_type",
        "index",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        let member = (prop::sample::select(keys.to_vec()).prop_map(str::to_owned), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Value::from),
            prop::collection::vec(member, 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

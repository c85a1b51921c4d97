use serde_json::{Value, json};

use super::*;
use crate::request::AiRequest;

fn bound(operation: Operation, body: Value, model: &str) -> u64 {
    AiRequest::parse(operation, body.to_string().into()).unwrap().input_bound(model)
}

fn chat(messages: Value) -> Value {
    json!({"model": "m", "messages": messages})
}

fn user(content: Value) -> Value {
    chat(json!([{"role": "user", "content": content}]))
}

#[test]
fn unknown_models_are_bounded_by_bytes_and_known_ones_by_tokens() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(100);
    let bytes = bound(Operation::ChatCompletions, user(json!(text)), "mock-small");
    assert!((4_500..4_700).contains(&bytes), "{bytes}");
    let tokens = bound(Operation::ChatCompletions, user(json!(text)), "gpt-4o");
    assert!((1_000..1_200).contains(&tokens), "{tokens}");
    let by_type_only = bound(Operation::ChatCompletions, user(json!(text)), "qwen-max");
    assert_eq!(by_type_only, bytes);
}

#[test]
fn what_it_probably_is_never_is_more_than_it_can_be() {
    for model in ["gpt-4o", "gpt-3.5-turbo", "claude-3-5-sonnet", "mock-small"] {
        for messages in [1, 2, 20, 500] {
            let messages: Vec<Value> = (0..messages).map(|_| json!({"role": "user", "content": "a"})).collect();
            for operation in [Operation::ChatCompletions, Operation::Messages] {
                let body = json!({"model": "m", "max_tokens": 5, "messages": messages.clone()});
                let request = AiRequest::parse(operation, body.to_string().into()).unwrap();
                let rough = (request.input_estimate(model), request.most_input(model));
                assert!(rough.0 <= rough.1, "{model}, {operation:?}, {}: {rough:?}", messages.len());
                let counted = (request.input_bound(model), request.input_estimate(model));
                assert!(counted.1 <= counted.0, "{model}, {operation:?}, {}: {counted:?}", messages.len());
            }
        }
    }
}

#[test]
fn escapes_are_counted_as_what_they_mean() {
    let plain = AiRequest::parse(
        Operation::ChatCompletions,
        r#"{"model":"m","messages":[{"role":"user","content":"你好"}]}"#.into(),
    );
    let escaped = AiRequest::parse(
        Operation::ChatCompletions,
        r#"{"model":"m","messages":[{"role":"user","content":"\u4f60\u597d"}]}"#.into(),
    );
    assert_eq!(plain.unwrap().input_bound("x"), escaped.unwrap().input_bound("x"));
}

#[test]
fn an_image_costs_its_rule_and_not_its_bytes() {
    let url = format!("data:image/png;base64,{}", "A".repeat(100_000));
    let image = |detail: &str| user(json!([{"type": "image_url", "image_url": {"url": url, "detail": detail}}]));
    let high = bound(Operation::ChatCompletions, image("high"), "gpt-4o");
    assert!((1_445..1_600).contains(&high), "{high}");
    let low = bound(Operation::ChatCompletions, image("low"), "gpt-4o");
    assert!((85..250).contains(&low), "{low}");
    let block = json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A".repeat(100_000)}}]);
    let claude = bound(Operation::Messages, user(block), "claude-3-5-sonnet");
    assert!((1_600..1_800).contains(&claude), "{claude}");
}

#[test]
fn nothing_can_be_hidden_from_the_bound() {
    let secret = "x".repeat(50_000);
    for (operation, body) in [
        (Operation::ChatCompletions, user(json!([{"type": "text", "text": "hi", "image_url": secret}]))),
        (Operation::ChatCompletions, user(json!([{"type": "text", "text": "hi", "unheard_of": [secret]}]))),
        (
            Operation::ChatCompletions,
            user(json!([{"type": "image_url", "file": "f", "image_url": "u", "source": secret}])),
        ),
        (Operation::ChatCompletions, user(json!({"weird": secret}))),
        (Operation::ChatCompletions, chat(json!([{"role": "assistant", "tool_calls": [{"x": secret}]}]))),
        (Operation::ChatCompletions, chat(json!([{"role": "user", "name": secret, "content": ""}]))),
        (Operation::ChatCompletions, chat(json!([[secret]]))),
        (Operation::ChatCompletions, json!({"model": "m", "messages": [], "documents": [secret]})),
        (Operation::ChatCompletions, json!({"model": "m", "messages": [], "tools": [{"name": secret}]})),
        (Operation::ChatCompletions, json!({"model": "m", "messages": [], "functions": [{"name": secret}]})),
        (Operation::ChatCompletions, json!({"model": "m", "messages": [], "prompt": secret})),
        (Operation::Messages, json!({"model": "m", "messages": [], "system": [{"type": "text", "text": secret}]})),
        (
            Operation::Messages,
            chat(json!([{"role": "assistant", "content": [
            {"type": "tool_use", "id": "t", "name": "n", "input": {"source": secret}}]}])),
        ),
        (Operation::Messages, user(json!([{"type": "tool_result", "content": [{"type": "text", "text": secret}]}]))),
        (Operation::Messages, user(json!([{"type": "document", "source": {"type": "text", "data": secret}}]))),
        (Operation::Completions, json!({"model": "m", "prompt": ["a", [secret]]})),
        (Operation::Embeddings, json!({"model": "m", "input": [secret]})),
        (Operation::Responses, json!({"model": "m", "input": [{"type": "function_call_output", "output": secret}]})),
        (Operation::Responses, json!({"model": "m", "input": "x", "instructions": secret})),
    ] {
        for model in ["unknown", "gpt-4o"] {
            let shown = body.to_string().len();
            let bound = bound(operation, body.clone(), model);
            let least = if model == "unknown" { 50_000 } else { 6_250 };
            assert!(bound >= least, "{bound} for {shown} bytes with {model}: {}", &body.to_string()[..80]);
        }
    }
}

#[test]
fn context_that_is_not_in_the_request_counts_as_a_window() {
    for extra in [
        json!({"previous_response_id": "resp_1"}),
        json!({"conversation": "conv_1"}),
        json!({"prompt": {"id": "pmpt_1"}}),
        json!({"tools": [{"type": "web_search"}]}),
        json!({"input": [{"type": "item_reference", "id": "i"}]}),
        json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
    ] {
        let mut body = json!({"model": "m", "input": "x"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert!(bound(Operation::Responses, body, "gpt-4o") >= WINDOW_TOKENS, "{extra}");
    }
    let plain = json!({"model": "m", "input": "x", "previous_response_id": null, "mcp_servers": [], "tools": [{"type": "function", "name": "f"}]});
    assert!(bound(Operation::Responses, plain, "gpt-4o") < 2_000);
}

#[test]
fn tokens_sent_as_numbers_are_counted_one_by_one() {
    let tokens = json!({"model": "m", "input": vec![7; 5_000]});
    let bound = bound(Operation::Embeddings, tokens, "text-embedding-3-small");
    assert!((5_000..5_100).contains(&bound), "{bound}");
}

#[test]
fn counting_tokens_costs_nothing() {
    assert_eq!(bound(Operation::CountTokens, user(json!("hi")), "claude-opus-4-7"), 0);
}

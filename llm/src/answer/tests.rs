use serde_json::json;

use super::*;

fn request(operation: Operation) -> AiRequest {
    let body = r#"{"model":"m","messages":[],"input":"x","prompt":"p"}"#;
    AiRequest::parse(operation, body.into()).unwrap()
}

#[test]
fn an_answer_of_the_same_dialect_is_the_providers_buffer() {
    let body =
        Bytes::from_static(br#"{ "choices":[], "usage":{"prompt_tokens":1,"completion_tokens":0} , "model":"x" }"#);
    let empty = translate_answer(&request(Operation::ChatCompletions), Dialect::OpenAi, "m", MaxTokens::Keep, 0, &body);
    assert!(empty.is_err(), "an answer without a choice is none");
    let body =
        Bytes::from_static(br#"{ "choices":[{}], "usage":{"prompt_tokens":1,"completion_tokens":0} , "model":"x" }"#);
    let answer =
        translate_answer(&request(Operation::ChatCompletions), Dialect::OpenAi, "m", MaxTokens::Keep, 0, &body)
            .unwrap();
    assert_eq!(answer.body.as_ptr(), body.as_ptr());
    assert_eq!(answer.model.as_deref(), Some("x"));
}

#[test]
fn a_forced_call_ends_with_tool_use() {
    let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}});
    let body = json!({"id": "x", "choices": [{"message": {"tool_calls": [call]}, "finish_reason": "stop"}]});
    let answer = translate_answer(
        &request(Operation::Messages),
        Dialect::OpenAi,
        "m",
        MaxTokens::Keep,
        0,
        &body.to_string().into(),
    );
    let answer: Value = serde_json::from_slice(&answer.unwrap().body).unwrap();
    assert_eq!(answer["stop_reason"], "tool_use");
    assert_eq!(answer["model"], "m", "what was asked for, as the provider does not say");
    assert_eq!(answer["content"][0]["input"], json!({}));
}

#[test]
fn a_failed_response_is_passed_with_its_usage() {
    let body = json!({"id": "r", "object": "response", "status": "failed", "error": {"code": "server_error", "message": "x"},
        "output": [], "usage": {"input_tokens": 4, "output_tokens": 0}});
    let answer = translate_answer(
        &request(Operation::Responses),
        Dialect::OpenAi,
        "m",
        MaxTokens::Keep,
        0,
        &body.to_string().into(),
    );
    assert_eq!(answer.unwrap().usage.input, 4);
}

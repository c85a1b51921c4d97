//! Whole answers in every dialect.

use serde_json::{Value, json};
use tollgate_mock_llm::{Knobs, Options};

use crate::client::Mock;

fn chat() -> Value {
    json!({"model": "mock-1", "messages": [{"role": "user", "content": "what is this"}]})
}

#[tokio::test]
async fn a_chat_answer_has_as_many_words_as_its_usage_says() {
    let mock = Mock::start(Options::default()).await;
    for base in ["", "/v1"] {
        let answer = mock.post(&format!("{base}/chat/completions"), "", &chat()).await.json();
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        assert_eq!(text.split_whitespace().count(), 16);
        assert_eq!(answer["usage"]["completion_tokens"], 16);
        assert_eq!(answer["usage"]["prompt_tokens"], 4);
        assert_eq!(answer["usage"]["total_tokens"], 20);
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn the_request_bounds_the_answer_and_each_choice_counts() {
    let mock = Mock::start(Options::default()).await;
    let body = json!({"model": "mock-1", "n": 3, "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]});
    let answer = mock.post("/v1/chat/completions", "x-mock-output: 50\r\n", &body).await.json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 3);
    assert_eq!(answer["usage"]["completion_tokens"], 15);
    assert_eq!(answer["choices"][2]["finish_reason"], "length");
    let over = mock.post("/v1/chat/completions", "x-mock-overrun: 2\r\n", &body).await.json();
    assert_eq!(over["usage"]["completion_tokens"], 21);
}

#[tokio::test]
async fn every_endpoint_answers_in_its_own_shape() {
    let mock = Mock::start(Options::default()).await;
    let claude =
        json!({"model": "c", "max_tokens": 9, "system": "be brief", "messages": [{"role": "user", "content": "hi"}]});
    let message = mock.post("/v1/messages", "", &claude).await.json();
    assert_eq!((&message["usage"]["input_tokens"], &message["usage"]["output_tokens"]), (&json!(4), &json!(9)));
    assert_eq!(message["stop_reason"], "max_tokens");
    let counted = mock.post("/v1/messages/count_tokens", "", &claude).await.json();
    assert_eq!(counted, json!({"input_tokens": 4}));

    let gemini = json!({"contents": [{"role": "user", "parts": [{"text": "hi you"}]}]});
    let answer = mock.post("/v1beta/models/g-1:generateContent", "", &gemini).await.json();
    assert_eq!(answer["usageMetadata"]["promptTokenCount"], 3);
    assert_eq!(answer["usageMetadata"]["candidatesTokenCount"], 16);

    let plain = mock.post("/v1/completions", "", &json!({"model": "m", "prompt": "hi you"})).await.json();
    assert_eq!((&plain["usage"]["prompt_tokens"], &plain["object"]), (&json!(2), &json!("text_completion")));
    let vectors = mock.post("/v1/embeddings", "", &json!({"model": "m", "input": ["hi you", "x"]})).await.json();
    assert_eq!(vectors["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    assert_eq!(vectors["data"].as_array().unwrap().len(), 2);
    let response = mock.post("/v1/responses", "", &json!({"model": "m", "input": "hi you"})).await.json();
    assert_eq!(response["usage"]["input_tokens"], 3);
    assert_eq!(response["output"][0]["content"][0]["type"], "output_text");
    assert_eq!(mock.get("/v1/models").await.json()["data"][0]["id"], "mock-1");
}

#[tokio::test]
async fn tools_are_called_when_the_request_or_a_knob_wants_it() {
    let mock = Mock::start(Options::default()).await;
    let mut body = chat();
    body["tools"] = json!([{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]);
    let free = mock.post("/v1/chat/completions", "", &body).await.json();
    assert_eq!(free["choices"][0]["finish_reason"], "stop");
    let asked = mock.post("/v1/chat/completions", "x-mock-tool: true\r\n", &body).await.json();
    let call = &asked["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "look");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments["text"].as_str().unwrap().split(' ').count(), 16);
    let claude = json!({"model": "c", "max_tokens": 4, "messages": [], "tools": [{"name": "look", "input_schema": {}}],
        "tool_choice": {"type": "any"}});
    let message = mock.post("/v1/messages", "", &claude).await.json();
    assert_eq!((&message["content"][0]["type"], &message["stop_reason"]), (&json!("tool_use"), &json!("tool_use")));
}

#[tokio::test]
async fn usage_can_be_missing_or_wrong_in_every_way() {
    let mock = Mock::start(Options::default()).await;
    let usage = async |fault: &str| {
        let header = format!("x-mock-usage: {fault}\r\n");
        mock.post("/v1/chat/completions", &header, &chat()).await.json()["usage"]["completion_tokens"].clone()
    };
    assert_eq!(usage("missing").await, Value::Null);
    assert_eq!(usage("zero").await, json!(0));
    assert_eq!(usage("tenth").await, json!(1));
    assert_eq!(usage("tenfold").await, json!(160));
    assert_eq!(usage("negative").await, json!(-16));
    assert_eq!(usage("huge").await, json!(9_223_372_036_854_775_808_u64));
}

#[tokio::test]
async fn a_key_is_asked_for_in_each_dialects_words() {
    let mock = Mock::start(Options { api_key: Some("sk-mock".into()), ..Options::default() }).await;
    let refused = mock.post("/v1/chat/completions", "", &chat()).await;
    assert_eq!((refused.status(), &refused.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    let refused = mock.post("/v1/messages", "x-api-key: wrong\r\n", &chat()).await;
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    for header in ["authorization: Bearer sk-mock\r\n", "x-api-key: sk-mock\r\n", "x-goog-api-key: sk-mock\r\n"] {
        assert_eq!(mock.post("/v1/chat/completions", header, &chat()).await.status(), 200, "{header}");
    }
}

#[tokio::test]
async fn what_is_no_call_gets_a_clear_refusal() {
    let mock = Mock::start(Options::default()).await;
    assert_eq!(mock.post("/v1/nowhere", "", &json!({})).await.status(), 404);
    let answer = mock.post("/v1/chat/completions", "", &json!({"messages": []})).await;
    assert_eq!((answer.status(), &answer.json()["error"]["message"]), (400, &json!("there is no model")));
    let answer = mock.post("/v1/chat/completions", "x-mock-colour: red\r\n", &chat()).await;
    assert!(answer.json()["error"]["message"].as_str().unwrap().contains("no knob \"colour\""));
    assert_eq!(mock.send("nonsense\r\n\r\n").await.status(), 400);
    assert_eq!(mock.witness().await.unreadable, 1);
}

#[tokio::test]
async fn knobs_turn_while_it_runs_and_a_reset_turns_them_back() {
    let knobs = Knobs { output: 7, ..Knobs::default() };
    let mock = Mock::start(Options { knobs, ..Options::default() }).await;
    let tokens =
        async || mock.post("/v1/chat/completions", "", &chat()).await.json()["usage"]["completion_tokens"].clone();
    assert_eq!(tokens().await, json!(7));
    assert_eq!(mock.post("/__mock/knobs", "", &json!({"output": "3", "status": "none"})).await.status(), 200);
    assert_eq!(tokens().await, json!(3));
    assert_eq!(mock.post("/__mock/knobs", "", &json!({"output": 4, "colour": "red"})).await.status(), 400);
    assert_eq!(tokens().await, json!(3));
    mock.post("/__mock/reset", "", &json!({})).await;
    assert_eq!(tokens().await, json!(7));
}

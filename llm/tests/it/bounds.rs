//! The input bound against those who bill: the simulated provider by its own rule, OpenAI by the rule that it publishes.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tollgate_llm::{AiRequest, Dialect, MaxTokens, Operation, StreamRelay};
use tollgate_mock_llm::{Options, serve};

/// One of each kind: both published vocabularies, an open model of OpenAI's, and two whose vocabulary nobody knows.
const MODELS: [&str; 5] = ["gpt-4o", "gpt-3.5-turbo", "gpt-oss-20b", "mock-1", "claude-sonnet-4-5"];

/// The simulated provider, for as long as the tests run.
static PROVIDER: LazyLock<Provider> = LazyLock::new(|| {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn_on(serve(listener, Options::default(), CancellationToken::new()), runtime.handle());
    Provider { address, _tasks: tasks, _runtime: runtime }
});

struct Provider {
    address: SocketAddr,
    _tasks: JoinSet<io::Result<()>>,
    _runtime: Runtime,
}

/// What the simulated provider answers, with 600 tokens of output where the request allows them.
fn answered(operation: Operation, body: &Value) -> String {
    let body = body.to_string();
    let mut connection = TcpStream::connect(PROVIDER.address).unwrap();
    let head = format!(
        "POST /v1{} HTTP/1.1\r\nhost: mock\r\nconnection: close\r\nx-mock-output: 600\r\ncontent-length: {}\r\n\r\n",
        operation.provider_path(),
        body.len()
    );
    connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
    let mut answer = BufReader::new(connection);
    let mut status = String::new();
    answer.read_line(&mut status).unwrap();
    assert!(status.contains(" 200 "), "{status} for {body}");
    let mut rest = String::new();
    answer.read_to_string(&mut rest).unwrap();
    let (head, body) = rest.split_once("\r\n\r\n").unwrap();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_owned() }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    whole
}

/// The input that the simulated provider bills.
fn billed(operation: Operation, body: &Value) -> u64 {
    let usage = &serde_json::from_str::<Value>(&answered(operation, body)).unwrap()["usage"];
    usage["prompt_tokens"].as_u64().or(usage["input_tokens"].as_u64()).unwrap()
}

fn bound(operation: Operation, body: &Value, model: &str) -> u64 {
    AiRequest::parse(operation, body.to_string().into()).unwrap().input_bound(model)
}

/// Words of all sorts: short ones, so that there are many tokens for few bytes, and whatever else is text.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::collection::vec("[a-z0-9]{1,3}", 0..60).prop_map(|words| words.join(" ")),
        1 => "[a \u{85}\u{a0}\u{2003}\u{3000}\n\t'.{}]{0,80}",
        1 => "[\u{4e00}-\u{4eff} ]{0,40}",
        1 => any::<String>(),
    ]
}

fn part() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => text().prop_map(|text| json!({"type": "text", "text": text})),
        1 => text().prop_map(|text| json!({"type": "input_text", "text": text})),
        1 => text().prop_map(|text| json!({"text": text, "content": [text, {"text": text}], "unheard_of": text})),
        1 => text().prop_map(|text| json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": text}]})),
        1 => text().prop_map(|text| json!({"type": "tool_use", "id": "t", "name": "n", "input": {"text": text}})),
        1 => text().prop_map(|text| json!({"type": "image_url", "image_url": {"url": text, "detail": "low"}})),
        1 => text().prop_map(|text| json!({"type": "image", "source": {"type": "base64", "data": text}})),
        1 => text().prop_map(Value::from),
        1 => prop_oneof![Just(json!(7)), Just(json!(null)), Just(json!({"type": "text", "text": 7}))],
    ]
}

fn content() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => text().prop_map(Value::from),
        3 => prop::collection::vec(part(), 0..6).prop_map(Value::from),
        1 => prop_oneof![Just(json!(null)), Just(json!(7)), Just(json!({})), Just(json!([1, 2, 3]))],
    ]
}

fn message() -> impl Strategy<Value = Value> {
    let role = prop_oneof![Just("user"), Just("assistant"), Just("system"), Just("tool"), Just("developer"), Just("")];
    prop_oneof![
        8 => (role, content()).prop_map(|(role, content)| json!({"role": role, "content": content})),
        1 => content().prop_map(|content| json!({"content": content})),
        1 => text().prop_map(|text| json!({"role": "user", "name": text, "content": text, "tool_call_id": text})),
        1 => text().prop_map(|text| json!({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": text}}]})),
        1 => text().prop_map(|text| json!({"type": "function_call_output", "call_id": "c", "output": text})),
        1 => text().prop_map(|text| json!({"role": "user", "parts": [text], "output": [{"text": text}], "content": {"text": text}})),
        1 => text().prop_map(|text| json!({"role": "", "content": 1, "parts": 1, "output": 1, "text": 1, "x": text})),
        1 => text().prop_map(Value::from),
    ]
}

fn messages() -> impl Strategy<Value = Value> {
    prop::collection::vec(message(), 0..8).prop_map(Value::from)
}

fn tools() -> impl Strategy<Value = Value> {
    let tool = text().prop_map(|text| json!({"type": "function", "function": {"name": "f", "description": text}}));
    prop_oneof![Just(json!([])), prop::collection::vec(tool, 1..3).prop_map(Value::from)]
}

fn prompt() -> impl Strategy<Value = Value> {
    prop_oneof![
        text().prop_map(Value::from),
        prop::collection::vec(text(), 0..5).prop_map(Value::from),
        prop::collection::vec(any::<u16>(), 0..50).prop_map(Value::from),
        prop::collection::vec(prop::collection::vec(any::<u16>(), 0..20), 0..5).prop_map(Value::from),
    ]
}

fn call() -> impl Strategy<Value = (Operation, Value)> {
    prop_oneof![
        3 => (messages(), tools(), text()).prop_map(|(messages, tools, text)| (
            Operation::ChatCompletions,
            json!({"messages": messages, "tools": tools, "response_format": {"json_schema": {"name": text}}}),
        )),
        2 => (messages(), content(), tools()).prop_map(|(messages, system, tools)| (
            Operation::Messages,
            json!({"max_tokens": 1, "messages": messages, "system": system, "tools": tools}),
        )),
        2 => (prop_oneof![messages(), text().prop_map(Value::from)], text()).prop_map(|(input, instructions)| (
            Operation::Responses,
            json!({"input": input, "instructions": instructions}),
        )),
        1 => (prompt(), text()).prop_map(|(prompt, suffix)| (
            Operation::Completions,
            json!({"prompt": prompt, "suffix": suffix}),
        )),
        1 => prompt().prop_map(|input| (Operation::Embeddings, json!({"input": input}))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_billed_that_was_not_bounded((operation, mut body) in call()) {
        body["model"] = "mock-1".into();
        let billed = billed(operation, &body);
        for model in MODELS {
            let bound = bound(operation, &body, model);
            prop_assert!(bound >= billed, "{model}: {bound} for {billed} billed, {operation:?} {body}");
        }
    }
}

/// OpenAI's published count of messages, with the tokens of known words.
fn published(messages: &[(&str, Option<&str>, u64)]) -> u64 {
    let one = |(_, name, words): &(&str, Option<&str>, u64)| 3 + 1 + words + if name.is_some() { 2 } else { 0 };
    messages.iter().map(one).sum::<u64>() + 3
}

#[test]
fn a_conversation_in_text_is_bounded_by_exactly_the_published_count() {
    for messages in [
        vec![("user", None, 1)],
        vec![("system", None, 7), ("user", None, 300)],
        vec![("system", None, 10), ("user", Some("alice"), 40), ("assistant", None, 5), ("user", Some("alice"), 0)],
    ] {
        let json: Vec<Value> = messages
            .iter()
            .map(|(role, name, words)| {
                let text = " one".repeat(usize::try_from(*words).unwrap());
                match name {
                    Some(name) => json!({"role": role, "name": name, "content": text}),
                    None => json!({"role": role, "content": text}),
                }
            })
            .collect();
        let body = json!({"model": "m", "messages": json, "temperature": 0.5, "max_tokens": 9, "stream": true});
        for model in ["gpt-4o", "gpt-4o-mini-2024-07-18", "gpt-4", "o3-mini", "gpt-4.1"] {
            assert_eq!(bound(Operation::ChatCompletions, &body, model), published(&messages), "{model}");
        }
    }
}

#[test]
fn prompts_and_inputs_are_bounded_by_exactly_their_tokens() {
    let text = " one".repeat(500);
    let input = json!({"model": "m", "input": [text, text]});
    assert_eq!(bound(Operation::Embeddings, &input, "text-embedding-3-small"), 1_000);
    let numbers = json!({"model": "m", "input": [[1, 2, 3], [4]]});
    assert_eq!(bound(Operation::Embeddings, &numbers, "text-embedding-3-small"), 4);
    let prompt = json!({"model": "m", "prompt": text});
    assert_eq!(bound(Operation::Completions, &prompt, "gpt-3.5-turbo-instruct"), 507);
}

/// Of the calls that fit a limit by what they really use, so many are admitted at once: 99 of 100 and more.
#[test]
fn what_is_bounded_too_high_is_less_than_one_in_a_hundred() {
    let words = |count| " one".repeat(count);
    for (operation, body, model) in [
        (Operation::ChatCompletions, json!({"messages": [{"role": "user", "content": words(600)}]}), "gpt-4o"),
        (Operation::Responses, json!({"input": words(1_100)}), "gpt-4o"),
        (Operation::Completions, json!({"prompt": words(700)}), "gpt-3.5-turbo-instruct"),
        (Operation::Embeddings, json!({"input": [words(5)]}), "text-embedding-3-large"),
    ] {
        let mut body = body;
        body["model"] = model.into();
        let (bound, billed) = (bound(operation, &body, model), billed(operation, &body));
        assert!(billed <= bound && bound * 99 <= billed * 100, "{bound} for {billed} billed by {model}");
    }
}

/// Of a stream that the simulated provider writes to a caller of the same dialect, event by event.
#[test]
fn the_output_that_went_by_is_never_counted_too_low_and_closely_where_it_can_be() {
    tollgate_llm::preload("gpt-4o");
    let input = json!([{"role": "user", "content": "hi"}]);
    for (operation, dialect) in [
        (Operation::ChatCompletions, Dialect::OpenAi),
        (Operation::Completions, Dialect::OpenAi),
        (Operation::Responses, Dialect::OpenAi),
        (Operation::Messages, Dialect::Anthropic),
    ] {
        for (model, allowance) in [("gpt-4o", 600 / 16), ("mock-1", 600 * 5)] {
            let body = json!({"model": model, "stream": true, "messages": input, "prompt": "hi", "input": input, "max_tokens": 700});
            let bound = if operation == Operation::Responses { "max_output_tokens" } else { "max_tokens" };
            let body = body.to_string().replace("max_tokens", bound);
            let request = AiRequest::parse(operation, body.clone().into()).unwrap();
            let mut relay = StreamRelay::new(&request, dialect, model, MaxTokens::Keep, 0);
            let stream = answered(operation, &serde_json::from_str(&body).unwrap());
            let mut before = 0;
            for event in stream.split_inclusive("\n\n") {
                relay.push(&event.to_owned().into()).unwrap();
                let (most, exactly) = (relay.most_output(), relay.most_output_exactly());
                assert!(exactly <= most && before <= exactly, "{operation:?} {model}: {before} {exactly} {most}");
                before = exactly;
            }
            assert!(relay.is_complete(), "{operation:?} {model}");
            assert!((600..=600 + allowance).contains(&before), "{operation:?} {model}: {before} for 600");
        }
    }
}

use serde_json::{Value, json};

use super::*;

fn parsed(operation: Operation, body: Value) -> AiRequest {
    AiRequest::parse(operation, body.to_string().into()).unwrap()
}

fn chat(extra: &str) -> AiRequest {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{extra}}}"#);
    AiRequest::parse(Operation::ChatCompletions, body.into()).unwrap()
}

fn sent(request: &AiRequest, model: &str, max_tokens: MaxTokens) -> String {
    let sent = request.for_provider(request.dialect(), model, max_tokens).unwrap();
    String::from_utf8(sent.body.to_vec()).unwrap()
}

#[test]
fn what_need_not_change_is_the_same_buffer() {
    let request = chat(r#", "max_tokens":5 ,"x":{"a":[1,2.50]}"#);
    let sent = request.for_provider(Dialect::OpenAi, "m", MaxTokens::Set(5)).unwrap();
    assert_eq!(sent.body.as_ptr(), request.0.body.as_ptr());
    assert_eq!((sent.path, sent.headers.len()), ("/chat/completions", 0));
}

#[test]
fn only_what_must_change_changes() {
    let request = chat(r#", "max_tokens": 9 ,"stream":true, "y":"ü""#);
    assert_eq!(
        sent(&request, "served \"x\"", MaxTokens::Set(7)),
        r#"{"model":"served \"x\"","messages":[{"role":"user","content":"hi"}], "max_tokens": 7 ,"stream":true, "y":"ü","stream_options":{"include_usage":true}}"#
    );
}

#[test]
fn a_bound_is_injected_under_the_name_that_the_model_takes() {
    let has =
        |model: &str, name: &str| sent(&chat(""), model, MaxTokens::Set(7)).ends_with(&format!(",\"{name}\":7}}"));
    assert!(has("gpt-4o", "max_completion_tokens"));
    assert!(has("o3-mini", "max_completion_tokens"));
    assert!(has("llama-3", "max_tokens"));
    assert!(!sent(&chat(""), "m", MaxTokens::Keep).contains("max_"));
    let responses = parsed(Operation::Responses, json!({"model": "m", "input": "x"}));
    assert!(sent(&responses, "m", MaxTokens::Set(7)).ends_with(",\"max_output_tokens\":7}"));
    let embeddings = parsed(Operation::Embeddings, json!({"model": "m", "input": "x"}));
    assert!(!sent(&embeddings, "m", MaxTokens::Set(7)).contains('7'));
}

#[test]
fn no_bound_that_stands_there_survives_a_smaller_one() {
    let both = chat(r#","max_tokens":900,"max_completion_tokens":800"#);
    assert_eq!(both.max_tokens(), Some(900));
    let body = sent(&both, "m", MaxTokens::Set(50));
    assert!(body.ends_with(r#""max_tokens":50,"max_completion_tokens":50}"#), "{body}");
}

#[test]
fn usage_is_asked_for_in_whatever_options_there_are() {
    for (options, expected) in [
        ("null", r#"{"include_usage":true}"#),
        ("{}", r#"{"include_usage":true}"#),
        (r#"{"include_usage":false}"#, r#"{"include_usage":true}"#),
        (r#"{"include_usage":null, "x":1}"#, r#"{"include_usage":true, "x":1}"#),
        (r#"{"include_obfuscation": false }"#, r#"{"include_obfuscation": false,"include_usage":true }"#),
        (r#"{ "include_usage" : true }"#, r#"{ "include_usage" : true }"#),
    ] {
        let request = chat(&format!(r#","stream":true,"stream_options":{options}"#));
        let body = sent(&request, "m", MaxTokens::Keep);
        assert!(body.ends_with(&format!("\"stream_options\":{expected}}}")), "{options}: {body}");
    }
    let whole = chat(r#","stream":false"#);
    assert!(!sent(&whole, "m", MaxTokens::Keep).contains("stream_options"));
}

#[test]
fn output_is_bounded_over_all_choices_and_prompts() {
    assert_eq!(chat("").output_bound(), None);
    assert_eq!(chat("").output_bound_with(100), 100);
    assert_eq!(chat(r#","max_tokens":10,"n":3"#).output_bound(), Some(30));
    assert_eq!(chat(r#","max_completion_tokens":10"#).output_bound(), Some(10));
    assert_eq!(chat(r#","max_tokens":null,"n":null"#).output_bound(), None);
    let completion = |extra: Value| {
        let mut body = json!({"model": "m", "max_tokens": 10});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        parsed(Operation::Completions, body).output_bound()
    };
    assert_eq!(completion(json!({"prompt": "x", "n": 2, "best_of": 5})), Some(50));
    assert_eq!(completion(json!({"prompt": ["x", "y"], "n": 2})), Some(40));
    assert_eq!(completion(json!({"prompt": [1, 2, 3]})), Some(10));
    assert_eq!(completion(json!({"prompt": [[1, 2], [3]]})), Some(20));
    let embeddings = parsed(Operation::Embeddings, json!({"model": "m", "input": ["x", "y"]}));
    assert_eq!((embeddings.output_bound(), embeddings.output_bound_with(9)), (Some(0), 0));
    let predicted = chat(r#","max_tokens":10,"n":2,"prediction":{"type":"content","content":"abc"}"#);
    assert_eq!(predicted.output_bound(), Some((10 + r#"{"type":"content","content":"abc"}"#.len() as u64) * 2));
    let huge = chat(r#","max_tokens":4294967295,"n":128"#);
    assert_eq!(huge.output_bound(), Some(4_294_967_295 * 128));
}

#[test]
fn a_translation_needs_a_bound_and_brings_its_version() {
    let error = chat("").for_provider(Dialect::Anthropic, "claude", MaxTokens::Keep).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("max_tokens"));
    let sent = chat("").for_provider(Dialect::Anthropic, "claude", MaxTokens::Set(9)).unwrap();
    assert_eq!(sent.path, "/messages");
    assert_eq!(sent.headers, [("anthropic-version", "2023-06-01".to_owned())]);
}

#[test]
fn blocking_is_needed_only_for_a_vocabulary_or_a_long_text() {
    assert!(!chat("").needs_blocking("claude-opus-4-7"));
    crate::preload("gpt-4o");
    assert!(!chat("").needs_blocking("gpt-4o"));
    let long = parsed(Operation::Completions, json!({"model": "gpt-4o", "prompt": "word ".repeat(5_000)}));
    assert!(long.needs_blocking("gpt-4o"));
    let _ = long.input_bound("gpt-4o");
    assert!(!long.needs_blocking("gpt-4o"));
}

#[test]
fn output_that_no_stream_shows_is_known_by_names_and_by_what_is_asked_for() {
    for (extra, model, hides) in [
        ("", "gpt-4o", false),
        ("", "mock-1", false),
        ("", "claude-opus-4-7", false),
        ("", "o3-mini", true),
        ("", "gpt-5.4-nano", true),
        ("", "ft:o4-mini:acme::x", true),
        ("", "gemini-2.5-flash", true),
        (r#","reasoning_effort":"low""#, "mock-1", true),
        (r#","reasoning_effort":"none""#, "mock-1", false),
        (r#","reasoning":{"effort":"low"}"#, "mock-1", true),
        (r#","reasoning":null"#, "mock-1", false),
        (r#","thinking":{"type":"enabled","budget_tokens":2000}"#, "claude-opus-4-7", true),
        (r#","thinking":{"type":"adaptive"}"#, "claude-opus-4-7", true),
        (r#","thinking":{"type":"disabled"}"#, "claude-opus-4-7", false),
        (r#","thinking":{"type":"disabled","type":"enabled"}"#, "claude-opus-4-7", true),
        (r#","enable_thinking":false"#, "qwen-max", false),
        (r#","enable_thinking":true"#, "qwen-max", true),
        (r#","modalities":["text"]"#, "gpt-4o", false),
        (r#","modalities":["text","audio"],"audio":{"voice":"a"}"#, "gpt-4o", true),
        (r#","tools":[{"type":"web_search"}]"#, "gpt-4o", true),
        (r#","tools":[{"type":"function","function":{"name":"f"}}]"#, "gpt-4o", false),
    ] {
        assert_eq!(chat(extra).hides_output(model), hides, "{model} with {extra}");
    }
}

/// A body of the operation, with more members.
fn with(operation: Operation, extra: &str) -> Result<AiRequest, RequestError> {
    let body = format!(r#"{{"model":"m","messages":[],"prompt":"x","input":"x"{extra}}}"#);
    AiRequest::parse(operation, body.into())
}

#[test]
fn a_bound_that_is_none_is_refused_by_name_in_every_dialect() {
    use Operation::{ChatCompletions, Completions, Messages, Responses};
    for (operation, name, least) in [
        (ChatCompletions, "max_tokens", 1),
        (ChatCompletions, "max_completion_tokens", 1),
        (Completions, "max_tokens", 0),
        (Messages, "max_tokens", 1),
        (Responses, "max_output_tokens", 1),
    ] {
        for value in [
            "-1",
            "9223372036854775808",
            "18446744073709551616",
            "4294967296",
            "1.5",
            "1.0",
            "1e3",
            "\"7\"",
            "[7]",
            "{}",
            "true",
        ] {
            let error = with(operation, &format!(r#","{name}":{value}"#)).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name), "{value}");
            assert_eq!(error.message, format!("{name} must be an integer from {least} to 4294967295"), "{value}");
        }
        assert_eq!(with(operation, &format!(r#","{name}":0"#)).is_ok(), least == 0, "{name}");
        assert_eq!(with(operation, &format!(r#","{name}":null"#)).unwrap().max_tokens(), None);
        assert_eq!(with(operation, &format!(r#","{name}":4294967295"#)).unwrap().max_tokens(), Some(4_294_967_295));
        assert!(with(operation, &format!(r#","{name}":1,"{name}":2"#)).is_err(), "ambiguous");
        assert!(with(operation, &format!(r#","{}":1"#, name.to_uppercase())).is_err(), "some would read it");
    }
}

#[test]
fn a_bound_under_a_name_of_another_api_is_refused_with_the_right_one() {
    use Operation::{ChatCompletions, Completions, Embeddings, Messages, Responses};
    for (operation, foreign, right) in [
        (ChatCompletions, "max_output_tokens", "max_completion_tokens"),
        (Completions, "max_completion_tokens", "max_tokens"),
        (Messages, "max_completion_tokens", "max_tokens"),
        (Messages, "max_output_tokens", "max_tokens"),
        (Responses, "max_tokens", "max_output_tokens"),
        (Responses, "max_completion_tokens", "max_output_tokens"),
    ] {
        let error = with(operation, &format!(r#","{foreign}":5"#)).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(foreign));
        assert_eq!(error.message, format!("{foreign} is not a field of this API: use {right}"));
        assert!(with(operation, &format!(r#","{foreign}":null"#)).is_ok());
    }
    assert!(with(Embeddings, r#","max_tokens":5"#).is_ok(), "there is nothing to bound");
}

#[test]
fn choices_are_bounded_and_count_where_they_are_made() {
    use Operation::{ChatCompletions, Completions, Messages, Responses};
    let of = |operation, extra: &str| with(operation, extra).map(|request| request.choices());
    assert_eq!(of(ChatCompletions, r#","n":128"#), Ok(128));
    assert_eq!(of(ChatCompletions, r#","n":2,"best_of":3"#), Ok(3));
    assert_eq!(of(Completions, r#","n":null"#), Ok(1));
    for operation in [Messages, Responses] {
        assert_eq!(of(operation, r#","n":1"#), Ok(1));
        assert_eq!(of(operation, r#","n":2"#).unwrap_err().message, "n must be 1");
    }
    for value in ["0", "-1", "129", "9223372036854775808", "1.0", "\"2\""] {
        for name in ["n", "best_of"] {
            let error = of(Completions, &format!(r#","{name}":{value}"#)).unwrap_err();
            assert_eq!(error.message, format!("{name} must be an integer from 1 to 128"));
            assert_eq!(error.param.as_deref(), Some(name));
        }
    }
}

#[test]
fn a_bound_is_found_that_fits_into_what_there_is() {
    let predicted = r#","n":2,"prediction":{"type":"content","content":"abc"}"#;
    for (extra, room, expected) in [
        ("", 100, 100),
        ("", 0, 1),
        (r#","n":3"#, 100, 33),
        (r#","n":3"#, 2, 1),
        (predicted, 100, 16),
        (predicted, 70, 1),
    ] {
        let request = chat(extra);
        assert_eq!(request.max_tokens_within(room), expected, "{extra} in {room}");
        assert!(expected == 1 || request.output_bound_with(expected) <= room, "{extra} in {room}");
        assert!(request.output_bound_with(expected + 1) > room, "{extra} in {room}");
    }
}

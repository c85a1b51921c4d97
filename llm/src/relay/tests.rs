use crate::error::code;
use crate::usage::{AtMost, UsageSource};

use super::*;

fn relay(operation: Operation, from: Dialect, extra: &str) -> StreamRelay {
    let body =
        format!(r#"{{"model":"m","stream":true,"messages":[{{"role":"user","content":"hi"}}],"input":"x"{extra}}}"#);
    StreamRelay::new(&AiRequest::parse(operation, body.into()).unwrap(), from, "m", MaxTokens::Keep, 0)
}

fn chat() -> StreamRelay {
    relay(Operation::ChatCompletions, Dialect::OpenAi, "")
}

const HELLO: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn broken() -> ApiError {
    ApiError::new(502, code::UPSTREAM_ERROR, "broken")
}

#[test]
fn events_that_pass_are_slices_of_the_chunk() {
    let chunk = Bytes::from(format!("{HELLO}{HELLO}data: {{\"cho"));
    let parts: Vec<Bytes> = chat().push(&chunk).unwrap().into_iter().collect();
    assert_eq!(parts, [format!("{HELLO}{HELLO}")]);
    assert_eq!(parts[0].as_ptr(), chunk.as_ptr());
}

#[test]
fn the_usage_chunk_is_cut_out_of_the_middle_without_copying() {
    let chunk = Bytes::from(format!("{HELLO}{USAGE}{DONE}"));
    let mut relay = chat();
    let parts: Vec<Bytes> = relay.push(&chunk).unwrap().into_iter().collect();
    assert_eq!(parts, [HELLO, DONE]);
    assert_eq!(parts[1].as_ptr(), chunk[HELLO.len() + USAGE.len()..].as_ptr());
    assert!(relay.is_complete());
    assert_eq!((relay.usage().input, relay.usage().output), (3, 1));
}

#[test]
fn the_usage_chunk_passes_when_the_caller_asked_for_it() {
    let mut relay = relay(Operation::ChatCompletions, Dialect::OpenAi, r#","stream_options":{"include_usage":true}"#);
    let all = format!("{HELLO}{USAGE}{DONE}");
    assert_eq!(relay.push(&Bytes::from(all.clone())).unwrap().into_bytes(), all);
}

const ASKED: &str = r#","stream_options":{"include_usage":true}"#;

#[test]
fn usage_that_was_asked_for_and_does_not_come_is_told_from_what_was_counted() {
    let first = "data: {\"id\":\"c1\",\"object\":\"chat.completion.chunk\",\"created\":7,\"model\":\"x\",\"choices\":[{\"delta\":{\"content\":\"hello\"}}],\"usage\":null}\n\n";
    for cut in 0..=first.len() + DONE.len() {
        let all = format!("{first}{DONE}");
        let mut relay = relay(Operation::ChatCompletions, Dialect::OpenAi, ASKED);
        let mut sent = relay.push(&Bytes::copy_from_slice(&all.as_bytes()[..cut])).unwrap().into_bytes().to_vec();
        sent.extend(relay.push(&Bytes::copy_from_slice(&all.as_bytes()[cut..])).unwrap().into_bytes());
        let sent = String::from_utf8(sent).unwrap();
        let told =
            sent.strip_prefix(first).and_then(|rest| rest.strip_suffix(DONE)).unwrap_or_else(|| panic!("{sent}"));
        let told: serde_json::Value = serde_json::from_str(told.strip_prefix("data: ").unwrap()).unwrap();
        let frame = [&told["id"], &told["object"], &told["model"]];
        assert_eq!(frame, ["c1", "chat.completion.chunk", "x"]);
        assert_eq!((&told["created"], &told["choices"]), (&7.into(), &serde_json::json!([])));
        let usage = relay.usage();
        assert_eq!((told["usage"]["completion_tokens"].as_u64(), usage.output), (Some(2), 2));
        assert_eq!((told["usage"]["prompt_tokens"].as_u64(), usage.source), (Some(usage.input), UsageSource::Counted));
    }
}

#[test]
fn usage_that_was_told_or_not_asked_for_is_not_told_again() {
    let within = "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
    let mut asked = relay(Operation::ChatCompletions, Dialect::OpenAi, ASKED);
    let all = format!("{within}{DONE}");
    assert_eq!(asked.push(&Bytes::from(all.clone())).unwrap().into_bytes(), all);
    assert_eq!(chat().push(&Bytes::from(format!("{HELLO}{DONE}"))).unwrap().into_bytes(), format!("{HELLO}{DONE}"));
    let mut cut = relay(Operation::ChatCompletions, Dialect::OpenAi, ASKED);
    assert_eq!(cut.push(&HELLO.into()).unwrap().into_bytes(), HELLO, "nothing is told of what has not ended");
    assert_eq!(cut.finish(), Err(StreamError::Truncated));
}

#[test]
fn a_null_that_only_our_asking_brought_is_taken_out_and_nothing_else() {
    for (sent, passed) in [
        (r#"{"choices":[{"delta":{}}],"usage":null}"#, r#"{"choices":[{"delta":{}}]}"#),
        (r#"{"choices": [{"usage":null}] , "usage": null, "x" : 1 }"#, r#"{"choices": [{"usage":null}] , "x" : 1 }"#),
        (r#"{"usage":null , "choices":[{}]}"#, r#"{ "choices":[{}]}"#),
        (
            r#"{"choices":[{"delta":{"content":"\"usage\":null"}}]}"#,
            r#"{"choices":[{"delta":{"content":"\"usage\":null"}}]}"#,
        ),
        (r#"{"usage":null}"#, r#"{}"#),
    ] {
        let (sent, passed) = (format!("event: x\ndata: {sent}\n\n"), format!("event: x\ndata: {passed}\n\n"));
        let (all, expected) = (format!("{HELLO}{sent}: c\n\n{sent}"), format!("{HELLO}{passed}: c\n\n{passed}"));
        for cut in 0..=all.len() {
            let mut relay = chat();
            let mut out = relay.push(&Bytes::copy_from_slice(&all.as_bytes()[..cut])).unwrap().into_bytes().to_vec();
            out.extend(relay.push(&Bytes::copy_from_slice(&all.as_bytes()[cut..])).unwrap().into_bytes());
            assert_eq!(String::from_utf8(out).unwrap(), expected, "cut at {cut}");
        }
        let mut asked = relay(Operation::ChatCompletions, Dialect::OpenAi, ASKED);
        assert_eq!(asked.push(&Bytes::from(all.clone())).unwrap().into_bytes(), all, "it was asked for");
    }
}

#[test]
fn usage_in_a_chunk_with_content_passes() {
    let chunk = "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\n";
    assert_eq!(chat().push(&Bytes::from(chunk)).unwrap().into_bytes(), chunk);
}

#[test]
fn output_is_counted_while_it_goes_by() {
    let mut relay = chat();
    assert_eq!(relay.counted_output(), 0);
    relay.push(&HELLO.into()).unwrap();
    assert_eq!(relay.counted_output(), 2);
    assert!(relay.usage().input > 0);
}

#[test]
fn the_most_that_went_by_is_never_too_low_whatever_the_dialect() {
    let chunk = |delta: serde_json::Value| {
        format!("data: {}\n\n", serde_json::json!({"choices": [{"index": 0, "delta": delta}]}))
    };
    let event = |json: serde_json::Value| format!("event: x\ndata: {json}\n\n");
    let (chats, claude, responses) = (Operation::ChatCompletions, Operation::Messages, Operation::Responses);
    for (operation, from, extra, events, expected) in [
        (chats, Dialect::OpenAi, "", chunk(serde_json::json!({"content": "one two", "refusal": "ü"})), 7 + 2 + 1),
        (chats, Dialect::OpenAi, "", chunk(serde_json::json!({"reasoning_content": "one"})), 3 + 1),
        (chats, Dialect::OpenAi, r#","n":3"#, chunk(serde_json::json!({"content": "one"})), 3 + 3),
        (
            chats,
            Dialect::OpenAi,
            "",
            chunk(serde_json::json!({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})),
            3 + 64 + 1,
        ),
        (chats, Dialect::OpenAi, "", format!("{HELLO}{}", USAGE.replace(":1}", ":90}")), 90),
        (chats, Dialect::OpenAi, "", format!("{HELLO}{USAGE}"), 5 + 1),
        (
            claude,
            Dialect::Anthropic,
            "",
            [
                event(serde_json::json!({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f"}})),
                event(serde_json::json!({"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{\"a\":1}"}})),
                event(serde_json::json!({"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}})),
            ]
            .concat(),
            1 + 64 + 7 + 2 + 1,
        ),
        (chats, Dialect::Anthropic, "", event(serde_json::json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 12}})), 12),
        (
            responses,
            Dialect::OpenAi,
            "",
            [
                event(serde_json::json!({"type": "response.output_item.added", "item": {"type": "function_call", "name": "go", "arguments": ""}})),
                event(serde_json::json!({"type": "response.function_call_arguments.delta", "delta": "{}"})),
                event(serde_json::json!({"type": "response.output_item.done", "item": {"type": "function_call", "name": "go", "arguments": "{}"}})),
            ]
            .concat(),
            2 + 64 + 2 + 1,
        ),
    ] {
        let mut relay = relay(operation, from, extra);
        relay.push(&Bytes::from(events.clone())).unwrap();
        assert_eq!((relay.most_output(), relay.most_output_exactly()), (expected, expected), "{events}");
    }
}

#[test]
fn an_early_report_does_not_make_a_cut_stream_free() {
    let mut relay = chat();
    let early = "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":0}}\n\n";
    relay.push(&Bytes::from(format!("{early}{HELLO}"))).unwrap();
    let usage = relay.usage();
    assert_eq!((usage.input, usage.output, usage.source), (7, 2, UsageSource::Counted));
    relay.push(&Bytes::from(format!("{USAGE}{DONE}"))).unwrap();
    assert_eq!((relay.usage().output, relay.usage().source), (1, UsageSource::Provider));
}

#[test]
fn of_what_nobody_told_the_most_is_told_and_of_a_cut_stream_what_was_on_its_way_too() {
    let bounded = |extra: &str| relay(Operation::ChatCompletions, Dialect::OpenAi, extra);
    let most_input = AiRequest::parse(
        Operation::ChatCompletions,
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#.into(),
    );
    let input = most_input.unwrap().most_input("m") + 1; // `input` has one byte, which is no field of this call
    let most = r#","max_tokens":40"#;
    let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n".to_owned();
    let (garbage, hidden) = (format!("{HELLO}data: 7\n\n"), r#","max_tokens":40,"reasoning_effort":"high""#);
    let told = |output| AtMost { input: 0, output };
    let untold = |relay: &StreamRelay, output| {
        let AtMost { input: got, output: most } = relay.at_most();
        assert!(got > relay.usage().input && got.abs_diff(input) < 20, "{got} {input}");
        assert_eq!(most, output);
    };
    for (extra, events, output) in [
        (most, format!("{HELLO}{DONE}"), 5 + 1),
        (most, HELLO.to_owned(), 5 + 1 + 2 * 5),
        (most, HELLO.repeat(6), 40),
        (most, role.clone(), 40),
        (most, garbage, 40),
        (hidden, format!("{HELLO}{DONE}"), 40),
    ] {
        let mut relay = bounded(extra);
        let _ = relay.push(&Bytes::from(events.clone()));
        untold(&relay, output);
        assert!(relay.fail(&broken()).is_empty() || !events.contains(DONE));
        untold(&relay, output);
    }
    let mut whole = bounded(most);
    whole.push(&Bytes::from(format!("{HELLO}{USAGE}{DONE}"))).unwrap();
    assert_eq!(whole.at_most(), told(0), "the provider's figures are what they are");
    let mut cut = bounded(most);
    let early = USAGE.replace("\"choices\":[]", "\"choices\":[{\"delta\":{}}]");
    cut.push(&Bytes::from(format!("{early}{HELLO}"))).unwrap();
    assert_eq!(cut.at_most(), told(5 + 1 + 2 * 5), "what it told of the output was of its beginning");
}

#[test]
fn what_is_read_on_when_the_caller_has_left_counts_and_goes_nowhere() {
    for left in [false, true] {
        let mut relay = relay(Operation::ChatCompletions, Dialect::OpenAi, r#","max_tokens":40"#);
        relay.push(&Bytes::from(format!("{HELLO}data: {{\"cho"))).unwrap();
        assert!(!left || relay.fail(&broken()).starts_with(b"data: {\"error\":"));
        relay.read_on(&"ices\":[{\"delta\":{\"content\":\"seven..\"}}]}\n\n".into());
        assert_eq!((relay.at_most().output, relay.is_over()), (5 + 7 + 1 + 2 * 7, false));
        relay.read_on(&USAGE.into());
        relay.read_on(&DONE.into());
        assert!(relay.is_over() && !relay.is_complete(), "it did not go to the caller");
        let usage = relay.usage();
        assert_eq!((usage.input, usage.output, usage.source), (3, 1, UsageSource::Provider));
        assert_eq!(relay.at_most(), AtMost::default());
    }
    let mut fast = relay(Operation::ChatCompletions, Dialect::OpenAi, r#","max_tokens":40"#);
    fast.read_on(&HELLO.into());
    fast.lose_sight();
    assert_eq!(fast.at_most().output, 40, "nobody knows how much of it is on the way");
    fast.read_on(&Bytes::from(format!("{USAGE}{DONE}")));
    assert_eq!(fast.at_most(), AtMost::default(), "until its end has come");
    let mut boundless = relay(Operation::ChatCompletions, Dialect::OpenAi, r#","max_tokens":40"#);
    boundless.read_on(&HELLO.repeat(100).into());
    assert!(boundless.is_over() && boundless.usage().output < 50, "what is beyond the bound is not waited for");
    for (end, most) in [("data: 7\n\n", 40), ("data: {\"error\":{\"message\":\"busy\"}}\n\n", 5 + 1 + 2 * 5)] {
        let mut relay = relay(Operation::ChatCompletions, Dialect::OpenAi, r#","max_tokens":40"#);
        relay.push(&HELLO.into()).unwrap();
        relay.read_on(&Bytes::from(format!("{end}{HELLO}")));
        assert_eq!((relay.is_over(), relay.at_most().output), (true, most), "{end}");
    }
}

#[test]
fn a_cut_stream_ends_with_an_error_and_the_cut_event_is_not_sent() {
    let mut relay = chat();
    let sent = relay.push(&Bytes::from(format!("{HELLO}data: {{\"choi"))).unwrap();
    assert_eq!(sent.into_bytes(), HELLO);
    assert_eq!(relay.finish(), Err(StreamError::Truncated));
    assert!(relay.fail(&broken()).starts_with(b"data: {\"error\":"));
    assert!(relay.fail(&broken()).is_empty(), "it is told once");
    assert!(relay.push(&DONE.into()).unwrap().is_empty(), "nothing follows an error");
    assert!(!relay.is_complete());
}

#[test]
fn a_last_event_without_its_blank_line_is_taken() {
    let mut relay = chat();
    relay.push(&Bytes::from(format!("{HELLO}data: [DONE]"))).unwrap();
    assert_eq!(relay.finish().unwrap().into_bytes(), DONE);
    assert!(relay.fail(&broken()).is_empty(), "a whole answer has not failed");
}

#[test]
fn what_follows_the_end_is_dropped() {
    let mut relay = chat();
    assert_eq!(relay.push(&Bytes::from(format!("{DONE}{HELLO}"))).unwrap().into_bytes(), DONE);
    assert!(relay.push(&HELLO.into()).unwrap().is_empty());
    assert!(relay.finish().unwrap().is_empty());
}

#[test]
fn garbage_is_an_error() {
    for garbage in ["data: <html>\n\n", "data: {\"a\"\n\n", "data: \u{0}\n\n", "data: 7\n\n"] {
        assert!(matches!(chat().push(&Bytes::from(garbage)), Err(StreamError::Garbage(_))), "{garbage:?}");
    }
    assert!(matches!(chat().push(&Bytes::from_static(b"data: \"\xff\"\n\n")), Err(StreamError::Garbage(_))));
    let endless = Bytes::from(vec![b'x'; crate::sse::MAX_EVENT_BYTES + 1]);
    assert_eq!(chat().push(&endless), Err(StreamError::TooLarge));
}

#[test]
fn a_providers_own_error_is_told_once_and_ends_the_stream() {
    let mut relay = chat();
    let error = "data: {\"error\":{\"message\":\"busy\",\"type\":\"server_error\",\"code\":\"c\",\"param\":null}}\n\n";
    let sent = relay.push(&Bytes::from(format!("{HELLO}{error}{DONE}"))).unwrap().into_bytes();
    assert_eq!(sent, format!("{HELLO}{error}"));
    assert_eq!(relay.failure(), Some("busy"));
    assert_eq!(relay.finish(), Err(StreamError::Upstream("busy".to_owned())));
    assert!(relay.fail(&broken()).is_empty());
}

#[test]
fn a_stream_of_responses_ends_with_its_last_event() {
    let mut relay = relay(Operation::Responses, Dialect::OpenAi, "");
    let delta =
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"hello\"}\n\n";
    relay.push(&delta.into()).unwrap();
    assert_eq!(relay.finish(), Err(StreamError::Truncated));
    let end = "data: {\"type\":\"response.incomplete\",\"response\":{\"model\":\"x\",\"usage\":{\"input_tokens\":5,\"output_tokens\":2}}}\n\n";
    relay.push(&end.into()).unwrap();
    assert!(relay.finish().is_ok());
    assert_eq!((relay.usage().input, relay.usage().output, relay.model()), (5, 2, Some("x")));
}

#[test]
fn a_call_that_goes_on_after_its_end_is_refused() {
    let mut relay = relay(Operation::Messages, Dialect::OpenAi, "");
    let call = |n: u64| {
        let json = format!("{{\"index\":{n},\"id\":\"c{n}\",\"function\":{{\"name\":\"f\",\"arguments\":\"{{\"}}}}");
        Bytes::from(format!("data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{json}]}}}}]}}\n\n"))
    };
    relay.push(&call(0)).unwrap();
    relay.push(&call(1)).unwrap();
    assert!(matches!(relay.push(&call(0)), Err(StreamError::Garbage(_))));
    assert!(relay.fail(&broken()).starts_with(b"event: error\n"));
}

#[test]
fn a_providers_own_error_has_the_callers_shape() {
    let whole = r#"{"error":{"message":"busy","type":"server_error","code":"overloaded","param":null}}"#;
    let anthropic = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
    let partial = r#"{"error":{"message":"busy","type":"server_error"}}"#;
    let after = |data: &str| {
        let mut relay = chat();
        let parts = relay.push(&Bytes::from(format!("{HELLO}data: {data}\n\n"))).unwrap();
        assert_eq!(relay.failure(), Some("busy"), "{data}");
        String::from_utf8(parts.into_iter().collect::<Vec<_>>().concat()).unwrap()
    };
    assert_eq!(after(whole), format!("{HELLO}data: {whole}\n\n"));
    let bare = r#"{"error":{"message":"busy"}}"#;
    for (data, code) in [(anthropic, "overloaded_error"), (partial, "server_error"), (bare, "upstream_error")] {
        let error = format!(r#"{{"error":{{"message":"busy","type":"server_error","code":"{code}","param":null}}}}"#);
        assert_eq!(after(data), format!("{HELLO}data: {error}\n\n"));
    }
}

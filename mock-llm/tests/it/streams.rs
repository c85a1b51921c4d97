//! Streams: complete, cut, left.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, time};
use tollgate_mock_llm::{Options, Outcome};

use crate::client::{Answer, DEADLINE, Mock, request};

fn chat(model: &str) -> Value {
    json!({"model": model, "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "what is this"}]})
}

fn joined(answer: &Answer, pointer: &str) -> String {
    let data = answer.events().into_iter().filter_map(|data| serde_json::from_str::<Value>(&data).ok());
    data.filter_map(|event| event.pointer(pointer).and_then(Value::as_str).map(str::to_owned)).collect()
}

#[tokio::test]
async fn the_pieces_of_a_stream_are_the_whole_answer() {
    let mock = Mock::start(Options::default()).await;
    let answer = mock.post("/v1/chat/completions", "x-mock-chunk: 5\r\n", &chat("m")).await;
    assert!(answer.is_complete());
    let events = answer.events();
    assert_eq!(events.len(), 1 + 4 + 1 + 1 + 1);
    assert_eq!(events.last().unwrap(), "[DONE]");
    assert_eq!(joined(&answer, "/choices/0/delta/content").split(' ').count(), 16);
    let usage: Value = serde_json::from_str(&events[6]).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(16)));
}

#[tokio::test]
async fn every_dialect_streams_and_says_its_usage() {
    let mock = Mock::start(Options::default()).await;
    let claude =
        json!({"model": "c", "stream": true, "max_tokens": 6, "messages": [{"role": "user", "content": "hi"}]});
    let answer = mock.post("/v1/messages", "", &claude).await;
    assert_eq!(joined(&answer, "/delta/text").split(' ').count(), 6);
    let names: Vec<String> =
        answer.body().lines().filter_map(|l| l.strip_prefix("event: ").map(str::to_owned)).collect();
    assert_eq!((names.first().unwrap().as_str(), names.last().unwrap().as_str()), ("message_start", "message_stop"));
    assert!(answer.body().contains("\"usage\":{\"output_tokens\":6}"));

    let gemini = json!({"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 6}});
    let answer = mock.post("/v1beta/models/g:streamGenerateContent?alt=sse", "", &gemini).await;
    assert!(answer.events().last().unwrap().contains("\"candidatesTokenCount\":6"));

    let answer = mock.post("/v1/responses", "", &json!({"model": "m", "stream": true, "input": "hi"})).await;
    assert_eq!(joined(&answer, "/delta").split(' ').count(), 16);
    assert!(answer.events().last().unwrap().contains("\"type\":\"response.completed\""));

    let answer = mock.post("/v1/completions", "", &json!({"model": "m", "stream": true, "prompt": "hi"})).await;
    assert_eq!(joined(&answer, "/choices/0/text").split(' ').count(), 16);
    assert_eq!(answer.events().last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn a_stream_without_the_option_has_no_usage() {
    let mock = Mock::start(Options::default()).await;
    let mut body = chat("m");
    body.as_object_mut().unwrap().remove("stream_options");
    assert!(!mock.post("/v1/chat/completions", "", &body).await.body().contains("usage"));
    let missing = mock.post("/v1/chat/completions", "x-mock-usage: missing\r\n", &chat("m")).await;
    assert!(!missing.body().contains("completion_tokens"));
    let twice = mock.post("/v1/chat/completions", "x-mock-usage: twice\r\n", &chat("m")).await;
    assert_eq!(twice.body().matches("completion_tokens\"").count(), 2);
}

#[tokio::test]
async fn a_cut_stream_is_never_complete_and_counts_what_was_written() {
    let mock = Mock::start(Options::default()).await;
    for (model, reset, framed) in [("m-cut", true, false), ("m-cut-fin", false, false), ("m-cut-end", false, true)] {
        let answer = mock.post("/v1/chat/completions", "x-mock-pace: 1ms\r\n", &chat(model)).await;
        assert_eq!((answer.reset, answer.is_complete()), (reset, framed), "{model}");
        assert!(!answer.body().contains("[DONE]"));
        let record = mock.records().await.pop().unwrap();
        assert_eq!((record.output_tokens, record.planned_tokens, record.outcome), (8, 16, Outcome::Spoilt), "{model}");
    }
    let early = mock.post("/v1/chat/completions", "x-mock-cut: fin\r\nx-mock-cut-after: 3\r\n", &chat("m")).await;
    assert_eq!(joined(&early, "/choices/0/delta/content"), "one two three");
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_between_two_events() {
    let mock = Mock::start(Options::default()).await;
    for headers in ["x-mock-pace: 1h\r\n", "x-mock-pace: 60s\r\n", "x-mock-cut: silence\r\n", "x-mock-hang: true\r\n"] {
        let mut socket = TcpStream::connect(mock.address).await.unwrap();
        let sent = request("POST", "/v1/chat/completions", headers, &chat("m").to_string());
        socket.write_all(sent.as_bytes()).await.unwrap();
        if headers.contains("1h") {
            let mut refusal = String::new();
            socket.read_to_string(&mut refusal).await.unwrap();
            assert!(refusal.contains("400 Bad Request"), "an hour is no pace: {refusal}");
            continue;
        }
        let active = async {
            while mock.witness().await.total.active == 0 {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        time::timeout(DEADLINE, active).await.unwrap();
        drop(socket);
        let record = mock.records().await.pop().unwrap();
        assert!(matches!(record.outcome, Outcome::Aborted | Outcome::Spoilt), "{headers}: {record:?}");
        assert!(record.ended_us > record.started_us);
    }
}

#[tokio::test]
async fn events_leave_one_by_one_without_waiting_for_the_next() {
    let mock = Mock::start(Options::default()).await;
    let mut socket = TcpStream::connect(mock.address).await.unwrap();
    let sent = request("POST", "/v1/chat/completions", "x-mock-pace: 60s\r\n", &chat("m").to_string());
    socket.write_all(sent.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let first = async {
        while !seen.windows(9).any(|window| window == b"assistant") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
        }
    };
    time::timeout(DEADLINE, first).await.expect("the first event comes long before the second");
}

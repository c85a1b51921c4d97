//! Everything that a provider can do wrong.

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream, time};
use tollgate_mock_llm::{Knobs, Options};

use crate::client::{DEADLINE, Mock, request};

fn chat() -> Value {
    json!({"model": "mock-1", "messages": [{"role": "user", "content": "what is this"}]})
}

#[tokio::test]
async fn a_failure_has_the_status_and_the_words_of_its_dialect() {
    let mock = Mock::start(Options::default()).await;
    let answer = mock.post("/v1/chat/completions", "x-mock-status: 429\r\nx-mock-retry-after: 7\r\n", &chat()).await;
    assert_eq!(answer.status(), 429);
    assert!(answer.head().contains("retry-after: 7"));
    assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
    let body = json!({"model": "c", "max_tokens": 1, "messages": []});
    let answer = mock.post("/v1/messages", "x-mock-status: 529\r\n", &body).await;
    assert_eq!(answer.json()["error"]["type"], "overloaded_error");
    let records = mock.records().await;
    assert!(records.iter().all(|record| record.input_tokens == 0 && record.output_tokens == 0));
}

#[tokio::test]
async fn a_rate_fails_a_part_of_the_requests() {
    let mut knobs = Knobs::default();
    knobs.set("status", "500").unwrap();
    knobs.set("error-rate", "0.5").unwrap();
    let mock = Mock::start(Options { knobs, ..Options::default() }).await;
    for _ in 0..40 {
        mock.post("/v1/chat/completions", "", &chat()).await;
    }
    let total = mock.witness().await.total;
    assert_eq!(total.refused + total.finished, 40);
    assert!((8..=32).contains(&total.refused), "{total:?}");
    assert_eq!(total.output_tokens, total.finished * 16);
}

#[tokio::test]
async fn bodies_are_wrong_as_asked() {
    let mock = Mock::start(Options::default()).await;
    let with =
        async |fault: &str| mock.post("/v1/chat/completions", &format!("x-mock-body: {fault}\r\n"), &chat()).await;
    assert!(with("html").await.body().starts_with("<!DOCTYPE html>"));
    assert!(serde_json::from_str::<Value>(&with("truncated").await.body()).is_err());
    assert_eq!(with("error").await.json()["error"]["type"], "server_error");
    assert_eq!(with("empty").await.body(), "");
    let lengths = async |fault: &str| {
        let answer = with(fault).await;
        let length = answer.head().split("content-length: ").nth(1).unwrap().trim().parse::<usize>().unwrap();
        (length, answer.body().len())
    };
    let (claimed, sent) = lengths("short").await;
    assert!(claimed > sent);
    let (claimed, sent) = lengths("long").await;
    assert!(claimed < sent);
    assert!(with("headers").await.bytes.len() > 10_000_000);
    let bomb = with("gzip").await;
    assert!(bomb.head().contains("content-encoding: gzip"));
    assert!(bomb.bytes.len() < 8 << 20);
}

#[tokio::test]
async fn an_endless_body_goes_on_until_the_client_has_enough() {
    let mock = Mock::start(Options::default()).await;
    let mut socket = TcpStream::connect(mock.address).await.unwrap();
    let sent = request("POST", "/v1/chat/completions", "x-mock-body: endless\r\n", &chat().to_string());
    socket.write_all(sent.as_bytes()).await.unwrap();
    let mut some = vec![0; 4 << 20];
    time::timeout(DEADLINE, socket.read_exact(&mut some)).await.unwrap().unwrap();
    drop(socket);
    mock.records().await;
}

#[tokio::test]
async fn a_connection_can_close_without_a_byte() {
    let mock = Mock::start(Options::default()).await;
    let answer = mock.post("/v1/chat/completions", "x-mock-close: true\r\n", &chat()).await;
    assert!(answer.bytes.is_empty());
}

#[tokio::test]
async fn a_json_answer_can_be_cut_too() {
    let mock = Mock::start(Options::default()).await;
    let answer = mock.post("/v1/chat/completions", "x-mock-cut: fin\r\n", &chat()).await;
    assert!(serde_json::from_str::<Value>(&answer.body()).is_err());
    assert_eq!(mock.records().await.pop().unwrap().output_tokens, 0);
}

//! The witness: what it counts, lists and forgets.

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, net::TcpStream};
use tollgate_mock_llm::{Options, Outcome};

use crate::client::{Mock, request};

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "what is this"}]})
}

#[tokio::test]
async fn each_call_is_one_record_with_its_request_id_and_tokens() {
    let mock = Mock::start(Options::default()).await;
    mock.post("/v1/chat/completions", "x-request-id: r-1\r\n", &chat("a")).await;
    mock.post("/v1/chat/completions", "x-request-id: r-2\r\nx-mock-output: 3\r\n", &chat("b")).await;
    let records = mock.records().await;
    let ids: Vec<_> = records.iter().map(|record| record.request_id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["r-1", "r-2"]);
    let last = &records[1];
    assert_eq!((last.input_tokens, last.output_tokens, last.status), (4, 3, 200));
    assert_eq!((last.outcome, last.model.as_str()), (Outcome::Finished, "b"));
    assert!(last.started_us <= last.first_byte_us && last.first_byte_us <= last.ended_us);
    let summary = mock.witness().await;
    assert_eq!((summary.total.input_tokens, summary.total.output_tokens), (8, 19));
    assert_eq!(summary.models["b"].output_tokens, 3);
    let page = mock.get(&format!("/__mock/requests?since={}&limit=1", records[0].sequence)).await.json();
    assert_eq!((page.as_array().unwrap().len(), &page[0]["request_id"]), (1, &json!("r-2")));
    assert_eq!(mock.get("/__mock/requests?since=x").await.status(), 400);
}

#[tokio::test]
async fn the_latest_requests_are_shown_as_they_arrived() {
    let mock = Mock::start(Options::default()).await;
    mock.post("/v1/chat/completions", "authorization: Bearer sk-x\r\nx-extra: 1\r\n", &chat("a")).await;
    let last = mock.get("/__mock/last").await.json();
    let headers = last[0]["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["authorization", "Bearer sk-x"])));
    assert!(headers.contains(&json!(["x-extra", "1"])));
    assert_eq!(serde_json::from_str::<Value>(last[0]["body"].as_str().unwrap()).unwrap(), chat("a"));
}

#[tokio::test]
async fn a_reset_forgets_and_numbers_go_on() {
    let mock = Mock::start(Options::default()).await;
    mock.post("/v1/chat/completions", "", &chat("a")).await;
    mock.post("/__mock/reset", "", &json!({})).await;
    assert_eq!(mock.witness().await.total.requests, 0);
    mock.post("/v1/chat/completions", "", &chat("a")).await;
    assert_eq!(mock.records().await[0].sequence, 2);
}

#[tokio::test]
async fn one_connection_serves_many_calls_and_bodies_in_chunks() {
    let mock = Mock::start(Options::default()).await;
    let mut socket = TcpStream::connect(mock.address).await.unwrap();
    let body = chat("a").to_string();
    let (first, rest) = body.split_at(10);
    let chunked = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n{:x};x=y\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n",
        first.len(),
        rest.len()
    );
    socket.write_all(chunked.as_bytes()).await.unwrap();
    socket
        .write_all(request("POST", "/v1/chat/completions", "expect: 100-continue\r\n", &body).as_bytes())
        .await
        .unwrap();
    let mut both = String::new();
    socket.read_to_string(&mut both).await.unwrap();
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(both.matches("HTTP/1.1 100 Continue").count(), 1);
    assert_eq!(mock.witness().await.total.finished, 2);
}

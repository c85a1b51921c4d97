//! Requests whose bodies are wrong.

use bytes::Bytes;
use http::Method;
use serde_json::json;
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan,
    client::{LIMIT, request},
    resources::api_key,
};

#[tokio::test]
async fn every_wrong_body_gets_its_status_and_reaches_no_provider() -> Outcome {
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let bearer = format!("Bearer {}", api_key("alice"));
    let large = json!({"model": "m", "messages": [{"role": "user", "content": "x".repeat(11 << 20)}]}).to_string();
    let deep = format!("{{\"model\":\"m\",\"messages\":{}{}}}", "[".repeat(20_000), "]".repeat(20_000));
    let cases: &[(&str, Bytes, u16, &str)] = &[
        ("11 MB", large.into(), 413, "request_too_large"),
        ("not JSON", Bytes::from_static(b"hello"), 400, "invalid_request"),
        ("half of it", Bytes::from_static(b"{\"model\": \"m\", \"messages\": ["), 400, "invalid_request"),
        ("no model", Bytes::from_static(b"{\"messages\": []}"), 400, "invalid_request"),
        ("a model that is a number", Bytes::from_static(b"{\"model\": 7, \"messages\": []}"), 400, "invalid_request"),
        ("invalid UTF-8", Bytes::from_static(b"{\"model\": \"\xff\xfe\", \"messages\": []}"), 400, "invalid_request"),
        ("an array", Bytes::from_static(b"[]"), 400, "invalid_request"),
        ("nothing", Bytes::new(), 400, "invalid_request"),
        (
            "a negative bound",
            Bytes::from_static(b"{\"model\":\"m\",\"max_tokens\":-5,\"messages\":[]}"),
            400,
            "invalid_request",
        ),
        ("too deep", deep.into(), 400, "invalid_request"),
    ];
    for (what, body, status, code) in cases {
        for path in ["/v1/chat/completions", "/v1/messages"] {
            let url = format!("{}{path}", cluster.origins()[0]);
            let sent = request(Method::POST, &url, &[("authorization", &bearer)], body.clone());
            let answer = cluster.client.send(sent, LIMIT).await?;
            assert_eq!(answer.status, *status, "{what} on {path}: {}", answer.text());
            let error = answer.json()?;
            if path == "/v1/messages" {
                assert_eq!(error["type"], "error", "{what}: {error}");
            } else {
                assert_eq!(error["error"]["code"], *code, "{what}: {error}");
            }
            assert!(!answer.header("x-request-id").is_empty(), "{what}");
        }
    }
    assert_eq!(provider.settled().await?.total.requests, 0);
    let rows = cluster.cli().rows(&["limits", "show"]).await?;
    assert!(rows.iter().all(|row| row["used"] == 0 && row["held"] == 0), "{rows:?}");
    Ok(())
}

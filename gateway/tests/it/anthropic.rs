//! An upstream that speaks Anthropic's dialect, and callers of both.

use tollgate_quota::Outcome;

use crate::{
    ai::provider,
    clients::{call, post_text, raw},
    cluster::Cluster,
    upstream::{Reply, Upstream, answer, events, json},
};

const BODY: &str = r#"{"model":"plain","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str = r#"{"model":"plain","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"Hello"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":3}}"#;
const STARTED: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"m\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n";
const TEXT: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n";
const STOPPED: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":3}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
const OVERLOADED: &str =
    "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";

async fn ask(cluster: &Cluster, path: &str, body: &str) -> crate::clients::Answer {
    raw(cluster.address, post_text(path, "x-api-key: sk-alice\r\n", body)).await
}

#[tokio::test]
async fn an_anthropic_answer_reaches_callers_of_both_dialects() {
    let upstream = Upstream::always(Reply::Keep(json(MESSAGE))).await;
    let cluster = Cluster::start(&provider(&upstream, "anthropic")).await;
    let same = ask(&cluster, "/v1/messages", BODY).await;
    assert_eq!((same.status, same.body.as_str()), (200, MESSAGE), "{}", same.raw);
    let other = call(cluster.address, "/v1/chat/completions", BODY).await;
    assert_eq!((other.status, &other.json()["object"]), (200, &"chat.completion".into()), "{}", other.raw);
    assert_eq!(other.json()["choices"][0]["message"]["content"], "Hello");
    assert_eq!(other.json()["usage"]["completion_tokens"], 3);
    for sent in upstream.requests() {
        assert!(sent.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{sent}");
        assert!(sent.contains("x-api-key: sk-secret\r\n") && sent.contains("anthropic-version: 2023-06-01"), "{sent}");
        assert!(sent.contains("\"model\":\"m\"") && !sent.contains("sk-alice") && !sent.contains("Bearer"), "{sent}");
    }
    for settled in cluster.settled(2).await {
        assert_eq!((settled.usage.input_tokens, settled.usage.output_tokens), (9, 3));
        assert_eq!((settled.usage.counted, settled.outcome), (false, Outcome::Settled));
    }
}

#[tokio::test]
async fn an_anthropic_stream_reaches_callers_of_both_dialects() {
    let upstream = Upstream::always(Reply::Keep(events(&[STARTED, TEXT, STOPPED]) + "0\r\n\r\n")).await;
    let cluster = Cluster::start(&provider(&upstream, "anthropic")).await;
    let same = ask(&cluster, "/v1/messages", STREAM).await;
    assert_eq!((same.status, same.body), (200, [STARTED, TEXT, STOPPED].concat()));
    let other = call(cluster.address, "/v1/chat/completions", STREAM).await;
    assert!(other.body.contains("chat.completion.chunk") && other.body.contains("Hello"), "{}", other.raw);
    assert!(other.body.ends_with("data: [DONE]\n\n") && !other.body.contains("message_start"), "{}", other.raw);
    for settled in cluster.settled(2).await {
        assert_eq!((settled.usage.input_tokens, settled.usage.output_tokens), (9, 3));
        assert_eq!(settled.outcome, Outcome::Settled);
    }
}

#[tokio::test]
async fn an_anthropic_stream_that_dies_or_fails_never_looks_complete() {
    for reply in [
        Reply::Reset(events(&[STARTED, TEXT])),
        Reply::Close(events(&[STARTED, TEXT]) + "0\r\n\r\n"),
        Reply::Hang(events(&[STARTED, TEXT])),
    ] {
        let upstream = Upstream::always(reply.clone()).await;
        let cluster = Cluster::start(&provider(&upstream, "anthropic")).await;
        let same = ask(&cluster, "/v1/messages", STREAM).await;
        assert!(same.body.contains("event: error") && !same.body.contains("message_stop"), "{reply:?}: {}", same.raw);
        let other = call(cluster.address, "/v1/chat/completions", STREAM).await;
        assert!(other.body.contains("data: {\"error\"") && !other.body.contains("[DONE]"), "{reply:?}: {}", other.raw);
        assert!(cluster.settled(2).await.iter().all(|settled| settled.outcome == Outcome::Partial));
    }
}

#[tokio::test]
async fn an_anthropic_error_is_told_in_the_callers_dialect() {
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    for (reply, body, status) in
        [(answer(529, "retry-after: 3\r\n", overloaded), BODY, 529), (events(&[OVERLOADED]) + "0\r\n\r\n", STREAM, 502)]
    {
        let upstream = Upstream::always(Reply::Keep(reply)).await;
        let cluster = Cluster::start(&provider(&upstream, "anthropic")).await;
        let same = ask(&cluster, "/v1/messages", body).await;
        assert_eq!((same.status, &same.json()["type"]), (status, &"error".into()), "{}", same.raw);
        let other = call(cluster.address, "/v1/chat/completions", body).await;
        assert_eq!(other.status, status, "{}", other.raw);
        assert!(other.json()["error"]["message"].as_str().unwrap().contains("Overloaded"), "{}", other.raw);
    }
}

#[tokio::test]
async fn a_providers_error_has_the_callers_shape_whatever_shape_it_had() {
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"later"}}"#;
    let bare = r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    for (status, said, message, code) in
        [(529, overloaded, "later", "overloaded_error"), (400, bare, "too long", "context_length_exceeded")]
    {
        let reply = answer(status, "content-type: application/json\r\nretry-after: 7\r\n", said);
        let upstream = Upstream::always(Reply::Keep(reply)).await;
        for kind in ["openai", "anthropic"] {
            let cluster = Cluster::start(&provider(&upstream, kind)).await;
            let body = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
            for path in ["/v1/chat/completions", "/v1/messages"] {
                let told = call(cluster.address, path, body).await;
                assert_eq!((told.status, told.header("retry-after")), (status, Some("7")), "{}", told.raw);
                let body = told.json();
                let error = &body["error"];
                assert_eq!((&error["message"], &error["code"]), (&message.into(), &code.into()), "{body}");
                assert!(error["type"].is_string(), "{body}");
                let openai = body.get("type").is_none() && error.get("param").is_some_and(serde_json::Value::is_null);
                let anthropic = body["type"] == "error" && error.get("param").is_none();
                assert!(if path == "/v1/messages" { anthropic } else { openai }, "{kind} {path}: {body}");
            }
        }
    }
}

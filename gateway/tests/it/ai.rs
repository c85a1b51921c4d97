//! AI routes between raw clients and providers that behave as told.

use std::sync::atomic::Ordering;

use tokio::{io::AsyncWriteExt, net::TcpStream};
use tollgate_quota::Outcome;

use crate::{
    clients::{call, post_text, raw, read_until},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, answer, events, json},
};

const CHAT: &str = "/v1/chat/completions";
const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str = r#"{"model":"m","max_tokens":100,"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
const MESSAGES: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

pub(crate) const EVENT: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"Hello there\"},\"finish_reason\":null}]}\n\n";
const LAST: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"total_tokens\":12}}\n\n";
const FAILURE: &str =
    "data: {\"error\":{\"message\":\"no luck\",\"type\":\"server_error\",\"code\":null,\"param\":null}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

pub(crate) fn completion(input: u64, output: u64) -> String {
    format!(
        r#"{{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":"Hello"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{}}}}}"#,
        input + output
    )
}

/// One provider behind a route for everything below `/v1`.
pub(crate) fn provider(upstream: &Upstream, kind: &str) -> String {
    two(upstream, upstream, kind, "'429'")
}

pub(crate) fn two(first: &Upstream, second: &Upstream, kind: &str, on: &str) -> String {
    format!(
        "
kind: Provider
metadata: {{name: first}}
spec: {{type: {kind}, endpoints: [{{url: 'http://{}/v1'}}], keys: [{{value: sk-secret}}], models: {{plain: m}}}}
---
kind: Provider
metadata: {{name: second}}
spec: {{type: openai, endpoints: [{{url: 'http://{}/v1'}}]}}
---
kind: Route
metadata: {{name: chat}}
spec:
  match: [{{path: {{prefix: /v1}}}}]
  backends: [{{provider: first}}]
  fallbacks: [{{provider: second, model: served, on: [{on}]}}]
  timeouts: {{request: 10s, firstByte: 500ms, idle: 700ms}}
",
        first.address, second.address
    )
}

#[tokio::test]
async fn a_call_is_served_named_and_settled() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    let answer = call(cluster.address, CHAT, &BODY.replace("\"m\"", "\"plain\"")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, completion(9, 3).as_str()), "{}", answer.raw);
    assert_eq!(answer.header("x-tollgate-provider"), Some("first"));
    assert_eq!(answer.header("x-tollgate-model"), Some("m"));
    assert_eq!(answer.header("x-request-id").map(str::len), Some(36));
    let sent = upstream.requests().remove(0);
    assert!(sent.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("authorization: Bearer sk-secret\r\n") && !sent.contains("sk-alice"), "{sent}");
    assert!(sent.contains("accept-encoding: identity") && sent.contains("\"model\":\"m\""), "{sent}");
    let settled = cluster.settled(1).await.remove(0);
    assert_eq!((settled.usage.input_tokens, settled.usage.output_tokens, settled.outcome), (9, 3, Outcome::Settled));
    assert_eq!(
        (settled.provider.as_str(), settled.model.as_str(), settled.provider_model.as_str()),
        ("first", "plain", "m")
    );
}

#[tokio::test]
async fn a_stream_passes_as_it_is_and_its_usage_is_settled() {
    let upstream = Upstream::always(Reply::Keep(events(&[EVENT, LAST, USAGE, DONE]) + "0\r\n\r\n")).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    let answer = call(cluster.address, CHAT, STREAM).await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").is_some_and(|it| it.starts_with("text/event-stream")));
    assert_eq!(answer.body, [EVENT, LAST, DONE].concat(), "the usage that was not asked for is hidden");
    let settled = cluster.settled(1).await.remove(0);
    assert_eq!((settled.usage.input_tokens, settled.usage.output_tokens), (9, 3));
    assert_eq!((settled.outcome, settled.usage.counted), (Outcome::Settled, false));
}

#[tokio::test]
async fn an_openai_answer_reaches_an_anthropic_caller_in_its_dialect() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    let answer = raw(cluster.address, post_text("/v1/messages", "x-api-key: sk-alice\r\n", MESSAGES)).await;
    assert_eq!((answer.status, &answer.json()["type"]), (200, &"message".into()), "{}", answer.raw);
    assert_eq!(answer.json()["usage"]["output_tokens"], 3);
    let refused = raw(cluster.address, post_text("/v1/messages", "", MESSAGES)).await;
    assert_eq!((refused.status, &refused.json()["type"]), (401, &"error".into()), "{}", refused.raw);
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
}

#[tokio::test]
async fn bad_requests_have_clear_answers() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    for (path, body, status, code) in [
        (CHAT, "not json", 400, "invalid_request"),
        (CHAT, "{}", 400, "invalid_request"),
        (CHAT, "{\"model\":\"\u{0}\"}", 400, "invalid_request"),
        ("/v1/images/generations", "{}", 501, "not_supported"),
        ("/v1/audio/speech", "{}", 501, "not_supported"),
        ("/v1/moderations", "{}", 501, "not_supported"),
        ("/v1/responses/r-1/cancel", "{}", 501, "not_supported"),
        ("/v1/unknown", "{}", 404, "route_not_found"),
        ("/v1/models", "{}", 404, "route_not_found"),
        ("/elsewhere", "{}", 404, "route_not_found"),
    ] {
        let answer = call(cluster.address, path, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path} {body}: {}", answer.raw);
    }
    let mut invalid = post_text(CHAT, "authorization: Bearer sk-alice\r\n", "xx").into_bytes();
    let length = invalid.len();
    invalid[length - 2..].copy_from_slice(b"\xff\xfe");
    assert_eq!(raw(cluster.address, invalid).await.status, 400);
    let large = call(cluster.address, CHAT, &"x".repeat(11 * 1024 * 1024)).await;
    assert_eq!((large.status, large.code().as_str()), (413, "request_too_large"));
    for model in ["x".repeat(257), "a\\u0007b".into(), "a\\nb".into()] {
        let answer = call(cluster.address, CHAT, &BODY.replace("\"m\"", &format!("\"{model}\""))).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{model}: {}", answer.raw);
        assert_eq!(answer.json()["error"]["param"], "model");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_providers_error_is_passed_on_or_becomes_a_502() {
    for (status, expected) in
        [(400, 400), (404, 404), (422, 422), (429, 429), (500, 502), (502, 502), (503, 503), (504, 504), (529, 529)]
    {
        let body = r#"{"error":{"message":"no luck","type":"t","code":"c","param":null}}"#;
        let upstream = Upstream::always(Reply::Keep(answer(status, "retry-after: 7\r\n", body))).await;
        let cluster = Cluster::start(&provider(&upstream, "openai").replace("'429'", "'418'")).await;
        let got = call(cluster.address, CHAT, BODY).await;
        assert_eq!(got.status, expected, "{}", got.raw);
        assert!(got.body.contains("no luck"), "{}", got.raw);
        if expected != 502 {
            assert_eq!(got.header("retry-after"), Some("7"));
        }
        cluster.nothing_held().await;
    }
}

#[tokio::test]
async fn a_provider_that_refuses_our_key_does_not_look_as_if_it_refused_the_callers() {
    for status in [401, 403] {
        let said =
            r#"{"error":{"message":"Incorrect API key provided: sk-secret","type":"t","code":"invalid_api_key"}}"#;
        let upstream = Upstream::always(Reply::Keep(answer(status, "", said))).await;
        let cluster = Cluster::start(&provider(&upstream, "openai")).await;
        let got = call(cluster.address, CHAT, BODY).await;
        assert_eq!((got.status, got.code().as_str()), (status, "upstream_error"), "{}", got.raw);
        assert!(got.body.contains("not your API key") && !got.raw.contains("sk-secret"), "{}", got.raw);
        assert_eq!(got.header("x-tollgate-provider"), Some("first"));
    }
}

#[tokio::test]
async fn an_answer_says_which_bound_on_output_was_set_in_place_of_the_callers() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let resources = provider(&upstream, "openai") + "  tokens: {default: 40, max: 80}\n";
    let cluster = Cluster::start(&resources).await;
    for (body, told) in [
        (BODY.to_owned(), Some("80")),
        (BODY.replace("\"max_tokens\":100,", ""), Some("40")),
        (BODY.replace("100", "80"), None),
    ] {
        let got = call(cluster.address, CHAT, &body).await;
        assert_eq!((got.status, got.header("x-tollgate-max-tokens")), (200, told), "{}", got.raw);
        let sent = upstream.requests().pop().unwrap();
        assert!(sent.contains(&format!("\"max_tokens\":{}", told.unwrap_or("80"))), "{sent}");
    }
}

#[tokio::test]
async fn every_dialect_is_given_the_routes_bound_and_told_of_a_bad_one() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let resources = provider(&upstream, "openai") + "  tokens: {default: 40, max: 80}\n";
    let cluster = Cluster::start(&resources).await;
    let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
    for (path, input, field, sent_as) in [
        (CHAT, messages, "max_tokens", "max_tokens"),
        (CHAT, messages, "max_completion_tokens", "max_tokens"),
        ("/v1/completions", r#""prompt":"hi""#, "max_tokens", "max_tokens"),
        ("/v1/messages", messages, "max_tokens", "max_tokens"),
        ("/v1/responses", r#""input":"hi""#, "max_output_tokens", "max_output_tokens"),
    ] {
        call(cluster.address, path, &format!(r#"{{"model":"m",{input}}}"#)).await;
        let sent = upstream.requests().pop().unwrap();
        assert!(sent.contains(&format!("\"{sent_as}\":40")), "{path}: {sent}");
        call(cluster.address, path, &format!(r#"{{"model":"m",{input},"{field}":81}}"#)).await;
        let sent = upstream.requests().pop().unwrap();
        assert!(sent.contains("max_") && sent.contains(":80") && !sent.contains(":81"), "{path}: {sent}");
        let asked = upstream.requests().len();
        for bad in ["-1", "9223372036854775808", "0.5", "\"9\"", "[]"] {
            let got = call(cluster.address, path, &format!(r#"{{"model":"m",{input},"{field}":{bad}}}"#)).await;
            let error = &got.json()["error"];
            assert_eq!(
                (got.status, error["code"].as_str()),
                (400, Some("invalid_request")),
                "{path} {bad}: {}",
                got.raw
            );
            assert!(error["message"].as_str().unwrap().contains(field), "{path} {bad}: {}", got.raw);
            let named = if path == "/v1/messages" { None } else { Some(field) };
            assert_eq!(error["param"].as_str(), named, "{path} {bad}: {}", got.raw);
        }
        assert_eq!(upstream.requests().len(), asked, "nothing of it was sent");
    }
    cluster.nothing_held().await;
}

#[tokio::test]
async fn a_metric_tells_how_much_of_what_was_reserved_is_used() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    assert_eq!(call(cluster.address, CHAT, BODY).await.status, 200);
    cluster.settled(1).await;
    let metrics = cluster.metrics();
    let line = |name: &str| metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("tollgate_ai_estimate_ratio_count{model=").ends_with(" 1"), "{metrics}");
    let sum: f64 = line("tollgate_ai_estimate_ratio_sum").rsplit(' ').next().unwrap().parse().unwrap();
    assert!((0.05..0.12).contains(&sum), "12 tokens of the 100 of output and those of input: {sum}");
}

#[tokio::test]
async fn usage_that_can_not_be_is_brought_to_sense_and_shows_in_a_metric() {
    let upstream =
        Upstream::always(Reply::Keep(json(&completion(9, 3).replace("n_tokens\":3", "n_tokens\":-3")))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    let got = call(cluster.address, CHAT, BODY).await;
    assert!(got.status == 200 && got.body.contains("-3"), "{}", got.raw);
    let settled = cluster.settled(1).await.remove(0);
    assert!(settled.usage.counted && (1..100).contains(&settled.usage.output_tokens), "{settled:?}");
    let metrics = cluster.metrics();
    assert!(metrics.contains("tollgate_upstream_usage_clamped_total{provider=\"first\"} 1"), "{metrics}");
}

#[tokio::test]
async fn no_provider_can_make_an_answer_free_or_endlessly_dear_by_its_claims() {
    let of_text = |usage: &str| USAGE.replace("\"completion_tokens\":3", &format!("\"completion_tokens\":{usage}"));
    for (claimed, output, counted) in [("0", 1..100, true), ("9000000", 100..101, false), ("3", 3..4, false)] {
        let whole = completion(9, 3).replace("\"completion_tokens\":3", &format!("\"completion_tokens\":{claimed}"));
        let streamed = events(&[EVENT, LAST, &of_text(claimed), DONE]) + "0\r\n\r\n";
        for (reply, body) in [(json(&whole), BODY), (streamed, STREAM)] {
            let upstream = Upstream::always(Reply::Keep(reply)).await;
            let cluster = Cluster::start(&provider(&upstream, "openai")).await;
            let got = call(cluster.address, CHAT, body).await;
            assert_eq!(got.status, 200, "{}", got.raw);
            let settled = cluster.settled(1).await.remove(0);
            assert_eq!((settled.outcome, settled.usage.counted), (Outcome::Settled, counted), "{claimed}: {settled:?}");
            assert!(output.contains(&settled.usage.output_tokens), "{claimed}: {settled:?}");
            let flagged = cluster.metrics().contains("tollgate_upstream_usage_clamped_total{provider=\"first\"} 1");
            assert_eq!(flagged, claimed != "3", "{claimed}");
        }
    }
}

#[tokio::test]
async fn garbage_is_a_502_in_bounded_memory() {
    let gzip =
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\ncontent-type: application/json\r\n\r\nabcd";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for (reply, body) in [
        (Reply::Keep(answer(200, "content-type: text/html\r\n", "<html>")), BODY),
        (Reply::Keep(json(&completion(1, 1)[..50])), BODY),
        (Reply::Close("HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n{}".into()), BODY),
        (Reply::Keep(json(r#"{"error":{"message":"no"}}"#)), BODY),
        (Reply::Close("SSH-2.0-OpenSSH\r\n\r\n".into()), BODY),
        (Reply::Close(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20))), BODY),
        (Reply::Keep(gzip.into()), BODY),
        (Reply::Endless(head.into(), chunk), BODY),
        (Reply::Keep(json(&completion(1, 1))), STREAM),
        (Reply::Keep(events(&["data: <html>\n\n"]) + "0\r\n\r\n"), STREAM),
        (Reply::Close(events(&[])), STREAM),
        (Reply::Hang(events(&[FAILURE])), STREAM),
        (Reply::Close(events(&[&FAILURE[..9], &FAILURE[9..]])), STREAM),
    ] {
        let upstream = Upstream::always(reply.clone()).await;
        let cluster = Cluster::start(&provider(&upstream, "openai")).await;
        let got = call(cluster.address, CHAT, body).await;
        let reply = format!("{reply:?}").chars().take(100).collect::<String>();
        assert_eq!((got.status, got.code().as_str()), (502, "upstream_error"), "{reply}: {}", got.raw);
        let settled = cluster.settled(1).await.remove(0);
        assert!(
            settled.usage.counted && settled.usage.input_tokens > 0 && settled.outcome == Outcome::Partial,
            "{settled:?}"
        );
    }
}

#[tokio::test]
async fn a_long_answer_comes_whole_however_it_is_cut() {
    let whole = completion(9, 3).replace("Hello", &"0123456789".repeat(300_000));
    let chunked = |size: usize| {
        let chunk = |part: &[u8]| format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap());
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        format!("{head}{}0\r\n\r\n", whole.as_bytes().chunks(size).map(chunk).collect::<String>())
    };
    for reply in [json(&whole), chunked(1_000), chunked(700_000), chunked(2_000_000)] {
        let upstream = Upstream::always(Reply::Keep(reply)).await;
        let cluster = Cluster::start(&provider(&upstream, "openai")).await;
        let got = call(cluster.address, CHAT, BODY).await;
        let said = got.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().len();
        assert!(got.status == 200 && said >= 3_000_000, "{} {said}", got.status);
    }
}

#[tokio::test]
async fn a_fallback_answers_before_the_first_byte() {
    let second = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let streaming = Upstream::always(Reply::Keep(events(&[EVENT, LAST, USAGE, DONE]) + "0\r\n\r\n")).await;
    for (reply, on) in [
        (Reply::Reset(String::new()), "reset"),
        (Reply::Hang(String::new()), "timeout"),
        (Reply::Keep(answer(503, "", "{}")), "'503'"),
        (Reply::Keep(answer(429, "", "{}")), "'429'"),
        (Reply::Keep(answer(200, "", "<html>")), "'5xx'"),
        (Reply::Hang(events(&[])), "timeout"),
        (Reply::Keep(events(&[FAILURE]) + "0\r\n\r\n"), "'5xx'"),
    ] {
        let first = Upstream::always(reply).await;
        for (second, body) in [(&second, BODY), (&streaming, STREAM)] {
            let cluster = Cluster::start(&two(&first, second, "openai", on)).await;
            let got = call(cluster.address, CHAT, body).await;
            assert_eq!((got.status, got.header("x-tollgate-provider")), (200, Some("second")), "{on}: {}", got.raw);
            assert_eq!(got.header("x-tollgate-model"), Some("served"));
            let settled = cluster.settled(1).await;
            assert_eq!((settled.len(), settled[0].usage.output_tokens), (1, 3), "one row, of the one that served");
        }
    }
}

#[tokio::test]
async fn a_stream_that_dies_ends_with_an_error_event_and_never_looks_complete() {
    for (reply, code) in [
        (Reply::Reset(events(&[EVENT])), "upstream_error"),
        (Reply::Close(events(&[EVENT])), "upstream_error"),
        (Reply::Close(events(&[EVENT]) + "0\r\n\r\n"), "upstream_error"),
        (Reply::Hang(events(&[EVENT])), "upstream_timeout"),
        (Reply::Hang(events(&[EVENT, "data: {\"half"])), "upstream_timeout"),
    ] {
        let upstream = Upstream::always(reply.clone()).await;
        let cluster = Cluster::start(&provider(&upstream, "openai")).await;
        let got = call(cluster.address, CHAT, STREAM).await;
        assert!(got.body.starts_with(EVENT) && !got.body.contains("[DONE]"), "{reply:?}: {}", got.raw);
        let last = got.body.strip_prefix(EVENT).unwrap();
        assert!(
            last.starts_with("data: {\"error\"") && last.contains(code) && last.ends_with("\n\n"),
            "{reply:?}: {last}"
        );
        let settled = cluster.settled(1).await.remove(0);
        assert!(
            settled.usage.output_tokens > 0 && settled.usage.input_tokens > 0 && settled.usage.counted,
            "{settled:?}"
        );
        assert_eq!(settled.outcome, Outcome::Partial);
        cluster.nothing_held().await;
    }
}

#[tokio::test]
async fn a_stream_that_outlasts_its_routes_time_ends_with_an_error_however_busy_it_is() {
    let chunk = format!("{:x}\r\n{EVENT}\r\n", EVENT.len());
    for reply in [
        Reply::Hang(events(&[EVENT])),
        Reply::Drip(events(&[EVENT]), chunk.clone()),
        Reply::Endless(events(&[EVENT]), chunk.repeat(100)),
    ] {
        let upstream = Upstream::always(reply.clone()).await;
        let resources = provider(&upstream, "openai")
            .replace("request: 10s, firstByte: 500ms", "request: 700ms, firstByte: 500ms")
            .replace("idle: 700ms", "idle: 60s");
        let cluster = Cluster::start(&resources).await;
        let started = std::time::Instant::now();
        let got = call(cluster.address, CHAT, STREAM).await;
        assert!((700..5_000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
        assert!(got.status == 200 && got.body.starts_with(EVENT) && !got.body.contains("[DONE]"));
        let last = got.body.split_inclusive("\n\n").last().unwrap_or_default();
        assert!(last.starts_with("data: {\"error\"") && last.contains("upstream_timeout"), "{last}");
        until("the provider to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
        let settled = cluster.settled(1).await.remove(0);
        assert!(settled.usage.output_tokens > 0 && settled.usage.counted, "{settled:?}");
        assert_eq!(settled.outcome, Outcome::Partial);
        cluster.nothing_held().await;
    }
}

#[tokio::test]
async fn a_stream_whose_end_was_told_is_whole_though_its_connection_lingers() {
    let upstream = Upstream::always(Reply::Hang(events(&[EVENT, LAST, USAGE, DONE]))).await;
    let cluster = Cluster::start(&provider(&upstream, "openai")).await;
    let got = call(cluster.address, CHAT, STREAM).await;
    assert_eq!(got.body, [EVENT, LAST, DONE].concat());
    let settled = cluster.settled(1).await.remove(0);
    assert_eq!((settled.outcome, settled.usage.output_tokens), (Outcome::Settled, 3));
}

#[tokio::test]
async fn a_caller_that_leaves_lets_the_provider_go_and_is_settled_at_what_went_by() {
    let upstream = Upstream::always(Reply::Hang(events(&[EVENT]))).await;
    let resources =
        provider(&upstream, "openai").replace("idle: 700ms", "idle: 60s").replace("request: 10s", "request: 60s");
    let cluster = Cluster::start(&resources).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    let request = post_text(CHAT, "authorization: Bearer sk-alice\r\n", STREAM);
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut stream, "Hello there").await;
    let left = std::time::Instant::now();
    drop(stream);
    until("the provider to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    assert!(left.elapsed().as_millis() < 1_000, "{:?}", left.elapsed());
    let settled = cluster.settled(1).await.remove(0);
    assert!(settled.outcome == Outcome::Partial && settled.usage.output_tokens > 0, "{settled:?}");
    until("the exchange to end", || cluster.gateway.in_flight() == 0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_is_settled_too() {
    let upstream = Upstream::always(Reply::Hang(String::new())).await;
    let resources = provider(&upstream, "openai").replace("firstByte: 500ms, ", "");
    let cluster = Cluster::start(&resources).await;
    let mut stream = TcpStream::connect(cluster.address).await.unwrap();
    stream.write_all(post_text(CHAT, "authorization: Bearer sk-alice\r\n", BODY).as_bytes()).await.unwrap();
    until("the request to arrive", || !upstream.requests().is_empty()).await;
    drop(stream);
    until("the provider to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    let settled = cluster.settled(1).await.remove(0);
    assert!(settled.outcome == Outcome::Partial && settled.usage.input_tokens > 0, "{settled:?}");
}

#[tokio::test]
async fn models_are_the_union_of_lists_maps_and_prices() {
    let upstream = Upstream::start(|request| match request.starts_with("GET /v1/models ") {
        true => Reply::Keep(json(r#"{"object":"list","data":[{"id":"own","object":"model"}]}"#)),
        false => Reply::Keep(answer(500, "", "")),
    })
    .await;
    let resources = provider(&upstream, "openai")
        + "---\nkind: Price\nmetadata: {name: p}\nspec: {match: {providers: [first], models: [priced, 'globbed*']}, currency: USD, input: '1', output: '1'}\n";
    let cluster = Cluster::start(&resources).await;
    let get = |path| crate::clients::get(cluster.address, path, "authorization: Bearer sk-alice\r\n");
    let list = get("/v1/models").await.json();
    let ids: Vec<&str> = list["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["own", "plain", "priced"]);
    assert_eq!(get("/v1/models/own").await.status, 200);
    assert_eq!(get("/v1/models/other").await.code(), "model_not_found");
    assert_eq!(crate::clients::get(cluster.address, "/v1/models", "").await.status, 401);
}

#[tokio::test]
async fn a_route_can_depend_on_the_model() {
    let (first, second) = (
        Upstream::always(Reply::Keep(json(&completion(1, 1)))).await,
        Upstream::always(Reply::Keep(json(&completion(2, 2)))).await,
    );
    let resources =
        provider(&first, "openai").replace("{path: {prefix: /v1}}", "{path: {prefix: /v1}, models: ['gpt-*']}");
    let other =
        provider(&second, "openai").replace("name: first", "name: third").replace("name: second", "name: fourth");
    let other = other.replace("provider: first", "provider: third").replace("provider: second", "provider: fourth");
    let other = other
        .replace("name: chat", "name: other")
        .replace("{path: {prefix: /v1}}", "{path: {prefix: /v1}, models: [claude]}");
    let cluster = Cluster::start(&format!("{resources}---{other}")).await;
    let ask = |model: &str| {
        call(cluster.address, CHAT, Box::leak(BODY.replace("\"m\"", &format!("\"{model}\"")).into_boxed_str()))
    };
    assert_eq!(ask("gpt-4o").await.header("x-tollgate-provider"), Some("first"));
    assert_eq!(ask("claude").await.header("x-tollgate-provider"), Some("third"));
    let unknown = ask("llama").await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "model_not_found"));
}

#[tokio::test]
async fn bodies_beyond_the_bound_of_memory_are_503_and_take_nothing_afterwards() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(9, 3)))).await;
    let resources = provider(&upstream, "openai");
    let cluster = Cluster::start_with(&resources, |config| config.bounds.max_buffered_bytes = 1_000).await;
    let large = BODY.replace("hi", &"hi ".repeat(1_000));
    for _ in 0..3 {
        let answer = call(cluster.address, CHAT, &large).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{}", answer.raw);
        assert!(answer.body.contains("\"code\":\"overloaded\""), "{}", answer.raw);
    }
    let answer = call(cluster.address, "/v1/messages", &large).await;
    assert!(answer.status == 503 && answer.body.contains("\"type\":\"overloaded_error\""), "{}", answer.raw);
    assert!(cluster.metrics().contains("tollgate_http_server_shed_total{by=\"buffers\",priority=\"standard\"} 4"));
    for _ in 0..3 {
        assert_eq!(call(cluster.address, CHAT, BODY).await.status, 200);
    }
    assert_eq!(upstream.requests().len(), 3, "what was refused was not sent on");
}

//! Realtime sessions through real nodes: each response is held before it begins, and is one row at what its provider says.

mod socket;

use serde_json::{Value, json};
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, eventually,
    resources::{self, api_key, document, tokens_per_day},
};

use socket::{Socket, Told};

/// The rows of all requests, oldest first.
async fn rows(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let asked = ["billing", "export", "--format", "jsonl", "--from", "2026-01-01", "--to", "2999-01-01"];
    let run = cluster.cli().run(&asked).await?.ok()?;
    Ok(run.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn tokens(row: &Value) -> (u64, u64) {
    (row["input_tokens"].as_u64().unwrap_or(u64::MAX), row["output_tokens"].as_u64().unwrap_or(u64::MAX))
}

/// A row for each response that the provider knows, with its very figures.
async fn rows_are_what_was_served(cluster: &Cluster, provider: &Provider, expected: usize) -> anyhow::Result<()> {
    provider.settled().await?;
    let records = provider.records().await?;
    let mut served: Vec<_> = records.iter().map(|it| (it.input_tokens, it.output_tokens)).collect();
    served.sort_unstable();
    assert_eq!(served.len(), expected, "{records:?}");
    eventually("each response is a row", || async {
        let rows = rows(cluster).await?;
        let mut told: Vec<_> = rows.iter().map(tokens).collect();
        told.sort_unstable();
        anyhow::ensure!(told == served, "{rows:?} of {records:?}");
        anyhow::ensure!(rows.iter().all(|row| row["outcome"] == "settled" && row["model"] == "mock-1"), "{rows:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn each_response_of_a_session_is_a_row_with_the_figures_of_its_provider() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let mut socket = Socket::open(cluster.nodes[0].http, "mock-1", &api_key("alice")).await?;
    assert!(socket.head.contains("x-tollgate-provider: mock"), "{}", socket.head);
    socket.until("session.created").await?;
    socket.send(0x9, b"there?").await?;
    assert!(socket.hear().await.is_err_and(|error| error.to_string().contains("kind 8a")), "a pong");
    socket.write(5).await?;
    let first = socket.respond(7).await?;
    assert_eq!(first["response"]["usage"]["output_tokens"], 7, "{first}");
    socket.write(3).await?;
    // Without a bound of its own it has the route's, which the provider was told of.
    socket.say(&json!({"type": "response.create"})).await?;
    let created = socket.until("response.created").await?;
    assert!(created["response"]["max_output_tokens"].is_u64(), "{created}");
    socket.until("response.done").await?;
    // What has a name is refused under it, and the session goes on.
    socket.say(&json!({"type": "response.begin", "event_id": "mine"})).await?;
    let Told::Event(refused) = socket.hear().await? else { return Err(anyhow::anyhow!("no event").into()) };
    assert_eq!((&refused["type"], &refused["error"]["event_id"]), (&json!("error"), &json!("mine")), "{refused}");
    // Turns that end by themselves.
    socket.sound(3, true).await?;
    socket.sound(1, false).await?;
    socket.until("response.done").await?;
    socket.send(0x8, &1000_u16.to_be_bytes()).await?;
    assert_eq!(socket.until_closed().await?.0, 1000);

    // In the words of the beta, as browsers ask.
    let lines = format!(
        "sec-websocket-protocol: realtime, openai-insecure-api-key.{}, openai-beta.realtime-v1\r\nopenai-beta: realtime=v1\r\n",
        api_key("alice")
    );
    let asked = Socket::ask(cluster.nodes[1].http, "mock-1", &lines).await?;
    let mut socket = asked.map_err(|head| anyhow::anyhow!("{head}"))?;
    assert!(socket.head.contains("sec-websocket-protocol: realtime\r\n"), "{}", socket.head);
    socket.until("session.created").await?;
    socket.sound(2, true).await?;
    socket.sound(1, false).await?;
    socket.until("response.done").await?;
    drop(socket);

    let mut socket = Socket::over_http2(cluster.nodes[2].http, "mock-1", &api_key("alice")).await?;
    socket.until("session.created").await?;
    socket.write(4).await?;
    socket.respond(5).await?;
    drop(socket);
    rows_are_what_was_served(&cluster, &provider, 5).await?;

    let asked = provider.last().await?;
    for handshake in asked.iter().filter(|it| it["method"] == "GET") {
        let text = handshake.to_string();
        assert!(!text.contains(&api_key("alice")) && text.contains(&resources::provider_key("mock")), "{text}");
        assert!(!text.contains("permessage-deflate"), "{text}");
    }
    for (lines, model, status) in [
        (String::new(), "mock-1", "401"),
        (format!("authorization: Bearer {}\r\n", api_key("alice")), "", "400"),
        (format!("authorization: Bearer {}\r\n", api_key("alice")), "mock-1&intent=transcription", "501"),
    ] {
        let refused = Socket::ask(cluster.nodes[0].http, model, &lines).await?.err().unwrap_or_default();
        assert!(refused.starts_with(&format!("http/1.1 {status} ")), "{refused}");
    }

    // Who is gone begins nothing more in a session that goes on.
    let mut socket = Socket::open(cluster.nodes[0].http, "mock-1", &api_key("alice")).await?;
    socket.until("session.created").await?;
    for (kind, name) in [("limit", "alice-tokens"), ("consumer", "alice")] {
        cluster.cli().run(&["delete", kind, name]).await?.ok()?;
    }
    let key = format!("authorization: Bearer {}\r\n", api_key("alice"));
    eventually("the consumer is gone", || async {
        let asked = Socket::ask(cluster.nodes[0].http, "mock-1", &key).await?;
        anyhow::ensure!(asked.is_err_and(|head| head.starts_with("http/1.1 401 ")), "it is not");
        Ok(())
    })
    .await?;
    socket.say(&json!({"type": "response.create", "event_id": "late"})).await?;
    let refused = socket.until("error").await?;
    assert_eq!(refused["error"]["code"], "invalid_api_key", "{refused}");
    assert_eq!(refused["error"]["event_id"], "late", "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_limit_that_runs_out_is_an_error_event_and_what_would_begin_by_itself_is_closed() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let provider = cluster.with_standard(&[("alice", Some(4_000)), ("bob", None)]).await?;
    let few = document(
        "Route",
        "chat",
        "{match: [{path: {prefix: /v1}}], backends: [{provider: mock}], tokens: {default: 100, max: 500}}",
    );
    cluster.cli().apply_and_wait(&(few + &tokens_per_day("bob-tokens", "bob", 3_000))).await?;
    let mut socket = Socket::open(cluster.nodes[0].http, "mock-1", &api_key("alice")).await?;
    socket.until("session.created").await?;
    let mut served = 0;
    let refused = loop {
        let create = json!({"type": "response.create", "event_id": "ask", "response": {"max_output_tokens": 500}});
        socket.write(60).await?;
        socket.say(&create).await?;
        let told = loop {
            let Told::Event(event) = socket.hear().await? else { return Err(anyhow::anyhow!("it is closed").into()) };
            if event["type"] == "response.done" || event["type"] == "error" {
                break event;
            }
        };
        if told["type"] == "error" {
            break told;
        }
        served += 1;
        assert!(served < 60, "no limit holds it");
    };
    assert!(served > 0, "{refused}");
    assert_eq!(
        (&refused["error"]["code"], &refused["error"]["event_id"]),
        (&json!("rate_limit_exceeded"), &json!("ask"))
    );
    socket.say(&json!({"type": "response.create", "response": {"max_output_tokens": 501}})).await?;
    let above = loop {
        let Told::Event(event) = socket.hear().await? else { return Err(anyhow::anyhow!("it is closed").into()) };
        if event["type"] == "error" {
            break event;
        }
    };
    assert_eq!(above["error"]["param"], "response.max_output_tokens", "{above}");

    // Each turn reads all before it, so that the limit comes nearer by itself.
    let mut talk = Socket::open(cluster.nodes[1].http, "mock-1", &api_key("bob")).await?;
    talk.until("session.created").await?;
    let (mut turns, mut closed) = (0, None);
    while closed.is_none() {
        assert!(turns < 60, "no limit holds it");
        // Once it is closed nobody takes more.
        let _ = talk.sound(20, true).await;
        let _ = talk.sound(1, false).await;
        let mut error = Value::Null;
        loop {
            match talk.hear().await? {
                Told::Event(event) if event["type"] == "response.done" => break turns += 1,
                Told::Event(event) if event["type"] == "error" => error = event["error"].clone(),
                Told::Event(_) => {}
                Told::Closed(code) => {
                    closed = Some((code, error.take()));
                    break;
                }
                Told::Gone => return Err(anyhow::anyhow!("it is gone without a close").into()),
            }
        }
    }
    let (code, error) = closed.unwrap_or_default();
    assert_eq!((code, &error["code"]), (1008, &json!("rate_limit_exceeded")), "{error}");
    assert!(turns > 0);
    rows_are_what_was_served(&cluster, &provider, served + turns).await?;
    Ok(())
}

#[tokio::test]
async fn credit_that_is_spent_ends_no_session_and_begins_no_response() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let provider = cluster.with_standard(&[]).await?;
    let payer = document("Tenant", "payer", "{billing: {mode: prepaid, currency: USD}}");
    let price = "{currency: USD, match: {models: [mock-1]}, input: 0, output: 0, request: '0.001'}";
    let all = payer + &resources::consumer("penny", "payer") + &document("Price", "mock", price);
    cluster.cli().apply_and_wait(&all).await?;
    cluster.cli().run(&["credits", "grant", "payer", "0.002", "--key", "two"]).await?.ok()?;
    let mut socket = Socket::open(cluster.nodes[0].http, "mock-1", &api_key("penny")).await?;
    socket.until("session.created").await?;
    for _ in 0..2 {
        socket.respond(3).await?;
    }
    socket.say(&json!({"type": "response.create", "event_id": "third"})).await?;
    let refused = loop {
        let Told::Event(event) = socket.hear().await? else { return Err(anyhow::anyhow!("it is closed").into()) };
        if event["type"] == "error" {
            break event["error"].clone();
        }
    };
    assert_eq!((&refused["code"], &refused["event_id"]), (&json!("insufficient_quota"), &json!("third")), "{refused}");
    cluster.cli().run(&["credits", "grant", "payer", "0.001", "--key", "one"]).await?.ok()?;
    socket.respond(3).await?;
    let lines = format!("authorization: Bearer {}\r\n", api_key("penny"));
    let unpriced = Socket::ask(cluster.nodes[0].http, "mock-2", &lines);
    assert!(unpriced.await?.err().unwrap_or_default().starts_with("http/1.1 403 "));
    rows_are_what_was_served(&cluster, &provider, 3).await?;
    Ok(())
}

#[tokio::test]
async fn a_session_whose_node_dies_or_whose_client_leaves_has_a_row_of_what_was_under_way() -> Outcome {
    let mut cluster = Cluster::start().await?;
    cluster.ready().await?;
    let provider = cluster.with_standard(&[("alice", Some(100_000))]).await?;
    provider.turn(&[("pace", "50ms"), ("output", "1000")]).await?;
    let origin = cluster.nodes[1].http;
    for dies in [false, true] {
        let mut socket = Socket::open(origin, "mock-1", &api_key("alice")).await?;
        socket.until("session.created").await?;
        socket.write(5).await?;
        socket.say(&json!({"type": "response.create", "response": {"max_output_tokens": 1_000}})).await?;
        for _ in 0..3 {
            socket.until("response.output_text.delta").await?;
        }
        if dies {
            cluster.node(2).kill()?;
        }
        drop(socket);
        provider.settled().await?;
        if dies {
            cluster.node(2).start()?;
            cluster.ready().await?;
        }
        let outcome = if dies { "orphaned" } else { "partial" };
        eventually("what was under way is a row", || async {
            let rows = rows(&cluster).await?;
            let told: Vec<_> = rows.iter().map(|row| row["outcome"].as_str().unwrap_or_default()).collect();
            let expected = if dies { vec!["partial", outcome] } else { vec![outcome] };
            anyhow::ensure!(told == expected, "{rows:?}");
            let cut = &rows[0];
            anyhow::ensure!(cut["usage_source"] == "counted" && (1..=1_000).contains(&tokens(cut).1), "{cut}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

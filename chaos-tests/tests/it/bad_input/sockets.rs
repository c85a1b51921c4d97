//! Bytes that are no request, on every port.

use std::{net::SocketAddr, time::Duration};

use rand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use tollgate_chaos_tests::{Cluster, Outcome, Plan, Seed, calls::Call, client::LIMIT, resources::api_key};

/// Longer than the 10 s that headers may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a port says to these bytes until it closes the connection or falls silent.
async fn send(address: SocketAddr, bytes: &[u8], patience: Duration) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    // The other side may close before all was written.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = async { while matches!(socket.read_buf(&mut answer).await, Ok(1..)) {} };
    let _ = time::timeout(patience, read).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn is_well(cluster: &mut Cluster) -> anyhow::Result<()> {
    assert!(cluster.node(1).is_running(), "{}", cluster.node(1).log());
    let call = Call::chat(&api_key("alice"), "mock-1");
    let answer = cluster.client.send(call.request(&cluster.origins()[0]), LIMIT).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster.cli().rows(&["cluster", "status"]).await?;
    Ok(())
}

#[tokio::test]
async fn garbage_on_every_port_harms_nobody() -> Outcome {
    let mut cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let mut rng = Seed::from_env().rng("garbage");
    let node = &cluster.nodes[0];
    for address in [node.http, node.admin, node.peer] {
        for length in [1, 24, 1_000, 100_000] {
            let mut garbage = vec![0; length];
            rng.fill_bytes(&mut garbage);
            send(address, &garbage, Duration::from_millis(300)).await?;
        }
        for start in
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTT"]
        {
            let mut garbage = start.to_vec();
            garbage.extend_from_slice(&[0xff; 600]);
            send(address, &garbage, Duration::from_millis(300)).await?;
        }
    }
    is_well(&mut cluster).await?;
    Ok(())
}

#[tokio::test]
async fn half_a_request_is_ended_with_a_408_and_a_close() -> Outcome {
    let mut cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let address = cluster.nodes[0].http;
    let bearer = api_key("alice");
    let body = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {bearer}\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{{\"model\":"
    );
    let (head, body) = tokio::join!(
        send(address, b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nx-a: ", PATIENCE),
        send(address, body.as_bytes(), PATIENCE),
    );
    assert!(head?.starts_with("HTTP/1.1 408"));
    assert!(body?.starts_with("HTTP/1.1 408"));
    is_well(&mut cluster).await?;
    Ok(())
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_closed() -> Outcome {
    let mut cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let address = cluster.nodes[0].http;
    let cases: &[(&str, &str)] = &[
        ("no host", "GET /v1/models HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("two lengths", "POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        (
            "both framings",
            "POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("other codings", "POST /v1/x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("bare line feeds", "GET /v1/models HTTP/1.1\nhost: a\n\n"),
        ("a folded header", "GET /v1/models HTTP/1.1\r\nhost: a\r\nx-a: b\r\n c\r\n\r\n"),
        ("a space in a name", "GET /v1/models HTTP/1.1\r\nhost: a\r\nx a: b\r\n\r\n"),
        ("userinfo in the host", "GET /v1/models HTTP/1.1\r\nhost: user@a\r\n\r\n"),
    ];
    for (what, request) in cases {
        let answer = send(address, request.as_bytes(), Duration::from_secs(5)).await?;
        assert!(answer.starts_with("HTTP/1.1 400"), "{what}: {answer:?}");
    }
    is_well(&mut cluster).await?;
    Ok(())
}

#[tokio::test]
async fn a_header_bomb_is_refused() -> Outcome {
    let mut cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", None)]).await?;
    let address = cluster.nodes[0].http;
    let many = format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{}\r\n", "x-a: b\r\n".repeat(20_000));
    let long = format!("GET /v1/models HTTP/1.1\r\nhost: a\r\nx-a: {}\r\n\r\n", "b".repeat(200_000));
    for bomb in [many, long] {
        let answer = send(address, bomb.as_bytes(), Duration::from_secs(10)).await?;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer:?}");
    }
    is_well(&mut cluster).await?;
    Ok(())
}

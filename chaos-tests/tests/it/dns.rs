//! A provider that is given by name, and the name server that a node is told to ask.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::net::UdpSocket;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tollgate_chaos_tests::{
    Cluster, Outcome, Plan, calls::Call, client::LIMIT, eventually, resources, resources::api_key,
};

/// Says for a second that every name is here, or that it has failed.
async fn name_server(fails: &Arc<AtomicBool>) -> anyhow::Result<(SocketAddr, AbortOnDropHandle<()>)> {
    let (socket, fails) = (UdpSocket::bind("127.0.0.1:0").await?, Arc::clone(fails));
    let address = socket.local_addr()?;
    let serving = TaskTracker::new().spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let Some(name) = query[12..length].iter().position(|byte| *byte == 0) else { continue };
            let question = &query[12..12 + name + 5];
            let has_answer = question.ends_with(&[0, 1, 0, 1]) && !fails.load(Ordering::SeqCst);
            let code = if fails.load(Ordering::SeqCst) { 2 } else { 0 };
            let head = [query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, u8::from(has_answer), 0, 0, 0, 0];
            let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4], &Ipv4Addr::LOCALHOST.octets()[..]].concat();
            let answer = [&head[..], question, if has_answer { &record } else { &[] }].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    Ok((address, AbortOnDropHandle::new(serving)))
}

#[tokio::test]
async fn a_provider_is_found_by_its_name_and_stays_where_it_was_when_dns_fails() -> Outcome {
    let fails = Arc::new(AtomicBool::new(false));
    let (server, _serving) = name_server(&fails).await?;
    let more_toml = format!("\n[dns]\nnameservers = [\"{server}\"]\ntimeout = \"1s\"\n");
    let cluster = Cluster::with(Plan { nodes: 1, more_toml, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[("alice", None)]).await?;
    let named = provider.url().replace(&provider.address().ip().to_string(), "llm.test");
    cluster.cli().apply_and_wait(&resources::provider("mock", "openai", &named)).await?;
    let (origin, metrics) = (&cluster.origins()[0], format!("{}/metrics", cluster.nodes[0].admin_url()));
    let served = async || {
        let answer = cluster.client.send(Call::chat(&api_key("alice"), "mock-1").request(origin), LIMIT).await?;
        anyhow::ensure!(answer.status == 200, "{}", answer.text());
        Ok(())
    };
    served().await?;
    fails.store(true, Ordering::SeqCst);
    for (is_stale, fail_next) in [(1, false), (0, true)] {
        let line = format!("tollgate_upstream_dns_stale_names{{upstream=\"mock\",kind=\"provider\"}} {is_stale}\n");
        eventually("it is known how the name server does", || async {
            let text = cluster.client.get(&metrics, &[]).await?.text();
            anyhow::ensure!(text.contains(&line), "no {line}");
            Ok(())
        })
        .await?;
        for _ in 0..5 {
            served().await?;
        }
        fails.store(fail_next, Ordering::SeqCst);
    }
    assert_eq!(provider.settled().await?.total.finished, 11);
    Ok(())
}

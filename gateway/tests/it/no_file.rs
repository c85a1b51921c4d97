//! Requests whose upstream can't be connected to, as this node may open no more files: nobody's fault but its own.

use std::{fs::File, os::fd::AsRawFd as _};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use crate::{
    ai::{completion, provider},
    clients::read_until,
    cluster::Cluster,
    upstream::{Reply, Upstream, answer},
};

/// More than all other tests have open.
const MAX_FILE: u64 = 700;

fn number(file: &File) -> u64 {
    file.as_raw_fd().try_into().unwrap()
}

/// Takes every number below the bound: what is opened next gets a higher one.
fn fill(files: &mut Vec<File>) {
    while files.last().is_none_or(|file| number(file) < MAX_FILE) {
        files.push(File::open("/dev/null").unwrap());
    }
}

/// What a caller hears who was there before the files were gone. Other tests give some back at any time.
async fn refused(cluster: &Cluster, caller: &mut TcpStream, request: &str) -> String {
    let (mut files, began, mut is_in) = (Vec::new(), Instant::now(), false);
    loop {
        // Not before its own connection was taken.
        if std::mem::replace(&mut is_in, true) {
            fill(&mut files);
        }
        caller.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(caller, "}}").await;
        if !answer.starts_with("HTTP/1.1 200 ") {
            return answer;
        }
        assert!(began.elapsed().as_secs() < 20, "{answer} {}", cluster.metrics());
        files.retain(|file| number(file) < MAX_FILE);
    }
}

fn is_overloaded(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("\"code\":\"overloaded\""), "{answer}");
}

#[tokio::test]
async fn a_service_is_not_blamed_for_it() {
    let upstream = Upstream::always(Reply::Close(answer(200, "", "{\"a\":{}}"))).await;
    let resources = format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}], \
         outlierDetection: {{consecutiveErrors: 1, ejectFor: 60s}}}}\n---\n\
         kind: Route\nmetadata: {{name: all}}\nspec: {{backends: [{{service: s}}], retries: {{attempts: 3, on: [connectFailure]}}}}\n",
        upstream.address
    );
    let cluster = Cluster::start_with(&resources, |config| config.bounds.max_file = Some(MAX_FILE)).await;
    let mut caller = TcpStream::connect(cluster.address).await.unwrap();
    is_overloaded(&refused(&cluster, &mut caller, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await);
    let metrics = cluster.metrics();
    assert!(metrics.contains(r#"tollgate_upstream_endpoints{upstream="s",kind="service",state="fit"} 1"#), "{metrics}");
    assert!(
        metrics.contains(r#"result="no_file""#) && metrics.contains(r#"shed_total{by="files",priority="any"}"#),
        "{metrics}"
    );
    caller.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_until(&mut caller, "}}").await.starts_with("HTTP/1.1 200 "), "it is asked as before");
}

#[tokio::test]
async fn nor_is_a_provider_and_nothing_is_billed() {
    let completion = completion(9, 3);
    let upstream = Upstream::always(Reply::Close(answer(200, "content-type: application/json\r\n", &completion))).await;
    let cluster = Cluster::start_with(&provider(&upstream, "openai"), |config| {
        config.bounds.max_file = Some(MAX_FILE);
    })
    .await;
    let mut caller = TcpStream::connect(cluster.address).await.unwrap();
    let body = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer sk-alice\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    is_overloaded(&refused(&cluster, &mut caller, &request).await);
    let metrics = cluster.metrics();
    assert!(metrics.contains(r#"state="fit"} 1"#) && metrics.contains(r#"result="no_file""#), "{metrics}");
    cluster.nothing_held().await;
}

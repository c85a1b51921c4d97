//! A provider's key that is refused on one node: the others leave it alone, too, until one of them finds that it is taken again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tollgate_chaos_tests::{
    Cluster, Outcome,
    calls::Call,
    client::LIMIT,
    eventually, eventually_within,
    resources::{self, api_key, document},
};

use crate::matrix::say;

const BAD: &str = "sk-refused-0123456789";
const GOOD: &str = "sk-taken-0123456789";
/// What it asks for, in seconds: longer than the test looks whether others leave it alone.
const RETRY_AFTER: u64 = 8;
const ANSWER: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"mock-1","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}"#;
const REFUSAL: &str =
    r#"{"error":{"message":"no quota","type":"insufficient_quota","code":"insufficient_quota","param":null}}"#;

/// A provider that refuses one of its keys, while it is told to.
struct Picky {
    url: String,
    refuses: Arc<AtomicBool>,
    /// Calls that came with that key.
    with_bad: Arc<AtomicUsize>,
    /// Ends with it.
    _tasks: JoinSet<()>,
}

impl Picky {
    async fn start() -> anyhow::Result<Picky> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/v1", listener.local_addr()?);
        let (refuses, with_bad) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (refusing, count) = (Arc::clone(&refuses), Arc::clone(&with_bad));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut callers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (refusing, count) = (Arc::clone(&refusing), Arc::clone(&count));
                callers.spawn(async move {
                    // Whoever leaves early is none of the test's business.
                    let _ = answer(stream, &refusing, &count).await;
                });
            }
        });
        Ok(Picky { url, refuses, with_bad, _tasks: tasks })
    }

    fn with_bad(&self) -> usize {
        self.with_bad.load(SeqCst)
    }
}

/// One request, and no other on its connection.
async fn answer(mut stream: TcpStream, refuses: &AtomicBool, with_bad: &AtomicUsize) -> anyhow::Result<()> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(Ok(0), str::parse)? {
                break;
            }
        }
        anyhow::ensure!(stream.read_buf(&mut request).await? > 0, "it left");
    }
    let is_bad = String::from_utf8_lossy(&request).contains(&format!("Bearer {BAD}"));
    with_bad.fetch_add(usize::from(is_bad), SeqCst);
    let (status, more, body) = match is_bad && refuses.load(SeqCst) {
        true => ("429 Too Many Requests", format!("retry-after: {RETRY_AFTER}\r\n"), REFUSAL),
        false => ("200 OK", String::new(), ANSWER),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}connection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// All callers are served by that provider, whose first key is rested after so many refusals.
async fn serve_by(cluster: &Cluster, picky: &Picky, threshold: u32) -> anyhow::Result<()> {
    let provider = format!(
        "{{type: openai, endpoints: [{{url: \"{}\"}}], keys: [{{value: \"{BAD}\"}}, {{value: \"{GOOD}\"}}], \
         keyFailover: {{failureThreshold: {threshold}, probeInterval: 500ms}}}}",
        picky.url
    );
    let yaml = document("Provider", "picky", &provider)
        + &resources::route("chat", "[{provider: picky}]", "")
        + &resources::tenant("acme")
        + &resources::consumer("alice", "acme");
    cluster.cli().apply_and_wait(&yaml).await?;
    Ok(())
}

/// Whether this node, counted from 0, rests a key.
async fn rests(cluster: &Cluster, node: usize) -> anyhow::Result<bool> {
    let url = format!("{}/metrics", cluster.nodes[node].admin_url());
    let metrics = cluster.client.get(&url, &[]).await?.text();
    let line = "tollgate_upstream_keys{upstream=\"picky\",state=\"resting\"} ";
    let count = metrics.lines().find_map(|it| it.strip_prefix(line));
    Ok(count.context("the metric is there")? != "0")
}

async fn is_served(cluster: &Cluster, node: usize) -> anyhow::Result<()> {
    let call = Call::chat(&api_key("alice"), "mock-1").request(&cluster.origins()[node]);
    let answer = cluster.client.send(call, LIMIT).await?;
    anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    Ok(())
}

#[tokio::test]
async fn a_key_that_one_node_finds_refused_is_left_alone_by_all_until_one_finds_it_taken() -> Outcome {
    let cluster = Cluster::start().await?;
    let picky = Picky::start().await?;
    serve_by(&cluster, &picky, 2).await?;

    // Only the first node is called. Nobody hears of a refusal: the other key is taken at once.
    let began = Instant::now();
    while !rests(&cluster, 0).await? {
        is_served(&cluster, 0).await?;
        assert!(began.elapsed() < LIMIT, "the first node never rests it");
    }
    let rested = Instant::now();
    assert_eq!(picky.with_bad(), 2, "as often as was said");
    for node in [1, 2] {
        eventually_within(Duration::from_secs(1), "the others rest it within a second", || async {
            anyhow::ensure!(rests(&cluster, node).await?, "node {} does not", node + 1);
            Ok(())
        })
        .await?;
    }
    let told = rested.elapsed();
    let mut calls = 0;
    while rested.elapsed() < Duration::from_secs(RETRY_AFTER / 2) {
        is_served(&cluster, calls % 3).await?;
        calls += 1;
    }
    assert_eq!(picky.with_bad(), 2, "of {calls} calls to all nodes none was sent with it");

    // It is well again, and only the second node has calls: that one finds out, in place of the first.
    picky.refuses.store(false, SeqCst);
    eventually("the second node takes it again", || async {
        is_served(&cluster, 1).await?;
        anyhow::ensure!(!rests(&cluster, 1).await?, "it does not");
        Ok(())
    })
    .await?;
    let taken = Instant::now();
    for node in [0, 2] {
        eventually_within(Duration::from_secs(1), "the others take it again", || async {
            anyhow::ensure!(!rests(&cluster, node).await?, "node {} does not", node + 1);
            Ok(())
        })
        .await?;
    }
    say(&format!("  rested by all after {told:?}, {calls} calls without it, taken by all after {:?}", taken.elapsed()));
    for node in 0..3 {
        let before = picky.with_bad();
        for _ in 0..4 {
            is_served(&cluster, node).await?;
        }
        assert_eq!(picky.with_bad(), before + 2, "every other call of node {}", node + 1);
    }
    Ok(())
}

/// A node that can't hear the others goes by what it finds out by itself.
#[tokio::test]
async fn a_node_that_hears_nothing_finds_out_by_itself() -> Outcome {
    let mut cluster = Cluster::start().await?;
    let picky = Picky::start().await?;
    serve_by(&cluster, &picky, 1).await?;
    for id in [2, 3] {
        cluster.node(id).kill()?;
    }
    picky.refuses.store(true, SeqCst);
    let began = Instant::now();
    while !rests(&cluster, 0).await? {
        // No leader is needed for it, nor for the call.
        is_served(&cluster, 0).await?;
        assert!(began.elapsed() < LIMIT, "it never rests");
    }
    picky.refuses.store(false, SeqCst);
    eventually("it is taken again", || async {
        is_served(&cluster, 0).await?;
        anyhow::ensure!(!rests(&cluster, 0).await?, "it rests");
        Ok(())
    })
    .await?;
    Ok(())
}

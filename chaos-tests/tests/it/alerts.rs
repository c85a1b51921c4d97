//! Budgets: each threshold is told of under one id, signed, through a receiver that fails and the death of the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use anyhow::Context;
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tollgate_chaos_tests::{
    Cluster, Outcome,
    calls::Call,
    client::LIMIT,
    eventually,
    resources::{self, api_key, document},
};

const KEY: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
/// Calls that a budget is for; each costs a thousandth of a dollar.
const BUDGET: u64 = 10;
const TENANTS: [&str; 2] = ["payer", "later"];

/// A call that the receiver has got.
#[derive(Debug, Clone)]
struct Told {
    path: String,
    id: String,
    body: String,
    accepted: bool,
}

/// Takes calls, checks their signatures, and fails while it is told to.
struct Receiver {
    url: String,
    told: Arc<Mutex<Vec<Told>>>,
    fails: Arc<AtomicBool>,
    /// Ends with it.
    _tasks: JoinSet<()>,
    listens: AbortHandle,
}

impl Receiver {
    async fn start() -> anyhow::Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let (told, fails) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(true)));
        let (list, failing) = (Arc::clone(&told), Arc::clone(&fails));
        let mut tasks = JoinSet::new();
        let listens = tasks.spawn(async move {
            // One after the other: nodes make one call at a time for a tenant, and few tenants are here.
            while let Ok((stream, _)) = listener.accept().await {
                let accepts = !failing.load(SeqCst);
                // A node that is killed may leave half a call.
                let Ok(Some(call)) = read(stream).await else { continue };
                match answer(call, accepts).await {
                    Ok(one) => list.lock().expect("the test itself does not panic").push(one),
                    Err(error) => panic!("what came is no signed call: {error:#}"),
                }
            }
        });
        Ok(Receiver { url, told, fails, _tasks: tasks, listens })
    }

    fn told(&self) -> Vec<Told> {
        assert!(!self.listens.is_finished(), "the receiver has met a call that is none");
        self.told.lock().expect("nobody panics with it").clone()
    }
}

/// A call as it came.
struct Came {
    stream: TcpStream,
    head: String,
    headers: BTreeMap<String, String>,
    body: String,
}

/// None where it ends early.
async fn read(mut stream: TcpStream) -> anyhow::Result<Option<Came>> {
    let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return Ok(None);
        }
        read.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8(read.clone())?;
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut lines = head.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers: BTreeMap<String, String> =
            headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let length: usize = headers.get("content-length").context("no length")?.parse()?;
        if body.len() >= length {
            return Ok(Some(Came { stream, head: first, headers, body: body.to_owned() }));
        }
    }
}

async fn answer(call: Came, accepts: bool) -> anyhow::Result<Told> {
    let Came { mut stream, head, headers, body } = call;
    let header = |name: &str| headers.get(name).cloned().with_context(|| format!("no {name}"));
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let signature = header("webhook-signature")?;
    let signature = STANDARD.decode(signature.strip_prefix("v1,").context("no version")?)?;
    let signed = format!("{id}.{timestamp}.{body}");
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, KEY), signed.as_bytes(), &signature)
        .map_err(|_| anyhow::anyhow!("the signature is wrong"))?;
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
    anyhow::ensure!(timestamp.parse::<u64>()?.abs_diff(now) < 60, "{timestamp} is not now");
    anyhow::ensure!(header("content-type")? == "application/json");
    let status = if accepts { "204 No Content" } else { "500 Internal Server Error\r\ncontent-length: 0" };
    // Whoever asked may be gone: it was told all the same.
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n").as_bytes()).await;
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    anyhow::ensure!(head.starts_with("POST "), "{head}");
    Ok(Told { path, id, body, accepted: accepts })
}

fn tenant(name: &str, url: &str, monthly: &str, thresholds: &str) -> String {
    let mode = if name == "payer" { "prepaid" } else { "postpaid" };
    let secret = format!("{{value: whsec_{}}}", STANDARD.encode(KEY));
    let webhook = format!("{{url: '{url}/{name}', secret: {secret}}}");
    let budget = format!("{{monthly: '{monthly}', thresholds: {thresholds}, webhook: {webhook}}}");
    document("Tenant", name, &format!("{{billing: {{mode: {mode}, currency: USD}}, budget: {budget}}}"))
}

fn tenants(url: &str, monthly: &str, thresholds: &str) -> String {
    TENANTS.map(|name| tenant(name, url, monthly, thresholds)).concat()
}

async fn calls(cluster: &Cluster, origins: &[String], number: u64) -> anyhow::Result<()> {
    for n in 0..number {
        for name in TENANTS {
            let origin = &origins[usize::try_from(n)? % origins.len()];
            let call = Call::chat(&api_key(&format!("of-{name}")), "mock-1");
            let answer = cluster.client.send(call.request(origin), LIMIT).await?;
            anyhow::ensure!(answer.status == 200, "{}", answer.text());
        }
    }
    Ok(())
}

async fn alerts(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    cluster.cli().rows(&["billing", "alerts"]).await
}

/// Waits until so many alerts are listed, and all are in this state.
async fn all_are(cluster: &Cluster, number: usize, state: &str) -> anyhow::Result<Vec<Value>> {
    eventually("alerts are in the list", || async {
        let rows = alerts(cluster).await?;
        anyhow::ensure!(rows.len() == number && rows.iter().all(|row| row["state"] == state), "{rows:?}");
        Ok(rows)
    })
    .await
}

#[tokio::test]
async fn each_threshold_is_told_of_under_one_id_through_failures_and_a_leaders_death() -> Outcome {
    let receiver = Receiver::start().await?;
    let mut cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[]).await?;
    let price =
        document("Price", "mock", "{currency: USD, match: {models: [mock-1]}, input: 0, output: 0, request: '0.001'}");
    let consumers = TENANTS.map(|name| resources::consumer(&format!("of-{name}"), name)).concat();
    let all = tenants(&receiver.url, "0.01", "[50, 80, 100]") + &consumers + &price;
    cluster.cli().apply_and_wait(&all).await?;
    cluster.cli().run(&["credits", "grant", "payer", "1", "--key", "first"]).await?.ok()?;
    let shown = cluster.cli().run(&["get", "tenants", "-o", "yaml"]).await?.ok()?.stdout;
    assert!(shown.contains("sealed:v1:") && !shown.contains("whsec_"), "{shown}");

    calls(&cluster, &cluster.origins(), BUDGET / 2 - 1).await?;
    assert_eq!(alerts(&cluster).await?, Vec::<Value>::new());
    calls(&cluster, &cluster.origins(), 1).await?;
    all_are(&cluster, 2, "pending").await?;
    eventually("each of both is tried again", || async {
        let told = receiver.told();
        let tries = |name: &str| told.iter().filter(|it| it.path == format!("/{name}")).count();
        anyhow::ensure!(TENANTS.iter().all(|name| tries(name) >= 2), "{told:?}");
        Ok(())
    })
    .await?;
    let leader = cluster.leader().await?;
    cluster.node(leader).kill()?;
    receiver.fails.store(false, SeqCst);
    let left: Vec<String> = (1..=3)
        .filter(|id| *id != leader)
        .map(|id| cluster.nodes[usize::try_from(id - 1).unwrap()].http_url())
        .collect();
    let half = all_are(&cluster, 2, "delivered").await?;
    assert!(half.iter().all(|row| row["threshold"] == 50 && row["tries"].as_u64() >= Some(3)), "{half:?}");

    calls(&cluster, &left, BUDGET / 2).await?;
    all_are(&cluster, 6, "delivered").await?;
    cluster.node(leader).start()?;
    cluster.ready().await?;
    // A budget that goes up and down again says nothing twice; what is new says so once.
    cluster.cli().apply_and_wait(&tenants(&receiver.url, "0.1", "[50, 80, 100]")).await?;
    cluster.cli().apply_and_wait(&tenants(&receiver.url, "0.01", "[50, 80, 100, 110]")).await?;
    calls(&cluster, &cluster.origins(), 1).await?;
    let rows = all_are(&cluster, 8, "delivered").await?;

    let told = receiver.told();
    let ids: BTreeSet<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(told.iter().map(|it| it.id.as_str()).collect::<BTreeSet<_>>(), ids, "exactly these, and no other");
    assert_eq!(ids.len(), 8);
    for row in &rows {
        let of: Vec<&Told> = told.iter().filter(|it| row["id"] == it.id.as_str()).collect();
        assert!(of.iter().any(|it| it.accepted), "{row} was taken: {of:?}");
        let body: Value = serde_json::from_str(&of[0].body)?;
        assert!(of.iter().all(|it| it.body == of[0].body), "each try says the same: {of:?}");
        assert_eq!(body["type"], "budget.threshold_reached");
        assert_eq!((&body["data"]["thresholdPercent"], &body["data"]["tenant"]), (&row["threshold"], &row["tenant"]));
        assert_eq!((&body["data"]["budget"], &body["data"]["currency"]), (&"0.01".into(), &"USD".into()));
        assert_eq!(of[0].path, format!("/{}", row["tenant"].as_str().unwrap_or_default()));
    }
    for name in TENANTS {
        let mut of: Vec<u64> =
            rows.iter().filter(|row| row["tenant"] == name).filter_map(|row| row["threshold"].as_u64()).collect();
        of.sort_unstable();
        assert_eq!(of, [50, 80, 100, 110], "{name}");
    }
    Ok(())
}

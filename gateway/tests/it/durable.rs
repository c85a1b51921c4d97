//! What is journaled is on the disk before anything of it is sent, and the way to the upstream is made meanwhile.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use tollgate_quota::{
    JournalEntry,
    journal::{Journal, Watermarks},
};

use crate::{
    ai::{completion, provider},
    clients::{call, get, read_until},
    cluster::{Cluster, until},
    growing::{EVERY, TELLING, answer as stream, limited, open as begin, show},
    upstream::{Reply, Upstream, answer, json},
};

const BODY: &str = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}"#;

/// A disk that syncs as it is told: at once, or not before.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    appended: AtomicU64,
    stopped: std::sync::atomic::AtomicBool,
    /// What was appended when it was stopped last.
    appended_before: AtomicU64,
    progress: Watermarks,
}

impl Disk {
    pub(crate) fn stop(&self) {
        self.appended_before.store(self.appended.load(Ordering::SeqCst), Ordering::SeqCst);
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// It is stopped, and there is more for it.
    fn is_waited_for(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
            && self.appended.load(Ordering::SeqCst) > self.appended_before.load(Ordering::SeqCst)
    }

    pub(crate) fn go_on(&self) {
        self.stopped.store(false, Ordering::SeqCst);
        self.sync();
    }

    fn sync(&self) {
        let all = self.appended.load(Ordering::SeqCst);
        self.progress.change(|progress| (progress.written, progress.durable) = (all, all));
    }
}

impl Journal for Disk {
    fn append(&self, entries: Vec<JournalEntry>) {
        self.appended.fetch_add(entries.len() as u64, Ordering::SeqCst);
        if !self.stopped.load(Ordering::SeqCst) {
            self.sync();
        }
    }

    fn progress(&self) -> Watermarks {
        self.progress.clone()
    }
}

/// A cluster whose journal is on such a disk.
pub(crate) async fn with_disk(resources: &str) -> (Cluster, Arc<Disk>) {
    let disk = Arc::new(Disk::default());
    let journal = Arc::clone(&disk) as Arc<dyn Journal>;
    (Cluster::start_on(resources, journal, |_| {}).await, disk)
}

fn open(upstream: &Upstream) -> usize {
    upstream.open.load(Ordering::SeqCst)
}

#[tokio::test]
async fn the_connection_is_made_while_the_journal_is_written_and_nothing_is_sent_before() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(7, 5)))).await;
    let (cluster, disk) = with_disk(&provider(&upstream, "openai")).await;
    disk.stop();
    let address = cluster.address;
    let mut calling = JoinSet::new();
    calling.spawn(async move { call(address, "/v1/chat/completions", BODY).await });
    until("the upstream is connected to", || open(&upstream) == 1).await;
    assert_eq!(upstream.requests().len(), 0);
    disk.go_on();
    assert_eq!(calling.join_next().await.unwrap().unwrap().status, 200);
    assert_eq!((upstream.requests().len(), open(&upstream)), (1, 1), "it was sent on that connection");

    // One that is kept is as good.
    disk.stop();
    calling.spawn(async move { call(address, "/v1/chat/completions", BODY).await });
    until("the next call is in flight", || cluster.gateway.in_flight() == 1).await;
    disk.go_on();
    assert_eq!(calling.join_next().await.unwrap().unwrap().status, 200);
    assert_eq!((upstream.requests().len(), open(&upstream)), (2, 1));
}

#[tokio::test]
async fn of_what_never_becomes_durable_the_upstream_sees_nothing() {
    let upstream = Upstream::always(Reply::Keep(json(&completion(7, 5)))).await;
    let resources = provider(&upstream, "openai").replace("request: 10s", "request: 1s");
    assert!(resources.contains("request: 1s"));
    let (cluster, disk) = with_disk(&resources).await;
    disk.stop();
    let refused = call(cluster.address, "/v1/chat/completions", BODY).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "quota_unavailable"), "{}", refused.raw);
    assert!(upstream.requests().is_empty());
    until("the connection that nobody needed is closed", || open(&upstream) == 0).await;
}

#[tokio::test]
async fn a_service_whose_limit_is_journaled_is_connected_to_meanwhile_and_sent_nothing_before() {
    let upstream = Upstream::always(Reply::Keep(answer(200, "", "fine"))).await;
    let resources = format!(
        "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: http, endpoints: [{{address: '{}'}}]}}\n---\n\
         kind: Route\nmetadata: {{name: all}}\nspec: {{backends: [{{service: s}}], timeouts: {{request: 1s}}}}\n---\n\
         kind: Limit\nmetadata: {{name: rph}}\nspec: {{unit: requests, limit: 5, window: 1h, durability: journal}}\n",
        upstream.address
    );
    let (cluster, disk) = with_disk(&resources).await;
    disk.stop();
    let address = cluster.address;
    let mut calling = JoinSet::new();
    calling.spawn(async move { get(address, "/x", "").await });
    until("the upstream is connected to", || open(&upstream) == 1).await;
    assert_eq!(upstream.requests().len(), 0);
    disk.go_on();
    assert_eq!(calling.join_next().await.unwrap().unwrap().status, 200);

    disk.stop();
    let refused = get(address, "/x", "").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "quota_unavailable"), "{}", refused.raw);
    assert_eq!(upstream.requests().len(), 1, "what is not durable is not sent");
    disk.go_on();
    let next = get(address, "/x", "").await;
    assert_eq!(next.header("x-ratelimit-remaining-requests"), Some("3"), "what was not sent counts for nothing");
}

/// Callers take the terminal event for the end, whatever becomes of the connection: a node that died then would have given the
/// answer away. So for streams that are read as they are taken, and for those whose holds grow.
#[tokio::test]
async fn the_terminal_event_of_a_stream_waits_until_its_end_is_written_down() {
    for grows in [false, true] {
        let disk: Arc<OnceLock<Arc<Disk>>> = Arc::default();
        let seen = Arc::clone(&disk);
        let upstream = Upstream::start(move |request| {
            if request.contains(&format!("texts:{TELLING}")) {
                return stream(TELLING, EVERY);
            }
            // It is on its way, so it is journaled; nothing after it is, and its connection does not end.
            seen.get().unwrap().stop();
            let Reply::Keep(whole) = stream(3, Duration::ZERO) else { unreachable!("it comes at once") };
            Reply::Hang(whole.strip_suffix("0\r\n\r\n").unwrap().to_owned())
        })
        .await;
        let resources = if grows { limited(&upstream, 20_000) } else { provider(&upstream, "openai") };
        let (cluster, its_disk) = with_disk(&resources).await;
        disk.set(Arc::clone(&its_disk)).unwrap();
        if grows {
            show(&cluster).await;
        }
        let mut caller = begin(&cluster, 3).await;
        // Not before the upstream has it: what is journaled of its admission is more than one entry where its hold grows.
        until("its end is told to the journal", || its_disk.is_waited_for()).await;
        let mut early = vec![0; 1 << 16];
        let read = caller.try_read(&mut early).unwrap_or(0);
        let early = String::from_utf8_lossy(&early[..read]).into_owned();
        assert!(!early.contains("[DONE]"), "{early}");
        its_disk.go_on();
        read_until(&mut caller, "[DONE]").await;
        assert_eq!(open(&upstream), 1, "its connection goes on");
        cluster.settled(if grows { 2 } else { 1 }).await;
    }
}

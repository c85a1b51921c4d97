//! What nobody but the gateway has counted: rows say what it probably was, limits are charged the most that it can have been.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use tollgate_quota::{Outcome, Usage};

use crate::{
    ai::{completion, provider},
    clients::{call, post_text, read_until},
    cluster::{Cluster, until},
    upstream::{Reply, Upstream, events, json},
};

const CHAT: &str = "/v1/chat/completions";
const CODE: &str = "{(x)=>y;}[0]=a<b?c:d; {(x)=>y;}[0]=a<b?c:d;";
const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello there\"}}]}\n\n";
const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
/// The text of one event by its bytes, and the token that ends an answer.
const SEEN: u64 = 11 + 1;
/// Twice what one chunk has brought.
const ON_ITS_WAY: u64 = 2 * 11;
/// The caller's own bound.
const MOST: u64 = 100;
/// On a machine that is busy all the time one of so many streams is left in a calm moment.
const TRIES: usize = 20;

fn body(stream: bool) -> String {
    format!(
        r#"{{"model":"m","max_tokens":{MOST},"stream":{stream},"messages":[{{"role":"user","content":"{CODE}"}}]}}"#
    )
}

/// A gateway with a limit of tokens, in front of an upstream that always answers so.
async fn limited(reply: Reply) -> (Upstream, Cluster) {
    let upstream = Upstream::always(reply).await;
    let limits: String = [("all", "tokens"), ("in", "inputTokens"), ("out", "outputTokens")]
        .map(|(name, unit)| {
            format!(
                "---\nkind: Limit\nmetadata: {{name: {name}}}\n\
                 spec: {{per: [consumer], window: 1h, unit: {unit}, limit: 1000000}}\n"
            )
        })
        .concat();
    let resources = provider(&upstream, "openai").replace("idle: 700ms", "idle: 60s");
    let cluster = Cluster::start(&(resources + &limits)).await;
    (upstream, cluster)
}

/// The one row, once the limits show that they were charged `charged` tokens of input and of output.
async fn settled(cluster: &Cluster, charged: impl Fn(&Usage) -> (u64, u64)) -> Usage {
    let settled = cluster.settled(1).await.remove(0);
    cluster.nothing_held().await;
    let (input, output) = charged(&settled.usage);
    for (limit, expected) in [("all", input + output), ("in", input), ("out", output)] {
        let is_charged = || cluster.accounts(limit).iter().any(|account| account.used >= expected);
        until(&format!("{expected} to be charged to {limit}: {settled:?}"), is_charged).await;
        let account = cluster.accounts(limit).remove(0);
        assert_eq!((account.used, account.overrun), (expected, 0), "{limit}: {settled:?}");
    }
    settled.usage
}

async fn begin(cluster: &Cluster, stream: bool) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut caller = socket.connect(cluster.address).await.unwrap();
    let request = post_text(CHAT, "authorization: Bearer sk-alice\r\n", &body(stream));
    caller.write_all(request.as_bytes()).await.unwrap();
    caller
}

#[tokio::test]
async fn a_limit_is_charged_the_bound_of_what_the_provider_does_not_tell_and_the_row_says_what_is_likely() {
    let silent = completion(9, 3).split_once(",\"usage\"").unwrap().0.to_owned() + "}";
    let streamed = events(&[EVENT, DONE]) + "0\r\n\r\n";
    for (reply, stream, most_output) in [(json(&silent), false, "Hello".len() as u64 + 1), (streamed, true, SEEN)] {
        let (_upstream, cluster) = limited(Reply::Keep(reply)).await;
        assert_eq!(call(cluster.address, CHAT, &body(stream)).await.status, 200);
        let usage = settled(&cluster, |usage| (usage.input_at_most, most_output)).await;
        assert!(usage.counted && usage.output_tokens < most_output, "{usage:?}");
        let (likely, most) = (usage.input_tokens, usage.input_at_most);
        assert!(likely < CODE.len() as u64 && most >= CODE.len() as u64, "{usage:?}");
    }
    let (_upstream, cluster) = limited(Reply::Keep(json(&completion(9, 3)))).await;
    assert_eq!(call(cluster.address, CHAT, &body(false)).await.status, 200);
    let usage = settled(&cluster, |_| (9, 3)).await;
    assert_eq!((usage.input_at_most, usage.output_at_most), (0, 0), "the provider's figures are what they are");
}

#[tokio::test]
async fn a_stream_that_breaks_is_charged_what_may_have_been_on_its_way() {
    let garbage = events(&[EVENT, "data: 7\n\n"]);
    for (reply, output) in [
        (Reply::Reset(events(&[EVENT])), SEEN + ON_ITS_WAY),
        (Reply::Close(events(&[EVENT])), SEEN + ON_ITS_WAY),
        (Reply::Close(events(&[EVENT, EVENT, EVENT, EVENT, EVENT, EVENT, EVENT, EVENT, EVENT])), MOST),
        (Reply::Close(events(&[ROLE])), MOST),
        (Reply::Close(garbage), MOST),
    ] {
        let (_upstream, cluster) = limited(reply.clone()).await;
        call(cluster.address, CHAT, &body(true)).await;
        let usage = settled(&cluster, |usage| (usage.input_at_most, output)).await;
        assert!(usage.counted && usage.output_tokens < output, "{reply:?}: {usage:?}");
    }
}

/// How late timers of this thread come, on which all tasks of the gateway are, too.
struct Lateness {
    most_us: Arc<AtomicU64>,
    _watching: JoinSet<()>,
}

impl Lateness {
    /// From now on.
    fn watch() -> Self {
        let (most_us, mut watching) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
        let most = Arc::clone(&most_us);
        watching.spawn(async move {
            loop {
                let due = tokio::time::Instant::now() + Duration::from_millis(1);
                tokio::time::sleep_until(due).await;
                let late_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                most.fetch_max(late_us, Ordering::SeqCst);
            }
        });
        Self { most_us, _watching: watching }
    }

    /// Timers have the granularity of a millisecond; a node that is later than some does not know what it has not heard.
    fn is_seen(&self) -> bool {
        self.most_us.load(Ordering::SeqCst) > 2_000
    }
}

/// What is settled of a stream that its caller leaves after the first text, and whether timers came late meanwhile.
async fn leave(reply: &Reply) -> (Usage, bool) {
    let (upstream, cluster) = limited(reply.clone()).await;
    let mut caller = begin(&cluster, true).await;
    read_until(&mut caller, "Hello there").await;
    let (left, lateness) = (Instant::now(), Lateness::watch());
    drop(caller);
    until("the provider to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
    assert!(left.elapsed() < Duration::from_secs(1), "{reply:?}: {:?}", left.elapsed());
    let usage = settled(&cluster, |usage| (usage.input_at_most, usage.output_at_most)).await;
    assert!(usage.counted && usage.output_tokens > 0, "{reply:?}: {usage:?}");
    (usage, lateness.is_seen())
}

/// Where this thread gets its turn too late to hear the provider, and only there, it may have been all that was asked for.
#[tokio::test]
async fn of_a_stream_that_its_caller_leaves_what_may_have_been_written_is_charged_and_the_provider_let_go() {
    for (reply, output) in [
        (Reply::Hang(events(&[EVENT])), SEEN + ON_ITS_WAY),
        (Reply::Drip(events(&[EVENT]), "5\r\n: c\n\n\r\n".to_owned()), SEEN + ON_ITS_WAY),
    ] {
        let mut tries = 0;
        loop {
            let (usage, was_late) = leave(&reply).await;
            if usage.output_at_most == output {
                break;
            }
            tries += 1;
            let is_blind = usage.output_at_most == MOST && was_late;
            assert!(is_blind && tries < TRIES, "{reply:?}, late: {was_late}, {tries} tries: {usage:?}");
        }
    }
}

#[tokio::test]
async fn a_provider_that_never_ends_is_let_go_within_a_second_of_its_caller() {
    let (comment, event) = (format!("{:x}\r\n: c\n\n\r\n", 5), format!("{:x}\r\n{EVENT}\r\n", EVENT.len()));
    for (more, all) in [(comment, SEEN + ON_ITS_WAY), (event, MOST)] {
        let (upstream, cluster) = limited(Reply::Endless(events(&[EVENT]), more.repeat(20))).await;
        let mut caller = begin(&cluster, true).await;
        read_until(&mut caller, "Hello there").await;
        let left = Instant::now();
        drop(caller);
        until("the provider to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
        assert!(left.elapsed() < Duration::from_secs(1), "{more}: {:?}", left.elapsed());
        cluster.settled(1).await;
        let is_charged = || cluster.accounts("out").iter().any(|account| account.used == all);
        until("what its bound allows to be charged", is_charged).await;
    }
}

/// The caller takes nothing after the first event, so that what follows fills the buffers on the way.
#[tokio::test]
async fn what_is_there_already_when_a_caller_leaves_is_read_and_the_usage_block_in_it_is_the_truth() {
    let padding = format!(": {}\n\n", "x".repeat(256 * 1024));
    let mut all = vec![EVENT];
    all.extend(std::iter::repeat_n(padding.as_str(), 48));
    all.extend([USAGE, DONE]);
    let (upstream, cluster) = limited(Reply::Hang(events(&all))).await;
    let mut caller = begin(&cluster, true).await;
    read_until(&mut caller, "Hello there").await;
    drop(caller);
    let usage = settled(&cluster, |_| (9, 3)).await;
    assert_eq!((usage.counted, usage.input_tokens, usage.output_tokens), (false, 9, 3));
    assert_eq!(cluster.settled(1).await[0].outcome, Outcome::Partial, "the caller does not have it");
    until("the provider to be let go", || upstream.open.load(Ordering::SeqCst) == 0).await;
}

/// It may have worked the whole of it out before it sees that nobody waits.
#[tokio::test]
async fn a_caller_that_leaves_before_the_first_byte_is_charged_all_that_was_reserved() {
    for (stream, reply) in [(false, String::new()), (true, String::new()), (true, events(&[]))] {
        let (upstream, cluster) = limited(Reply::Hang(reply)).await;
        let caller = begin(&cluster, stream).await;
        until("the request to arrive", || !upstream.requests().is_empty()).await;
        drop(caller);
        let usage = settled(&cluster, |usage| (usage.input_at_most, MOST)).await;
        assert_eq!((usage.output_tokens, usage.counted), (0, true), "{usage:?}");
        assert!(usage.input_tokens < usage.input_at_most, "{usage:?}");
    }
}

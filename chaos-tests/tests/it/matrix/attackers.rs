//! Clients who only want to be a burden: connections that say nothing, answers that are read a byte a second, requests that never
//! end, floods of frames.

use std::{net::SocketAddr, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{self, Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{
    Cluster, Figures, Plan, Provider, SOON, Seed,
    calls::Call,
    careful::Careful,
    client::LIMIT,
    day_with_room, eventually, eventually_within,
    resources::{api_key, document},
};

use super::{Skipped, say, stage::ample};

/// Connections that never say anything, and as many that were of use once.
const IDLE: usize = 1_000;
/// Who read a byte a second.
const READERS: usize = 500;
/// Who send a byte a second, of a head or of a body.
const SENDERS: usize = 50;
/// Of each kind of flood.
const FLOODS: u32 = 4;
const CALLERS: usize = 6;
/// Files of this process: all those connections, and what the provider in it has for the readers.
const FILES: u64 = 6_000;
/// Both a reader's pause and a sender's.
const A_BYTE: Duration = Duration::from_secs(1);
/// A head has 10 s and a body 20 s to be of some size; a machine that is busy takes longer to say so.
const ENDED: Duration = Duration::from_secs(60);
/// The hold of a call that is over is gone by then.
const HOLD_GONE: Duration = Duration::from_secs(30);
/// Far more than the readers use.
const CAPACITY: u64 = 1_000_000_000;
/// Of an answer, as its bound: one that no buffer takes, and that is sent as fast as somebody takes it.
const OUTPUT: u64 = 100_000;
/// HTTP/2's preface, and SETTINGS that say nothing (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Row 37: all of them at once, on one node. Others are served meanwhile, each at the first try; senders and floods are ended; readers get theirs
/// until they leave, then nothing is held and what they got is billed. T is the time from their leaving until then.
pub(super) async fn burdens(seed: Seed) -> anyhow::Result<Figures> {
    may_open(FILES)?;
    day_with_room(Duration::from_secs(180)).await;
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let provider = cluster.with_standard(&[("ample", None), ("reader", Some(CAPACITY))]).await?;
    let fixed = document("Route", "fixed", "{match: [{path: {exact: /fixed}}], response: {status: 200, body: fine}}");
    cluster.cli().apply_and_wait(&fixed).await?;
    let node = cluster.nodes[0].http;
    let careful = Careful::blind(&cluster.nodes, &[ample(), ample().stream()], CALLERS, seed);

    let (silent, used_once) = idle(node).await?;
    let left = CancellationToken::new();
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        readers.spawn(read_slowly(node, number, left.clone()));
    }
    let mut attackers = JoinSet::new();
    for _ in 0..SENDERS {
        attackers.spawn(send_slowly(node, "GET /fixed HTTP/1.1\r\nhost: a\r\nx-slow: "));
        attackers.spawn(send_slowly(node, "POST /fixed HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"));
    }
    for number in 0..FLOODS * 4 {
        attackers.spawn(flood(node, number % 4));
    }
    eventually("every reader's answer is on its way", || async {
        let active = provider.witness().await?.total.active;
        anyhow::ensure!(active >= READERS as u64, "{active} of {READERS}");
        Ok(())
    })
    .await?;
    let before = careful.so_far().served;
    while let Some(ended) = attackers.join_next().await {
        ended??;
    }
    for connection in silent {
        is_ended(connection, "a connection that says nothing").await?;
    }
    eventually("others are served", || async {
        let tally = careful.so_far();
        anyhow::ensure!(tally.served > before + 100, "{}, before {before}: {:?}", tally.served, tally.failures.last());
        Ok(())
    })
    .await?;
    let active = provider.witness().await?.total.active;
    anyhow::ensure!(active >= READERS as u64, "{active} of {READERS} readers are there still");
    drop(used_once);
    left.cancel();
    let leaving = Instant::now();
    let mut read = 0;
    while let Some(bytes) = readers.join_next().await {
        read += bytes??;
    }
    let tally = careful.stop().await;
    let used = all_is_billed(&cluster, &provider).await?;
    let took = leaving.elapsed();
    say(&format!(
        "  {} calls of others, {} failed; p50 {:.0?} p99 {:.0?}; {READERS} readers took {read} bytes and are billed {used} tokens",
        tally.served,
        tally.failures.len(),
        tally.within(50),
        tally.within(99),
    ));
    anyhow::ensure!(tally.failures.is_empty(), "{:#?}", &tally.failures[..tally.failures.len().min(10)]);
    let log = cluster.nodes[0].log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains(r#""level":"ERROR""#)).collect();
    anyhow::ensure!(errors.is_empty(), "{errors:#?}");
    let over_admitted = Some(used.saturating_sub(CAPACITY));
    Ok(Figures { over_admitted, served: tally.served, recovery: Some(took), ..Figures::default() })
}

/// So many files at once, which every connection of this test needs.
fn may_open(files: u64) -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if maximum.is_some_and(|maximum| maximum < files) {
        return Err(Skipped("thousands of connections need `ulimit -Hn` of 6,000 at least").into());
    }
    if current.is_some_and(|current| current < files) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum })?;
    }
    Ok(())
}

/// Those that say nothing, and those that had an answer and are kept.
async fn idle(node: SocketAddr) -> anyhow::Result<(Vec<TcpStream>, Vec<TcpStream>)> {
    let (mut silent, mut used_once) = (Vec::new(), Vec::new());
    for _ in 0..IDLE {
        silent.push(TcpStream::connect(node).await?);
        let mut connection = TcpStream::connect(node).await?;
        connection.write_all(b"GET /fixed HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"fine") {
            let read = timeout(LIMIT, connection.read_buf(&mut answer)).await??;
            anyhow::ensure!(read > 0, "{}", String::from_utf8_lossy(&answer));
        }
        used_once.push(connection);
    }
    Ok((silent, used_once))
}

/// Every tenth one reads an answer that would come at once, the others one that takes its time. How much was read.
async fn read_slowly(node: SocketAddr, number: usize, left: CancellationToken) -> anyhow::Result<u64> {
    let pace = if number.is_multiple_of(10) { "0ms" } else { "2s" };
    let call = Call::chat(&api_key("reader"), "mock-1").stream().max_tokens(OUTPUT);
    let body = call.body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {node}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         x-mock-pace: {pace}\r\nx-mock-output: {OUTPUT}\r\ncontent-length: {}\r\n\r\n{body}",
        api_key("reader"),
        body.len()
    );
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4_096)?;
    let mut connection = socket.connect(node).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut read = 0;
    while !left.is_cancelled() {
        let mut byte = [0; 1];
        let took = timeout(SOON, connection.read(&mut byte)).await?;
        anyhow::ensure!(matches!(took, Ok(1)), "reader {number} was cut after {read} bytes: {took:?}");
        read += 1;
        let pause = time::sleep(A_BYTE); // what makes it slow
        tokio::select! { () = pause => {}, () = left.cancelled() => {} }
    }
    Ok(read)
}

/// Goes on with a byte a second until it is told to stop.
async fn send_slowly(node: SocketAddr, begins: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (mut reader, mut writer) = TcpStream::connect(node).await?.into_split();
    writer.write_all(begins.as_bytes()).await?;
    let send = async {
        while writer.write_all(b"x").await.is_ok() {
            time::sleep(A_BYTE).await; // what makes it slow
        }
        std::future::pending().await
    };
    let read = async {
        let mut sink = [0; 4_096];
        while reader.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    let ended = timeout(ENDED, async {
        tokio::select! { () = send => {}, () = read => {} }
    })
    .await;
    anyhow::ensure!(
        ended.is_ok(),
        "who sends {begins:?} and then a byte a second is there after {:?}",
        begun.elapsed()
    );
    Ok(())
}

async fn is_ended(mut connection: TcpStream, what: &str) -> anyhow::Result<()> {
    let mut sink = Vec::new();
    // However it ends.
    let ended = timeout(ENDED, connection.read_to_end(&mut sink)).await;
    anyhow::ensure!(ended.is_ok(), "{what} lives on");
    Ok(())
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// As fast as it is taken, until the connection ends.
async fn flood(node: SocketAddr, kind: u32) -> anyhow::Result<()> {
    // GET http://test/ by the static table of HPACK.
    let block = [&[0x82, 0x86, 0x84, 0x41, 4][..], b"test"].concat();
    let frames = |n: u32| match kind {
        0 => frame(4, 0, 0, &[]),              // SETTINGS
        1 => frame(6, 0, 0, &[0; 8]),          // PING
        2 if n == 0 => frame(1, 4, 1, &block), // HEADERS, and then
        2 => frame(0, 0, 1, &[]),              // empty DATA
        _ => [frame(1, 5, 2 * n + 1, &block), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat(), // and RST_STREAM
    };
    let (mut reader, mut writer) = TcpStream::connect(node).await?.into_split();
    writer.write_all(PREFACE).await?;
    let send = async {
        for n in 0..1_000_000 {
            if writer.write_all(&frames(n)).await.is_err() {
                return;
            }
        }
        std::future::pending().await
    };
    let read = async {
        let mut sink = vec![0; 65_536];
        while reader.read(&mut sink).await.is_ok_and(|read| read > 0) {}
    };
    let ended = timeout(ENDED, async {
        tokio::select! { () = send => {}, () = read => {} }
    })
    .await;
    anyhow::ensure!(ended.is_ok(), "the flood of kind {kind} goes on");
    Ok(())
}

/// Waits until the provider is left in peace, nothing is held, and the bill has every reader; the tokens on it.
async fn all_is_billed(cluster: &Cluster, provider: &Provider) -> anyhow::Result<u64> {
    eventually_within(HOLD_GONE, "nothing is held, and all is billed", || async {
        let active = provider.witness().await?.total.active;
        anyhow::ensure!(active == 0, "{active} calls are being answered");
        let limits = cluster.cli().rows(&["limits", "show"]).await?;
        let limit = limits.first().ok_or_else(|| anyhow::anyhow!("there is no account"))?;
        anyhow::ensure!(limit["held"] == 0, "{limit}");
        let bill = cluster.cli().rows(&["usage", "--by", "consumer"]).await?;
        let row = bill.iter().find(|row| row["consumer"] == "reader").ok_or_else(|| anyhow::anyhow!("{bill:?}"))?;
        let tokens = row["inputTokens"].as_u64().unwrap_or(0) + row["outputTokens"].as_u64().unwrap_or(0);
        anyhow::ensure!(row["requests"] == READERS && tokens > READERS as u64, "{row}");
        let used = limit["used"].as_u64().unwrap_or(0);
        anyhow::ensure!(used >= tokens, "the bill says {tokens}, the limit {used}");
        Ok(tokens)
    })
    .await
}

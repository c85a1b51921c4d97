//! More requests than a node can answer: whatever keeps the cluster together goes on beside them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tollgate_chaos_tests::{Cluster, Outcome, resources::document};

/// Each sends what its socket takes.
const CONNECTIONS: usize = 400;
/// Of the flood's own.
const THREADS: usize = 2;
const LASTS: Duration = Duration::from_secs(8);
/// Between two looks at the admin port.
const LOOK: Duration = Duration::from_millis(50);
/// An answer of the admin port, for half of them and for nineteen of twenty. On two cores that everything here shares; on the threads of
/// the data plane half of them took seconds.
const HALF: Duration = Duration::from_millis(300);
const MOST: Duration = Duration::from_millis(1_500);

/// What was asked of the data plane, and what it answered.
#[derive(Debug, Default)]
struct Told {
    over: AtomicBool,
    answered_bytes: AtomicU64,
}

#[tokio::test]
async fn a_flood_of_requests_delays_no_answer_of_the_admin_port_and_unseats_no_leader() -> Outcome {
    let cluster = Cluster::start().await?;
    let fixed = document("Route", "fixed", "{match: [{path: {prefix: /flood}}], response: {status: 200, body: fine}}");
    cluster.cli().apply_and_wait(&fixed).await?;
    let leader = cluster.leader().await?;
    let term = |rows: &[serde_json::Value]| rows.iter().filter_map(|row| row["term"].as_u64()).max();
    let before = term(&cluster.status().await?);
    let node = cluster.nodes.iter().find(|node| node.id == leader).ok_or_else(|| anyhow::anyhow!("no leader"))?;
    let (http, admin) = (node.http, node.admin);

    let told = Arc::new(Told::default());
    let flood: Vec<_> = (0..THREADS).map(|_| spawn(&told, move |told| flood(http, told))).collect();
    let looks = spawn(&told, move |told| look(admin, told));
    tokio::time::sleep(LASTS).await; // the fault is a time here
    told.over.store(true, Ordering::Relaxed);
    let mut took = join(looks)??;
    for thread in flood {
        join(thread)??;
    }
    took.sort_unstable();
    let at = |part: usize| took.get(took.len() * part / 20).copied().unwrap_or(Duration::MAX);
    let bytes = told.answered_bytes.load(Ordering::Relaxed);
    crate::matrix::say(&format!(
        "  flood: {} KB answered; admin port: {} looks, p50 {:?}, p95 {:?}, longest {:?}",
        bytes >> 10,
        took.len(),
        at(10),
        at(19),
        took.last().copied().unwrap_or_default()
    ));
    assert!(at(10) < HALF && at(19) < MOST, "{took:?}");
    assert!(bytes > 256 << 10, "that was no flood: {bytes} bytes were answered");
    assert_eq!(cluster.leader().await?, leader);
    assert_eq!(term(&cluster.status().await?), before, "nobody stood for election");
    Ok(())
}

fn spawn<T: Send + 'static>(told: &Arc<Told>, work: impl FnOnce(&Told) -> T + Send + 'static) -> thread::JoinHandle<T> {
    let told = Arc::clone(told);
    thread::spawn(move || work(&told))
}

fn join<T>(thread: thread::JoinHandle<T>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("a thread of the test has panicked"))
}

/// Keeps all its connections full of requests, and reads whatever comes.
fn flood(http: SocketAddr, told: &Told) -> anyhow::Result<()> {
    let batch = b"GET /flood HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS / THREADS {
        let connection = TcpStream::connect_timeout(&http, Duration::from_secs(10))?;
        connection.set_nonblocking(true)?;
        connections.push((connection, 0));
    }
    let mut answers = vec![0; 64 << 10];
    while !told.over.load(Ordering::Relaxed) {
        let mut moved = false;
        for (connection, sent) in &mut connections {
            // Half a request is gone on with where it was.
            if let Ok(wrote) = connection.write(&batch[*sent..]) {
                *sent = (*sent + wrote) % batch.len();
                moved |= wrote > 0;
            }
            if let Ok(read) = connection.read(&mut answers) {
                told.answered_bytes.fetch_add(u64::try_from(read)?, Ordering::Relaxed);
                moved |= read > 0;
            }
        }
        if !moved {
            thread::sleep(Duration::from_millis(1)); // all are full
        }
    }
    Ok(())
}

/// How long each answer took, each on a connection of its own, as probes have it.
fn look(admin: SocketAddr, told: &Told) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    while !told.over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut probe = TcpStream::connect_timeout(&admin, Duration::from_secs(10))?;
        probe.set_read_timeout(Some(Duration::from_secs(20)))?;
        probe.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        probe.read_to_string(&mut answer)?;
        anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        took.push(began.elapsed());
        thread::sleep(LOOK);
    }
    Ok(took)
}

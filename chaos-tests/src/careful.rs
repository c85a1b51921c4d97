//! Callers who reach the nodes as through a load balancer: each node is asked whether it is ready, calls go to those that are, and what an
//! answer says of its connection is honoured. Nobody ever tries twice: what fails has failed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::RngExt;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Node, Seed,
    calls::{self, Call},
    client::{Client, End},
};

/// Between two looks at a node, and for the answer to one: what balancers of cloud providers have at their fastest is a second.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// Between two calls of one caller: the shape of the load, nothing waits for it.
const THINK: Duration = Duration::from_millis(10);
/// A whole call.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// What callers were told.
#[derive(Clone, Debug, Default)]
pub struct CarefulTally {
    /// Calls that were answered as they should be.
    pub served: u64,
    /// How long each of these took: a call until its answer was there, a stream until its end.
    pub took: Vec<Duration>,
    /// What became of the others, in words.
    pub failures: Vec<String>,
}

impl CarefulTally {
    /// What so many percent of the calls that were served took at most.
    pub fn within(&self, percent: usize) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took.get((took.len() * percent / 100).min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

/// Callers at work.
#[derive(Debug)]
pub struct Careful {
    stop: CancellationToken,
    tally: Arc<Mutex<CarefulTally>>,
    callers: JoinSet<()>,
    watchers: JoinSet<()>,
}

/// A node as the balancer sees it.
#[derive(Debug)]
struct Target {
    origin: String,
    readyz: String,
    ready: AtomicBool,
}

impl Careful {
    /// Starts `callers` callers, every other one of whom speaks HTTP/2, which send these calls to whichever node is ready.
    pub fn start<'a>(nodes: impl IntoIterator<Item = &'a Node>, calls: &[Call], callers: usize, seed: Seed) -> Careful {
        Careful::with(nodes, calls, callers, seed, true)
    }

    /// The same, to any of these nodes, ready or not.
    pub fn blind<'a>(nodes: impl IntoIterator<Item = &'a Node>, calls: &[Call], callers: usize, seed: Seed) -> Careful {
        Careful::with(nodes, calls, callers, seed, false)
    }

    fn with<'a>(
        nodes: impl IntoIterator<Item = &'a Node>,
        calls: &[Call],
        callers: usize,
        seed: Seed,
        looks: bool,
    ) -> Careful {
        let stop = CancellationToken::new();
        let tally = Arc::new(Mutex::new(CarefulTally::default()));
        let target = |node: &Node| Target {
            origin: node.http_url(),
            readyz: format!("{}/readyz", node.admin_url()),
            ready: AtomicBool::new(true),
        };
        let targets: Arc<[Target]> = nodes.into_iter().map(target).collect();
        let mut watchers = JoinSet::new();
        for at in 0..if looks { targets.len() } else { 0 } {
            watchers.spawn(watch(Arc::clone(&targets), at, stop.clone()));
        }
        let mut tasks = JoinSet::new();
        for number in 0..callers {
            let mut rng = seed.rng(&format!("careful caller {number}"));
            let client = if number % 2 == 0 { Client::that_tries_once() } else { Client::of_http2() };
            let (targets, calls, stop, tally) =
                (Arc::clone(&targets), calls.to_vec(), stop.clone(), Arc::clone(&tally));
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let ready: Vec<&Target> = targets.iter().filter(|it| it.ready.load(Ordering::SeqCst)).collect();
                    let begun = Instant::now();
                    let told = match ready.get(rng.random_range(0..ready.len().max(1))) {
                        Some(target) => call(&client, &target.origin, &calls[rng.random_range(0..calls.len())]).await,
                        None => Err("no node is ready".to_owned()),
                    };
                    note(&tally, number, told.map(|()| begun.elapsed()));
                    time::sleep(THINK).await;
                }
            });
        }
        Careful { stop, tally, callers: tasks, watchers }
    }

    /// What was told so far.
    pub fn so_far(&self) -> CarefulTally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every caller finish its call, and tells what they were told.
    pub async fn stop(mut self) -> CarefulTally {
        self.stop.cancel();
        while self.callers.join_next().await.is_some() {}
        self.watchers.shutdown().await;
        self.so_far()
    }
}

fn note(tally: &Mutex<CarefulTally>, number: usize, told: Result<Duration, String>) {
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    match told {
        Ok(took) => {
            tally.served += 1;
            tally.took.push(took);
        }
        Err(why) => tally.failures.push(format!("caller {number}: {why}")),
    }
}

/// Asks one node again and again whether it is ready.
async fn watch(targets: Arc<[Target]>, at: usize, stop: CancellationToken) {
    let (client, target) = (Client::new(), &targets[at]);
    while !stop.is_cancelled() {
        let answer = time::timeout(LOOK_LIMIT, client.get(&target.readyz, &[])).await;
        let ready = matches!(answer, Ok(Ok(answer)) if answer.status == 200);
        target.ready.store(ready, Ordering::SeqCst);
        time::sleep(LOOK).await;
    }
}

async fn call(client: &Client, origin: &str, call: &Call) -> Result<(), String> {
    let request = call.request(origin);
    if !call.is_stream() {
        let answer = client.send(request, CALL_LIMIT).await.map_err(|error| format!("{origin}: {error}"))?;
        return if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{origin}: {}: {}", answer.status, answer.text()))
        };
    }
    let stream = client.open(request, CALL_LIMIT).await.map_err(|error| format!("{origin}: {error}"))?;
    if stream.status != 200 {
        return Err(format!("{origin}: {} for a stream", stream.status));
    }
    match stream.rest().await {
        (events, End::Framed) if calls::is_complete(call.dialect(), &events) => Ok(()),
        (events, end) => Err(format!("{origin}: a stream ended after {} events: {end:?}", events.len())),
    }
}

//! Callers, and what they were told and when.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{
    calls::Call,
    client::{CallError, Client, LIMIT},
};

/// What callers were told.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// 200.
    pub(super) served: u64,
    /// 429.
    pub(super) refused: u64,
    /// 503: nothing could be decided.
    pub(super) undecided: u64,
    /// Something else, or nothing at all.
    pub(super) failed: u64,
    /// How many had to ask another node, as theirs was gone.
    pub(super) moved: u64,
    pub(super) waits: Vec<Wait>,
}

/// What one caller waited for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// When it first tried.
    pub(super) begun: Instant,
    /// From then to the last answer.
    pub(super) time: Duration,
    /// The place of the node that answered, or should have.
    pub(super) node: usize,
}

impl Tally {
    pub(super) fn all(&self) -> u64 {
        self.served + self.refused + self.undecided + self.failed
    }

    pub(super) fn add(&mut self, other: Tally) {
        self.served += other.served;
        self.refused += other.refused;
        self.undecided += other.undecided;
        self.failed += other.failed;
        self.moved += other.moved;
        self.waits.extend(other.waits);
    }

    pub(super) fn note(&mut self, status: Result<u16, CallError>, node: usize, begun: Instant) {
        match status {
            Ok(200) => self.served += 1,
            Ok(429) => self.refused += 1,
            Ok(503) => self.undecided += 1,
            Ok(_) | Err(_) => self.failed += 1,
        }
        self.waits.push(Wait { begun, time: begun.elapsed(), node });
    }

    /// Who waited for longer.
    pub(super) fn longer_than(&self, limit: Duration) -> impl Iterator<Item = &Wait> {
        self.waits.iter().filter(move |wait| wait.time > limit)
    }

    /// Milliseconds.
    pub(super) fn quantile_ms(&self, per_mille: usize) -> f64 {
        let mut sorted: Vec<Duration> = self.waits.iter().map(|wait| wait.time).collect();
        sorted.sort_unstable();
        let at = sorted.len() * per_mille / 1_000;
        sorted.get(at).or(sorted.last()).map_or(0.0, |wait| wait.as_secs_f64() * 1_000.0)
    }
}

/// Where a load goes.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) origins: Vec<String>,
}

impl Target {
    /// `callers` callers, each at its own node, each making its next call once it has its answer, for so long. `make` gives the
    /// call of a number, which no other call has.
    pub(super) async fn closed(
        &self,
        callers: usize,
        time: Duration,
        make: impl Fn(u64) -> Call + Send + Sync + 'static,
    ) -> anyhow::Result<Tally> {
        let (make, numbers, end) = (Arc::new(make), Arc::new(AtomicU64::new(0)), Instant::now() + time);
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (make, numbers, client) = (Arc::clone(&make), Arc::clone(&numbers), self.client.clone());
            let node = caller % self.origins.len();
            let origin = self.origins[node].clone();
            tasks.spawn(async move {
                let mut tally = Tally::default();
                while Instant::now() < end {
                    let call = make(numbers.fetch_add(1, Ordering::Relaxed));
                    let begun = Instant::now();
                    let answer = client.send(call.request(&origin), LIMIT).await;
                    tally.note(answer.map(|answer| answer.status), node, begun);
                }
                tally
            });
        }
        gather(tasks).await
    }

    /// Exactly so many calls, each made once, by so many callers.
    pub(super) async fn counted(&self, callers: usize, count: u64, call: &Call) -> anyhow::Result<Tally> {
        let left = Arc::new(AtomicU64::new(count));
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let (left, call, client) = (Arc::clone(&left), call.clone(), self.client.clone());
            let node = caller % self.origins.len();
            let origin = self.origins[node].clone();
            let one_less = |left: u64| left.checked_sub(1);
            tasks.spawn(async move {
                let mut tally = Tally::default();
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                    let begun = Instant::now();
                    let answer = client.send(call.request(&origin), LIMIT).await;
                    tally.note(answer.map(|answer| answer.status), node, begun);
                }
                tally
            });
        }
        gather(tasks).await
    }

    /// So many calls a second, whatever becomes of those before, until stopped. A caller whose node is gone asks the next one.
    pub(super) async fn open(&self, rate: u32, call: Call, stop: CancellationToken) -> anyhow::Result<Tally> {
        let mut ticks = time::interval(Duration::from_secs(1) / rate);
        let mut tasks = JoinSet::new();
        let mut first = 0;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            first += 1;
            let (target, call) = (self.clone(), call.clone());
            tasks.spawn(async move { target.one(first, &call).await });
        }
        gather(tasks).await
    }

    async fn one(&self, first: usize, call: &Call) -> Tally {
        let (mut tally, begun) = (Tally::default(), Instant::now());
        for number in first..first + self.origins.len() {
            let node = number % self.origins.len();
            let origin = &self.origins[node];
            let answer = self.client.send(call.request(origin), LIMIT).await.map(|answer| answer.status);
            if matches!(answer, Err(CallError::Broken(_))) && number + 1 < first + self.origins.len() {
                tally.moved = 1;
                continue;
            }
            tally.note(answer, node, begun);
            break;
        }
        tally
    }
}

async fn gather(mut tasks: JoinSet<Tally>) -> anyhow::Result<Tally> {
    let mut all = Tally::default();
    while let Some(tally) = tasks.join_next().await {
        all.add(tally?);
    }
    Ok(all)
}

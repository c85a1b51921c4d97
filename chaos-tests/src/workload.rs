//! Load: callers of the data plane, and a writer and readers of the configuration.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rand::RngExt;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Cli, Seed,
    calls::{self, Call},
    client::{CallError, Client, End},
    eventually,
    history::{Asked, History, Told},
    resources,
};

/// A caller gives up on one try after this long.
const TRY_LIMIT: Duration = Duration::from_secs(8);
/// Between two calls of one caller: the shape of the load, nothing waits for it.
const THINK: Duration = Duration::from_millis(20);
/// Failures that are kept in words.
const KEPT: usize = 10;

/// What callers were told.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Got an answer, at the first try or the second.
    pub served: u64,
    /// Of these, needed the second.
    pub retried: u64,
    /// Were refused by a limit.
    pub limited: u64,
    /// Failed twice.
    pub failed: u64,
    /// How, for the first of them.
    pub failures: Vec<String>,
}

/// Callers at work.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    tally: Arc<Mutex<Tally>>,
    /// How many calls of each caller have ended.
    ended: Arc<[AtomicU64]>,
    callers: JoinSet<()>,
}

impl Load {
    /// Starts `callers` callers, which send these calls, drawn at random, to nodes drawn at random, until they are
    /// stopped.
    pub fn start(client: &Client, origins: &[String], calls: &[Call], callers: usize, seed: Seed) -> Load {
        let stop = CancellationToken::new();
        let tally = Arc::new(Mutex::new(Tally::default()));
        let ended: Arc<[AtomicU64]> = (0..callers).map(|_| AtomicU64::new(0)).collect();
        let mut tasks = JoinSet::new();
        for number in 0..callers {
            let mut rng = seed.rng(&format!("caller {number}"));
            let (client, origins, calls) = (client.clone(), origins.to_vec(), calls.to_vec());
            let (stop, tally, ended) = (stop.clone(), Arc::clone(&tally), Arc::clone(&ended));
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let first = rng.random_range(0..origins.len());
                    let call = &calls[rng.random_range(0..calls.len())];
                    let told = call_by_turns(&client, &origins, first, call).await;
                    count(&mut tally.lock().unwrap_or_else(PoisonError::into_inner), told);
                    ended[number].fetch_add(1, Ordering::SeqCst);
                    time::sleep(THINK).await;
                }
            });
        }
        Load { stop, tally, ended, callers: tasks }
    }

    /// Waits until every call that is under way has ended. One that has met a fault may still be at its second try when all else
    /// goes on, and would meet the next fault with it: nobody promises that two faults cost one retry.
    ///
    /// # Errors
    /// A call does not end.
    pub async fn calls_under_way_have_ended(&self) -> anyhow::Result<()> {
        let so_far = || self.ended.iter().map(|ended| ended.load(Ordering::SeqCst));
        let before: Vec<u64> = so_far().collect();
        eventually("every call that is under way has ended", || async {
            let left = so_far().zip(&before).filter(|(now, before)| now == *before).count();
            anyhow::ensure!(left == 0, "{left} of {} callers wait for an answer", before.len());
            Ok(())
        })
        .await
    }

    /// What was told so far.
    pub fn so_far(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets every caller finish its call, and tells what they were told.
    pub async fn stop(mut self) -> Tally {
        self.stop.cancel();
        while self.callers.join_next().await.is_some() {}
        self.so_far()
    }
}

/// What one caller was told in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// An answer; whether it took a second try.
    Served {
        /// It did.
        retried: bool,
    },
    /// 429.
    Limited,
    /// Two failures.
    Failed(String),
}

fn count(tally: &mut Tally, answered: Answered) {
    match answered {
        Answered::Served { retried } => {
            tally.served += 1;
            tally.retried += u64::from(retried);
        }
        Answered::Limited => tally.limited += 1,
        Answered::Failed(why) => {
            tally.failed += 1;
            if tally.failures.len() < KEPT {
                tally.failures.push(why);
            }
        }
    }
}

/// A caller as the availability figure means it: one retry, on the next node, after no answer, 502, 503 or 504, or a
/// stream that broke.
pub async fn call_with_one_retry(client: &Client, origins: &[String], first: usize, call: &Call) -> Answered {
    let begun = Instant::now();
    match try_call(client, &origins[first % origins.len()], call).await {
        Try::Served => Answered::Served { retried: false },
        Try::Limited => Answered::Limited,
        Try::Failed(why) => {
            let failed = begun.elapsed();
            match try_call(client, &origins[(first + 1) % origins.len()], call).await {
                Try::Served => Answered::Served { retried: true },
                Try::Limited => Answered::Limited,
                Try::Failed(again) => {
                    Answered::Failed(format!("after {failed:.2?} {why}; then, after {:.2?}, {again}", begun.elapsed()))
                }
            }
        }
    }
}

/// The same on the account that is to be called now, if it goes through accounts.
async fn call_by_turns(client: &Client, origins: &[String], first: usize, call: &Call) -> Answered {
    let Some(accounts) = call.accounts() else { return call_with_one_retry(client, origins, first, call).await };
    let (call, round) = accounts.now(call);
    let told = call_with_one_retry(client, origins, first, &call).await;
    if told == Answered::Limited {
        accounts.refused(round);
    }
    told
}

enum Try {
    Served,
    Limited,
    Failed(String),
}

async fn try_call(client: &Client, origin: &str, call: &Call) -> Try {
    let tried = async {
        let request = call.request(origin);
        if call.is_stream() { try_stream(client, request, call).await } else { try_whole(client, request).await }
    };
    time::timeout(TRY_LIMIT, tried).await.unwrap_or_else(|_| Try::Failed(format!("{origin}: {}", CallError::TimedOut)))
}

type Request = http::Request<http_body_util::Full<bytes::Bytes>>;

async fn try_whole(client: &Client, request: Request) -> Try {
    match client.send(request, TRY_LIMIT).await {
        Ok(answer) if answer.status == 200 => Try::Served,
        Ok(answer) if answer.status == 429 => Try::Limited,
        Ok(answer) => Try::Failed(format!("{}: {}", answer.status, answer.text())),
        Err(error) => Try::Failed(error.to_string()),
    }
}

async fn try_stream(client: &Client, request: Request, call: &Call) -> Try {
    match client.open(request, TRY_LIMIT).await {
        Ok(stream) if stream.status == 429 => Try::Limited,
        Ok(stream) if stream.status != 200 => Try::Failed(format!("{} for a stream", stream.status)),
        Ok(stream) => match stream.rest().await {
            (events, End::Framed) if calls::is_complete(call.dialect(), &events) => Try::Served,
            (events, end) => Try::Failed(format!("a stream ended after {} events: {end:?}", events.len())),
        },
        Err(error) => Try::Failed(error.to_string()),
    }
}

/// Writes a register in the configuration and reads it, through changing nodes, and keeps the history.
///
/// The register is a label of the tenant `register`; each write also makes the tenant `written-<value>` in the same
/// atomic change, so that what was acknowledged can be looked for afterwards.
#[derive(Debug)]
pub struct Registers {
    stop: CancellationToken,
    history: Arc<History>,
    clients: JoinSet<()>,
}

impl Registers {
    /// One writer and `readers` readers, each on the verbs of the next node.
    pub fn start(clis: &[Cli], readers: usize) -> Registers {
        let (stop, history) = (CancellationToken::new(), Arc::new(History::default()));
        let mut clients = JoinSet::new();
        let client = |number: usize| (clis.to_vec(), number, stop.clone(), Arc::clone(&history));
        clients.spawn(write_all(client(0)));
        for number in 1..=readers {
            clients.spawn(read_all(client(number)));
        }
        Registers { stop, history, clients }
    }

    /// What was asked and told so far.
    pub fn history(&self) -> Arc<History> {
        Arc::clone(&self.history)
    }

    /// When the first write that began after `since` was acknowledged.
    pub fn first_write_after(&self, since: Instant) -> Option<Instant> {
        let acknowledged = |op: &&crate::history::Operation| {
            matches!(op.asked, Asked::Write(_)) && matches!(op.told, Told::Done(_)) && op.returned > since
        };
        self.history.operations().iter().find(acknowledged).map(|op| op.returned)
    }

    /// Lets everybody finish, and gives the history.
    pub async fn stop(mut self) -> Arc<History> {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        self.history
    }
}

type Worker = (Vec<Cli>, usize, CancellationToken, Arc<History>);

async fn write_all((clis, _, stop, history): Worker) {
    for value in 1.. {
        if stop.is_cancelled() {
            return;
        }
        let cli = &clis[usize::try_from(value).unwrap_or(0) % clis.len()];
        let invoked = Instant::now();
        let told = match cli.apply(&register(value)).await {
            Ok(_) => Told::Done(value),
            Err(_) => Told::Unknown,
        };
        history.add(Asked::Write(value), invoked, told);
    }
}

async fn read_all((clis, number, stop, history): Worker) {
    for turn in number.. {
        if stop.is_cancelled() {
            return;
        }
        let invoked = Instant::now();
        let told = read_register(&clis[turn % clis.len()]).await.map_or(Told::Unknown, Told::Done);
        history.add(Asked::Read, invoked, told);
    }
}

fn register(value: u64) -> String {
    let label = format!(
        "---\napiVersion: tollgate/v1\nkind: Tenant\nmetadata: {{name: register, labels: {{value: \"{value}\"}}}}\nspec: {{billing: {{mode: none}}}}\n"
    );
    label + &resources::tenant(&format!("written-{value}"))
}

async fn read_register(cli: &Cli) -> anyhow::Result<u64> {
    let run = cli.run(&["get", "tenant", "register", "-o", "json"]).await?;
    if run.code != 0 && run.stderr.contains("there is no tenant") {
        return Ok(0);
    }
    let found = run.json()?;
    let one = found.get(0).unwrap_or(&found);
    one["metadata"]["labels"]["value"].as_str().context("the register has no value")?.parse().context("not a number")
}

/// The values whose tenants are there now.
///
/// # Errors
/// They can't be listed.
pub async fn written(cli: &Cli) -> anyhow::Result<BTreeSet<u64>> {
    let tenants = cli.rows(&["get", "tenants"]).await?;
    let names = tenants.iter().filter_map(|tenant| tenant["metadata"]["name"].as_str().or(tenant["name"].as_str()));
    Ok(names.filter_map(|name| name.strip_prefix("written-")?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use tollgate_mock_llm::Options;

    use super::*;
    use crate::{Provider, free_port};

    /// A provider's origin, which answers the same paths as a node.
    fn origin(provider: &Provider) -> String {
        format!("http://{}", provider.address())
    }

    #[tokio::test]
    async fn a_dead_node_costs_its_callers_one_retry_and_nothing_else() {
        let provider = Provider::start(Options::default()).await.unwrap();
        let origins = [origin(&provider), format!("http://{}", free_port())];
        let calls = [Call::chat("k", "m"), Call::messages("k", "m").stream()];
        let load = Load::start(&Client::new(), &origins, &calls, 4, Seed(1));
        crate::eventually("some calls", || async {
            anyhow::ensure!(load.so_far().served >= 20);
            Ok(())
        })
        .await
        .unwrap();
        let tally = load.stop().await;
        assert_eq!((tally.failed, tally.limited), (0, 0), "{:?}", tally.failures);
        assert!(tally.retried > 0 && tally.retried < tally.served);
        assert_eq!(provider.settled().await.unwrap().total.finished, tally.served);
    }

    #[tokio::test]
    async fn refusals_and_broken_streams_are_told_apart() {
        let provider = Provider::start(Options::default()).await.unwrap();
        let origins = [origin(&provider)];
        let told = async |call: Call| call_with_one_retry(&Client::new(), &origins, 0, &call).await;
        assert_eq!(told(Call::chat("k", "m-429")).await, Answered::Limited);
        assert!(matches!(told(Call::chat("k", "m-503")).await, Answered::Failed(_)));
        for cut in ["m-cut", "m-cut-fin", "m-cut-end"] {
            let failed = told(Call::chat("k", cut).stream()).await;
            assert!(matches!(&failed, Answered::Failed(why) if why.contains("a stream ended")), "{cut}: {failed:?}");
        }
        assert_eq!(told(Call::messages("k", "m").stream()).await, Answered::Served { retried: false });
    }
}

//! Credit that is paid in: exactly so many calls as it pays for, on all nodes at once and through the death of the leader.

use std::{collections::BTreeSet, env, sync::Arc, time::Duration};

use anyhow::Context;
use rand::RngExt;
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, SOON, Seed,
    calls::Call,
    client::{Client, LIMIT},
    eventually, nightly, now,
    resources::{self, api_key, document},
};

use crate::matrix::say;

/// What each call costs, whatever it uses: millionths of a dollar.
const CALL: u64 = 1_000;
/// Between two calls of one who waits for credit: the shape of the load.
const AGAIN: Duration = Duration::from_millis(500);
/// Another number of races.
const ROUNDS: &str = "TOLLGATE_ROUNDS";

/// Millionths, as they are written.
fn dollars(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Three nodes, a provider, and a tenant that pays in advance.
async fn paying() -> anyhow::Result<(Cluster, Provider)> {
    let cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[]).await?;
    let price =
        format!("{{currency: USD, match: {{models: [mock-1]}}, input: 0, output: 0, request: '{}'}}", dollars(CALL));
    let payer = document("Tenant", "payer", "{billing: {mode: prepaid, currency: USD}}");
    let all = payer + &resources::consumer("penny", "payer") + &document("Price", "mock", &price);
    cluster.cli().apply_and_wait(&all).await?;
    Ok((cluster, provider))
}

async fn grant(cluster: &Cluster, amount: &str, key: &str, more: &[&str]) -> anyhow::Result<Value> {
    let args = [&["credits", "grant", "payer", amount, "--key", key], more].concat();
    let mut rows = cluster.cli().rows(&args).await?;
    anyhow::ensure!(rows.len() == 1, "{rows:?}");
    Ok(rows.remove(0))
}

fn call() -> Call {
    Call::chat(&api_key("penny"), "mock-1")
}

/// Waits until `credits show` of every node says this: granted, spent and left, in millionths, and nothing held.
async fn stands_at(cluster: &Cluster, granted: u64, spent: u64) -> anyhow::Result<()> {
    let left = dollars(granted - spent);
    let expected = [dollars(granted), dollars(spent), "0".to_owned(), "0".to_owned(), left];
    for first in 0..cluster.nodes.len() {
        eventually("the credit is what it has to be", || async {
            let rows = cluster.cli_from(first).rows(&["credits", "show", "payer"]).await?;
            let [row] = rows.as_slice() else { anyhow::bail!("{rows:?}") };
            let told = ["granted", "spent", "held", "suspense", "balance"]
                .map(|it| row[it].as_str().unwrap_or("?").to_owned());
            anyhow::ensure!(told == expected, "{row} is not {expected:?}");
            anyhow::ensure!((row["currency"].as_str(), row["owed"].as_str()) == (Some("USD"), Some("0")), "{row}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

async fn status(cluster: &Cluster, origin: &str) -> anyhow::Result<(u16, String)> {
    let answer = cluster.client.send(call().request(origin), LIMIT).await?;
    Ok((answer.status, answer.text()))
}

/// So many callers on all nodes, each until it is told yes or no; what they were told.
async fn callers(cluster: &Cluster, origins: &[String], number: usize) -> JoinSet<anyhow::Result<u16>> {
    let mut all = JoinSet::new();
    for n in 0..number {
        let (client, origins) = (cluster.client.clone(), origins.to_vec());
        all.spawn(async move {
            let deadline = Instant::now() + SOON * 2;
            for at in n.. {
                // One whose node dies, or that nobody can decide on, comes again elsewhere.
                let answer = client.send(call().request(&origins[at % origins.len()]), LIMIT).await;
                match answer {
                    Ok(answer) if answer.status == 200 || answer.status == 429 => return Ok(answer.status),
                    Ok(answer) => anyhow::ensure!(Instant::now() < deadline, "{} {}", answer.status, answer.text()),
                    Err(error) => anyhow::ensure!(Instant::now() < deadline, "{error:#}"),
                }
                time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::bail!("there is always a next one")
        });
    }
    all
}

#[tokio::test]
async fn credit_for_so_many_calls_is_so_many_calls_on_all_nodes() -> Outcome {
    const CALLERS: usize = 120;
    const PAID: u64 = 40;
    let (cluster, provider) = paying().await?;
    let refused = status(&cluster, &cluster.origins()[0]).await?;
    assert!(refused.0 == 429 && refused.1.contains("insufficient_quota"), "without any: {refused:?}");
    grant(&cluster, &dollars(PAID * CALL), "first", &[]).await?;

    let mut all = callers(&cluster, &cluster.origins(), CALLERS).await;
    let (mut served, mut refused) = (0, 0);
    while let Some(told) = all.join_next().await {
        *(if told?? == 200 { &mut served } else { &mut refused }) += 1;
    }
    let finished = provider.settled().await?.total.finished;
    say(&format!("credit race: served={served} refused={refused} witnessed={finished}"));
    assert_eq!((served, refused, finished), (PAID, CALLERS as u64 - PAID, PAID));
    stands_at(&cluster, PAID * CALL, PAID * CALL).await?;

    let mut told_no = Duration::ZERO;
    for origin in cluster.origins() {
        let since = Instant::now();
        let refused = status(&cluster, &origin).await?;
        assert!(refused.0 == 429 && refused.1.contains("insufficient_quota"), "{origin}: {refused:?}");
        told_no = told_no.max(since.elapsed());
    }
    // Whoever pays is served at once.
    grant(&cluster, &dollars(CALL), "second", &[]).await?;
    let since = Instant::now();
    let (told, text) = status(&cluster, &cluster.origins()[1]).await?;
    say(&format!("a refusal took {told_no:?} at most; a top-up was served {:?} after its answer", since.elapsed()));
    assert_eq!(told, 200, "{text}");
    stands_at(&cluster, (PAID + 1) * CALL, (PAID + 1) * CALL).await?;
    Ok(())
}

#[tokio::test]
async fn a_leader_that_dies_in_the_middle_makes_no_call_free_and_none_lost() -> Outcome {
    const CALLERS: usize = 90;
    const PAID: u64 = 30;
    let (mut cluster, provider) = paying().await?;
    grant(&cluster, &dollars(PAID * CALL), "first", &[]).await?;
    let leader = cluster.leader().await?;
    let origins = cluster.origins();
    // Nobody is in flight on the one that is killed: what its calls were worth would be known to it alone until it is back.
    let others: Vec<String> =
        (1..=3).filter(|id| *id != leader).map(|id| origins[usize::try_from(id - 1).expect("few")].clone()).collect();
    let mut all = callers(&cluster, &others, CALLERS).await;
    let mut told = vec![all.join_next().await.expect("there are some")??];
    cluster.node(leader).kill()?;
    while let Some(one) = all.join_next().await {
        told.push(one??);
    }
    cluster.node(leader).start()?;
    cluster.ready().await?;
    let served = told.iter().filter(|status| **status == 200).count();
    let finished = provider.settled().await?.total.finished;
    say(&format!("credit through a leader's death: served={served} of {} witnessed={finished}", told.len()));
    assert_eq!((served as u64, finished, told.len()), (PAID, PAID, CALLERS));
    stands_at(&cluster, PAID * CALL, PAID * CALL).await?;
    Ok(())
}

/// How often a race for credit is run: chance decides who is in flight where when the leader dies.
fn rounds() -> u64 {
    let told = env::var(ROUNDS).ok().map(|text| text.parse().expect("TOLLGATE_ROUNDS is a whole number"));
    told.unwrap_or(if nightly() { 20 } else { 1 })
}

/// One that keeps calling, on one node after the other, until it is served or nothing is left; the request that served it.
async fn until_served(client: Client, origins: Vec<String>, first: usize, spent: CancellationToken) -> Option<String> {
    for at in first.. {
        // Nobody learns from a refusal alone that nothing comes back: what a dead node had in hand does.
        if let Ok(answer) = client.send(call().request(&origins[at % origins.len()]), LIMIT).await
            && answer.status == 200
        {
            return Some(answer.header("x-request-id").to_owned());
        }
        tokio::select! {
            () = spent.cancelled() => return None,
            () = time::sleep(AGAIN) => (),
        }
    }
    None
}

/// Those who race for credit, and the calls that there is credit for.
const RACERS: usize = 500;
const PLACES: u64 = 100;

/// The requests that were billed.
async fn billed(cluster: &Cluster) -> anyhow::Result<BTreeSet<String>> {
    let asked = ["billing", "export", "--format", "jsonl", "--from", "2026-01-01", "--to", "2999-01-01"];
    let run = cluster.cli().run(&asked).await?.ok()?;
    let rows = run.stdout.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let paid = rows.iter().filter(|row| row["cost"] != "0");
    let paid = paid.map(|row| {
        anyhow::ensure!(row["cost"] == dollars(CALL).as_str(), "{row}");
        Ok(row["request_id"].as_str().unwrap_or_default().to_owned())
    });
    paid.collect()
}

/// All callers on all nodes, and the leader killed in the middle. Each unit of credit serves somebody, or was spent on a call
/// whose answer was on its way when its node died; how many were.
async fn race_through_a_death(cluster: &mut Cluster, seed: Seed, round: u64) -> anyhow::Result<u64> {
    let before = billed(cluster).await?;
    grant(cluster, &dollars(PLACES * CALL), &format!("round-{round}"), &[]).await?;
    let leader = cluster.leader().await?;
    let (spent, origins) = (CancellationToken::new(), cluster.origins());
    let mut callers = JoinSet::new();
    for first in 0..RACERS {
        callers.spawn(until_served(cluster.client.clone(), origins.clone(), first, spent.clone()));
    }
    let mut served = BTreeSet::new();
    let middle = seed.rng(&format!("middle {round}")).random_range(1..PLACES * 3 / 4);
    while (served.len() as u64) < middle {
        served.extend(callers.join_next().await.context("there are more callers than credit")??);
    }
    cluster.node(leader).kill()?;
    cluster.node(leader).start()?;
    cluster.ready().await?;
    stands_at(cluster, (round + 1) * PLACES * CALL, (round + 1) * PLACES * CALL).await?;
    spent.cancel();
    while let Some(one) = callers.join_next().await {
        served.extend(one?);
    }
    let billed: BTreeSet<String> = billed(cluster).await?.difference(&before).cloned().collect();
    anyhow::ensure!(billed.len() as u64 == PLACES, "{} were billed", billed.len());
    anyhow::ensure!(served.is_subset(&billed), "served for nothing: {:?}", served.difference(&billed));
    let unheard = billed.difference(&served).cloned().collect::<Vec<_>>();
    for request in &unheard {
        let row = cluster.cli().rows(&["ledger", "show", request]).await?.remove(0);
        anyhow::ensure!(row["node"] == leader, "billed, and its caller was not served: {row}");
    }
    Ok(unheard.len() as u64)
}

#[tokio::test]
async fn five_hundred_callers_through_a_leaders_death_get_what_is_paid_for_and_not_one_call_more() -> Outcome {
    let (mut cluster, provider) = paying().await?;
    let (seed, begun, mut unheard) = (Seed::from_env(), Instant::now(), 0);
    for round in 0..rounds() {
        unheard += race_through_a_death(&mut cluster, seed, round).await?;
    }
    let finished = provider.settled().await?.total.finished;
    say(&format!(
        "credit through {} deaths of a leader: {PLACES} billed each of {RACERS} callers, unheard={unheard} witnessed={finished} in {:.0?} seed={seed}",
        rounds(),
        begun.elapsed()
    ));
    assert!(finished >= rounds() * PLACES, "{finished}");
    Ok(())
}

/// One who polls a node; how long after `since` it was served.
async fn served_after(
    client: Client,
    origin: String,
    polls: Arc<Notify>,
    since: watch::Receiver<Option<Instant>>,
) -> anyhow::Result<Duration> {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = client.send(call().request(&origin), LIMIT).await?;
        if answer.status == 200 {
            let now = Instant::now();
            // Served before whoever paid in was told: at once.
            return Ok(since.borrow().map_or(Duration::ZERO, |since| now - since));
        }
        anyhow::ensure!(answer.status == 429 && Instant::now() < deadline, "{} {}", answer.status, answer.text());
        polls.notify_one();
    }
}

#[tokio::test]
async fn whoever_waits_on_any_node_is_served_once_somebody_pays() -> Outcome {
    let (cluster, _provider) = paying().await?;
    let mut took = Vec::new();
    for round in 0..if nightly() { 50 } else { 5 } {
        let (told, since) = watch::channel(None);
        let mut waiting = JoinSet::new();
        for origin in cluster.origins() {
            let polls = Arc::new(Notify::new());
            waiting.spawn(served_after(cluster.client.clone(), origin, Arc::clone(&polls), since.clone()));
            time::timeout(SOON, polls.notified()).await?;
        }
        grant(&cluster, &dollars(3 * CALL), &format!("top-up-{round}"), &[]).await?;
        told.send_replace(Some(Instant::now()));
        while let Some(one) = waiting.join_next().await {
            took.push(one??);
        }
        stands_at(&cluster, (round + 1) * 3 * CALL, (round + 1) * 3 * CALL).await?;
    }
    took.sort();
    let of = |percent: usize| took[(took.len() - 1) * percent / 100];
    say(&format!(
        "top-up: served after its answer: p50={:?} p90={:?} most={:?} of {}",
        of(50),
        of(90),
        of(100),
        took.len()
    ));
    Ok(())
}

#[tokio::test]
async fn grants_are_made_once_corrected_and_come_to_their_end() -> Outcome {
    let (cluster, _provider) = paying().await?;
    grant(&cluster, "2", "po-1", &["--reason", "a start"]).await?;
    let again = grant(&cluster, "2.00", "po-1", &[]).await?;
    assert_eq!(again["granted"].as_str(), Some("2"), "the same key gives nothing twice");
    let conflict = cluster.cli().run(&["credits", "grant", "payer", "3", "--key", "po-1"]).await?;
    assert_eq!(conflict.code, 1);
    assert!(conflict.stderr.contains("`po-1` was used before, for 2 USD"), "{}", conflict.stderr);

    let reasonless = cluster.cli().run(&["credits", "grant", "payer", "-0.5", "--key", "fix"]).await?;
    assert!(reasonless.code == 1 && reasonless.stderr.contains("reason: is missing"), "{reasonless:?}");
    let corrected = grant(&cluster, "-0.5", "fix", &["--reason", "too much"]).await?;
    assert_eq!(corrected["balance"].as_str(), Some("1.5"), "{corrected}");

    // It ends by log time, though nobody writes to the log.
    let end = now() + Duration::from_secs(3);
    let end = rfc3339(end.as_secs());
    let short = grant(&cluster, "7", "trial", &["--expires", &end]).await?;
    assert_eq!(short["balance"].as_str(), Some("8.5"));
    stands_at(&cluster, 1_500_000, 0).await?;
    let history = cluster.cli().rows(&["credits", "history", "payer"]).await?;
    let told: Vec<_> =
        history.iter().map(|it| (it["kind"].as_str().unwrap_or("?"), it["amount"].as_str().unwrap_or("?"))).collect();
    assert_eq!(told, [("expired", "-7"), ("granted", "7"), ("corrected", "-0.5"), ("granted", "2")]);
    assert!(history.iter().all(|it| it["kind"] == "expired" || it["actor"].is_string()), "{history:?}");

    let euro = document("Tenant", "payer", "{billing: {mode: prepaid, currency: EUR}}");
    let refused = cluster.cli().run_with(&["apply", "-f", "-"], &euro).await?;
    assert!(refused.code == 1 && refused.stderr.contains("1.5 USD is there"), "{refused:?}");
    let unpriced =
        cluster.client.send(Call::chat(&api_key("penny"), "mock-2").request(&cluster.origins()[0]), LIMIT).await?;
    let text = unpriced.text();
    assert!(unpriced.status == 403 && text.contains("`mock-2`") && text.contains("provider `mock`"), "{text}");
    Ok(())
}

/// Seconds since the epoch, in UTC: the proleptic Gregorian calendar, by eras of 400 years.
fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3_600, rest / 60 % 60, rest % 60)
}

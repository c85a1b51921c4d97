//! One limit, three nodes, many callers: never over by a token, nearly all of it used.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tollgate_chaos_tests::{
    Cluster, Outcome, Provider, calls::Call, client::LIMIT, day_with_room, eventually, resources::api_key,
};

use crate::matrix::say;

const CALLERS: usize = 100;
const CAPACITY: u64 = 60_000;
/// More than any of these calls may reserve: its prompt in bytes with framing, and 16 tokens.
const LARGEST_RESERVATION: u64 = 400;

/// Calls one after the other until the limit says no.
async fn until_refused(cluster: Arc<Cluster>, first: usize, call: Call) -> anyhow::Result<u64> {
    let origins = cluster.origins();
    for number in 0.. {
        let origin = &origins[(first + number) % origins.len()];
        let answer = cluster.client.send(call.request(origin), LIMIT).await?;
        match answer.status {
            200 => (),
            429 => {
                anyhow::ensure!(!answer.header("retry-after").is_empty(), "a refusal without retry-after");
                anyhow::ensure!(answer.text().contains("alice-tokens"), "{}", answer.text());
                return Ok(number as u64);
            }
            other => anyhow::bail!("{other}: {}", answer.text()),
        }
    }
    unreachable!("the limit is finite");
}

#[tokio::test]
async fn a_limit_shared_by_three_nodes_is_never_over_and_nearly_all_used() -> Outcome {
    day_with_room(Duration::from_secs(180)).await;
    let cluster = Arc::new(Cluster::start().await?);
    let provider = cluster.with_standard(&[("alice", Some(CAPACITY))]).await?;
    let calls = [Call::chat(&api_key("alice"), "mock-1"), Call::messages(&api_key("alice"), "mock-1").stream()];
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        callers.spawn(until_refused(Arc::clone(&cluster), number, calls[number % 2].clone()));
    }
    let mut served = 0;
    while let Some(done) = callers.join_next().await {
        served += done??;
    }
    // What reservations held while callers were refused is free again: one caller alone uses it up.
    served += until_refused(Arc::clone(&cluster), 0, calls[0].clone()).await?;
    let total = provider.settled().await?.total;
    let tokens = total.input_tokens + total.output_tokens;
    assert_eq!(total.finished, served);
    assert!(tokens <= CAPACITY, "{tokens} of {CAPACITY}");
    assert!(tokens > CAPACITY - LARGEST_RESERVATION, "only {tokens} of {CAPACITY}");
    agrees(&cluster, &provider, "alice-tokens", tokens).await?;
    Ok(())
}

/// Each call reserves most of the limit and uses next to nothing of it: the next one meets what the one before has held, should it
/// come before the log knows of its end.
#[tokio::test]
async fn calls_one_after_the_other_through_all_nodes_are_admitted_at_once_where_what_is_used_leaves_room() -> Outcome {
    const CALLS: usize = 100;
    day_with_room(Duration::from_secs(180)).await;
    let cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[("alice", Some(CAPACITY))]).await?;
    let call = Call::chat(&api_key("alice"), "mock-1").max_tokens(CAPACITY * 6 / 10);
    let origins = cluster.origins();
    let (mut refused, mut took) = (0, Vec::new());
    for number in 0..CALLS {
        let begun = Instant::now();
        let answer = cluster.client.send(call.request(&origins[number % origins.len()]), LIMIT).await?;
        took.push(begun.elapsed());
        assert!([200, 429].contains(&answer.status), "{}: {}", answer.status, answer.text());
        refused += usize::from(answer.status == 429);
    }
    took.sort_unstable();
    let (median, slowest) = (took[CALLS / 2], took[CALLS - 1]);
    say(&format!(
        "{CALLS} calls in turn for 60 % of a limit: {refused} refused, median {median:.1?}, slowest {slowest:.1?}"
    ));
    assert!(refused * 100 <= CALLS, "{refused} of {CALLS} were refused");
    Ok(())
}

/// What the product says of the account is what the provider counted.
async fn agrees(cluster: &Cluster, _provider: &Provider, limit: &str, tokens: u64) -> anyhow::Result<()> {
    eventually("the account shows what the provider counted", || async {
        let rows = cluster.cli().rows(&["limits", "show"]).await?;
        let row =
            rows.iter().find(|row| row["limit"] == limit).ok_or_else(|| anyhow::anyhow!("no account: {rows:?}"))?;
        anyhow::ensure!(row["used"] == tokens && row["held"] == 0, "{tokens} tokens: {row}");
        anyhow::ensure!(row["capacity"] == CAPACITY, "{row}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn answers_on_a_limited_route_tell_where_the_caller_stands() -> Outcome {
    day_with_room(Duration::from_secs(120)).await;
    let cluster = Cluster::start().await?;
    let _provider = cluster.with_standard(&[("alice", Some(CAPACITY))]).await?;
    let call = Call::chat(&api_key("alice"), "mock-1");
    let mut last = CAPACITY + 1;
    for origin in cluster.origins() {
        let answer = cluster.client.send(call.request(&origin), LIMIT).await?;
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), CAPACITY.to_string());
        let remaining: u64 = answer.header("x-ratelimit-remaining-tokens").parse()?;
        assert!(remaining < last, "{remaining} after {last}");
        last = remaining;
        assert!(!answer.header("x-ratelimit-reset-tokens").is_empty());
        // What the call reserved is more than what it used: until it has settled, the next answer shows less than is left.
        eventually("the call has settled", || async {
            let accounts = cluster.cli().rows(&["limits", "show"]).await?;
            anyhow::ensure!(accounts.iter().all(|account| account["held"] == 0), "{accounts:?}");
            Ok(())
        })
        .await?;
    }
    let never = Call::chat(&api_key("alice"), "mock-1").max_tokens(CAPACITY + 1);
    let answer = cluster.client.send(never.request(&cluster.origins()[0]), LIMIT).await?;
    assert_eq!((answer.status, &answer.json()?["error"]["code"]), (400, &"request_exceeds_limit".into()));
    Ok(())
}

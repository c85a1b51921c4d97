//! The other half of exact: what fits is admitted.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    Outcome,
    burst::{Manner, alike, burst},
    calls::Call,
    client::LIMIT,
    resources::api_key,
};

use super::{CALLERS, Scene, limit_of};
use crate::matrix::say;

/// Output tokens of a call whose estimate is exact but for the framing, of which the bound knows only what is the most that it
/// can be: 71 tokens more than the provider counts.
const ANSWER: u64 = 10_000;
const PROMPT: u64 = 5;

/// All callers at once, all held at the same time, and a limit into which all of them fit by their true tokens.
#[tokio::test]
async fn what_fits_by_its_true_tokens_is_admitted_at_once() -> Outcome {
    let scene = Scene::set().await?;
    let limit = CALLERS as u64 * (PROMPT + ANSWER);
    scene.consumer("exact", limit).await?;
    let call = Call::chat(&api_key("exact"), "gpt-4o-exact").max_tokens(ANSWER);
    let call = call.header("x-mock-output", &ANSWER.to_string()).header("x-mock-delay", "3s");
    let (client, origins) = (&scene.cluster.client, scene.cluster.origins());
    let told = burst(client, &origins, alike(&call, CALLERS), Manner::Stays, scene.seed).await?;
    let witnessed = scene.provider.tokens("gpt-4o-exact").await?;
    let used = scene.used(&limit_of("exact"), witnessed).await?;
    say(&format!(
        "usable (exact estimates, all held at once) limit={limit} witnessed={witnessed} used={used} admitted={} of {CALLERS} \
         undecided={} seed={}",
        told.admitted, told.undecided, scene.seed
    ));
    assert!(witnessed <= limit, "{witnessed} of {limit}");
    assert!(told.admitted * 100 >= 99 * CALLERS as u64, "{told:?}");
    Ok(())
}

/// Every caller names a bound far above its answer, and comes again after a refusal, until nobody has got anything for a
/// while.
#[tokio::test]
async fn callers_with_a_generous_bound_who_come_again_get_the_whole_limit() -> Outcome {
    const GENEROUS: u64 = 4_000;
    const CAPACITY: u64 = 60_000;
    /// Nobody was admitted for so long: whoever is still refused will be for ever.
    const IN_VAIN: Duration = Duration::from_secs(5);
    let scene = Arc::new(Scene::set().await?);
    scene.consumer("generous", CAPACITY).await?;
    let call = Call::chat(&api_key("generous"), "gpt-4o-generous").stream().max_tokens(GENEROUS);
    let call = call.header("x-mock-output", "100").header("x-mock-chunk", "10").header("x-mock-pace", "5ms");
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let (scene, call) = (Arc::clone(&scene), call.clone());
        callers.spawn(async move {
            let origin = scene.cluster.origins().swap_remove(number % 3);
            let mut last = Instant::now();
            while last.elapsed() < IN_VAIN {
                let stream = scene.cluster.client.open(call.request(&origin), LIMIT).await?;
                if stream.status == 200 {
                    stream.rest().await;
                    last = Instant::now();
                } else {
                    // The load of a caller that does not wait for `retry-after`.
                    time::sleep(Duration::from_millis(50)).await;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    let witnessed = scene.provider.tokens("gpt-4o-generous").await?;
    let used = scene.used(&limit_of("generous"), witnessed).await?;
    say(&format!("usable (generous max_tokens, with retries) limit={CAPACITY} witnessed={witnessed} used={used}"));
    assert!(witnessed <= CAPACITY, "{witnessed} of {CAPACITY}");
    assert!(used * 100 >= 99 * CAPACITY, "only {used} of {CAPACITY}");
    Ok(())
}

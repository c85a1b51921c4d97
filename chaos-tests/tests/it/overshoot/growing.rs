//! Holds that grow with their streams: a generous bound takes no more of a limit than its answer needs, and what can't be
//! held any more ends cleanly, in time.

use std::time::Duration;

use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};
use tollgate_chaos_tests::{
    Outcome,
    burst::{Manner, alike, burst},
    calls::{self, Call, Dialect},
    client::{Client, Event, LIMIT},
    resources::api_key,
};

use super::{Between, Scene, limit_of};
use crate::matrix::say;

/// Of a vocabulary that is known, so that what goes by is counted closely.
const MODEL: &str = "gpt-4o-growing";
const PROMPT: u64 = 5;
/// As much as shows a node how fast the provider is.
const TELLING: u64 = 300;

/// Eighty tokens a second, as providers write.
fn paced(call: Call, bound: u64, answer: u64) -> Call {
    let call = call.stream().max_tokens(bound).header("x-mock-output", &answer.to_string());
    call.header("x-mock-chunk", "4").header("x-mock-pace", "50ms")
}

/// A provider, and nodes that have all seen how fast it is.
async fn known() -> anyhow::Result<Scene> {
    let scene = Scene::set().await?;
    scene.consumer("telling", 100_000).await?;
    shown(&scene, &paced(Call::chat(&api_key("telling"), MODEL), TELLING, TELLING)).await?;
    let witnessed = scene.provider.tokens(MODEL).await?;
    assert_eq!(witnessed, 3 * (PROMPT + TELLING));
    Ok(scene)
}

/// Each node has seen this call to its end.
async fn shown(scene: &Scene, call: &Call) -> anyhow::Result<()> {
    let mut streams = JoinSet::new();
    for origin in scene.cluster.origins() {
        let (client, request) = (scene.cluster.client.clone(), call.request(&origin));
        streams.spawn(async move { anyhow::Ok(client.open(request, LIMIT).await?.rest().await) });
    }
    while let Some(done) = streams.join_next().await {
        done??;
    }
    Ok(())
}

/// Twelve callers at once whose answers are far shorter than their bounds, and too short to tell a pace by their length.
#[tokio::test]
async fn short_answers_with_generous_bounds_share_a_limit_that_holds_one_of_their_bounds() -> Outcome {
    const CALLERS: usize = 12;
    const BOUND: u64 = 2_500;
    const CAPACITY: u64 = 4_000;
    let scene = Scene::set().await?;
    // Of the first vocabulary all is known; text of the second counts by its bytes, so that six of its answers fit at once.
    for (consumer, model, least) in
        [("short", "gpt-4o-short+output=100+pace=20ms", CALLERS), ("bytes", "mock-1+output=100+pace=20ms", 5)]
    {
        scene.consumer(consumer, CAPACITY).await?;
        let call = Call::chat(&api_key(consumer), model).stream().max_tokens(BOUND);
        for _ in 0..2 {
            shown(&scene, &call).await?;
        }
        let before = scene.provider.settled().await?.models[model];
        let origins = scene.cluster.origins();
        let told = burst(&scene.cluster.client, &origins, alike(&call, CALLERS), Manner::Stays, scene.seed).await?;
        let after = scene.provider.settled().await?.models[model];
        let witnessed = after.input_tokens + after.output_tokens;
        let used = scene.used(&limit_of(consumer), witnessed).await?;
        say(&format!(
            "growing holds (short answers) model={model} limit={CAPACITY} witnessed={witnessed} used={used} admitted={} of \
             {CALLERS} refused={} undecided={} cut={} seed={}",
            told.admitted,
            told.refused,
            told.undecided,
            after.aborted - before.aborted,
            scene.seed
        ));
        assert!(told.admitted >= least as u64, "{model}: {told:?}");
        assert_eq!((after.aborted - before.aborted, told.undecided), (0, 0), "{model}: every answer is whole");
        assert!((witnessed..=CAPACITY).contains(&used), "{model}: {used} charged for {witnessed}");
    }
    Ok(())
}

/// Twelve callers at once with bounds of which the limit holds three.
#[tokio::test]
async fn paced_streams_with_generous_bounds_share_a_limit_that_holds_few_of_their_bounds() -> Outcome {
    const CALLERS: u64 = 12;
    const BOUND: u64 = 4_000;
    const ANSWER: u64 = 700;
    const CAPACITY: u64 = 14_000;
    let scene = known().await?;
    let before = scene.provider.tokens(MODEL).await?;
    scene.consumer("sharing", CAPACITY).await?;
    let call = paced(Call::chat(&api_key("sharing"), MODEL), BOUND, ANSWER);
    let (client, origins) = (&scene.cluster.client, scene.cluster.origins());
    let told = burst(client, &origins, alike(&call, usize::try_from(CALLERS)?), Manner::Stays, scene.seed).await?;
    let witnessed = scene.provider.tokens(MODEL).await? - before;
    let used = scene.used(&limit_of("sharing"), witnessed).await?;
    say(&format!(
        "growing holds (all at once) limit={CAPACITY} bounds={} witnessed={witnessed} used={used} admitted={} of {CALLERS} \
         undecided={} seed={}",
        CALLERS * BOUND,
        told.admitted,
        told.undecided,
        scene.seed
    ));
    assert_eq!((told.admitted, told.refused), (CALLERS, 0), "{told:?}");
    assert_eq!((witnessed, used), (CALLERS * (PROMPT + ANSWER), CALLERS * (PROMPT + ANSWER)), "every answer is whole");
    Ok(())
}

/// Twelve callers who come again when they are refused, and a limit into which one of their bounds fits, and all their answers.
#[tokio::test]
async fn callers_that_come_again_get_whole_answers_out_of_all_of_a_limit() -> Outcome {
    const CALLERS: usize = 12;
    const BOUND: u64 = 1_800;
    const ANSWER: u64 = 150;
    const CAPACITY: u64 = 2_000;
    let scene = Scene::set().await?;
    scene.consumer("telling", 100_000).await?;
    for (consumer, model) in
        [("known", "gpt-4o-again+output=150+pace=10ms"), ("unknown", "claude-again+output=150+pace=10ms")]
    {
        scene.consumer(consumer, CAPACITY).await?;
        shown(&scene, &Call::chat(&api_key("telling"), model).stream().max_tokens(BOUND)).await?;
        let before = scene.provider.settled().await?.models[model];
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let (client, origin) = (scene.cluster.client.clone(), scene.cluster.origins()[number % 3].clone());
            let call = Call::chat(&api_key(consumer), model).stream().max_tokens(BOUND);
            callers.spawn(async move { until_answered(&client, &call, &origin).await });
        }
        let (mut words, mut refused) = (Vec::new(), 0);
        while let Some(done) = callers.join_next().await {
            let (told, tries) = done??;
            words.push(told);
            refused += tries - 1;
        }
        let after = scene.provider.settled().await?.models[model];
        let witnessed = after.input_tokens + after.output_tokens - before.input_tokens - before.output_tokens;
        let used = scene.used(&limit_of(consumer), witnessed).await?;
        say(&format!(
            "growing holds (coming again) model={model} limit={CAPACITY} witnessed={witnessed} used={used} refused={refused} \
             cut={} seed={}",
            after.aborted - before.aborted,
            scene.seed
        ));
        assert_eq!(words, [ANSWER; CALLERS], "{model}: every answer is whole");
        let all = CALLERS as u64 * (PROMPT + ANSWER);
        assert_eq!((witnessed, used, after.aborted - before.aborted), (all, all, 0), "{model}");
    }
    Ok(())
}

/// Asks until it is admitted; how many words came, and how often it asked.
async fn until_answered(client: &Client, call: &Call, origin: &str) -> anyhow::Result<(u64, u32)> {
    const AGAIN: Duration = Duration::from_millis(250);
    let deadline = Instant::now() + Duration::from_secs(120);
    for tries in 1.. {
        let stream = client.open(call.request(origin), LIMIT).await?;
        if stream.status == 200 {
            let events = stream.rest().await.0;
            anyhow::ensure!(calls::is_complete(call.dialect(), &events), "{:?}", events.last());
            let words = calls::streamed_text(call.dialect(), &events).split_whitespace().count();
            return Ok((u64::try_from(words)?, tries));
        }
        anyhow::ensure!(stream.status == 429 && Instant::now() < deadline, "{} after {tries} tries", stream.status);
        tokio::time::sleep(AGAIN).await;
    }
    anyhow::bail!("nobody tries so often")
}

/// Two streams that would go on to their bounds, and a limit into which one bound fits.
#[tokio::test]
async fn streams_that_can_not_hold_more_are_cut_cleanly_in_both_dialects() -> Outcome {
    const BOUND: u64 = 1_500;
    const CAPACITY: u64 = 1_700;
    let scene = known().await?;
    let before = scene.provider.settled().await?.models[MODEL];
    scene.consumer("cut", CAPACITY).await?;
    let key = api_key("cut");
    let mut streams = JoinSet::new();
    for (number, call) in [Call::chat(&key, MODEL), Call::messages(&key, MODEL)].into_iter().enumerate() {
        let (client, call) = (scene.cluster.client.clone(), paced(call, BOUND, 5_000));
        let request = call.request(&scene.cluster.origins()[number]);
        streams.spawn(async move {
            let stream = client.open(request, LIMIT).await?;
            let status = stream.status;
            anyhow::Ok((call.dialect(), status, stream.rest().await.0))
        });
    }
    while let Some(done) = streams.join_next().await {
        let (dialect, status, events) = done??;
        assert_eq!(status, 200, "{dialect:?}: {events:?}");
        assert!(calls::is_complete(dialect, &events), "{dialect:?}: {:?}", events.last());
        assert!(calls::error_of(&events).is_none(), "{dialect:?}: {:?}", events.last());
        let words = calls::streamed_text(dialect, &events).split_whitespace().count();
        assert!((300..1_500).contains(&words), "{dialect:?}: {words} words");
        assert!(came_to_its_bound(dialect, &events), "{dialect:?}: {:?}", &events[events.len().saturating_sub(4)..]);
    }
    let after = scene.provider.settled().await?.models[MODEL];
    let tokens = |it: tollgate_mock_llm::Counters| it.input_tokens + it.output_tokens;
    let witnessed = tokens(after) - tokens(before);
    let used = scene.used(&limit_of("cut"), witnessed).await?;
    say(&format!(
        "growing holds (cut) limit={CAPACITY} witnessed={witnessed} used={used} cut={} seed={}",
        after.aborted - before.aborted,
        scene.seed
    ));
    assert_eq!(after.aborted - before.aborted, 2, "the provider was let go in the middle");
    assert!(witnessed <= CAPACITY, "{witnessed} of {CAPACITY}");
    // What may have been on its way when a stream was cut is charged as well.
    assert!((witnessed..=CAPACITY).contains(&used), "{used} charged for {witnessed}");
    assert!(used * 10 >= CAPACITY * 8, "only {used} of {CAPACITY} were used before anybody was cut");
    Ok(())
}

/// What of a stream is held after its beginning is as durable as that.
#[tokio::test]
async fn what_all_nodes_held_for_growing_streams_when_they_were_killed_is_not_forgotten() -> Outcome {
    const CAPACITY: u64 = 6_000;
    const STREAMS: usize = 4;
    /// More than is held at first, so that more is held by then.
    const WORDS: usize = 520;
    let mut scene = known().await?;
    let before = scene.provider.tokens(MODEL).await?;
    scene.consumer("killed", CAPACITY).await?;
    let call = paced(Call::chat(&api_key("killed"), MODEL), 4_000, 4_000);
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let (client, request) = (scene.cluster.client.clone(), call.request(&scene.cluster.origins()[number % 3]));
        streams.spawn(async move {
            let mut stream = client.open(request, LIMIT).await?;
            let mut words = 0;
            while words < WORDS {
                let event = stream.next().await.map_err(|end| anyhow::anyhow!("{end:?} after {words} words"))?;
                words += calls::streamed_text(Dialect::OpenAi, &[event]).split_whitespace().count();
            }
            anyhow::Ok(stream)
        });
    }
    let mut open = Vec::new();
    while let Some(done) = streams.join_next().await {
        open.push(done??);
    }
    scene.strike(Between::AllKilled).await?;
    drop(open);
    let witnessed = scene.provider.tokens(MODEL).await? - before;
    let used = scene.used(&limit_of("killed"), witnessed).await?;
    say(&format!(
        "growing holds (all nodes killed) limit={CAPACITY} witnessed={witnessed} used={used} seed={}",
        scene.seed
    ));
    assert!(witnessed >= (STREAMS * WORDS) as u64, "{witnessed}");
    assert!((witnessed..=CAPACITY).contains(&used), "{used} charged for {witnessed}");
    Ok(())
}

/// Whether the end says why, and what was used.
fn came_to_its_bound(dialect: Dialect, events: &[Event]) -> bool {
    let some = |said: &dyn Fn(&Value) -> bool| events.iter().any(|event| said(&event.json()));
    match dialect {
        Dialect::OpenAi => {
            some(&|data| data["choices"][0]["finish_reason"] == "length")
                && some(&|data| data["usage"]["completion_tokens"].as_u64() > Some(300))
        }
        Dialect::Anthropic => some(&|data| {
            data["delta"]["stop_reason"] == "max_tokens" && data["usage"]["output_tokens"].as_u64() > Some(300)
        }),
    }
}

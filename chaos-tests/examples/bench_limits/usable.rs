//! What a limit admits of what one perfect counter would: at the first try, and to callers that come again.

use tollgate_chaos_tests::{calls::Call, figure::Figure, resources::api_key};

use super::{
    Scene,
    load::{Tally, Target},
    percent,
};

const CALLERS: usize = 30;
/// How many calls fit.
const FITTING: u64 = 3_000;
/// Tokens of one call, by the provider's rule: four words, one message, and the answer.
const CALL_TOKENS: u64 = 5 + ANSWER;
const ANSWER: u64 = 1_000;
/// A bound is exact but for the framing, of which it knows only the most that it can be: a perfect counter, too, would
/// admit the last call only if this much more were left.
const FRAMING: u64 = 100;
/// Rounds of callers who come again, at the most.
const ROUNDS: usize = 20;

pub(super) async fn measure(scene: &Scene) -> anyhow::Result<Vec<Figure>> {
    let fixed = "window: 1d, algorithm: fixed";
    scene.consumer("counted", &[("requests", &format!("unit: requests, limit: {FITTING}, {fixed}"))]).await?;
    let tokens = FITTING * CALL_TOKENS + FRAMING;
    scene.consumer("weighed", &[("tokens", &format!("unit: tokens, limit: {tokens}, {fixed}"))]).await?;
    let counted = Call::chat(&api_key("counted"), "mock-1");
    // A name whose vocabulary is known.
    let weighed = Call::chat(&api_key("weighed"), "gpt-4o").max_tokens(ANSWER).header("x-mock-output", "1000");
    let mut figures = Vec::new();
    let names = [
        ("requests: admitted at once of what fits", "requests: admitted in the end"),
        ("tokens: admitted at once of what fits", "tokens: admitted in the end"),
    ];
    for (call, (at_once, in_the_end)) in [counted, weighed].iter().zip(names) {
        figures.extend(drained(scene, call, at_once, in_the_end).await?);
    }
    Ok(figures)
}

async fn drained(
    scene: &Scene,
    call: &Call,
    at_once: &'static str,
    in_the_end: &'static str,
) -> anyhow::Result<Vec<Figure>> {
    let target = Target { client: scene.cluster.client.clone(), origins: scene.cluster.origins() };
    let first = target.counted(CALLERS, FITTING, call).await?;
    let Tally { served, refused, undecided, failed, .. } = first;
    let mut all = served;
    for _ in 0..ROUNDS {
        all += target.counted(CALLERS, FITTING - all.min(FITTING) + 1, call).await?.served;
    }
    anyhow::ensure!(all <= FITTING, "{all} calls were admitted where {FITTING} fit");
    Ok(vec![
        Figure::new(at_once, percent(served, FITTING), "%")
            .at_least(99.5)
            .detail(format!("of {FITTING} offered once: {refused} refused, {undecided} undecided, {failed} failed")),
        Figure::new(in_the_end, percent(all, FITTING), "%").at_least(100.0).detail(format!("{all} of {FITTING}")),
    ])
}

//! When the first event of a stream is there.

use anyhow::Context;
use tokio::time::Instant;
use tollgate_chaos_tests::{
    calls::Call,
    client::LIMIT,
    figure::{Figure, median},
    resources::api_key,
};

use super::{
    closed::PACE,
    scene::{CONSUMER, Scene},
};

const STREAMS: usize = 200;
/// Of each, read to its end: the next one begins when nothing of this one is under way.
const EVENTS: u64 = 4;

pub(super) async fn first_events(scene: &Scene) -> anyhow::Result<Vec<Figure>> {
    let [tollgate, nginx] = scene.sides()?;
    let origins = [scene.direct(), nginx.origin, tollgate.origin];
    let mut firsts: [Vec<f64>; 3] = Default::default();
    // One at a time, in turns: nothing else runs.
    for _ in 0..STREAMS {
        for (origin, firsts) in origins.iter().zip(&mut firsts) {
            firsts.push(first(scene, origin).await?);
        }
    }
    let [direct, theirs, ours] = firsts.map(|firsts| median(&firsts));
    let told = format!("p50 of {STREAMS}: {ours:.3} ms, nginx {theirs:.3} ms, without a proxy {direct:.3} ms");
    let later = Figure::new("the first event of a stream comes later than without a proxy", ours - direct, "ms");
    Ok(vec![later.at_most(0.2).detail(told)])
}

/// Milliseconds from the request to the first event; the rest is read, too.
async fn first(scene: &Scene, origin: &str) -> anyhow::Result<f64> {
    let model = format!("mock-1+pace={PACE}+output={EVENTS}");
    let call = Call::chat(&api_key(CONSUMER), &model).max_tokens(EVENTS).stream();
    let begun = Instant::now();
    let mut events = scene.client.open(call.request(origin), LIMIT).await?;
    anyhow::ensure!(events.status == 200, "{origin}: {}", events.status);
    events.next().await.ok().context("a stream has events")?;
    let took = begun.elapsed();
    let (rest, _) = events.rest().await;
    anyhow::ensure!(rest.len() as u64 >= EVENTS - 1, "{origin}: {} events", rest.len());
    Ok(took.as_secs_f64() * 1_000.0)
}

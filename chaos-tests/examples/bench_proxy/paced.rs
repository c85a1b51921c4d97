//! Calls of a model at a fixed rate: what they cost, and how much later than without a proxy they are answered.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tollgate_chaos_tests::{
    calls::Call,
    client::{Client, LIMIT},
    figure::{Figure, median},
    resources::api_key,
};

use super::{
    closed::Turns,
    scene::{CONSUMER, Scene},
};

/// Calls a second.
const RATE: u32 = 2_000;
/// A call is made by whichever caller is free; so many are never in flight.
const CALLERS: u32 = 64;

pub(super) async fn measure(scene: &Scene, Turns { rounds, time }: Turns) -> anyhow::Result<Vec<Figure>> {
    let sides = scene.sides()?;
    let call = Call::chat(&api_key(CONSUMER), "mock-1");
    let mut costs: [Vec<f64>; 2] = Default::default();
    let mut waits: [Vec<Waits>; 3] = Default::default();
    for round in 0..=rounds {
        let direct = load(&scene.client, &scene.direct(), &call, time).await?;
        let mut of_round = vec![direct.waits()];
        for (at, side) in sides.iter().enumerate() {
            let before = side.used()?;
            let answered = load(&scene.client, &side.origin, &call, time).await?;
            let used = side.used()? - before;
            if round > 0 {
                costs[at].push(used / answered.count());
            }
            of_round.push(answered.waits());
        }
        if round > 0 {
            waits.iter_mut().zip(of_round).for_each(|(all, one)| all.push(one));
        }
    }
    let [ours, theirs] = costs;
    let told = format!("{:.1} µs, nginx {:.1} µs", median(&ours), median(&theirs));
    let cpu = Figure::ratio(format!("CPU for a call of a model at {RATE}/s, to nginx"), &ours, &theirs);
    let later = |of: fn(&Waits) -> f64| {
        let [direct, ours, theirs] = waits.each_ref().map(|all| median(&all.iter().map(of).collect::<Vec<_>>()));
        (ours - theirs, format!("{ours:.3} ms, nginx {theirs:.3} ms, without a proxy {direct:.3} ms"))
    };
    let (p50, p50_told) = later(|waits| waits.p50);
    let (p99, p99_told) = later(|waits| waits.p99);
    Ok(vec![
        cpu.at_most(1.3).and(&told),
        Figure::new("a call is answered later than by nginx, p50", p50, "ms").at_most(0.05).detail(p50_told),
        Figure::new("a call is answered later than by nginx, p99", p99, "ms").at_most(0.5).detail(p99_told),
    ])
}

/// Milliseconds.
#[derive(Clone, Copy, Debug)]
struct Waits {
    p50: f64,
    p99: f64,
}

struct Answered(Vec<Duration>);

impl Answered {
    #[expect(clippy::cast_precision_loss, reason = "some thousand calls")]
    fn count(&self) -> f64 {
        self.0.len() as f64
    }

    fn waits(&self) -> Waits {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |per_cent: usize| sorted[sorted.len() * per_cent / 100].as_secs_f64() * 1_000.0;
        Waits { p50: at(50), p99: at(99) }
    }
}

/// Each caller has its place in time; a call that is late is counted from when it should have been made.
async fn load(client: &Client, origin: &str, call: &Call, time: Duration) -> anyhow::Result<Answered> {
    let (begun, pause) = (Instant::now(), Duration::from_secs(1) * CALLERS / RATE);
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (client, origin, call) = (client.clone(), origin.to_owned(), call.clone());
        callers.spawn(async move {
            let mut took = Vec::new();
            let mut due = begun + pause * caller / CALLERS;
            while due < begun + time {
                time::sleep_until(due).await;
                let answer = client.send(call.request(&origin), LIMIT).await?;
                anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
                took.push(due.elapsed());
                due += pause;
            }
            anyhow::Ok(took)
        });
    }
    let mut all = Vec::new();
    while let Some(took) = callers.join_next().await {
        all.extend(took??);
    }
    Ok(Answered(all))
}

//! Hedging: who has not been answered for a while asks another endpoint as well, and takes the answer that begins first.
//!
//! Only what may be done twice is (RFC 9110 §9.2.2), and what is here as a whole. Each request beyond the first needs leave as one that is
//! sent again does. Whoever is outrun is let go of, connection and all: that says nothing of its endpoint.

use std::{future::poll_fn, pin::Pin, task::Poll};

use http::Method;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::attempts::{self, Answered, Failed, Outgoing};
use crate::{balance::Tried, exchange::Exchange, retry::Left, upstream::ServiceUpstream};

/// How an attempt ends that nobody waits for any more, for metrics.
const OUTRUN: &str = "outrun";

type Attempt<'a> = Pin<Box<dyn Future<Output = Answered> + Send + 'a>>;

/// One attempt, or as many at a time as the route's hedging allows.
pub(super) async fn attempt(
    exchange: &Exchange,
    service: &ServiceUpstream,
    tried: &Mutex<Tried>,
    outgoing: Outgoing<'_>,
    left: &mut Left<'_>,
) -> Answered {
    let first = attempts::attempt(exchange, service, tried, outgoing);
    if left.hedge_after().is_none() || !may_be_hedged(exchange, outgoing) {
        return first.await;
    }
    let mut race = Race { running: vec![Box::pin(first) as Attempt<'_>], kept: None };
    while let Some(due) = left.hedge_after().map(|after| Instant::now() + after).filter(|due| *due < outgoing.deadline)
    {
        match timeout_at(due, race.first(left)).await {
            Ok(answered) => return race.over(exchange, service, answered),
            Err(_) => {
                let so_far = *tried.lock();
                let Some(leave) = left.hedge(&service.endpoints, &so_far) else { break };
                race.running.push(Box::pin(async move {
                    let answered = attempts::attempt(exchange, service, tried, outgoing).await;
                    drop(leave);
                    answered
                }));
            }
        }
    }
    let answered = race.first(left).await;
    race.over(exchange, service, answered)
}

fn may_be_hedged(exchange: &Exchange, outgoing: Outgoing<'_>) -> bool {
    let harmless = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE];
    exchange.handshake.is_none() && harmless.contains(&exchange.head.method) && outgoing.body.is_whole()
}

/// How much an end says of the upstream: an answer the most, and what this node alone was the reason for nothing.
fn says(answered: &Answered) -> u8 {
    match answered {
        Ok(_) => 2,
        Err(Failed::Send(_)) => 1,
        Err(_) => 0,
    }
}

/// The attempts of now.
struct Race<'a> {
    running: Vec<Attempt<'a>>,
    /// The best of those that have failed.
    kept: Option<Answered>,
}

impl Race<'_> {
    /// The first answer that is no failure; where all fail the best of what came, an answer where there was one.
    ///
    /// # Cancel safety
    /// Safe: what has come is kept.
    async fn first(&mut self, left: &Left<'_>) -> Answered {
        poll_fn(|cx| {
            let mut n = 0;
            while let Some(attempt) = self.running.get_mut(n) {
                let Poll::Ready(answered) = attempt.as_mut().poll(cx) else {
                    n += 1;
                    continue;
                };
                drop(self.running.swap_remove(n));
                let is_good = answered.as_ref().is_ok_and(|answer| !left.is_failure(answer.status().as_u16()));
                let best = match self.kept.take() {
                    Some(kept) if !is_good && says(&kept) >= says(&answered) => kept,
                    _ => answered,
                };
                if is_good || self.running.is_empty() {
                    return Poll::Ready(best);
                }
                self.kept = Some(best);
            }
            Poll::Pending
        })
        .await
    }

    /// Lets go of all others.
    fn over(self, exchange: &Exchange, service: &ServiceUpstream, answered: Answered) -> Answered {
        self.running.iter().for_each(|_| exchange.shared.metrics.attempt(&service.service.name, OUTRUN));
        answered
    }
}

//! Many calls at the same moment: what a limit is tried by.

use std::{sync::Arc, time::Duration};

use rand::seq::SliceRandom;
use tokio::{
    sync::Barrier,
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    Seed,
    calls::{self, Call},
    client::{CallError, Client},
};

/// A caller that was not told anything certain comes again for so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries of a caller that was told that nothing could be decided: the shape of the load.
const AGAIN: Duration = Duration::from_millis(20);

/// What a caller does once its answer has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Reads it to its end.
    Stays,
    /// Closes the connection at the first event.
    LeavesAtFirstByte,
}

/// What all callers of a burst were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// 200.
    pub admitted: u64,
    /// 429.
    pub refused: u64,
    /// Tries that ended without a decision (503, or a node that was not there) and were made again.
    pub undecided: u64,
}

impl std::ops::AddAssign for Told {
    fn add_assign(&mut self, other: Told) {
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.undecided += other.undecided;
    }
}

/// One caller for each of `calls`, all let go at once, spread over the nodes by the seed. Everybody makes one call, and
/// makes it again only while there is no decision.
///
/// # Errors
/// Somebody was told something else than yes, no, or not decided.
pub async fn burst(
    client: &Client,
    origins: &[String],
    calls: Vec<Call>,
    manner: Manner,
    seed: Seed,
) -> anyhow::Result<Told> {
    let count = calls.len();
    let mut first: Vec<usize> = (0..count).collect();
    first.shuffle(&mut seed.rng("burst"));
    let gate = Arc::new(Barrier::new(count));
    let mut callers = JoinSet::new();
    for (first, call) in first.into_iter().zip(calls) {
        let (client, origins, gate) = (client.clone(), origins.to_vec(), Arc::clone(&gate));
        callers.spawn(async move {
            gate.wait().await;
            until_told(&client, &origins, first, &call, manner).await
        });
    }
    let mut told = Told::default();
    while let Some(done) = callers.join_next().await {
        told += done??;
    }
    Ok(told)
}

async fn until_told(
    client: &Client,
    origins: &[String],
    first: usize,
    call: &Call,
    manner: Manner,
) -> anyhow::Result<Told> {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        let undecided = number as u64;
        match try_once(client, &origins[(first + number) % origins.len()], call, manner).await {
            Ok(200) => return Ok(Told { admitted: 1, undecided, ..Told::default() }),
            Ok(429) => return Ok(Told { refused: 1, undecided, ..Told::default() }),
            Ok(503) | Err(CallError::Broken(_)) if Instant::now() < deadline => time::sleep(AGAIN).await,
            Ok(status) => anyhow::bail!("status {status} after {undecided} tries"),
            Err(error) => anyhow::bail!("{error} after {undecided} tries"),
        }
    }
    unreachable!("a caller's patience ends");
}

/// The status. A stream that was admitted is read to its end, or left.
async fn try_once(client: &Client, origin: &str, call: &Call, manner: Manner) -> Result<u16, CallError> {
    if !call.is_stream() {
        return Ok(client.send(call.request(origin), PATIENCE).await?.status);
    }
    let mut stream = client.open(call.request(origin), PATIENCE).await?;
    let status = stream.status;
    if manner == Manner::LeavesAtFirstByte && status == 200 {
        // Left by dropping it, which closes the connection.
        let _ = stream.next().await;
        return Ok(status);
    }
    let (events, _) = stream.rest().await;
    if status == 200 && !calls::is_complete(call.dialect(), &events) {
        // It was admitted: to make it again would be another call.
        return Err(CallError::TimedOut);
    }
    Ok(status)
}

/// As many calls as `count`, from this one.
pub fn alike(call: &Call, count: usize) -> Vec<Call> {
    vec![call.clone(); count]
}

#[cfg(test)]
mod tests {
    use tollgate_mock_llm::Options;

    use super::*;
    use crate::Provider;

    #[tokio::test]
    async fn everybody_is_told_something_and_those_who_leave_are_seen_to_leave() {
        let provider = Provider::start(Options::default()).await.unwrap();
        let origins = [format!("http://{}", provider.address())];
        let (client, seed) = (Client::new(), Seed(1));
        let send = async |model: &str, manner| {
            let call = Call::chat("k", model).stream().max_tokens(1_000).header("x-mock-output", "1000");
            let call = call.header("x-mock-pace", "1ms");
            burst(&client, &origins, alike(&call, 3), manner, seed).await.unwrap()
        };
        assert_eq!(send("stay", Manner::Stays).await, Told { admitted: 3, ..Told::default() });
        assert_eq!(send("go", Manner::LeavesAtFirstByte).await, Told { admitted: 3, ..Told::default() });
        assert_eq!(send("no-429", Manner::Stays).await, Told { refused: 3, ..Told::default() });
        let models = provider.settled().await.unwrap().models;
        assert_eq!((models["stay"].finished, models["go"].aborted), (3, 3));
    }
}

use tokio::sync::oneshot::Receiver;

use super::*;
use crate::ProposeError;

/// Commands are lines; so are outcomes.
struct Lines;

impl Gate for Lines {
    fn check(&self, _: u64, _: &[u8]) -> Result<Passage, String> {
        Ok(Passage::Shared { records: 1 })
    }

    fn join(&self, commands: &[Bytes]) -> Bytes {
        commands.join(&b'\n').into()
    }

    fn split(&self, outcome: &Bytes, _: usize) -> Option<Vec<Bytes>> {
        Some(outcome.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect())
    }
}

fn queued(command: Bytes, passage: Passage) -> (Queued, Receiver<Outcome>) {
    let (answer, outcome) = oneshot::channel();
    (Queued { request: Asked::Once, command, passage, answer }, outcome)
}

fn shared(command: impl Into<Bytes>, records: usize) -> Queued {
    queued(command.into(), Passage::Shared { records }).0
}

fn sort(pool: &mut Pool, batch: Vec<Queued>, now: Instant) -> Vec<Bytes> {
    pool.sort(batch.into_iter(), &Lines, now).into_iter().map(|one| one.command).collect()
}

#[test]
fn the_first_goes_at_once_and_what_comes_after_it_goes_together() {
    let (mut pool, now) = (Pool::default(), Instant::now());
    assert_eq!(pool.due(), None);
    assert_eq!(sort(&mut pool, vec![shared("a", 1)], now), ["a"]);
    assert!(sort(&mut pool, vec![shared("b", 1)], now + PACE / 5).is_empty());
    assert!(sort(&mut pool, vec![shared("c", 1), shared("d", 1)], now + PACE / 2).is_empty());
    assert_eq!(pool.due(), Some(now + PACE));
    assert_eq!(sort(&mut pool, vec![], now + PACE), ["b\nc\nd"]);
    assert_eq!(pool.due(), None);
    assert_eq!(sort(&mut pool, vec![shared("e", 1)], now + 9 * PACE), ["e"], "nothing is owed for the pause");
    assert!(sort(&mut pool, vec![shared("f", 1)], now + 9 * PACE).is_empty());
}

#[test]
fn what_goes_alone_does_not_wait() {
    let (mut pool, now) = (Pool::default(), Instant::now());
    sort(&mut pool, vec![shared("a", 1)], now);
    let alone = queued("x".into(), Passage::Alone).0;
    assert_eq!(sort(&mut pool, vec![shared("b", 1), alone, shared("c", 1)], now), ["x"]);
    assert_eq!(sort(&mut pool, vec![], now + PACE), ["b\nc"]);
}

#[test]
fn an_entry_takes_no_more_than_its_bounds() {
    let (mut pool, now) = (Pool::default(), Instant::now());
    sort(&mut pool, vec![shared("a", 1)], now);
    let (half, more) = (MAX_RECORDS / 2, MAX_RECORDS / 2 + 1);
    assert_eq!(sort(&mut pool, vec![shared("b", half), shared("c", half), shared("d", 1)], now), ["b\nc"]);
    assert_eq!(sort(&mut pool, vec![shared("e", more), shared("f", half)], now), ["d\ne"]);
    assert_eq!(sort(&mut pool, vec![], now + PACE), ["f"]);
    let large = || Bytes::from(vec![b'x'; MAX_BYTES / 2]);
    let sizes = |entries: Vec<Bytes>| entries.iter().map(Bytes::len).collect::<Vec<_>>();
    let batch = vec![shared(large(), 1), shared(large(), 1), shared("g", 1), shared(vec![b'y'; 2 * MAX_BYTES], 1)];
    assert_eq!(sizes(sort(&mut pool, batch, now + PACE)), [MAX_BYTES + 1, 1], "the largest alone, and then");
    assert_eq!(sizes(sort(&mut pool, vec![], now + 2 * PACE)), [2 * MAX_BYTES]);
}

/// What each of three commands is told when their entry came to `outcome`.
fn told(outcome: Outcome) -> (Vec<Outcome>, ShareStats) {
    let counters = ShareCounters::default();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..3).map(|_| oneshot::channel()).unzip();
    Waiting::Shared(senders).answer(outcome, &Lines, &counters);
    (receivers.into_iter().map(|mut one| one.try_recv().unwrap()).collect(), counters.stats())
}

#[test]
fn each_gets_its_own_outcome() {
    let committed = |outcome: &'static str| Committed { index: 7, outcome: outcome.into() };
    let (told, stats) = told(Attempt::Done(committed("a\nb\nc")));
    let outcomes = told.into_iter().map(|one| if let Attempt::Done(one) = one { Some(one) } else { None });
    assert_eq!(outcomes.collect::<Vec<_>>(), ["a", "b", "c"].map(|outcome| Some(committed(outcome))));
    assert_eq!(stats, ShareStats { entries: 1, commands: 3 });
}

#[test]
fn what_became_of_the_entry_became_of_all_in_it() {
    let (lost, stats) = told(Attempt::NotLeader);
    assert!(lost.iter().all(|one| matches!(one, Attempt::NotLeader)));
    assert_eq!(stats, ShareStats::default());
    assert!(told(Attempt::Unknown("x".into())).0.iter().all(|one| matches!(one, Attempt::Unknown(why) if why == "x")));
    let full = || Attempt::Refused(ProposeError::DiskFull { node: 1 });
    assert!(told(full()).0.iter().all(|one| matches!(one, Attempt::Refused(ProposeError::DiskFull { node: 1 }))));
    let too_few = Attempt::Done(Committed { index: 7, outcome: "a\nb".into() });
    assert!(told(too_few).0.iter().all(|one| matches!(one, Attempt::Unknown(_))), "applied, whatever it said");
}

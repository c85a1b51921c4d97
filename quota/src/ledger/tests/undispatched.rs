//! Requests that a process was granted and never sent out, as its journal shows.

use prost::Message;
use tollgate_proto::state::v1::{JournalEntry, journal_entry};

use super::*;
use crate::{Agent, Durability, journal::Replay};

/// Asks the log for so much.
fn ask(agent: &mut Agent, amount: u64, durability: Durability) -> u64 {
    let charge = crate::Charge { limit: Name::new("tpm"), version: LogIndex(1), key: vec!["alice".into()], amount };
    agent.reserve(&[charge], durability, HOUR, Timestamp(NOON)).0
}

/// What the next process says of the first, whose journal has this much.
fn recover(bench: &mut Bench, entries: &[JournalEntry]) {
    bench.open_as(NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() });
    let mut replay = Replay::default();
    replay.entry(&JournalEntry { kind: Some(journal_entry::Kind::Start(1)) }.encode_to_vec()).unwrap();
    entries.iter().for_each(|entry| replay.entry(&entry.encode_to_vec()).unwrap());
    let (remains, earlier) = (replay.finish().remove(0), bench.ledger.earlier(1)[0]);
    let held = bench.ledger.orphans_of(1, 1);
    let said = remains.with_held(held).recover(earlier.last_terminal).unwrap();
    let records = said.into_iter().map(|it| Record { kind: Some(Kind::Recover(it)) }).collect();
    bench.apply(&Frame { node: 1, incarnation: 2, first_seq: 1, records, ..Frame::default() });
}

#[test]
fn what_the_journal_would_know_and_does_not_is_free_again() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    let mut agent = Agent::new(1, 1);
    let sent = ask(&mut agent, 100, Durability::Journal);
    ask(&mut agent, 200, Durability::Journal); // granted, and the process dies before it is sent out
    let ended = ask(&mut agent, 300, Durability::Quorum);
    let unjournaled = ask(&mut agent, 50, Durability::Memory);
    let frame = agent.next_frame(Timestamp(NOON)).unwrap();
    let granted = bench.apply(&frame);
    assert_eq!(agent.applied(&granted, Timestamp(NOON)).len(), 4);
    for (request, durability) in
        [(sent, Durability::Journal), (ended, Durability::Quorum), (unjournaled, Durability::Memory)]
    {
        agent.dispatch(request, Attribution::default(), durability);
    }
    agent.settle(Settle { request: ended, ..settle(ended, 120, Outcome::Settled) });
    assert_eq!(bench.account("tpm", "alice"), (0, 650, 0, 350));
    recover(&mut bench, &agent.take_entries());
    // As they were reserved: the one in flight, and the one that no journal would know. To the unit: the one that ended.
    assert_eq!(bench.account("tpm", "alice"), (100 + 50 + 120, 0, 0, 730));
    assert_eq!(bench.ledger.open_holds(), 0);
}

#[test]
fn a_tail_that_was_torn_off_has_nothing_that_went_out() {
    let mut bench = Bench::with(&[rule("tpm", 1, 1_000)]);
    let mut agent = Agent::new(1, 1);
    let requests = [100, 200].map(|amount| ask(&mut agent, amount, Durability::Journal));
    let frame = agent.next_frame(Timestamp(NOON)).unwrap();
    let granted = bench.apply(&frame);
    agent.applied(&granted, Timestamp(NOON));
    let durable = agent.dispatch(requests[0], Attribution::default(), Durability::Journal);
    let position = agent.dispatch(requests[1], Attribution::default(), Durability::Journal);
    assert!(position > durable, "the second is not sent out before the journal is durable up to there");
    let mut entries = agent.take_entries();
    entries.truncate(usize::try_from(durable).unwrap());
    recover(&mut bench, &entries);
    assert_eq!(bench.account("tpm", "alice"), (100, 0, 0, 900));
}

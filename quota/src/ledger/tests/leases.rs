//! Leases entry by entry, and random histories of them.

use proptest::{collection::vec, prelude::*};
use tollgate_proto::state::v1::{AccountRow, Refusal, Report, Want};

use super::*;
use crate::ledger::{LeaseView, MAX_NEWS};

impl Bench {
    pub(super) fn want(&mut self, limit: &str, version: u64, key: &str, target: u64, need: u64) -> Option<LeaseView> {
        let want = Want { limit: limit.into(), key: vec![key.into()], limit_version: version, target, need };
        let frame = self.frame(Kind::Want(want));
        self.apply(&frame);
        self.lease(limit, key)
    }

    fn lease(&self, limit: &str, key: &str) -> Option<LeaseView> {
        self.ledger.lease_of(1, 1, limit, &[key.to_owned()])
    }

    /// Spent and returned, held, as of what the node has applied.
    pub(super) fn report(&mut self, lease: LeaseView, spent: u64, returned: u64, held: u64) {
        let LeaseView { account, epoch, generation, .. } = lease;
        let report = Report { account, epoch, generation, spent, returned, overrun: 0, held };
        let frame = self.frame(Kind::Report(report));
        self.apply(&frame);
    }
}

fn tpm() -> Bench {
    Bench::with(&[rule("tpm", 1, 1_000)])
}

#[test]
fn a_grant_leaves_what_central_holds_will_need() {
    let mut bench = tpm();
    let lease = bench.want("tpm", 1, "alice", 10_000, 100).unwrap();
    assert_eq!((lease.granted, lease.central), (800, false), "two requests of 100 stay free");
    assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, 200));
    let again = bench.want("tpm", 1, "alice", 500, 10).unwrap();
    assert_eq!(again.granted, 800, "it has more in hand than it asks for");
}

#[test]
fn an_account_too_small_to_divide_stays_central() {
    let mut bench = tpm();
    let lease = bench.want("tpm", 1, "alice", 900, 600).unwrap();
    assert_eq!((lease.granted, lease.central), (0, true));
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 600)]).granted);
}

#[test]
fn a_report_moves_what_is_spent_and_frees_what_is_returned_once() {
    let mut bench = tpm();
    let lease = bench.want("tpm", 1, "alice", 300, 10).unwrap();
    for _ in 0..2 {
        bench.report(lease, 120, 80, 60);
        assert_eq!(bench.account("tpm", "alice"), (120, 60, 0, 780));
    }
    bench.report(lease, 100, 50, 60);
    assert_eq!(bench.account("tpm", "alice"), (120, 60, 0, 780), "less than was known says nothing");
    bench.report(lease, 300, 80, 0);
    assert_eq!(bench.account("tpm", "alice"), (120, 60, 0, 780), "nor does more than was granted");
    bench.report(LeaseView { epoch: lease.epoch + 1, ..lease }, 300, 0, 0);
    assert_eq!(bench.account("tpm", "alice"), (120, 60, 0, 780), "nor what is of another window");
}

#[test]
fn a_hold_that_is_short_is_refused_only_once_everyone_has_given_back() {
    let mut bench = tpm();
    let lease = bench.want("tpm", 1, "alice", 700, 10).unwrap();
    let outcome = bench.hold(vec![charge("tpm", 1, "alice", 500)]);
    assert_eq!(outcome.refusal(), Refusal::Recalling);
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 500)]).refusal(), Refusal::Recalling);
    bench.report(lease, 100, 0, 300);
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 500)]).refusal(), Refusal::Recalling, "it did not know");
    let lease = bench.lease("tpm", "alice").unwrap();
    assert!(lease.central);
    bench.report(lease, 100, 300, 300);
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 500)]).granted);
    assert_eq!(
        bench.hold(vec![charge("tpm", 1, "alice", 200)]).refusal(),
        Refusal::Exhausted,
        "300 are held by others"
    );
}

#[test]
fn a_refusal_says_whether_only_requests_in_flight_stand_in_the_way() {
    let mut bench = tpm();
    let lease = bench.want("tpm", 1, "alice", 300, 10).unwrap();
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 400)]).granted);
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 400)]).refusal(), Refusal::Recalling);
    let lease = LeaseView { generation: bench.lease("tpm", "alice").unwrap().generation, ..lease };
    bench.report(lease, 50, 0, 250);
    let refused = bench.hold(vec![charge("tpm", 1, "alice", 950)]);
    assert_eq!((refused.refusal(), refused.only_held), (Refusal::Exhausted, true), "50 are used, and 650 are held");
    let refused = bench.hold(vec![charge("tpm", 1, "alice", 951)]);
    assert_eq!((refused.refusal(), refused.only_held), (Refusal::Exhausted, false));
    bench.settle(1, 400, Outcome::Settled);
    let refused = bench.hold(vec![charge("tpm", 1, "alice", 551)]);
    assert_eq!((refused.refusal(), refused.only_held), (Refusal::Exhausted, false), "450 are used");
}

#[test]
fn an_account_that_is_over_calls_back_what_nodes_have_in_hand() {
    let mut bench = tpm();
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 100)]).granted);
    assert!(!bench.want("tpm", 1, "alice", 300, 10).unwrap().central);
    bench.settle(1, 1_100, Outcome::Settled);
    assert!(bench.lease("tpm", "alice").unwrap().central, "1,000 were used beyond what was held");
}

#[test]
fn a_recall_does_not_wait_for_ever() {
    let mut bench = tpm();
    bench.want("tpm", 1, "alice", 700, 10);
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 500)]).refusal(), Refusal::Recalling);
    bench.now += 2 * SECOND;
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 500)]).refusal(), Refusal::Exhausted);
    assert_eq!(bench.hold(vec![charge("tpm", 1, "alice", 1_000)]).refusal(), Refusal::Exhausted);
    assert!(bench.hold(vec![charge("tpm", 1, "alice", 300)]).granted, "what is free is");
}

#[test]
fn what_a_dead_incarnation_had_in_hand_is_nobodys_until_the_window_turns() {
    let mut bench = tpm();
    let lease = bench.want("tpm", 1, "alice", 700, 10).unwrap();
    bench.report(lease, 100, 0, 50);
    bench.open(1, 2);
    assert_eq!(bench.account("tpm", "alice"), (100, 0, 0, 300));
    let late = Frame { incarnation: 1, ..bench.frame(Kind::Report(Report { returned: 600, ..Report::default() })) };
    assert!(bench.apply(&late).fenced);
    bench.now += MINUTE;
    let hold =
        Hold { request: 1, charges: vec![charge("tpm", 1, "alice", 1_000)], hold_for_us: HOUR, ..Hold::default() };
    let record = Record { kind: Some(Kind::Hold(hold)) };
    let frame = Frame { node: 1, incarnation: 2, first_seq: 1, records: vec![record], ..Frame::default() };
    assert!(bench.apply(&frame).holds[0].granted);
    assert_eq!(bench.ledger.leases.slab.len(), 0);
}

#[test]
fn a_lower_and_a_deletion_call_back_and_a_raise_ends_it() {
    let mut bench = tpm();
    let lease = bench.want("tpm", 1, "alice", 700, 10).unwrap();
    bench.set(rule("tpm", 10, 500));
    let lowered = bench.lease("tpm", "alice").unwrap();
    assert_eq!((lowered.central, lowered.granted, lowered.in_force), (true, 700, true));
    assert_eq!(bench.account("tpm", "alice").3, -200);
    bench.report(LeaseView { generation: lowered.generation, ..lease }, 600, 100, 0);
    assert_eq!(bench.account("tpm", "alice"), (600, 0, 0, -100));
    bench.set(rule("tpm", 11, 2_000));
    assert!(!bench.lease("tpm", "alice").unwrap().central);
    bench.remove("tpm", 12);
    let gone = bench.ledger.lease(1, 1, lease.account).unwrap();
    assert_eq!((gone.central, gone.in_force), (true, false));
    bench.set(rule("tpm", 13, 650));
    assert_eq!(bench.account("tpm", "alice"), (600, 0, 0, 50), "as it was left");
}

#[test]
fn news_are_of_everything_since_they_were_taken() {
    let mut bench = tpm();
    assert!(bench.ledger.take_news().all);
    bench.want("tpm", 1, "alice", 100, 1);
    bench.want("tpm", 1, "bob", 100, 1);
    bench.remove("missing", 9);
    let news = bench.ledger.take_news();
    assert_eq!((news.all, news.accounts.contains(&0), news.accounts.contains(&1)), (false, true, true));
    bench.set(rule("other", 10, 5));
    bench.remove("missing", 11);
    assert!(bench.ledger.take_news().all);
    for at in 0..MAX_NEWS + 1 {
        bench.hold(vec![charge("tpm", 1, &at.to_string(), 1)]);
    }
    let news = bench.ledger.take_news();
    assert_eq!((news.all, news.accounts.len()), (true, 0), "news that nobody takes are bounded");
}

#[test]
fn leases_are_bounded_and_a_shared_account_has_none() {
    let mut bench =
        Bench::bounded(Bounds { accounts: 2, holds: 100, leases: 1, ..Bounds::default() }, &[rule("tpm", 1, 1_000)]);
    assert_eq!(bench.want("tpm", 1, "a", 100, 1).unwrap().granted, 100);
    assert_eq!(bench.want("tpm", 1, "b", 100, 1).unwrap().granted, 0);
    assert_eq!(bench.want("tpm", 1, "c", 100, 1), None);
    assert!(bench.hold(vec![charge("tpm", 1, "c", 1_000)]).granted);
}

#[test]
fn rows_of_before_there_were_leases_are_read() {
    let mut bench = tpm();
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    let old = AccountRow { rule: 0, key: "alice".into(), epoch: 1, held: 60, ..AccountRow::default() };
    let rows = bench.ledger.image().into_rows().map(|(key, value)| {
        let value = if key[0] == b'a' { prost::Message::encode_to_vec(&old) } else { value };
        Ok::<_, std::convert::Infallible>((key, value))
    });
    bench.ledger = Ledger::restore(rows.collect::<Vec<_>>()).unwrap();
    assert_eq!(bench.account("tpm", "alice"), (0, 60, 0, 940));
    assert!(bench.want("tpm", 1, "alice", 100, 10).unwrap().granted > 0);
}

proptest! {
    /// Whatever nodes ask for and say, true or not: the sums hold, and a restored ledger goes on as the one it is of.
    #[test]
    fn no_history_of_leases_breaks_the_sums(
        steps in vec((0..9u8, 0..2usize, 0..1_200u64, 0..600u64, 0..600u64, 0..4u32), 1..80)
    ) {
        let mut bench = tpm();
        for (what, key, one, two, three, generation) in steps {
            let key = ["alice", "bob"][key];
            let version = bench.ledger.rules().first().map_or(1, |rule| rule.version.0);
            match what {
                0 | 1 => drop(bench.want("tpm", version, key, one, two / 4)),
                2..=4 => if let Some(lease) = bench.lease("tpm", key) {
                    bench.report(LeaseView { generation, ..lease }, two, three, one);
                },
                5 => drop(bench.hold(vec![charge("tpm", version, key, two)])),
                6 => bench.set(rule("tpm", version + 1, one.max(1))),
                7 => bench.now += if one < 100 { MINUTE } else { SECOND },
                _ => drop(bench.ledger.open(LogIndex(1), Timestamp(bench.now), &NodeOpen { node: 2 + one % 2, incarnation: two, ..NodeOpen::default() }, &mut Changes::new())),
            }
            bench.ledger.audit().unwrap();
            let rows: Vec<_> = bench.ledger.image().into_rows().collect();
            prop_assert!(rows.is_sorted_by(|one, other| one.0 < other.0));
            let restored = Ledger::restore(rows.iter().cloned().map(Ok::<_, std::convert::Infallible>)).unwrap();
            prop_assert_eq!(restored.image().into_rows().collect::<Vec<_>>(), rows);
            restored.audit().unwrap();
            bench.ledger = restored;
        }
    }
}

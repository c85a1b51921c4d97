//! Sliding windows and concurrency, entry by entry, and random histories of them against the plainest oracle.

mod leases;
mod permits;

use proptest::{collection::vec, prelude::*};
use tollgate_proto::state::v1::{Refusal, Report, Standing, Want};

use super::*;

fn sliding(version: u64, capacity: u64) -> Rule {
    Rule { algorithm: Algorithm::Sliding, ..rule("tpm", version, capacity) }
}

fn permits(version: u64, capacity: u64) -> Rule {
    Rule { unit: Unit::Concurrency, ..rule("open", version, capacity) }
}

/// A frame that says nothing: time passes.
fn wait(bench: &mut Bench, us: u64) {
    bench.now += us;
    bench.apply(&Frame::default());
}

fn refused(bench: &mut Bench, amount: u64) -> Standing {
    let mut outcome = bench.hold(vec![charge("tpm", 1, "alice", amount)]);
    assert_eq!(outcome.refusal(), Refusal::Exhausted);
    outcome.standings.remove(0)
}

fn hold(bench: &mut Bench, amount: u64) -> bool {
    bench.hold(vec![charge("tpm", 1, "alice", amount)]).granted
}

#[test]
fn what_was_used_late_in_one_minute_counts_in_the_next() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    bench.now += 59 * SECOND;
    assert!(hold(&mut bench, 100));
    bench.settle(1, 100, Outcome::Settled);
    bench.now += 2 * SECOND;
    assert_eq!(refused(&mut bench, 1).remaining, 0);
    assert_eq!(bench.account("tpm", "alice"), (100, 0, 0, 0));
    wait(&mut bench, 60 * SECOND);
    assert!(hold(&mut bench, 100), "it has aged");
}

#[test]
fn whoever_comes_again_when_told_is_admitted_and_not_before() {
    for amount in [1, 30, 31, 60] {
        let mut bench = Bench::with(&[sliding(1, 60)]);
        for _ in 0..2 {
            assert!(hold(&mut bench, 30));
            bench.now += 7 * SECOND;
        }
        bench.settle(1, 30, Outcome::Settled);
        let told = refused(&mut bench, amount).resets_in_us;
        assert!((MINUTE - 14 * SECOND..MINUTE).contains(&told), "{told}");
        // The clock of the leader may be as slow as this, and is slowed down beside that.
        let aged = told * 99 / 100 * 99 / 100;
        bench.now += aged - 5;
        assert!(refused(&mut bench, amount).resets_in_us <= 12, "{amount}");
        bench.now += 10;
        assert!(hold(&mut bench, amount), "{amount}");
    }
}

#[test]
fn what_a_request_did_not_use_is_fresh_at_once_and_the_rest_counts_from_its_admission() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    assert!(hold(&mut bench, 80));
    bench.now += 30 * SECOND;
    bench.settle(1, 20, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (20, 0, 0, 80));
    assert!(hold(&mut bench, 80));
    bench.settle(2, 0, Outcome::Voided);
    wait(&mut bench, 32 * SECOND);
    assert_eq!(bench.account("tpm", "alice"), (0, 0, 0, -1), "aged, and gone");
    assert_eq!(bench.ledger.accounts.slab.len(), 0);
}

#[test]
fn a_request_that_lasts_longer_than_the_window_has_aged_when_it_ends() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    assert!(hold(&mut bench, 100));
    wait(&mut bench, 62 * SECOND);
    assert!(hold(&mut bench, 100), "as requests in a second may each last longer than that");
    bench.settle(1, 100, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (0, 100, 0, 0));
    bench.settle(2, 40, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (40, 0, 0, 60));
}

#[test]
fn what_was_used_beyond_the_reservation_blocks_for_a_window() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    assert!(hold(&mut bench, 50));
    bench.now += 30 * SECOND;
    bench.settle(1, 90, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (50, 0, 40, 50));
    assert!(!hold(&mut bench, 11) && hold(&mut bench, 10));
    wait(&mut bench, 32 * SECOND);
    assert_eq!(bench.account("tpm", "alice"), (0, 10, 40, 90));
    wait(&mut bench, 30 * SECOND);
    assert!(hold(&mut bench, 100));
}

#[test]
fn a_deadline_consumes_what_is_held_and_a_late_end_corrects_it_while_it_counts() {
    let mut bench = Bench::with(&[Rule { window: Window::Hour, ..sliding(1, 100) }]);
    let short =
        Hold { request: 1, charges: vec![charge("tpm", 1, "alice", 60)], hold_for_us: MINUTE, ..Hold::default() };
    let frame = bench.frame(Kind::Hold(short));
    assert!(bench.apply(&frame).holds[0].granted);
    wait(&mut bench, 2 * MINUTE);
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40));
    bench.settle(1, 10, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (10, 0, 0, 90));
}

#[test]
fn an_edit_between_fixed_and_sliding_gives_nothing_twice() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.now += 50 * SECOND;
    assert!(hold(&mut bench, 30) && hold(&mut bench, 40));
    bench.settle(1, 20, Outcome::Settled);
    bench.set(sliding(2, 100));
    assert_eq!(bench.account("tpm", "alice"), (20, 40, 0, 40), "what is held stays held");
    wait(&mut bench, 50 * SECOND);
    assert_eq!(bench.account("tpm", "alice"), (20, 40, 0, 40), "the clock's minute means nothing any more");
    bench.settle(2, 40, Outcome::Settled);
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40));
    bench.set(Rule { window: Window::Hour, ..sliding(3, 100) });
    wait(&mut bench, 50 * MINUTE);
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40));
    bench.set(rule("tpm", 4, 100));
    assert_eq!(bench.account("tpm", "alice"), (60, 0, 0, 40));
    wait(&mut bench, 2 * MINUTE);
    assert!(bench.hold(vec![charge("tpm", 4, "alice", 100)]).granted);
}

/// Account and window of what was granted to node 1.
fn grant(bench: &mut Bench, limit: &str, target: u64) -> (u32, u64) {
    let want = Want { limit: limit.into(), key: vec!["alice".into()], limit_version: 1, target, need: 1 };
    let frame = bench.frame(Kind::Want(want));
    bench.apply(&frame);
    let view = bench.ledger.lease_of(1, 1, limit, &["alice".to_owned()]).unwrap();
    assert_eq!(view.granted, target);
    (view.account, view.epoch)
}

fn report(bench: &mut Bench, (account, epoch): (u32, u64), spent: u64, returned: u64, held: u64) {
    let report = Report { account, epoch, spent, returned, held, ..Report::default() };
    let frame = bench.frame(Kind::Report(report));
    bench.apply(&frame);
}

#[test]
fn a_limit_of_nothing_admits_nothing() {
    let mut bench = Bench::with(&[sliding(1, 0), permits(1, 0)]);
    for limit in ["tpm", "open"] {
        assert_eq!(bench.hold(vec![charge(limit, 1, "alice", 1)]).refusal(), Refusal::ExceedsLimit);
    }
    assert!(hold(&mut bench, 0));
}

#[test]
fn a_deleted_limit_goes_with_its_last_account_and_made_again_before_that_goes_on() {
    let mut bench = Bench::with(&[sliding(1, 100), permits(1, 5)]);
    assert!(hold(&mut bench, 60) && bench.hold(vec![charge("open", 1, "alice", 1)]).granted);
    bench.remove("tpm", 20);
    bench.remove("open", 21);
    wait(&mut bench, SECOND);
    bench.set(sliding(22, 100));
    bench.set(permits(23, 5));
    assert_eq!((bench.account("tpm", "alice"), bench.account("open", "alice")), ((0, 60, 0, 40), (0, 1, 0, 4)));
    bench.remove("tpm", 30);
    bench.remove("open", 31);
    bench.settle(1, 60, Outcome::Settled);
    bench.settle(2, 0, Outcome::Settled);
    wait(&mut bench, 2 * MINUTE);
    assert_eq!((bench.ledger.rules.slab.len(), bench.ledger.accounts.slab.len()), (0, 0));
}

#[test]
fn a_deleted_limit_that_nobody_used_is_forgotten_at_once() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    bench.remove("tpm", 20);
    assert_eq!(bench.ledger.rules.slab.len(), 0);
}

#[test]
fn a_label_of_an_account_that_is_gone_fits_no_other() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    assert!(hold(&mut bench, 50));
    bench.open(2, 1);
    bench.ledger.begin(Timestamp(bench.now));
    bench.settle(1, 0, Outcome::Voided);
    wait(&mut bench, 1);
    assert_eq!(bench.ledger.accounts.slab.len(), 0);
    let epochs: Vec<u64> = ["bob", "carol"].map(|key| epoch_of(&mut bench, key)).to_vec();
    assert!(epochs[0] != epochs[1] && epochs[0] > 1, "{epochs:?}");
}

fn epoch_of(bench: &mut Bench, key: &str) -> u64 {
    assert!(bench.hold(vec![charge("tpm", 1, key, 1)]).granted);
    bench.ledger.lease_of(9, 9, "tpm", &[key.to_owned()]).unwrap().epoch
}

#[test]
fn a_ledger_that_is_stamped_ages_by_its_stamps_alone() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    bench.ledger.stamp(77);
    assert!(hold(&mut bench, 100));
    wait(&mut bench, HOUR);
    assert!(!hold(&mut bench, 1), "log time jumps");
    bench.ledger.stamp(77 + 62 * SECOND);
    assert!(hold(&mut bench, 100));
    let rows = bench.ledger.image().into_rows().map(Ok::<_, std::convert::Infallible>);
    let restored = Ledger::restore(rows).unwrap();
    assert_eq!(restored.age(), bench.ledger.age());
}

#[test]
fn a_look_at_a_sliding_account_tells_when_all_is_fresh() {
    let mut bench = Bench::with(&[sliding(1, 100)]);
    assert!(hold(&mut bench, 60));
    let look = |later| bench.ledger.peek(Timestamp(bench.now + later), "tpm", &["alice".to_owned()]).unwrap();
    assert_eq!(look(0).remaining, 40);
    let resets = u64::try_from(look(0).resets_in.as_micros()).unwrap();
    assert_eq!((look(resets - 1).remaining, look(resets).remaining), (40, 100));
    let page = bench.ledger.accounts(Timestamp(bench.now + SECOND), &show::Query::default());
    let view = &page.accounts[0];
    assert_eq!((view.window_start.0, view.window_end.0), (bench.now + SECOND - MINUTE, bench.now + SECOND));
}

#[test]
fn the_greatest_request_of_a_window_ago_is_forgotten() {
    let mut bench = Bench::with(&[sliding(1, 1_000)]);
    assert!(hold(&mut bench, 600));
    bench.settle(1, 1, Outcome::Settled);
    wait(&mut bench, 30 * SECOND);
    assert!(hold(&mut bench, 10));
    assert_eq!(bench.ledger.accounts.get(0).unwrap().ask, 600);
    wait(&mut bench, 40 * SECOND);
    assert!(hold(&mut bench, 10));
    assert_eq!(bench.ledger.accounts.get(0).unwrap().ask, 10);
}

/// One request, as the oracle knows it: when, how much counts, open.
type Taken = (u64, u64, bool);

proptest! {
    /// The plainest oracle: a list of what was admitted when. No window of that length holds more than the limit; whoever
    /// comes again when told is admitted; a restored ledger goes on as the one it is of.
    #[test]
    fn no_history_puts_more_than_the_limit_into_any_window(
        steps in vec((0..10u8, 0..400_000u64, 1..60u64, any::<prop::sample::Index>()), 1..120)
    ) {
        const LIMIT: u64 = 100;
        let mut bench = Bench::with(&[Rule { window: Window::Second, ..sliding(1, LIMIT) }, permits(1, 3)]);
        let mut taken: Vec<Taken> = Vec::new();
        for (what, passes, amount, pick) in steps {
            bench.now += passes / 3;
            match what {
                0..=4 => {
                    let charges = vec![charge("tpm", 1, "alice", amount), charge("open", 1, "alice", 1)];
                    let said = bench.hold(charges);
                    let request = usize::try_from(bench.request).unwrap();
                    taken.resize(request, (0, 0, false));
                    if said.granted {
                        taken[request - 1] = (bench.now, amount, true);
                    } else if said.refused_by == 0 && said.standings[0].resets_in_us < SECOND / 2 {
                        bench.now += said.standings[0].resets_in_us;
                        prop_assert!(bench.hold(vec![charge("tpm", 1, "alice", amount)]).granted);
                        taken.resize(request + 1, (bench.now, amount, false));
                        bench.settle(request as u64 + 1, amount, Outcome::Settled);
                    }
                }
                5..=8 if !taken.is_empty() => {
                    let at = pick.index(taken.len());
                    if std::mem::take(&mut taken[at].2) {
                        let used = amount.min(taken[at].1);
                        taken[at].1 = used;
                        bench.settle(at as u64 + 1, used, Outcome::Settled);
                    }
                }
                _ => {
                    let rows: Vec<_> = bench.ledger.image().into_rows().collect();
                    let restored = Ledger::restore(rows.iter().cloned().map(Ok::<_, std::convert::Infallible>)).unwrap();
                    prop_assert_eq!(restored.image().into_rows().collect::<Vec<_>>(), rows);
                    bench.ledger = restored;
                }
            }
            prop_assert!(taken.iter().filter(|(.., open)| *open).count() <= 3);
            for (begin, ..) in &taken {
                let within = taken.iter().filter(|(at, ..)| (*begin..begin + SECOND).contains(at));
                prop_assert!(within.map(|(_, amount, _)| amount).sum::<u64>() <= LIMIT);
            }
        }
    }
}

#[test]
fn a_reset_forgives_what_counts_in_a_sliding_window_and_nothing_that_is_held() {
    use tollgate_proto::state::v1::LimitReset;
    let mut bench = Bench::with(&[sliding(1, 100)]);
    assert!(hold(&mut bench, 60) && hold(&mut bench, 30));
    bench.settle(1, 60, Outcome::Settled);
    let reset = LimitReset { limit: "tpm".into(), key: vec!["alice".into()], ..LimitReset::default() };
    let outcome = bench.ledger.reset(Timestamp(bench.now), &reset, &mut Changes::new());
    assert_eq!((outcome.before.unwrap().used, outcome.after.unwrap().used), (60, 0));
    assert_eq!(bench.account("tpm", "alice"), (0, 30, 0, 70));
    bench.ledger.audit().unwrap();
    assert!(hold(&mut bench, 70) && !hold(&mut bench, 1));
}

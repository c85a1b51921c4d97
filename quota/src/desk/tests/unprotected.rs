//! Limits that say `whenUnavailable: allow`.

use super::{leases::*, *};
use crate::ledger::Unprotected;

/// Attempts that fail for longer than any test lasts.
const AWAY: [Fault; 1_000] = [Fault::Unreachable; 1_000];

async fn ask(desk: &Desk, charges: Vec<Charge>, allowed: &[bool]) -> Result<Reservation, ReserveError> {
    let by = Instant::now() + Duration::from_secs(10);
    desk.reserve_or_allow(charges, allowed, Durability::Journal, by, Duration::from_secs(600), None).await
}

fn without(reservation: &Reservation) -> Vec<String> {
    reservation.unprotected().map(str::to_owned).collect()
}

fn unprotected(log: &Log) -> Vec<(String, Unprotected)> {
    let all = log.ledger.lock().unprotected();
    all.into_iter().map(|(limit, it)| (limit.to_string(), it)).collect()
}

#[tokio::test(start_paused = true)]
async fn nobody_to_ask_is_known_after_a_while_and_then_at_once() {
    let log = Log::with_limit(1_000);
    let (desk, tracker) = leasing(&log, 1);
    log.fail(&AWAY);
    let begun = Instant::now();
    let first = ask(&desk, charges(10), &[true]).await.unwrap();
    assert_eq!((without(&first), begun.elapsed().as_secs()), (vec!["tpm".to_owned()], 4));
    let begun = Instant::now();
    let next = ask(&desk, charges(20), &[true]).await.unwrap();
    assert_eq!((without(&next).len(), begun.elapsed()), (1, Duration::ZERO), "it is known by then");
    let denied = ask(&desk, charges(10), &[false]).await.unwrap_err();
    assert!(matches!(denied, ReserveError::Unavailable(Unavailable::Deadline)), "{denied:?}");
    settle(first, 7);
    settle(next, 20);
    log.faults.lock().clear();
    until(|| log.used.lock().len() == 2).await;
    let counted = Unprotected { requests: 2, units: 27 };
    assert_eq!(unprotected(&log), [("tpm".to_owned(), counted)], "counted apart");
    assert_eq!(log.alice(), (0, 0, 0), "and in no account");
    let decided = ask(&desk, charges(10), &[true]).await.unwrap();
    assert_eq!(without(&decided), Vec::<String>::new(), "as soon as somebody answers the limit is there again");
    drop(decided);
    assert_eq!((stopped(&desk, &tracker).await, desk.stats().unprotected), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn what_leases_cover_is_drawn_first() {
    let log = Log::with_limit(1_000);
    let (desk, tracker) = leasing(&log, 1);
    let used = warm(&desk).await;
    until(|| log.alice() == (used, 0, 0)).await;
    let in_hand = leased(&log);
    assert!(in_hand > 10);
    log.fail(&AWAY);
    let covered = ask(&desk, charges(in_hand - 5), &[true]).await.unwrap();
    assert_eq!(without(&covered), Vec::<String>::new(), "{in_hand}");
    let beyond = ask(&desk, charges(10), &[true]).await.unwrap();
    let rest = ask(&desk, charges(5), &[true]).await.unwrap();
    assert_eq!((without(&beyond).len(), without(&rest).len()), (1, 0), "the lease covers what it can still");
    settle(beyond, 10);
    settle(rest, 5);
    settle(covered, in_hand - 5);
    log.faults.lock().clear();
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!(log.alice(), (used + in_hand, 0, 0));
    assert_eq!(unprotected(&log)[0].1, Unprotected { requests: 1, units: 10 });
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_says_no_or_not_yet_is_believed() {
    let log = Log::with_limit(1_000);
    let ((one, tracker), (other, _other)) = (leasing(&log, 1), leasing(&log, 2));
    let used = warm(&one).await + warm(&other).await;
    let no = ask(&one, charges(1_001), &[true]).await.unwrap_err();
    assert!(matches!(no, ReserveError::ExceedsLimit { .. }), "{no:?}");
    log.followers.lock().pop(); // it applies nothing any more, and so gives nothing back
    let not_yet = ask(&one, charges(1_000 - used), &[true]).await.unwrap_err();
    assert!(matches!(not_yet, ReserveError::Unavailable(Unavailable::Deadline)), "{not_yet:?}");
    assert_eq!((stopped(&one, &tracker).await, one.stats().unprotected), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_takes_nothing_is_there_all_the_same() {
    let log = Log::with_limit(1_000);
    let (desk, tracker) = leasing(&log, 1);
    log.fail(&[Fault::Refused; 1_000]);
    let full = ask(&desk, charges(1), &[true]).await.unwrap_err();
    assert!(matches!(full, ReserveError::Unavailable(Unavailable::Deadline)), "{full:?}");
    log.faults.lock().clear();
    assert_eq!((stopped(&desk, &tracker).await, desk.stats().unprotected), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn one_limit_that_denies_is_enough() {
    let log = Log::with_limit(1_000);
    let mut second = log.ledger.lock().rules()[0].clone();
    second.limit = Name::new("rpm");
    second.unit = Unit::Requests;
    log.ledger.lock().set_rule(Timestamp(0), second, &mut Changes::new());
    let (desk, tracker) = leasing(&log, 1);
    let both = || {
        let rpm = Charge { limit: Name::new("rpm"), amount: 1, ..charges(1)[0].clone() };
        vec![charges(10)[0].clone(), rpm]
    };
    log.fail(&AWAY);
    for allowed in [[true, false], [false, true]] {
        let denied = ask(&desk, both(), &allowed).await.unwrap_err();
        assert!(matches!(denied, ReserveError::Unavailable(Unavailable::Deadline)), "{denied:?}");
    }
    let mut twice = both();
    twice[1].limit = Name::new("tpm");
    let malformed = ask(&desk, twice, &[true, true]).await.unwrap_err();
    assert!(matches!(malformed, ReserveError::Unavailable(Unavailable::Deadline)), "{malformed:?}");
    let open = ask(&desk, both(), &[true, true]).await.unwrap();
    assert_eq!(without(&open), ["tpm", "rpm"]);
    drop(open);
    log.faults.lock().clear();
    assert_eq!(stopped(&desk, &tracker).await, 0);
    assert_eq!((log.alice(), unprotected(&log).len()), ((0, 0, 0), 0), "what was given back counts nowhere");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_lost_is_no_silence() {
    let log = Log::with_limit(1_000);
    let (desk, _tracker) = leasing(&log, 1);
    log.fail(&[Fault::Stuck]);
    // Two seconds of it, then it is proposed again and answered.
    let begun = Instant::now();
    let late = ask(&desk, charges(10), &[true]).await.unwrap();
    assert_eq!((without(&late).len(), begun.elapsed().as_secs()), (0, 2));
}

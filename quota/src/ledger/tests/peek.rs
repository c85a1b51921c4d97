//! Looking at an account tells what the next hold will meet, and changes nothing.

use std::time::Duration;

use super::*;

#[test]
fn a_look_tells_what_the_next_hold_will_meet() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    let alice = ["alice".to_owned()];
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    let seen = bench.ledger.peek(Timestamp(bench.now + 5 * SECOND), "tpm", &alice).unwrap();
    assert_eq!((seen.capacity, seen.remaining, seen.resets_in), (100, 40, Duration::from_secs(55)));
    let untouched = bench.ledger.peek(Timestamp(bench.now), "tpm", &["bob".to_owned()]).unwrap();
    assert_eq!(untouched.remaining, 100);
    bench.settle(1, 110, Outcome::Settled);
    assert_eq!(
        bench.ledger.peek(Timestamp(bench.now), "tpm", &alice).unwrap().remaining,
        0,
        "what was overrun is owed"
    );
    // A clock that is behind the log does not turn a window back.
    assert_eq!(bench.ledger.peek(Timestamp(0), "tpm", &alice).unwrap().resets_in, Duration::from_secs(60));
}

#[test]
fn a_window_that_has_passed_is_seen_as_new_before_the_log_says_so() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    bench.hold(vec![charge("tpm", 1, "alice", 60)]);
    let later = Timestamp(bench.now + MINUTE + SECOND);
    let seen = bench.ledger.peek(later, "tpm", &["alice".to_owned()]).unwrap();
    assert_eq!((seen.remaining, seen.resets_in), (100, Duration::from_secs(59)));
    assert_eq!(bench.account("tpm", "alice"), (0, 60, 0, 40), "nothing was turned by looking");
}

#[test]
fn what_is_not_there_is_not_seen() {
    let mut bench = Bench::with(&[rule("tpm", 1, 100)]);
    let peek = |bench: &Bench, limit: &str, key: &[&str]| {
        let key: Vec<String> = key.iter().map(|it| (*it).to_owned()).collect();
        bench.ledger.peek(Timestamp(bench.now), limit, &key)
    };
    assert_eq!(peek(&bench, "other", &["alice"]), None);
    assert_eq!(peek(&bench, "tpm", &[]), None);
    assert_eq!(peek(&bench, "tpm", &["a\0b"]), None);
    bench.remove("tpm", 200);
    assert_eq!(peek(&bench, "tpm", &["alice"]), None);
}

//! Requests that ask once more where others hold what they are short of.

use super::*;

#[test]
fn who_asks_once_more_exceeds_no_limit_and_loses_no_unit() {
    let mut troubled = Report::default();
    for seed in 0..seeds(12) {
        match run(Plan { lingers: true, ..Plan::chaos(seed) }) {
            Ok(report) => troubled.add(&report),
            Err(failure) => panic!("{failure:#?}"),
        }
    }
    assert!(troubled.refusals > 100 && troubled.waited > 100, "{troubled:?}");
}

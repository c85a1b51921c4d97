//! `tollgate ledger verify --dir`, of a directory whose node does not run.

use std::{
    fs,
    process::{Command, Output},
};

use tollgate_billing::ledger::{Keeper, SEGMENT_BYTES};
use tollgate_proto::state::v1::LedgerRow;

fn verify(dir: &tempfile::TempDir) -> (Option<i32>, String) {
    let of = dir.path().to_str().expect("a temporary directory has a plain name");
    let args = ["ledger", "verify", "--dir", of, "-o", "json"];
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_tollgate")).args(args).output().expect("the program starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn what_is_missing_at_the_end_is_named_and_is_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Keeper::new(dir.path().join("ledger"));
    let long = "x".repeat(100_000);
    let row =
        |n: u64| LedgerRow { seq: n << 16, request_id: format!("r-{n}"), route: long.clone(), ..LedgerRow::default() };
    let rows = SEGMENT_BYTES / 100_000 + 10;
    for n in 1..=rows {
        keeper.record([(row(n), None)], &mut Vec::new());
    }
    keeper.sync().unwrap();
    drop(keeper);
    assert_eq!(verify(&dir), (Some(0), String::new()));

    let last = dir.path().join("ledger/000000000002.seg");
    let bytes = fs::read(&last).unwrap();
    let first = u32::from_le_bytes(bytes[52..56].try_into().unwrap());
    let end = 52 + 8 + usize::try_from(first).unwrap();
    assert!(end < bytes.len());
    fs::write(&last, &bytes[..end]).unwrap();
    let (code, told) = verify(&dir);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains(&format!("segment 2 of the ledger is broken at byte {end}")), "{told}");
    let goes_to = format!("the ledger was synced to row {}, byte {} of segment 2", rows << 16, bytes.len());
    assert!(told.contains(&goes_to), "{told}");

    fs::remove_file(&last).unwrap();
    let (code, told) = verify(&dir);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("segment 2 is not there: it was removed") && told.contains(&goes_to), "{told}");
    fs::write(&last, bytes).unwrap();
    assert_eq!(verify(&dir).0, Some(0));
}

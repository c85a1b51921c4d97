use std::path::Path;

use tollgate_model::{Month, Timestamp};
use tollgate_proto::{state::v1::LedgerCost, v1::PriceMatch};
use tollgate_storage::sim::{Faults, SimDisk};

use super::*;
use crate::{
    export::Source,
    ledger::{Verified, fixture::price},
};

const DIR: &str = "/ledger";

fn keeper(disk: &SimDisk) -> Keeper {
    Keeper::on(Arc::new(disk.clone()), DIR.into())
}

/// The next process, whose state is as this one's.
fn restarted(disk: &SimDisk, before: &Keeper) -> Keeper {
    let next = keeper(disk);
    next.restore(before.look(State::clone));
    next
}

fn id(index: u64) -> String {
    let ms = 1_800_000_000_000 + index;
    format!("{:08x}-{:04x}-7abc-8abc-{index:012x}", ms >> 16, ms & 0xffff)
}

fn row(index: u64, n: u64) -> LedgerRow {
    let tokens = index % 7;
    LedgerRow {
        seq: (index << 16) + n,
        request_id: id(index * 10 + n),
        admitted_us: (1_800_000_000_000 + index) * 1_000,
        settled_us: (1_800_000_000_000 + index) * 1_000,
        month: Month::parse("2027-01").unwrap().number(),
        tenant: "acme".into(),
        input_tokens: tokens,
        currency: "USD".into(),
        price: "a".into(),
        price_version: 3,
        amount: (i128::from(tokens) * 500_000_000_000).to_be_bytes().to_vec(),
        ..LedgerRow::default()
    }
}

/// Some rows for each of these entries.
fn record(keeper: &Keeper, entries: std::ops::RangeInclusive<u64>) -> Vec<LedgerRow> {
    let mut all = Vec::new();
    for index in entries {
        let named = keeper.look(|state| state.names("a", 3));
        let rows = [(row(index, 0), (!named).then(|| price("0.5"))), (row(index, 1), None)];
        all.extend(rows.iter().map(|(row, _)| row.clone()));
        keeper.record(rows, &mut Changes::new());
    }
    all
}

/// Segments are small.
fn small(keeper: &Keeper) {
    keeper.restore(State::with(crate::ledger::chain::tests::of(1_000)));
}

fn all(keeper: &Keeper, page: usize) -> Vec<LedgerRow> {
    let mut all: Vec<LedgerRow> = Vec::new();
    loop {
        let rows = keeper.rows(all.last().map_or(0, |row| row.seq), page).unwrap();
        if rows.is_empty() {
            return all;
        }
        all.extend(rows);
    }
}

fn ok(verified: &Verified, rows: usize) {
    assert_eq!(verified.problems, [] as [&str; 0]);
    assert_eq!(verified.rows, rows as u64);
}

#[test]
fn what_was_applied_is_read_at_once_in_pages_of_any_size() {
    let keeper = keeper(&SimDisk::default());
    small(&keeper);
    assert_eq!(all(&keeper, 10), []);
    let mut recorded = record(&keeper, 1..=40);
    for page in [1, 3, 1_000] {
        assert_eq!(all(&keeper, page), recorded);
    }
    assert_eq!(keeper.last(), recorded.last().unwrap().seq);
    recorded.extend(record(&keeper, 41..=60));
    assert_eq!(all(&keeper, 7), recorded, "a reader that had come to the end goes on");
    assert_eq!(keeper.rows(recorded[5].seq, 3).unwrap(), recorded[6..9]);
    ok(&keeper.verify().unwrap(), recorded.len());
}

#[test]
fn a_price_of_some_megabytes_is_read_as_any_other() {
    let (disk, mut large) = (SimDisk::default(), price("0.5"));
    let spec = large.price.as_mut().and_then(|price| price.spec.as_mut()).unwrap();
    let models = (0..60_000).map(|n| format!("{n:0>250}")).collect();
    spec.r#match = Some(PriceMatch { models, ..PriceMatch::default() });
    let keeper = keeper(&disk);
    keeper.record([(row(1, 0), Some(large)), (row(1, 1), None)], &mut Changes::new());
    assert_eq!(all(&keeper, 10).len(), 2);
    assert_eq!(keeper.find(&id(11)).unwrap()[0].row.seq, (1 << 16) + 1);
    ok(&keeper.verify().unwrap(), 2);
    ok(&restarted(&disk, &keeper).verify().unwrap(), 2);
}

#[test]
fn a_time_is_found_and_nothing_after_it_is_left_out() {
    let keeper = keeper(&SimDisk::default());
    small(&keeper);
    let recorded = record(&keeper, 1..=60);
    assert_eq!(keeper.before(Timestamp(0)).unwrap(), 0);
    for settled in recorded.iter().map(|row| row.settled_us) {
        let before = keeper.before(Timestamp(settled)).unwrap();
        let first = recorded.iter().find(|row| row.settled_us >= settled).unwrap();
        assert!(before < first.seq);
        let skipped = recorded.iter().filter(|row| row.seq > before && row.seq < first.seq).count();
        assert!(skipped < 20, "{skipped} rows are read for nothing");
    }
}

#[test]
fn a_request_is_found_where_it_is_written() {
    let disk = SimDisk::default();
    let keeper = keeper(&disk);
    small(&keeper);
    let recorded = record(&keeper, 1..=60);
    for row in &recorded {
        let found = keeper.find(&row.request_id).unwrap();
        assert_eq!(found.iter().map(|found| &found.row).collect::<Vec<_>>(), [row]);
        let bytes = disk.bytes(&Path::new(DIR).join(format!("{:012}.seg", found[0].segment))).unwrap();
        let record = &bytes[usize::try_from(found[0].offset).unwrap() + 8..];
        assert!(record.windows(36).position(|text| text == row.request_id.as_bytes()).unwrap() < 30);
    }
    for nobody in [id(99_999), String::new(), "not a request".to_owned(), "é".repeat(18)] {
        assert_eq!(keeper.find(&nobody).unwrap(), []);
    }
}

#[test]
fn the_next_process_goes_on_and_what_was_not_synced_comes_again() {
    let disk = SimDisk::default();
    let first = keeper(&disk);
    small(&first);
    let mut recorded = record(&first, 1..=20);
    first.sync().unwrap();
    let durable = first.look(State::clone);
    record(&first, 21..=30);
    first.write().unwrap();
    drop(first);
    disk.power_cut(7);
    let next = keeper(&disk);
    next.restore(durable);
    recorded.extend(record(&next, 21..=30));
    assert_eq!(all(&next, 5), recorded);
    ok(&next.verify().unwrap(), recorded.len());
}

#[test]
fn what_is_missing_is_told_and_read_once_it_is_back() {
    let (disk, other) = (SimDisk::default(), SimDisk::default());
    let whole = keeper(&other);
    small(&whole);
    let mut recorded = record(&whole, 1..=40);
    let wiped = restarted(&disk, &whole);
    let error = wiped.rows(0, 1).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(error.to_string().contains("still being fetched"), "{error}");
    assert_eq!(wiped.verify().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    wiped.sync().unwrap();
    let missing = wiped.missing().unwrap();
    let has = |state: &State| state.chain().complete().count() + usize::from(state.chain().open().bytes > 0);
    assert_eq!(missing.len(), wiped.look(has));
    // Meanwhile the log goes on, on both.
    recorded.extend(record(&whole, 41..=45));
    record(&wiped, 41..=45);
    for missing in wiped.missing().unwrap() {
        let bytes = usize::try_from(missing.extent.bytes).unwrap();
        wiped.put(&missing, &whole.read(missing.extent.segment, 0, bytes).unwrap()).unwrap();
    }
    assert_eq!(wiped.missing().unwrap(), []);
    recorded.extend(record(&whole, 46..=50));
    record(&wiped, 46..=50);
    assert_eq!(all(&wiped, 9), recorded);
    for file in 1..=whole.look(has) as u64 {
        assert_eq!(whole.read(file, 0, 1 << 20).unwrap(), wiped.read(file, 0, 1 << 20).unwrap());
    }
}

#[test]
fn on_a_full_disk_rows_wait_and_nothing_is_called_durable() {
    let disk = SimDisk::default();
    let keeper = keeper(&disk);
    small(&keeper);
    let mut recorded = record(&keeper, 1..=3);
    keeper.sync().unwrap();
    disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
    recorded.extend(record(&keeper, 4..=9));
    assert_eq!(keeper.write().unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(keeper.sync().unwrap_err().kind(), io::ErrorKind::StorageFull);
    recorded.extend(record(&keeper, 10..=12));
    disk.set_faults(Faults::default());
    keeper.sync().unwrap();
    assert_eq!(all(&keeper, 100), recorded);
    ok(&keeper.verify().unwrap(), recorded.len());
}

/// What was let go while there was no space is a gap, and the log is kept until it is closed.
#[test]
fn what_was_let_go_is_missed() {
    let (disk, other) = (SimDisk::default(), SimDisk::default());
    let (keeper, whole) = (keeper(&disk), super::tests::keeper(&other));
    small(&keeper);
    small(&whole);
    record(&keeper, 1..=3);
    keeper.sync().unwrap();
    record(&whole, 1..=9);
    keeper.pending.lock().bytes = MAX_PENDING_BYTES;
    record(&keeper, 4..=4);
    record(&keeper, 5..=9);
    let error = keeper.sync().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    for missing in keeper.missing().unwrap() {
        let bytes = usize::try_from(missing.extent.bytes).unwrap();
        keeper.put(&missing, &whole.read(missing.extent.segment, 0, bytes).unwrap()).unwrap();
    }
    keeper.sync().unwrap();
    assert_eq!(all(&keeper, 100), all(&whole, 100));
}

#[test]
fn verify_names_the_segment_and_the_place_and_what_does_not_add_up() {
    let disk = SimDisk::default();
    let keeper = keeper(&disk);
    small(&keeper);
    let recorded = record(&keeper, 1..=40);
    keeper.sync().unwrap();
    let path = Path::new(DIR).join("000000000002.seg");
    let good = disk.bytes(&path).unwrap();
    let file = disk.file(&path, false).unwrap();
    file.write_at(&[good[100] ^ 1], 100).unwrap();
    let verified = keeper.verify().unwrap();
    assert_eq!(verified.broken, [2]);
    assert!(verified.problems[0].starts_with("segment 2 of the ledger is broken at byte "), "{:?}", verified.problems);
    file.write_at(&[good[100]], 100).unwrap();
    ok(&keeper.verify().unwrap(), recorded.len());

    keeper.record([(LedgerRow { amount: 5_i128.to_be_bytes().to_vec(), ..row(41, 0) }, None)], &mut Changes::new());
    keeper.record([(LedgerRow { price: "b".into(), ..row(42, 0) }, None)], &mut Changes::new());
    let problems = keeper.verify().unwrap().problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("amounts to 0.000000000005, and by its price a@3 it is 3"), "{}", problems[0]);
    assert!(problems[1].contains("names the price b@3, which is not in the ledger"), "{}", problems[1]);
    // Whoever prices the month again finds the same, in the same words.
    let repriced = keeper.reprice("acme", Month::parse("2027-01").unwrap()).unwrap().unwrap();
    assert_eq!(repriced.problems[..2], problems);
    assert_eq!(repriced.rows, recorded.len() as u64 + 2);
    let cost = LedgerCost { price: "a".into(), price_version: 3, currency: "USD".into(), ..LedgerCost::default() };
    let other = LedgerCost { provider: "first".into(), price: "b".into(), input_tokens: 2, ..cost.clone() };
    keeper.record(
        [(LedgerRow { provider: "own".into(), costs: vec![other, cost], ..row(43, 0) }, None)],
        &mut Changes::new(),
    );
    let problems = keeper.verify().unwrap().problems;
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(problems[2].contains("attempt 1 at first, names the price b@3, which is not"), "{}", problems[2]);
    assert!(problems[3].contains("attempt 2 at own, amounts to 0, and by its price a@3 it is 0.5"), "{}", problems[3]);
    // A row that the books never heard of.
    let mut state = keeper.look(State::clone);
    state.forget_books();
    let amiss = restarted_with(&disk, state);
    let problems = amiss.verify().unwrap().problems;
    assert!(problems.iter().any(|it| it.contains("and the books say 0")), "{problems:?}");
}

#[test]
fn what_was_written_off_is_checked_with_the_rows() {
    let disk = SimDisk::default();
    let keeper = keeper(&disk);
    small(&keeper);
    let mut recorded = record(&keeper, 1..=3);
    let loss = |log_index: u64, amount: i128, currency: &str| LedgerLoss {
        tenant: "acme".into(),
        currency: currency.into(),
        amount: amount.to_be_bytes().to_vec(),
        node: 2,
        log_index,
        ..LedgerLoss::default()
    };
    keeper.record_losses(vec![loss(3, 70, "USD"), loss(3, 5, "USD")], &mut Changes::new());
    recorded.extend(record(&keeper, 4..=40));
    keeper.sync().unwrap();
    let verified = keeper.verify().unwrap();
    ok(&verified, recorded.len());
    assert_eq!(all(&keeper, 9), recorded, "they are no rows");
    let usd = tollgate_model::Currency::parse("USD").unwrap();
    assert_eq!(verified.books.balance(&crate::ledger::Account::Loss, usd), tollgate_model::Money(75));
    assert_eq!(verified.books.trial(), Ok(()));
    let restarted = restarted(&disk, &keeper);
    ok(&restarted.verify().unwrap(), recorded.len());
    keeper.record_losses(vec![loss(41, -1, "USD"), loss(42, 1, "")], &mut Changes::new());
    let problems = keeper.verify().unwrap().problems;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("what entry 41 wrote off of node 2 has no amount"), "{}", problems[0]);
}

mod archiving;
mod head;

fn restarted_with(disk: &SimDisk, state: State) -> Keeper {
    let next = keeper(disk);
    next.restore(state);
    next
}

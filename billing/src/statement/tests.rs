use std::sync::Arc;

use tollgate_model::{LogIndex, Month, TimeZone, Timestamp, secret::ClusterKey};
use tollgate_proto::state::v1::{LedgerOutcome, LedgerRow, UsageSource};
use tollgate_storage::sim::SimDisk;

use super::*;
use crate::{
    Came, Changes,
    export::{COLUMNS, CursorError, EVENTS, Encode as _, ExportError, Source, Text, TextFormat, event},
    ledger::{Keeper, fixture::price},
    period::Terms,
};

/// The row that was late.
const LATE: u64 = 4;
const TENANTS: [&str; 2] = ["acme", "globex"];
const MODELS: [&str; 4] = ["m", "a,\"b\"", "=1+1", "'=1+1"];

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn key() -> ClusterKey {
    ClusterKey::generate().0
}

fn fingerprint(key: &ClusterKey) -> Fingerprint {
    PublicKey(key.statement_key()).fingerprint()
}

fn row(n: u64, admitted: Timestamp, settled: Timestamp) -> LedgerRow {
    let tokens = n % 7;
    let is_free = n.is_multiple_of(5);
    LedgerRow {
        seq: n << 16,
        request_id: format!("00000000-0000-7000-8000-{n:012x}"),
        admitted_us: admitted.0,
        settled_us: settled.0,
        tenant: TENANTS[usize::from(n.is_multiple_of(3))].into(),
        consumer: "alice".into(),
        route: "chat".into(),
        provider: "mock".into(),
        model: MODELS[usize::try_from(n % 4).unwrap()].into(),
        status: 200,
        outcome: LedgerOutcome::Settled.into(),
        usage_source: UsageSource::Provider.into(),
        input_tokens: tokens,
        output_tokens: n,
        currency: "USD".into(),
        price: if is_free { String::new() } else { "a".into() },
        price_version: if is_free { 0 } else { 3 },
        amount: if is_free { Vec::new() } else { (i128::from(tokens) * 1_100_000_000).to_be_bytes().to_vec() },
        node: 1,
        zone: "az-a".into(),
        ..LedgerRow::default()
    }
}

/// A ledger with so many rows of November, one of which was late for October, and then November closed.
fn ledger(count: u64) -> Arc<Keeper> {
    let keeper = Keeper::on(Arc::new(SimDisk::default()), "/ledger".into());
    for tenant in TENANTS {
        keeper
            .change_terms(tenant, Some(Terms { zone: TimeZone::parse("Europe/Berlin").unwrap(), ..Terms::default() }));
    }
    let begin = at("2026-11-01T00:00:00Z").0;
    for n in 1..=count {
        let later = if n < LATE { 0 } else { 5 * 24 * 3_600_000_000 };
        let now = Timestamp(begin + later + n * 1_000_003);
        let admitted = if n == LATE { at("2026-10-05T00:00:00Z") } else { Timestamp(now.0 - 1_000) };
        let named = keeper.look(|state| state.names("a", 3));
        let row = row(n, admitted, now);
        let price = (!named && row.price == "a").then(|| price("0.0011"));
        keeper.record([(row, price)], &mut Changes::new());
    }
    let end = at("2026-12-01T23:00:00Z");
    keeper.close_months(Came { at: LogIndex(count + 1), now: end }, &mut Changes::new());
    Arc::new(keeper)
}

fn november() -> Month {
    Month::parse("2026-11").unwrap()
}

fn statement(keeper: &Keeper, tenant: &str) -> Statement {
    keeper.look(|state| Statement::of(tenant, state.periods().get(tenant, november()).unwrap(), state.chain()).unwrap())
}

fn chunks(keeper: &Arc<Keeper>, key: &ClusterKey, cursor: &str) -> Vec<(Vec<u8>, String)> {
    let statement = statement(keeper, "acme");
    let source: Arc<dyn Source> = Arc::clone(keeper) as _;
    let file = StatementFile::open(source, &statement, line(&statement, key), cursor).unwrap();
    file.map(|chunk| chunk.map(|chunk| (chunk.data, chunk.cursor)).unwrap()).collect()
}

fn file(keeper: &Arc<Keeper>, key: &ClusterKey) -> Vec<u8> {
    chunks(keeper, key, "").into_iter().flat_map(|(data, _)| data).collect()
}

fn rows(keeper: &Keeper, tenant: Option<&str>) -> Vec<LedgerRow> {
    let rows = keeper.rows(0, 10_000).unwrap();
    rows.into_iter().filter(|row| tenant.is_none_or(|tenant| row.tenant == tenant)).collect()
}

fn written(format: TextFormat, rows: &[LedgerRow]) -> Vec<u8> {
    let (mut text, mut bytes) = (Text::new(format, &EVENTS), Vec::new());
    text.begin(&mut bytes).unwrap();
    rows.iter().for_each(|row| text.row(&event(row), &mut bytes).unwrap());
    bytes
}

fn wrong(bytes: &[u8], believed: Option<Fingerprint>) -> Wrong {
    match verify(bytes, believed) {
        Err(VerifyError::Wrong(wrong)) => wrong,
        other => panic!("{other:?}"),
    }
}

fn event_id(row: &LedgerRow) -> String {
    match &event(row)[0] {
        crate::export::Cell::Text(text) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_statement_says_what_its_rows_add_up_to_and_is_checked_by_itself() {
    let (keeper, key) = (ledger(40), key());
    let statement = statement(&keeper, "acme");
    let rows = rows(&keeper, Some("acme"));
    assert_eq!((statement.rows, statement.corrections), (rows.len() as u64, 1));
    assert_eq!((&*statement.start, &*statement.end), ("2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"));
    assert_eq!((statement.log_index, &*statement.closed_at), (41, "2026-12-01T23:00:00Z"));
    let exact: i128 = rows.iter().map(|row| crate::ledger::amount_of(row).unwrap().0).sum();
    let [total] = &statement.totals[..] else { panic!("{statement:?}") };
    assert_eq!((&*total.currency, total.exact.clone()), ("USD", Money(exact).to_string()));
    let amounts: i128 = statement.lines.iter().map(|line| Money::parse(&line.amount).unwrap().0).sum();
    assert_eq!(total.amount, Money(amounts).to_string());
    assert_ne!(total.rounding, "0");
    assert_eq!(statement.segments.len(), 1);
    assert_eq!(statement.segments[0].hash, hex(&keeper.look(|state| state.chain().open().hash)));

    let bytes = file(&keeper, &key);
    let checked = verify(&*bytes, Some(fingerprint(&key))).unwrap();
    assert_eq!((checked.rows, checked.statement), (statement.rows, Some((statement, PublicKey(key.statement_key())))));
    assert!(verify(&*bytes, None).is_ok());
}

#[test]
fn a_statement_is_the_same_bytes_whatever_comes_after_it_and_wherever_it_is_made() {
    let (keeper, key) = (ledger(40), key());
    let before = file(&keeper, &key);
    // Another node, from the rows of the state.
    let image: Vec<_> = keeper.look(|state| state.rows().collect());
    let restored = crate::ledger::State::restore(image.into_iter().map(Ok::<_, std::convert::Infallible>)).unwrap();
    let again =
        restored.periods().get("acme", november()).map(|it| Statement::of("acme", it, restored.chain()).unwrap());
    assert_eq!(again, Some(statement(&keeper, "acme")));
    for n in 41..60 {
        let now = Timestamp(at("2026-12-03T00:00:00Z").0 + n * 1_000);
        // Late for November, and of now.
        let admitted = if n % 2 == 0 { at("2026-11-20T00:00:00Z") } else { now };
        keeper.record([(row(n, admitted, now), None)], &mut Changes::new());
    }
    keeper.change_terms("acme", Some(Terms::default()));
    assert_eq!(file(&keeper, &key), before);
}

#[test]
fn a_month_that_is_not_closed_has_no_statement() {
    let keeper = Keeper::on(Arc::new(SimDisk::default()), "/ledger".into());
    let now = at("2026-11-10T00:00:00Z");
    keeper.record([(row(1, now, now), None)], &mut Changes::new());
    keeper.look(|state| {
        let period = state.periods().get("acme", november()).unwrap();
        assert_eq!(Statement::of("acme", period, state.chain()), None);
    });
}

#[test]
fn an_empty_month_has_a_statement_of_nothing() {
    let (keeper, key) = (Keeper::on(Arc::new(SimDisk::default()), "/ledger".into()), key());
    for now in ["2026-09-10T00:00:00Z", "2027-01-10T00:00:00Z"].map(at) {
        keeper.record(
            [(row(if now.0 < at("2026-10-01T00:00:00Z").0 { 1 } else { 2 }, now, now), None)],
            &mut Changes::new(),
        );
    }
    let keeper = Arc::new(keeper);
    let bytes = file(&keeper, &key);
    assert_eq!(verify(&*bytes, Some(fingerprint(&key))).unwrap().rows, 0);
}

/// Which line a byte is on.
fn line_of(bytes: &[u8], at: usize) -> u64 {
    1 + bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64
}

#[test]
fn whatever_byte_is_changed_its_line_is_named() {
    let (keeper, key) = (ledger(10), key());
    let (signed, all) = (file(&keeper, &key), rows(&keeper, None));
    let believed = Some(fingerprint(&key));
    let plain = [TextFormat::Csv, TextFormat::Jsonl].map(|format| (written(format, &all), None));
    for (bytes, believed) in [(signed, believed)].into_iter().chain(plain) {
        assert!(verify(&*bytes, believed).is_ok());
        for at in (0..bytes.len()).step_by(7) {
            for with in [bytes[at] ^ 1, b'0', b' ', b'\n'] {
                let mut changed = bytes.clone();
                changed[at] = with;
                if with != bytes[at] {
                    let wrong = wrong(&changed, believed);
                    assert_eq!(wrong.line, line_of(&bytes, at), "byte {at} as {with}: {wrong}");
                    // Where it can still be read at all, so is the row's name.
                    let is_row = bytes[at..].starts_with(b"ettled");
                    assert!(!is_row || wrong.event.is_some(), "byte {at} as {with}: {wrong}");
                }
            }
            let mut shorter = bytes.clone();
            shorter.remove(at);
            let wrong = wrong(&shorter, believed);
            assert_eq!(wrong.line, line_of(&bytes, at), "without byte {at}: {wrong}");
        }
    }
}

#[test]
fn who_makes_new_event_ids_is_found_by_the_tree() {
    let (keeper, key) = (ledger(40), key());
    let believed = Some(fingerprint(&key));
    let head = line(&statement(&keeper, "acme"), &key).into_bytes();
    let rows = rows(&keeper, Some("acme"));
    let with = |rows: &[LedgerRow]| [head.clone(), written(TextFormat::Jsonl, rows)].concat();
    assert!(verify(&*with(&rows), believed).is_ok());

    let changed = |n: usize, change: fn(&mut LedgerRow)| {
        let mut rows = rows.clone();
        change(&mut rows[n]);
        with(&rows)
    };
    // These are subtrees of 16, 8, 2 and 1.
    assert_eq!(rows.len(), 27);
    let found = wrong(&changed(20, |row| row.output_tokens += 1), believed);
    assert_eq!(
        (found.line, &*found.what),
        (25, "a row of lines 18 to 25 was put in the place of another, or one was left out or added")
    );
    let found = wrong(&changed(26, |row| row.output_tokens += 1), believed);
    assert_eq!((found.line, &*found.what), (28, "it was put in the place of another, or one was left out or added"));
    assert_eq!(found.event, {
        let mut row = rows[26].clone();
        row.output_tokens += 1;
        Some(event_id(&row))
    });
    let found = wrong(&changed(2, |row| row.tenant = "globex".into()), believed);
    assert_eq!((found.line, &*found.what), (4, "tenant: `globex` is not `acme`, whose statement it is"));
    let found = wrong(&changed(5, |row| row.admitted_us = 0), believed);
    assert!(found.line == 7 && found.what.starts_with("time: "), "{found}");

    let without = [&rows[..5], &rows[6..]].concat();
    assert_eq!(wrong(&with(&without), believed).line, 17);
    let found = wrong(&with(&rows[..26]), believed);
    assert_eq!((found.line, &*found.what), (27, "the file ends after 26 rows, and the statement is of 27"));
    let twice = [&rows[..6], &rows[5..]].concat();
    assert_eq!((wrong(&with(&twice), believed).line, &*wrong(&with(&twice), believed).what), (8, "it is there twice"));
    let mut swapped = rows.clone();
    swapped.swap(3, 4);
    assert!(wrong(&with(&swapped), believed).what.starts_with("it is out of order"));
    let mut more = rows.clone();
    more.push(LedgerRow { seq: 1 << 40, ..rows[8].clone() });
    assert_eq!(wrong(&with(&more), believed).what, "the statement is of 27 rows: this is one more");
}

#[test]
fn a_statement_is_believed_by_its_key_alone() {
    let (keeper, key, other) = (ledger(16), key(), self::key());
    let forged = {
        let mut statement = statement(&keeper, "acme");
        statement.totals[0].amount = "0".into();
        statement
    };
    let rest = written(TextFormat::Jsonl, &rows(&keeper, Some("acme")));
    let of = |line: String| [line.into_bytes(), rest.clone()].concat();
    let found = wrong(&of(line(&forged, &other)), Some(fingerprint(&key)));
    assert!(found.line == 1 && found.what.ends_with("somebody else has signed it"), "{found}");
    // Whoever is believed is held to their arithmetic all the same.
    assert_eq!(
        wrong(&of(line(&forged, &key)), Some(fingerprint(&key))).what,
        "totals: are not what its lines add up to"
    );
    let stolen = line(&statement(&keeper, "acme"), &key).replace("\"tenant\":\"acme\"", "\"tenant\":\"acne\"");
    let found = wrong(&of(stolen), Some(fingerprint(&key)));
    assert_eq!(found.what, "the statement was changed: its signature is not of what it says");
    let found = wrong(&rest, Some(fingerprint(&key)));
    assert_eq!(found.what, "there is no statement, and so no signature of the key that was given");
    for wrong in [
        Statement { corrections: 0, ..statement(&keeper, "acme") },
        Statement { rows: 3, ..statement(&keeper, "acme") },
        Statement { merkle_root: hex(&[7; 32]), ..statement(&keeper, "acme") },
        Statement { subtrees: Vec::new(), ..statement(&keeper, "acme") },
        Statement { version: 2, ..statement(&keeper, "acme") },
        Statement { start: "soon".into(), ..statement(&keeper, "acme") },
    ] {
        assert_eq!(self::wrong(&of(line(&wrong, &key)), None).line, 1, "{wrong:?}");
    }
}

#[test]
fn what_is_no_export_of_events_is_told_so() {
    let header = COLUMNS.join(",");
    for (bytes, line, what) in [
        (&b"PAR1\0"[..], 1, "Parquet"),
        (b"tenant,cost\r\n", 1, "is neither"),
        (header.as_bytes(), 1, "is neither"),
        (b"{}\n", 1, "event_id: is missing"),
        (b"{\"a\":1}\n", 1, "a: is no column"),
        (b"{\"statement\":1}\n", 1, "is not a statement"),
        (b"\xff\xfe", 1, "is neither"),
    ] {
        let found = wrong(bytes, None);
        assert!(found.line == line && found.what.starts_with(what), "{found}");
    }
    let long = vec![b'{'; 2 << 20];
    assert_eq!(wrong(&long, None).what, "is longer than any row");
    let open = [header.as_bytes(), b"\r\n\"", &vec![b'x'; 2 << 20]].concat();
    assert_eq!((wrong(&open, None).line, &*wrong(&open, None).what), (2, "is longer than any row"));
    assert!(wrong(b"", None).what.starts_with("the file is empty"), "what was to be an export, and is not");
    assert_eq!(verify(format!("{header}\r\n").as_bytes(), None).unwrap().rows, 0);
}

#[test]
fn a_file_that_was_cut_goes_on_at_any_cursor() {
    let (keeper, key) = (ledger(1_500), key());
    let whole = file(&keeper, &key);
    let all = chunks(&keeper, &key, "");
    assert!(all.len() > 3, "{}", all.len());
    let mut before = Vec::new();
    for (data, cursor) in &all {
        before.extend(data);
        let rest = chunks(&keeper, &key, cursor).into_iter().flat_map(|(data, _)| data);
        assert!(before.iter().copied().chain(rest).eq(whole.iter().copied()));
    }
    let statement = statement(&keeper, "globex");
    let source: Arc<dyn Source> = Arc::clone(&keeper) as _;
    for (cursor, why) in [
        (&*all[0].1, CursorError::OfAnother),
        ("tgs1", CursorError::Malformed),
        ("tgs1-0011223344556677-+5", CursorError::Malformed),
    ] {
        let file = StatementFile::open(Arc::clone(&source), &statement, line(&statement, &key), cursor);
        assert!(matches!(file.map(drop), Err(ExportError::Cursor(is)) if is == why), "{cursor}");
    }
}

#[test]
fn a_month_priced_again_is_the_same_to_the_last_digit() {
    let keeper = ledger(40);
    for tenant in TENANTS {
        let found = keeper.reprice(tenant, november()).unwrap().unwrap();
        assert_eq!((found.rows, &found.problems), (rows(&keeper, Some(tenant)).len() as u64, &Vec::new()));
        let usd = Currency::parse("USD").unwrap();
        assert_eq!(found.sums[&usd].billed, found.sums[&usd].repriced);
        assert!(found.sums[&usd].billed.0 > 0);
    }
    assert_eq!(keeper.reprice("acme", november().next()).unwrap(), None);

    // A row that is a pico-unit too dear.
    let now = at("2026-12-10T00:00:00Z");
    let mut dear = row(52, now, now);
    let amount = crate::ledger::amount_of(&dear).unwrap().0 + 1;
    dear.amount = amount.to_be_bytes().to_vec();
    keeper.record([(dear, None)], &mut Changes::new());
    let found = keeper.reprice("acme", november().next()).unwrap().unwrap();
    assert_eq!(found.problems.len(), 2, "{found:?}");
    assert!(found.problems[0].starts_with(&format!("row {} ", 52 << 16)), "{found:?}");
}

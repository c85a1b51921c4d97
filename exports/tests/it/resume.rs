//! An export that was cut and goes on is the very bytes of one that was not.

use std::sync::Arc;

use proptest::prelude::*;
use tollgate_billing::export::{CursorError, ExportError, Format, Query, Schema};

use crate::world::{FORMATS, Ledger, SCHEMAS, bytes, chunks, ledger, long, open, prices, query};

/// Takes so many chunks at a time, each time from the cursor of the last. Those without data only tell that it is under way.
fn in_parts(ledger: &Arc<Ledger>, query: &Query, sizes: &[usize]) -> Vec<u8> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    for size in sizes.iter().cycle() {
        let mut left = *size;
        for chunk in open(ledger, query, &cursor).unwrap() {
            let chunk = chunk.unwrap();
            left -= usize::from(!chunk.data.is_empty());
            all.extend(chunk.data);
            cursor = chunk.cursor;
            if chunk.last {
                return all;
            }
            if left == 0 {
                break;
            }
        }
    }
    unreachable!("the sizes repeat")
}

#[test]
fn every_schema_in_every_format_goes_on_where_it_was_cut() {
    let ledger = Arc::new(long(4_000));
    for schema in SCHEMAS {
        for format in FORMATS {
            let query = query(schema, format);
            let whole = chunks(&ledger, &query, "");
            assert!(whole.len() > 1 || schema == Schema::Summary || format == Format::Parquet, "{schema:?} {format:?}");
            assert!(whole.iter().all(|chunk| chunk.data.len() < 200_000));
            assert_eq!(whole.iter().filter(|chunk| chunk.last).count(), 1);
            for sizes in [&[1][..], &[2, 1], &[3]] {
                assert!(in_parts(&ledger, &query, sizes) == bytes(&whole), "{schema:?} {format:?} {sizes:?}");
            }
            let end = &whole.last().unwrap().cursor;
            assert_eq!(
                bytes(&chunks(&ledger, &query, end)),
                b"",
                "{schema:?} {format:?}: there is nothing behind the end"
            );
        }
    }
}

#[test]
fn a_file_of_several_groups_goes_on_where_it_was_cut() {
    let (ledger, query) = (Arc::new(long(66_000)), query(Schema::Events, Format::Parquet));
    let whole = chunks(&ledger, &query, "");
    let groups = whole.iter().filter(|chunk| chunk.data.len() > 100_000).count();
    for at in [0, 1, groups / 2, whole.len() - 2] {
        let (before, cursor) = (bytes(&whole[..=at]), &whole[at].cursor);
        assert!([before, bytes(&chunks(&ledger, &query, cursor))].concat() == bytes(&whole), "{at}");
    }
}

#[test]
fn what_came_later_is_behind_the_end_of_events_alone() {
    let (mut grown, now) = (long(1_000), Arc::new(long(900)));
    grown.rows[950].tenant = "later".into();
    let grown = Arc::new(grown);
    for format in [Format::Csv, Format::Jsonl] {
        let query = query(Schema::Events, format);
        let mut first = chunks(&now, &query, "");
        first.extend(chunks(&grown, &query, &first.last().unwrap().cursor));
        assert!(bytes(&first) == bytes(&chunks(&grown, &query, "")));
    }
    for schema in SCHEMAS {
        let query = query(schema, Format::Parquet);
        let first = chunks(&now, &query, "");
        let (cut, whole) = (&first[0].cursor, bytes(&first));
        let rest = bytes(&chunks(&grown, &query, cut));
        assert!([first[0].data.clone(), rest].concat() == whole, "{schema:?}: the ledger as it was when it began");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_ledger_in_any_parts_is_one_run(ledger in ledger(120), cut in 0usize..1_000) {
        let whole = Arc::new(ledger);
        let part = Arc::new(Ledger { rows: whole.rows[..cut % (whole.rows.len() + 1)].to_vec(), prices: prices() });
        for format in [Format::Csv, Format::Jsonl] {
            let query = query(Schema::Events, format);
            let mut first = chunks(&part, &query, "");
            first.extend(chunks(&whole, &query, &first.last().unwrap().cursor));
            prop_assert_eq!(bytes(&first), bytes(&chunks(&whole, &query, "")));
        }
    }
}

#[test]
fn a_ledger_that_is_another_one_is_not_gone_on_with() {
    let (ours, mut theirs) = (Arc::new(long(3_000)), long(3_000));
    theirs.rows[0].consumer = "other".into();
    let theirs = Arc::new(theirs);
    let query = query(Schema::Events, Format::Parquet);
    let whole = chunks(&ours, &query, "");
    let cursor = &whole[0].cursor;
    let gone_on = open(&theirs, &query, cursor).unwrap().find_map(Result::err);
    assert!(matches!(gone_on, Some(ExportError::Changed)), "{gone_on:?}");
    let longer = whole.last().unwrap().cursor.replace(&format!("-{:x}-", bytes(&whole).len()), "-ffffff-");
    let gone_on = open(&ours, &query, &longer).unwrap().find_map(Result::err);
    assert!(matches!(gone_on, Some(ExportError::Changed)), "{gone_on:?}");
    let behind = open(&Arc::new(long(10)), &query, cursor).err();
    assert!(matches!(behind, Some(ExportError::Behind)), "{behind:?}");
    let other = Query { tenant: Some("acme".into()), ..query };
    assert!(matches!(open(&ours, &other, cursor).err(), Some(ExportError::Cursor(CursorError::OfAnother))));
}

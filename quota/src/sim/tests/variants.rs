//! The wrong variants that QUOTA.md names, and the ways to be wrong that stand for them.

use super::*;

/// §3.9, the tempting ones: in their order.
const TEMPTING: [(&str, &[&str]); 3] = [
    ("async journal, refund what is not in it", &["recovers-nothing", "open-frees-leases"]),
    ("a time-out refunds what is not reported", &["time-out-frees-leases", "expiry-frees"]),
    ("delta messages instead of cumulative", &["deltas"]),
];

/// Why a row of §3.14 has none.
const BUCKETS: &str = "there are no token buckets";

/// §3.14, row by row; where nothing stands for one, why.
const ROWS: [Result<&[&str], &str>; 28] = [
    Ok(&["shares-follow-the-limit"]),                                     // 1
    Ok(&["draws-when-central"]),                                          // 2
    Ok(&["shares-by-demand"]),                                            // 3
    Ok(&["remade-begins-anew"]),                                          // 4
    Ok(&["touches-later"]),                                               // 5
    Ok(&["done-first"]),                                                  // 6
    Ok(&["ceiling-beside-returns", "ignores-ceilings"]),                  // 7
    Ok(&["same-incarnation"]),                                            // 8
    Ok(&["says-before-the-journal", "recovers-twice"]),                   // 9
    Ok(&["closes-before-it-recovers"]),                                   // 10
    Ok(&["sends-before-the-journal"]),                                    // 11: one journal has one order
    Ok(&["says-before-the-journal"]),                                     // 12
    Ok(&["fenced-may-hold", "forgets-orphans"]),                          // 13
    Ok(&["forgets-the-abandoned"]),                                       // 14
    Ok(&["grows-before-the-journal", "orphans-at-the-checkpoint"]),       // 15
    Ok(&["settles-into-the-next-window"]),                                // 16
    Ok(&["settles-into-what-is-open"]),                                   // 17
    Ok(&["settles-by-the-mode-now"]),                                     // 18
    Ok(&["returns-once"]),                                                // 19
    Ok(&["refuses-while-recalling"]),                                     // 20
    Ok(&["late-settles-are-lost"]),                                       // 21
    Ok(&["holds-the-whole-path"]),                                        // 22
    Ok(&["ages-at-the-edge", "suspense-at-once", "moves-used-share"]),    // 23
    Ok(&["recovers-what-slides"]),                                        // 24
    Err(BUCKETS),                                                         // 25
    Ok(&["ignores-isolation", "allows-from-leases"]),                     // 26
    Ok(&["lost-at-once"]),                                                // 27
    Ok(&["sums-grants", "believes-the-replica", "forgets-empty-leases"]), // 28
];

/// Beside those of QUOTA.md: what came later, and how it is tempting to get it wrong.
const BESIDE: [(&str, &[&str]); 5] = [
    (
        "a journal's last word and the bills of its ends in one entry, told twice",
        &["closes-before-it-bills", "bills-nobody"],
    ),
    ("a time-out refunds credit, or nobody ever does", &["purse-times-out", "purse-keeps-the-unknown"]),
    ("credit is lowered below what is out", &["takes-what-is-held"]),
    ("fixed to sliding and back with leases out", &["changes-at-once"]),
    ("a window that moves with its tenant's zone", &["moving-forgets-use", "parting-forgets-shares"]),
];

/// That each is found, `variants!` shows.
#[test]
fn each_variant_that_concerns_what_is_built_has_its_bug() {
    let tempting = TEMPTING.iter().flat_map(|(_, names)| *names);
    let beside = BESIDE.iter().flat_map(|(_, names)| *names);
    let names = tempting.chain(ROWS.iter().flat_map(|row| row.unwrap_or_default())).chain(beside);
    for name in names {
        assert!(Bug::named(name).is_some(), "{name} is not listed");
    }
    let without: Vec<usize> = (1..).zip(&ROWS).filter(|(_, row)| row.is_err()).map(|(nth, _)| nth).collect();
    assert_eq!(without, [25]);
}

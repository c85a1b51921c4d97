//! FOCUS as its own validator sees it: `focus-validator` of PyPI, with the rules for 1.2 that it brings along.
//!
//! `TOLLGATE_FOCUS_PYTHON` names a Python that has it; without it this test is skipped, and says so.

use std::{process::Command, sync::Arc};

use tollgate_billing::export::{FocusVersion, Format, Query, Schema};
use tollgate_model::Timestamp;

use crate::world::{CREDIT, bytes, chunks, long, query};

/// Fewer than it looks at, so that it can't have looked at none.
const FEWEST_RULES: usize = 200;

/// Runs it on a file, without fetching anything. It looks for its own files from where it is installed.
const VALIDATE: &str = r#"
import os, sys
import focus_validator
from focus_validator.main import main
file, criteria = sys.argv[1], sys.argv[2]
os.chdir(os.path.dirname(os.path.dirname(focus_validator.__file__)))
sys.argv = ["focus-validator", "--validate-version", "1.2", "--focus-dataset", "CostAndUsage", "--block-download",
    "--applicability-criteria", criteria, "--show-violations", "--data-file", file]
main()
"#;

/// What a gateway has of what a provider can have: no regions, reservations or commitments, and no currency of its own.
const HAS: [&str; 12] = [
    "ACCOUNT_NAMING_SUPPORTED",
    "MULTIPLE_BILLING_ACCOUNT_TYPES_SUPPORTED",
    "MULTIPLE_PRICING_CATEGORIES_SUPPORTED",
    "MULTIPLE_SUB_ACCOUNT_TYPES_SUPPORTED",
    "NEGOTIATED_PRICING_SUPPORTED",
    "PRICING_BILLING_CURRENCY_DIFFERENCES_SUPPORTED",
    "PUBLIC_PRICE_LIST_SUPPORTED",
    "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED",
    "SUB_ACCOUNT_SUPPORTED",
    "TAGGING_SUPPORTED",
    "UNIT_PRICING_SUPPORTED",
    "USAGE_MEASUREMENT_SUPPORTED",
];

/// What no file can keep: one of the first two fails whether there is an `InvoiceId` or not, and the others ask for the status of a
/// commitment, a column that only who has commitments has.
const UNDECIDED: [&str; 7] = [
    "InvoiceId-C-004-C",
    "InvoiceId-C-005-C",
    "ConsumedQuantity-C-000-C",
    "ConsumedQuantity-C-003-C",
    "ConsumedQuantity-C-004-C",
    "ConsumedQuantity-C-005-C",
    "ConsumedQuantity-C-006-C",
];

#[test]
fn the_validator_of_focus_finds_no_rule_broken() {
    let Some(python) = std::env::var_os("TOLLGATE_FOCUS_PYTHON") else {
        eprintln!("SKIPPED: TOLLGATE_FOCUS_PYTHON names no Python with focus-validator");
        return;
    };
    // A contract beside the list, a correction, a price that is gone, none, and all that becomes of credit.
    let mut ledger = long(500);
    for row in ledger.rows.iter_mut().step_by(5) {
        (row.list_price, row.list_price_version) = ("p".into(), 9);
    }
    ledger.rows[3].corrects = ledger.rows[1].seq;
    (ledger.rows[4].price, ledger.rows[4].price_version) = ("gone".into(), 3);
    (ledger.rows[6].price, ledger.rows[6].price_version) = (String::new(), 0);
    ledger.rows[6].amount = Vec::new();
    let asked =
        Query { from: Timestamp(CREDIT), costs: false, ..query(Schema::Focus(FocusVersion::V1_2), Format::Parquet) };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("focus.parquet");
    std::fs::write(&file, bytes(&chunks(&Arc::new(ledger), &asked, ""))).unwrap();

    let run = Command::new(python).args(["-c", VALIDATE]).arg(&file).arg(HAS.join(",")).output().unwrap();
    let (told, wrong) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let checked = told.lines().filter(|line| line.contains(": PASS ")).count();
    let failures = told.split_once("--- Failures").map_or("", |(_, failures)| failures);
    let rules = failures.lines().filter_map(|line| line.strip_prefix("- ")?.split_once(": "));
    let broken: Vec<_> = rules.filter(|(rule, _)| !UNDECIDED.contains(rule)).collect();
    assert!(
        run.status.success() && checked > FEWEST_RULES && broken.is_empty(),
        "{checked} rules are kept; {broken:#?}{wrong}"
    );
}

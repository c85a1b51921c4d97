//! What is added up is what was added: tokens and money, to the last digit.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use serde_json::Value;
use tollgate_billing::export::{FocusVersion, Format, Query, Schema};
use tollgate_model::{Money, Timestamp};
use tollgate_proto::state::v1::LedgerOutcome;

use crate::world::{BEGIN, CREDIT, HOUR, Ledger, bytes, chunks, ledger, query, reckon};

fn lines(ledger: &Arc<Ledger>, query: &Query) -> Vec<Value> {
    let text = String::from_utf8(bytes(&chunks(ledger, query, ""))).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(line: &'a Value, column: &str) -> &'a str {
    line[column].as_str().unwrap_or_default()
}

fn money(line: &Value, column: &str) -> i128 {
    line[column].as_str().map_or(0, |text| Money::parse(text).unwrap().0)
}

/// By tenant and currency.
fn add_up(lines: &[Value], [tenant, currency, cost]: [&str; 3]) -> BTreeMap<(String, String), i128> {
    let mut sums = BTreeMap::new();
    for line in lines.iter().filter(|line| !line[currency].is_null()) {
        *sums.entry((text(line, tenant).to_owned(), text(line, currency).to_owned())).or_default() += money(line, cost);
    }
    sums
}

const COUNTS: [&str; 5] =
    ["input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"];
const FOCUS: Schema = Schema::Focus(FocusVersion::V1_2);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn sums_are_those_of_the_events(ledger in ledger(150), of_one in any::<bool>(), from in 0u64..50, hours in 0u64..50) {
        let ledger = Arc::new(ledger);
        let ask = |schema| Query {
            tenant: of_one.then(|| "acme".to_owned()),
            from: Timestamp(BEGIN - 5 * HOUR + from * HOUR),
            to: Timestamp(BEGIN - 5 * HOUR + (from + hours) * HOUR),
            ..query(schema, Format::Jsonl)
        };
        let [events, summary, focus] = [Schema::Events, Schema::Summary, FOCUS].map(|schema| lines(&ledger, &ask(schema)));

        let in_range = |row: &&tollgate_proto::state::v1::LedgerRow| {
            (ask(FOCUS).from.0..ask(FOCUS).to.0).contains(&row.admitted_us) && (!of_one || row.tenant == "acme")
        };
        let wanted: Vec<String> = ledger.rows.iter().filter(in_range).map(|row| row.seq.to_string()).collect();
        let seq = |event| text(event, "event_id").split('-').next().unwrap_or_default();
        prop_assert_eq!(events.iter().map(seq).collect::<Vec<_>>(), wanted);

        let costs = add_up(&events, ["tenant", "currency", "cost"]);
        prop_assert_eq!(&add_up(&summary, ["tenant", "currency", "cost"]), &costs);
        prop_assert_eq!(&add_up(&focus, ["BillingAccountId", "BillingCurrency", "EffectiveCost"]), &costs);
        prop_assert_eq!(&add_up(&focus, ["BillingAccountId", "BillingCurrency", "ContractedCost"]), &costs);
        let mut on_list = BTreeMap::new();
        for row in ledger.rows.iter().filter(in_range).filter(|row| !row.currency.is_empty()) {
            let list = ledger.prices.get(&(row.list_price.clone(), row.list_price_version)).filter(|_| row.corrects == 0);
            let amount = || i128::from_be_bytes(row.amount.as_slice().try_into().unwrap());
            *on_list.entry((row.tenant.clone(), row.currency.clone())).or_default() += list.map_or_else(amount, |list| reckon(row, list));
        }
        prop_assert_eq!(&add_up(&focus, ["BillingAccountId", "BillingCurrency", "ListCost"]), &on_list);
        let billed = add_up(&focus, ["BillingAccountId", "BillingCurrency", "BilledCost"]);
        for ((tenant, currency), cost) in &costs {
            let wanted = if tenant == "acme" { 0 } else { *cost };
            prop_assert_eq!(billed[&(tenant.clone(), currency.clone())], wanted);
        }
        for count in COUNTS {
            let sum = |lines: &[Value]| lines.iter().map(|line| line[count].as_u64().unwrap()).sum::<u64>();
            prop_assert_eq!(sum(&events), sum(&summary));
        }
        let requests: u64 = summary.iter().map(|line| line["requests"].as_u64().unwrap()).sum();
        prop_assert_eq!(requests, events.iter().filter(|event| event["corrects"].is_null()).count() as u64);
    }

    /// What upstreams bill is in every schema but the events, to the last digit, and each currency for itself.
    #[test]
    fn what_upstreams_bill_is_the_same_in_every_schema(ledger in ledger(150)) {
        let ledger = Arc::new(ledger);
        let ask = |schema, costs| lines(&ledger, &Query { costs, ..query(schema, Format::Jsonl) });
        let costs = ask(Schema::Cost, true);
        let asked = query(Schema::Cost, Format::Jsonl);
        let in_range = |row: &&tollgate_proto::state::v1::LedgerRow| (asked.from.0..asked.to.0).contains(&row.admitted_us);
        let wanted: Vec<String> = ledger.rows.iter().filter(in_range)
            .flat_map(|row| (1..=row.costs.len()).map(move |n| format!("{}.{n}", row.seq))).collect();
        prop_assert_eq!(costs.iter().map(|cost| text(cost, "cost_id")).collect::<Vec<_>>(), wanted);

        let by_provider = add_up(&costs, ["provider", "currency", "cost"]);
        let by_tenant = add_up(&costs, ["tenant", "currency", "cost"]);
        let summary = ask(Schema::Summary, true);
        prop_assert_eq!(&add_up(&summary, ["provider", "provider_currency", "provider_cost"]), &by_provider);
        prop_assert_eq!(&add_up(&summary, ["tenant", "provider_currency", "provider_cost"]), &by_tenant);
        for line in &summary {
            let told = text(line, "currency") == text(line, "provider_currency") && !line["currency"].is_null();
            prop_assert_eq!(!line["margin"].is_null(), told, "{}", line);
            if told {
                prop_assert_eq!(money(line, "margin"), money(line, "cost") - money(line, "provider_cost"), "{}", line);
            }
        }
        // Who is not billed has no charges.
        let billed: Vec<String> = ledger.rows.iter().filter(|row| !row.currency.is_empty()).map(|row| row.seq.to_string()).collect();
        let charged: Vec<Value> = costs.iter().filter(|cost| billed.iter().any(|seq| Some(seq.as_str()) == text(cost, "event_id").split('-').next())).cloned().collect();
        let focus = ask(FOCUS, true);
        prop_assert_eq!(
            add_up(&focus, ["BillingAccountId", "x_ProviderCurrency", "x_ProviderCost"]),
            add_up(&charged, ["tenant", "currency", "cost"])
        );

        for schema in [Schema::Summary, FOCUS, Schema::Cost] {
            for line in ask(schema, false) {
                for column in ["provider_cost", "margin", "provider_currency", "x_ProviderCost", "x_ProviderCurrency", "cost_id"] {
                    prop_assert!(line.get(column).is_none_or(Value::is_null), "{}", line);
                }
            }
        }
        let requests = |lines: &[Value]| lines.iter().map(|line| line["requests"].as_u64().unwrap()).sum::<u64>();
        prop_assert_eq!(requests(&summary), requests(&ask(Schema::Summary, false)));
    }

    #[test]
    fn every_charge_is_its_price_times_its_quantity(ledger in ledger(100)) {
        let ledger = Arc::new(ledger);
        let charges = lines(&ledger, &query(FOCUS, Format::Jsonl));
        let mut order = Vec::new();
        for charge in &charges {
            for [price, cost] in [["ListUnitPrice", "ListCost"], ["ContractedUnitPrice", "ContractedCost"]] {
                prop_assert_eq!(charge[price].is_null(), charge["SkuPriceId"].is_null());
                if charge[price].is_null() {
                    continue;
                }
                let (price, quantity) = (money(charge, price), money(charge, "PricingQuantity"));
                // Both have twelve places; their product has no more than twelve that are not 0.
                let product = price.checked_mul(quantity).unwrap();
                prop_assert_eq!(product, money(charge, cost) * Money::ONE.0, "{}", charge);
            }
            let within = ["BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd"];
            let times = within.map(|column| Timestamp::parse(text(charge, column)).unwrap());
            prop_assert!(times[0] <= times[1] && times[1] < times[2] && times[2] <= times[3], "{}", charge);
            prop_assert!(times[2].0 - times[1].0 <= HOUR);
            order.push((times[1], text(charge, "BillingAccountId").to_owned()));
        }
        prop_assert!(order.is_sorted());
        // No token is lost: what was used, at a price or not, is in some charge, unless it corrects or has no price any more.
        let used: u64 = ledger.rows.iter().filter(|row| {
            let asked = query(FOCUS, Format::Jsonl);
            !row.currency.is_empty() && row.corrects == 0 && row.price != "gone" && (asked.from.0..asked.to.0).contains(&row.admitted_us)
        }).map(|row| row.input_tokens + row.output_tokens).sum();
        let consumed: i128 = charges.iter().filter(|charge| charge["ConsumedUnit"] == "Tokens").map(|charge| money(charge, "ConsumedQuantity")).sum();
        prop_assert_eq!(consumed, i128::from(used) * Money::ONE.0);
    }
}

#[test]
fn a_month_begins_where_its_tenant_is() {
    // 2026-10-31T18:30Z is midnight in Kolkata: the hour around it is of two months.
    let at = |minutes: u64| BEGIN - 6 * HOUR + minutes * 60_000_000;
    let mut ledger = crate::world::long(4);
    for (row, (minutes, tenant)) in
        ledger.rows.iter_mut().zip([(20, "acme"), (40, "acme"), (20, "globex"), (40, "globex")])
    {
        (row.admitted_us, row.settled_us, row.tenant, row.consumer) = (at(minutes), at(50), tenant.into(), "c".into());
    }
    let wide = Query { from: Timestamp(0), ..query(FOCUS, Format::Jsonl) };
    let charges = lines(&Arc::new(ledger), &wide);
    let said: Vec<_> = charges
        .iter()
        .filter(|charge| charge["SkuMeter"] == "input")
        .map(|charge| {
            ["BillingAccountId", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodStart"]
                .map(|column| text(charge, column))
        })
        .collect();
    assert_eq!(
        said,
        [
            ["acme", "2026-10-31T18:00:00Z", "2026-10-31T18:30:00Z", "2026-09-30T18:30:00Z"],
            ["globex", "2026-10-31T18:00:00Z", "2026-10-31T19:00:00Z", "2026-10-01T00:00:00Z"],
            ["acme", "2026-10-31T18:30:00Z", "2026-10-31T19:00:00Z", "2026-10-31T18:30:00Z"],
        ]
    );
}

#[test]
fn what_a_contract_saves_is_what_lies_between_it_and_the_list() {
    let mut ledger = crate::world::long(1);
    // Tiers, and no fee; on the list a fee, and a least amount that this request does not come to.
    let row = &mut ledger.rows[0];
    (row.list_price, row.list_price_version) = ("p".into(), 9);
    let charges = lines(&Arc::new(ledger), &query(FOCUS, Format::Jsonl));
    let columns = ["SkuMeter", "ContractedUnitPrice", "ContractedCost", "ListUnitPrice", "ListCost", "PricingQuantity"];
    let said: Vec<_> = charges.iter().map(|charge| columns.map(|column| text(charge, column))).collect();
    assert_eq!(
        said,
        [
            ["input", "2.5", "0.00025", "0.3", "0.00003", "0.0001"],
            ["output", "10", "0.0001", "0.000001", "0.00000000001", "0.00001"],
            ["request", "0", "0", "0.001", "0.001", "1"],
            ["minimum", "0", "0", "1", "0.00096999999", "0.00096999999"],
        ]
    );
}

#[test]
fn credit_is_billed_when_it_is_bought_and_comes_behind_all_usage() {
    let ledger = Arc::new(crate::world::long(1));
    let all = Query { from: Timestamp(CREDIT), ..query(FOCUS, Format::Jsonl) };
    let charges = lines(&ledger, &all);
    let columns = ["ChargeCategory", "ChargeClass", "BilledCost", "EffectiveCost", "PricingQuantity", "ListUnitPrice"];
    let said: Vec<_> = charges.iter().map(|charge| columns.map(|column| text(charge, column))).collect();
    assert_eq!(said[0][0], "Usage");
    assert_eq!(
        said[said.len() - 3..],
        [
            ["Purchase", "", "100", "0", "100", "1"],
            ["Adjustment", "Correction", "-20", "0", "", ""],
            ["Adjustment", "", "0", "45", "", ""],
        ]
    );
    let bought = &charges[charges.len() - 3];
    assert_eq!(text(bought, "ChargeDescription"), "credit (event 1): order 7");
    assert_eq!((text(bought, "SkuPriceId"), text(bought, "ChargeFrequency")), ("credit-USD", "One-Time"));
    // On the bill of the month in which it was bought, where its tenant is.
    let starts = ["BillingPeriodStart", "ChargePeriodStart"].map(|column| text(bought, column));
    assert_eq!(starts, ["2025-08-31T18:30:00Z", "2025-09-10T09:00:00Z"]);

    let other = Query { tenant: Some("globex".to_owned()), ..all.clone() };
    assert_eq!(lines(&ledger, &other).len(), charges.len() - 3);
    let earlier = Query { to: Timestamp(CREDIT + 2 * HOUR), ..all.clone() };
    assert_eq!(lines(&ledger, &earlier).len(), 1, "the end is not within");
    for format in crate::world::FORMATS {
        let all = Query { format, ..all.clone() };
        let whole = chunks(&ledger, &all, "");
        let first = &whole[0];
        let rest = bytes(&chunks(&ledger, &all, &first.cursor));
        assert_eq!([first.data.clone(), rest].concat(), bytes(&whole));
    }
}

#[test]
fn what_no_price_was_for_is_told_from_what_costs_nothing() {
    let mut ledger = crate::world::long(5);
    let kinds = [
        ("p", LedgerOutcome::Settled, "USD"),
        ("", LedgerOutcome::Partial, "USD"),
        ("", LedgerOutcome::Voided, "USD"),
        ("", LedgerOutcome::Orphaned, "USD"),
        ("", LedgerOutcome::Settled, ""),
    ];
    for (row, (price, outcome, currency)) in ledger.rows.iter_mut().zip(kinds) {
        (row.price, row.currency) = (price.into(), currency.into());
        row.set_outcome(outcome);
        if price.is_empty() {
            row.amount = Vec::new();
        }
    }
    let ledger = Arc::new(ledger);
    let events = lines(&ledger, &query(Schema::Events, Format::Jsonl));
    // As the README has it.
    let is_unpriced = |event: &&Value| {
        let worked_for = ["settled", "partial"].contains(&text(event, "outcome"));
        worked_for && event["price"].is_null() && !event["currency"].is_null()
    };
    let unpriced: Vec<_> = events.iter().filter(is_unpriced).collect();
    assert_eq!(unpriced, [&events[1]]);
    assert_eq!(text(unpriced[0], "cost"), "0");
    let summary = lines(&ledger, &query(Schema::Summary, Format::Jsonl));
    assert_eq!(summary.iter().map(|line| line["unpriced_requests"].as_u64().unwrap()).sum::<u64>(), 1);
}

#[test]
fn newer_names_are_behind_a_switch() {
    let ledger = Arc::new(crate::world::long(1));
    let line = |version| lines(&ledger, &query(Schema::Focus(version), Format::Jsonl)).remove(0);
    let (old, new) = (line(FocusVersion::V1_2), line(FocusVersion::V1_3));
    assert_eq!((text(&old, "ProviderName"), text(&old, "PublisherName")), ("us", "openai"));
    assert_eq!((text(&new, "ServiceProviderName"), text(&new, "HostProviderName")), ("us", "openai"));
    assert!(old.get("HostProviderName").is_none() && new.get("ProviderName").is_none());
}

#[test]
fn a_sum_that_no_number_holds_is_an_error_and_no_other_number() {
    let mut ledger = crate::world::long(2);
    for row in &mut ledger.rows {
        (row.input_tokens, row.consumer) = (u64::MAX, "c".into());
    }
    let ledger = Arc::new(ledger);
    let failed = crate::world::open(&ledger, &query(Schema::Summary, Format::Csv), "").unwrap().find_map(Result::err);
    assert!(failed.unwrap().to_string().starts_with("row 131072 makes a sum greater"));
}

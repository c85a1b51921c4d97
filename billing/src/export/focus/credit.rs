//! Charges for credit: what was bought, what corrections took off, and what expired.
//!
//! Money is billed when credit is bought and has its effect when it is used, so a purchase has a `BilledCost` and no
//! `EffectiveCost`, as FOCUS has it for what covers later charges. A correction takes from what was billed. What expired was
//! billed before and has its effect now, on nothing.

use tollgate_model::{Money, TimeZone, Timestamp, Window};
use tollgate_proto::state::v1::{CreditEventKind, CreditEventRow};

use super::{charge::COLUMNS, payer::Bill};
use crate::{credit::amount_of, export::cell::Cell, period::Span};

/// Of the service that it is bought from.
const SERVICE: &str = "Prepaid Credit";
const SKU: &str = "credit";

/// Whether an event is a charge. What was spent is in the charges for usage; what was written off is the operator's.
pub(super) fn is_charge(event: &CreditEventRow) -> bool {
    use CreditEventKind::{Corrected, Expired, Granted};
    matches!(event.kind(), Granted | Corrected | Expired)
}

/// What an event is called, and what it moves.
struct Charge {
    category: &'static str,
    class: Option<&'static str>,
    what: &'static str,
    billed: Money,
    effective: Money,
}

fn charge(event: &CreditEventRow) -> Charge {
    let amount = amount_of(event).unwrap_or_default();
    let none = Money(0);
    match event.kind() {
        CreditEventKind::Corrected => Charge {
            category: "Adjustment",
            class: Some("Correction"),
            what: "credit, correction",
            billed: amount,
            effective: none,
        },
        // What came off is below zero.
        CreditEventKind::Expired => Charge {
            category: "Adjustment",
            class: None,
            what: "credit, expired",
            billed: none,
            effective: Money(amount.0.saturating_neg()),
        },
        _ => Charge { category: "Purchase", class: None, what: "credit", billed: amount, effective: none },
    }
}

/// An event in a month, in the order of [`super::columns`].
pub(super) fn cells<'a>(issuer: &'a str, bill: &Bill, month: Span, event: &'a CreditEventRow) -> [Cell<'a>; COLUMNS] {
    let at = Timestamp(event.time_us).min(Timestamp::MAX);
    let hour = Window::Hour.bounds(at, &TimeZone::UTC);
    let charge = charge(event);
    let (billed, effective) = (|| Cell::Decimal(charge.billed), || Cell::Decimal(charge.effective));
    // Only what is bought is a quantity of something, at a price.
    let is_bought = charge.category == "Purchase";
    let of_price = |cell: Cell<'a>| if is_bought { cell } else { Cell::Absent };
    let one = || of_price(Cell::Decimal(Money::ONE));
    [
        billed(),
        Cell::text(&event.tenant),
        Cell::text(&event.tenant),
        Cell::text("Tenant"),
        Cell::text(&event.currency),
        Cell::Time(month.end),
        Cell::Time(month.start),
        Cell::text(charge.category),
        charge.class.map_or(Cell::Absent, Cell::text),
        Cell::owned(description(charge.what, event)),
        Cell::text("One-Time"),
        Cell::Time(hour.1.min(month.end)),
        Cell::Time(hour.0.max(month.start)),
        Cell::Absent,
        Cell::Absent,
        billed(),
        one(),
        effective(),
        // Of its own: it is on no month's statement.
        Cell::owned(format!("{}-credit-{}", event.tenant, event.event)),
        Cell::text(issuer),
        billed(),
        one(),
        of_price(Cell::text("Standard")),
        Cell::text(&event.currency),
        one(),
        effective(),
        one(),
        of_price(billed()),
        of_price(Cell::text(&event.currency)),
        Cell::text(issuer),
        Cell::text(issuer),
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::text("AI and Machine Learning"),
        Cell::text(SERVICE),
        Cell::text("Generative AI"),
        of_price(Cell::text(SKU)),
        of_price(Cell::text(SKU)),
        Cell::Absent,
        of_price(Cell::owned(format!("{SKU}-{}", event.currency))),
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::owned(bill.tags()),
        Cell::Number(0),
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::Absent,
        Cell::Number(0),
    ]
}

/// With the number that the tenant's history has it under.
fn description(what: &str, event: &CreditEventRow) -> String {
    let number = event.event;
    match event.reason.as_str() {
        "" => format!("{what} (event {number})"),
        reason => format!("{what} (event {number}): {reason}"),
    }
}

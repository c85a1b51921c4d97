//! Keeps the price book equal to the prices in the catalog, and prices what requests used: in the very log entries that say so.

use tollgate_billing::{Bill, Changes, PriceBook, price::Asked};
use tollgate_model::{Checked, Kind, LogIndex, Timestamp, catalog::Change};
use tollgate_proto::v1::resource::Kind as Raw;
use tollgate_quota::Used;

/// Puts prices into force and takes them out, as `changed` says.
///
/// # Panics
/// When a committed price does not check: the node that took it ran a version that this one can't follow.
pub(super) fn follow(book: &mut PriceBook, changed: &[Change], at: LogIndex, now: Timestamp, rows: &mut Changes) {
    for change in changed.iter().filter(|change| change.kind == Kind::Price) {
        let Some(after) = &change.after else {
            book.delete(at, now, &change.name, rows);
            continue;
        };
        match (tollgate_model::check(&after.resource), &after.resource.kind) {
            (Ok(Checked::Price(price)), Some(Raw::Price(raw))) => book.put(now, &price, raw, rows),
            (Err(problems), _) => panic!(
                "price {} was committed by a version that allows more than this one does: {problems}",
                change.name
            ),
            _ => {}
        }
    }
}

/// When a request was admitted: what its node said, at the latest now.
pub(super) fn admitted_at(used: &Used<'_>, now: Timestamp) -> Timestamp {
    match used.attribution.admitted_us {
        0 => now,
        admitted => Timestamp(admitted).min(now),
    }
}

/// What a request is billed at, as its tenant and its prices were when it was admitted. None where nothing is billed.
///
/// Its node found the same price then, and held what the request could cost by it, so no clock of this entry may have a say: the
/// node told by log time when it was.
pub(super) fn bill(book: &PriceBook, used: &Used<'_>, at: LogIndex, now: Timestamp) -> Option<Bill> {
    let asked = Asked::by(used.attribution)?;
    let asked = Asked { pinned: asked.pinned.min(at), at: if asked.at.0 == 0 { now } else { asked.at }, ..asked };
    let amount = book.find(&asked).map(|tariff| tariff.amount(used.usage.into()));
    Some(Bill { currency: asked.currency, amount })
}

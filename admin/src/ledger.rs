//! `VerifyLedger` and `ShowLedger`: this node's own files read through, and one request explained.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate_billing::{
    export::{COLUMNS, COSTS, Cell, Source, cost, event},
    ledger::{Attempt, Found, Keeper, Nowhere, Verified, amount_of, attempts, billed, cost_lines, lines, moves},
    price::Line,
};
use tollgate_model::Money;
use tollgate_proto::{
    admin::v1::{
        LedgerBalance, LedgerCost, LedgerLine, LedgerRow, ShowLedgerRequest, ShowLedgerResponse, VerifyLedgerResponse,
    },
    state::v1,
};
use tonic::Status;

use crate::{
    backplane::Backplane,
    call::Call,
    details::{Reason, refuse},
};

/// To count members that may not answer.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Reads the ledger of this node through. What is wrong with its files is then fetched from other nodes, where there are any.
pub(crate) async fn verify(backplane: &Arc<dyn Backplane>, call: &Call) -> Result<VerifyLedgerResponse, Status> {
    backplane.read_barrier(call.deadline).await?;
    // How they are is of no interest, so nobody is waited for.
    let others = backplane.members(call.deadline.min(Instant::now() + AT_ONCE)).await?.len() > 1;
    let (keeper, node) = (backplane.ledger(), backplane.node().0);
    let verified = blocking(move || {
        let mut verified = keeper.verify()?;
        for segment in verified.broken.clone() {
            verified.problems.push(mend(&keeper, segment, others)?);
        }
        Ok(verified)
    });
    Ok(answer(node, verified.await?))
}

fn mend(keeper: &Keeper, segment: u64, others: bool) -> io::Result<String> {
    if !others {
        return Ok(format!(
            "this cluster has no other node to fetch segment {segment} from: put the file back from a copy of it"
        ));
    }
    keeper.lose(segment)?;
    Ok(format!("segment {segment} is being fetched from other nodes: verify again in a moment"))
}

fn answer(node: u64, verified: Verified) -> VerifyLedgerResponse {
    let balances = verified.books.balances().map(|(account, currency, balance)| LedgerBalance {
        account: account.to_string(),
        currency: currency.to_string(),
        balance: balance.to_string(),
    });
    VerifyLedgerResponse {
        node,
        rows: verified.rows,
        segments: verified.segments,
        last_seq: verified.last_seq,
        hash: hex(&verified.hash),
        balances: balances.collect(),
        problems: verified.problems,
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The rows of one request, each with what makes it up. A narrowed token is told of its own tenant's alone.
pub(crate) async fn show(
    backplane: &Arc<dyn Backplane>,
    call: &Call,
    request: ShowLedgerRequest,
) -> Result<ShowLedgerResponse, Status> {
    backplane.read_barrier(call.deadline).await?;
    let (keeper, request_id) = (backplane.ledger(), request.request_id);
    let (of, tenant) = (request_id.clone(), call.caller.tenant.clone());
    let rows = move || -> io::Result<Vec<LedgerRow>> {
        let mut found = keeper.find(&of)?;
        found.retain(|found| tenant.as_deref().is_none_or(|own| found.row.tenant == own));
        found.iter().map(|found| explain(&keeper, found, tenant.is_none())).collect()
    };
    let rows = blocking(rows).await?;
    if rows.is_empty() {
        let what =
            format!("the ledger has no row of request {request_id}: it was refused, has not ended, or never was");
        return Err(refuse(Reason::NotFound, what));
    }
    Ok(ShowLedgerResponse { rows })
}

/// `with_costs`: with what upstreams bill, and what that moves.
fn explain(keeper: &Keeper, found: &Found, with_costs: bool) -> io::Result<LedgerRow> {
    let row = &found.row;
    let columns = COLUMNS.iter().zip(event(row)).map(|(column, cell)| ((*column).to_owned(), text(cell))).collect();
    let unreadable = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let lines = match keeper.price(&row.price, row.price_version)? {
        Some(price) => lines(row, &price).map_err(unreadable)?,
        None => Vec::new(),
    };
    let mut costs = Vec::new();
    for attempt in attempts(row).filter(|_| with_costs) {
        let lines = match keeper.price(&attempt.cost.price, attempt.cost.price_version)? {
            Some(price) => cost_lines(&attempt, &price).map_err(unreadable)?,
            None => Vec::new(),
        };
        costs.push(explain_cost(row, &attempt, lines));
    }
    let moves = if with_costs { moves(row) } else { billed(row) };
    let moves = moves.into_iter().map(|(account, currency, amount)| LedgerBalance {
        account: account.to_string(),
        currency: currency.to_string(),
        balance: amount.to_string(),
    });
    let margin = margin(row).filter(|_| with_costs).map(|margin| margin.to_string()).unwrap_or_default();
    let (lines, moves) = (lines.into_iter().map(line).collect(), moves.collect());
    Ok(LedgerRow { columns, lines, moves, segment: found.segment, offset: found.offset, costs, margin })
}

fn explain_cost(row: &v1::LedgerRow, attempt: &Attempt<'_>, lines: Vec<Line>) -> LedgerCost {
    let columns = COSTS.iter().zip(cost(row, attempt)).map(|(column, cell)| (column.name.to_owned(), text(cell)));
    LedgerCost { columns: columns.collect(), lines: lines.into_iter().map(line).collect() }
}

fn line(line: Line) -> LedgerLine {
    LedgerLine {
        meter: line.meter.as_str().to_owned(),
        quantity: line.quantity,
        rate: line.rate.to_string(),
        amount: line.amount.to_string(),
    }
}

/// What is left of what a row's tenant is billed. None where that is not billed, an upstream has no price, or bills in another currency.
fn margin(row: &v1::LedgerRow) -> Option<Money> {
    let amount = amount_of(row).filter(|_| !row.currency.is_empty() && !row.costs.is_empty())?;
    attempts(row).try_fold(amount, |left, attempt| {
        let cost = attempt.amount().filter(|_| attempt.cost.currency == row.currency)?;
        Some(Money(left.0.saturating_sub(cost.0)))
    })
}

fn text(cell: Cell<'_>) -> String {
    match cell {
        Cell::Text(text) => text.into_owned(),
        Cell::Number(number) => number.to_string(),
        Cell::Decimal(decimal) => decimal.to_string(),
        Cell::Time(time) => time.to_string(),
        Cell::Absent => String::new(),
    }
}

/// Reads where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let read = tokio::task::spawn_blocking(read).await.map_err(|_| Status::internal("reading the ledger failed"))?;
    read.map_err(|error| unread(&error))
}

/// What is said where this node's ledger can't be read.
pub(crate) fn unread(error: &io::Error) -> Status {
    match error.kind() {
        // Another node may have it still.
        io::ErrorKind::NotFound if error.get_ref().is_some_and(|it| it.is::<Nowhere>()) => {
            Status::unavailable(error.to_string())
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::StorageFull => Status::unavailable(error.to_string()),
        io::ErrorKind::InvalidData => {
            Status::data_loss(format!("{error}; `tollgate ledger verify` on this node mends it where it can"))
        }
        _ => Status::internal(format!("the ledger of this node can't be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(costs: &[(&str, &str, i128)]) -> v1::LedgerRow {
        let bytes = |pico: i128| pico.to_be_bytes().to_vec();
        let cost = |&(price, currency, pico): &(&str, &str, i128)| v1::LedgerCost {
            price: price.into(),
            currency: currency.into(),
            amount: bytes(pico),
            ..v1::LedgerCost::default()
        };
        let costs = costs.iter().map(cost).collect();
        v1::LedgerRow { currency: "USD".into(), amount: bytes(10), costs, ..v1::LedgerRow::default() }
    }

    #[test]
    fn a_margin_is_told_where_all_of_it_is_known_in_one_currency() {
        assert_eq!(margin(&row(&[("p", "USD", 4)])), Some(Money(6)));
        assert_eq!(margin(&row(&[("p", "USD", 4), ("q", "USD", 9)])), Some(Money(-3)));
        assert_eq!(margin(&row(&[("p", "USD", 4), ("q", "EUR", 1)])), None, "no sum of two currencies");
        assert_eq!(margin(&row(&[("p", "USD", 4), ("", "", 0)])), None, "no price is not for nothing");
        assert_eq!(margin(&row(&[])), None, "nobody worked for it");
        assert_eq!(margin(&v1::LedgerRow { currency: String::new(), ..row(&[("p", "USD", 4)]) }), None);
    }
}

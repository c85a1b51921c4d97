//! `VerifyLedger` and `ShowLedger`: this node's own files read through, and one request explained.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate_billing::{
    export::{COLUMNS, Cell, Source, event},
    ledger::{Found, Keeper, Verified, lines, moves},
};
use tollgate_proto::admin::v1::{
    LedgerBalance, LedgerLine, LedgerRow, ShowLedgerRequest, ShowLedgerResponse, VerifyLedgerResponse,
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
    let of = request_id.clone();
    let (rows, tenant) = (
        move || -> io::Result<Vec<LedgerRow>> {
            let found = keeper.find(&of)?;
            found.iter().map(|found| explain(&keeper, found)).collect()
        },
        call.caller.tenant.clone(),
    );
    let mut rows = blocking(rows).await?;
    rows.retain(|row| tenant.as_deref().is_none_or(|own| row.columns.get("tenant").is_some_and(|it| it == own)));
    if rows.is_empty() {
        let what =
            format!("the ledger has no row of request {request_id}: it was refused, has not ended, or never was");
        return Err(refuse(Reason::NotFound, what));
    }
    Ok(ShowLedgerResponse { rows })
}

fn explain(keeper: &Keeper, found: &Found) -> io::Result<LedgerRow> {
    let row = &found.row;
    let columns = COLUMNS.iter().zip(event(row)).map(|(column, cell)| ((*column).to_owned(), text(cell))).collect();
    let lines = match keeper.price(&row.price, row.price_version)? {
        Some(price) => lines(row, &price).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?,
        None => Vec::new(),
    };
    let lines = lines.into_iter().map(|line| LedgerLine {
        meter: line.meter.as_str().to_owned(),
        quantity: line.quantity,
        rate: line.rate.to_string(),
        amount: line.amount.to_string(),
    });
    let moves = moves(row).into_iter().map(|(account, currency, amount)| LedgerBalance {
        account: account.to_string(),
        currency: currency.to_string(),
        balance: amount.to_string(),
    });
    let (lines, moves) = (lines.collect(), moves.collect());
    Ok(LedgerRow { columns, lines, moves, segment: found.segment, offset: found.offset })
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

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Status> {
    let read = tokio::task::spawn_blocking(read).await.map_err(|_| Status::internal("reading the ledger failed"))?;
    read.map_err(|error| unread(&error))
}

/// What is said where this node's ledger can't be read.
pub(crate) fn unread(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::StorageFull => Status::unavailable(error.to_string()),
        io::ErrorKind::InvalidData => {
            Status::data_loss(format!("{error}; `tollgate ledger verify` on this node mends it where it can"))
        }
        _ => Status::internal(format!("the ledger of this node can't be read: {error}")),
    }
}

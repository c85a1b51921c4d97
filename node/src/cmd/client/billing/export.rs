//! `tollgate billing export` and `statement`: chunks of a bill from one node after another, until the last one.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};
use tollgate_proto::admin::v1::{ExportBillChunk, ExportBillRequest, ExportStatementRequest};
use tonic::{Response, Status, Streaming};

use super::target::Target;
use crate::cmd::client::{
    INTERRUPTED,
    connection::{Attempt, Connection, is_for_another},
    failure::{CallError, Usage},
};

/// Before another node is asked for what this one no longer tells.
const RESUME_PAUSE: Duration = Duration::from_millis(200);
/// How often it is told how far it is, at least.
const TELL_EVERY: Duration = Duration::from_secs(1);
const TELL_BYTES: u64 = 4 << 20;
const CUT: &str = "the export was cut";

/// Somebody has interrupted it. All there is to say has been printed.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(in crate::cmd::client) struct Interrupted;

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Bill(ExportBillRequest),
    Statement(ExportStatementRequest),
}

impl Asked {
    fn cursor(&mut self) -> &mut String {
        match self {
            Self::Bill(request) => &mut request.cursor,
            Self::Statement(request) => &mut request.cursor,
        }
    }

    async fn of(self, at: &Attempt) -> Result<Response<Streaming<ExportBillChunk>>, Status> {
        match self {
            Self::Bill(request) => at.billing().export(at.stream_request(request)).await,
            Self::Statement(request) => at.billing().export_statement(at.stream_request(request)).await,
        }
    }
}

pub(super) async fn run(
    connection: &Connection,
    mut request: Asked,
    output: Option<PathBuf>,
    is_text: bool,
) -> anyhow::Result<()> {
    let to_stdout = output.is_none();
    if to_stdout && !is_text && io::stdout().is_terminal() {
        return Err(Usage("Parquet is not for a terminal: give --output FILE".to_owned()).into());
    }
    // Before there is a file that would be left.
    let (mut interrupt, mut stop) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut target = Target::open(output).await?;
    let mut so_far = SoFar::new(request.cursor().clone(), to_stdout);
    let done = tokio::select! {
        biased;
        done = copy(connection, request, &mut target, &mut so_far) => done,
        _ = interrupt.recv() => Err(Interrupted.into()),
        _ = stop.recv() => Err(Interrupted.into()),
    };
    so_far.clear();
    let done = match done {
        Ok(()) => target.finish().await,
        Err(error) => {
            drop(target);
            Err(error)
        }
    };
    match &done {
        Ok(()) => anstream::eprintln!("cursor: {}", so_far.cursor),
        // What was written to a file is gone; of anything else it is told where to go on.
        Err(_) if to_stdout && so_far.bytes > 0 => so_far.tell_cursor(),
        Err(_) => {}
    }
    if done.as_ref().is_err_and(|error| error.is::<Interrupted>()) && to_stdout {
        // Whoever reads standard output may have stopped to: nothing waits for that.
        std::process::exit(i32::from(INTERRUPTED));
    }
    done
}

/// Until the last chunk is written. Where a node goes away another one is asked, from the last chunk on.
async fn copy(
    connection: &Connection,
    mut request: Asked,
    target: &mut Target,
    so_far: &mut SoFar,
) -> anyhow::Result<()> {
    let mut deadline = connection.deadline();
    loop {
        // A node that tells no first chunk has not answered: the next one is asked.
        let open = async |at: &Attempt| {
            let mut chunks = request.clone().of(at).await?.into_inner();
            let first = chunks.message().await?.ok_or_else(|| Status::unavailable(CUT))?;
            Ok((first, chunks))
        };
        let (mut chunk, mut chunks) = connection.read_until(deadline, open).await?;
        let why = loop {
            let data = std::mem::take(&mut chunk.data);
            let (bytes, last) = (data.len() as u64, chunk.last);
            target.write(data).await?;
            deadline = connection.deadline();
            request.cursor().clone_from(&chunk.cursor);
            so_far.add(chunk, bytes);
            if last {
                return Ok(());
            }
            chunk = match next(&mut chunks, connection.timeout()).await? {
                Next::Chunk(chunk) => chunk,
                Next::Cut(why) => break why,
            };
        };
        if Instant::now() + RESUME_PAUSE >= deadline {
            return Err(CallError::NoAnswer { nodes: why, maybe_done: false, request_id: Vec::new() }.into());
        }
        tokio::time::sleep(RESUME_PAUSE).await;
    }
}

enum Next {
    Chunk(ExportBillChunk),
    /// The stream has ended before the last chunk, and why.
    Cut(String),
}

async fn next(chunks: &mut Streaming<ExportBillChunk>, timeout: Duration) -> Result<Next, CallError> {
    match tokio::time::timeout(timeout, chunks.message()).await {
        Ok(Ok(Some(chunk))) => Ok(Next::Chunk(chunk)),
        Ok(Ok(None)) => Ok(Next::Cut(CUT.to_owned())),
        Ok(Err(status)) if is_for_another(&status) => Ok(Next::Cut(status.message().to_owned())),
        Ok(Err(status)) => Err(CallError::Refused(status)),
        Err(_) => Ok(Next::Cut("nothing more in time".to_owned())),
    }
}

/// What is written, and what was told of it.
struct SoFar {
    cursor: String,
    bytes: u64,
    rows: u64,
    /// Rows of the nodes before this one.
    rows_before: u64,
    rows_here: u64,
    done: u32,
    told: (Instant, u64),
    shows: Shows,
}

#[derive(PartialEq, Eq)]
enum Shows {
    /// A line that is written over.
    Progress,
    /// Cursors, a line each.
    Cursors,
    Nothing,
}

impl SoFar {
    fn new(cursor: String, to_stdout: bool) -> Self {
        let shows = match (io::stderr().is_terminal(), to_stdout) {
            (true, true) if io::stdout().is_terminal() => Shows::Nothing,
            (true, _) => Shows::Progress,
            (false, true) => Shows::Cursors,
            (false, false) => Shows::Nothing,
        };
        let told = (Instant::now(), 0);
        Self { cursor, bytes: 0, rows: 0, rows_before: 0, rows_here: 0, done: 0, told, shows }
    }

    fn add(&mut self, chunk: ExportBillChunk, bytes: u64) {
        if chunk.rows < self.rows_here {
            self.rows_before = self.rows; // another node counts from its beginning
        }
        (self.rows_here, self.rows) = (chunk.rows, self.rows_before + chunk.rows);
        self.bytes += bytes;
        (self.cursor, self.done) = (chunk.cursor, chunk.done_permille);
        let (told_at, told) = self.told;
        let is_first = told == 0 && self.bytes > 0;
        let is_time = is_first || told_at.elapsed() >= TELL_EVERY || self.bytes - told >= TELL_BYTES;
        if !is_time || chunk.last {
            return;
        }
        self.told = (Instant::now(), self.bytes);
        match self.shows {
            Shows::Progress => self.show(),
            Shows::Cursors => self.tell_cursor(),
            Shows::Nothing => {}
        }
    }

    fn show(&self) {
        let filled = (self.done.min(1_000) / 50) as usize;
        let bar = format!("{}{}", "#".repeat(filled), "-".repeat(20 - filled));
        let _ = write!(
            anstream::stderr(),
            "\r[{bar}] {:>3} %  {} rows, {:.1} MB ",
            self.done / 10,
            self.rows,
            self.bytes as f64 / 1e6
        );
    }

    /// Takes the line of progress away.
    fn clear(&self) {
        if self.shows == Shows::Progress && self.told.1 > 0 {
            let _ = write!(anstream::stderr(), "\r{:70}\r", "");
        }
    }

    fn tell_cursor(&self) {
        anstream::eprintln!("cursor: {} after {} bytes", self.cursor, self.bytes);
    }
}

#[cfg(test)]
mod tests;

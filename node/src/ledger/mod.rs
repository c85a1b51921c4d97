//! The files of the billing ledger on this node: one thread that writes what was applied, a task that fetches what is missing, and
//! one that archives what is old.
//!
//! A full disk is waited for: the node is not ready meanwhile, rows wait in memory, and neither snapshots nor the state store
//! say that they are durable, so that the log is kept for them. Any other failure of a write ends the process.

mod archive;
mod fetch;

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::watch;
use tollgate_billing::ledger::{Archive, Keeper};
use tracing::{error, info, warn};

use crate::config::NodeConfig;

pub(crate) use self::archive::archive;
pub(crate) use self::fetch::{SERVICE, Serving, fetch};

/// The directory under `node.data_dir`.
pub(crate) const DIR: &str = "ledger";
/// How long the thread sleeps where nobody wakes it.
const IDLE: Duration = Duration::from_secs(1);
/// Between two attempts on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// The ledger that a node will have, and its archive.
pub(crate) fn keeper(config: &NodeConfig) -> Keeper {
    let keeper = Keeper::new(config.data_dir.join(DIR));
    match &config.archive {
        Some(dir) => keeper.with_archive(Archive::new(dir.clone(), config.id)),
        None => keeper,
    }
}

/// The writing thread. Dropping it writes what waits, and ends it.
pub(crate) struct Scribe {
    keeper: Arc<Keeper>,
    thread: Option<JoinHandle<()>>,
}

impl Scribe {
    /// Starts it, once the state that this node starts from is there; with whether its disk is full.
    pub(crate) fn start(keeper: Arc<Keeper>) -> io::Result<(Scribe, watch::Receiver<bool>)> {
        let (full, is_full) = watch::channel(false);
        let of_thread = Arc::clone(&keeper);
        let thread = thread::Builder::new().name("ledger".into()).spawn(move || write(&of_thread, &full))?;
        Ok((Scribe { keeper, thread: Some(thread) }, is_full))
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.keeper.close();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            warn!("the ledger's thread has panicked");
        }
    }
}

fn write(keeper: &Keeper, full: &watch::Sender<bool>) {
    loop {
        let goes_on = keeper.wait(IDLE);
        let written = keeper.write();
        tell_full(full, written.is_err());
        match written {
            Err(error) if is_full(&error) => thread::sleep(FULL_RETRY),
            Err(error) => end(&error),
            Ok(()) => {}
        }
        if !goes_on {
            return;
        }
    }
}

fn tell_full(full: &watch::Sender<bool>, is: bool) {
    match (full.send_replace(is), is) {
        (false, true) => {
            error!("no space for the ledger: rows wait in memory, and this node is not ready, until there is");
        }
        (true, false) => info!("there is space for the ledger again"),
        (false, false) | (true, true) => {}
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Nobody knows what the disk has: the next process reads it.
pub(crate) fn end(error: &io::Error) -> ! {
    error!(%error, "the ledger can't go on, ending the process");
    std::process::abort();
}

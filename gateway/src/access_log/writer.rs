//! The thread that writes lines into a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};
use tracing::{info, warn};

/// Lines that wait to be written, some megabytes of them: a second of a busy node.
const QUEUE: usize = 16 * 1_024;
/// Written at once.
const BATCH_BYTES: usize = 64 * 1_024;

enum Told {
    Line(Vec<u8>),
    Reopen,
    /// All before it is to be in the file.
    Flush(oneshot::Sender<()>),
}

#[derive(Debug)]
pub(super) struct Writer {
    told: SyncSender<Told>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn start(path: PathBuf) -> io::Result<Writer> {
        let file = open(&path)?;
        let (told, told_here) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let scribe =
            Scribe { file, path, dropped: Arc::clone(&dropped), is_failing: false, batch: Vec::new(), lines: 0 };
        thread::Builder::new().name("access-log".to_owned()).spawn(move || scribe.run(&told_here))?;
        Ok(Writer { told, dropped })
    }

    pub(super) fn write(&self, line: Vec<u8>) {
        if self.told.try_send(Told::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn reopen(&self) {
        // Whoever asked has to ask again if so much waits that this has no room.
        if self.told.try_send(Told::Reopen).is_err() {
            warn!("the access log has too much to write to be reopened now");
        }
    }

    pub(super) async fn flush(&self, within: Duration) {
        let (tell, done) = oneshot::channel();
        if self.told.try_send(Told::Flush(tell)).is_ok() {
            // Too late or gone: what is lost then is counted nowhere, as the process ends.
            let _ = timeout(within, done).await;
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Scribe {
    file: File,
    path: PathBuf,
    dropped: Arc<AtomicU64>,
    /// The last write failed, and the node's log says so.
    is_failing: bool,
    batch: Vec<u8>,
    lines: u64,
}

impl Scribe {
    /// Until the last one who could tell anything is gone.
    fn run(mut self, told: &Receiver<Told>) {
        while let Ok(first) = told.recv() {
            self.take(first);
            while self.batch.len() < BATCH_BYTES
                && let Ok(next) = told.try_recv()
            {
                self.take(next);
            }
            self.write();
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::Line(line) => {
                self.batch.extend_from_slice(&line);
                self.lines += 1;
            }
            Told::Reopen => {
                self.write();
                match open(&self.path) {
                    Ok(file) => {
                        self.file = file;
                        info!(file = %self.path.display(), "the access log was reopened");
                    }
                    Err(error) => {
                        warn!(file = %self.path.display(), %error, "the access log can't be reopened: it goes on as it was");
                    }
                }
            }
            Told::Flush(done) => {
                self.write();
                // Who asked may have given up.
                let _ = done.send(());
            }
        }
    }

    /// A batch that can't be written is dropped: a full disk is no reason to hold the next one back.
    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match self.file.write_all(&self.batch) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                self.dropped.fetch_add(self.lines, Ordering::Relaxed);
                if !std::mem::replace(&mut self.is_failing, true) {
                    warn!(file = %self.path.display(), %error, "the access log can't be written: lines are dropped");
                }
            }
        }
        self.batch.clear();
        self.lines = 0;
    }
}

/// Lines of one write stay together, whoever else appends to the file.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn lines_come_in_order_and_a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        fs::write(&path, "before\n").unwrap();
        let writer = Writer::start(path.clone()).unwrap();
        writer.write(b"one\n".to_vec());
        writer.write(b"two\n".to_vec());
        writer.flush(WITHIN).await;
        fs::rename(&path, &moved).unwrap();
        writer.write(b"three\n".to_vec());
        writer.reopen();
        writer.write(b"four\n".to_vec());
        writer.flush(WITHIN).await;
        assert_eq!(fs::read_to_string(&moved).unwrap(), "before\none\ntwo\nthree\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
        assert_eq!(writer.dropped(), 0);
    }

    #[tokio::test]
    async fn what_can_not_be_written_is_dropped_and_counted_and_nobody_waits() {
        let writer = Writer::start(PathBuf::from("/dev/full")).unwrap();
        for _ in 0..3 {
            writer.write(b"a line\n".to_vec());
        }
        writer.flush(WITHIN).await;
        assert_eq!(writer.dropped(), 3);
        assert!(Writer::start(PathBuf::from("/nowhere/access.log")).is_err());
    }

    #[test]
    fn more_lines_than_there_is_room_for_are_dropped() {
        let (told, _nobody_reads) = sync_channel(QUEUE);
        let writer = Writer { told, dropped: Arc::default() };
        for _ in 0..QUEUE + 7 {
            writer.write(Vec::new());
        }
        assert_eq!(writer.dropped(), 7);
    }
}

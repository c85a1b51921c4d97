//! The journal of this node on its disk (`quota::journal` says what is in it): one thread, one `fdatasync` for all that
//! waited. Where entries are many they are made to wait for one another (`pace.rs`), and ends, which nobody waits for that long, for
//! something else to be synced.
//!
//! A directory of its own under `node.data_dir`, locked while this process lives: whoever opens it knows that the process
//! before has ended. A copy of that directory elsewhere says nothing of the kind: it is told by its lock file, whose place on
//! the disk is written down, and is set aside. A full disk is waited for; the desk admits nothing meanwhile that has to be journaled. Any other failure of
//! a write ends the process. A journal that is damaged is set aside: what it knew stays in suspense until its windows turn.

mod pace;

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, UNIX_EPOCH},
};

use anyhow::Context;
use parking_lot::{Condvar, Mutex};
use prost::Message;
use tollgate_quota::{
    JournalEntry, JournalKind,
    journal::{Journal, Remains, Replay, Watermarks},
};
use tollgate_storage::{OpenError, Options, RealDisk, SegmentId, WriteError, Writer};
use tracing::{error, info, warn};

use pace::Pace;

const OWNER: [u8; 8] = *b"tgjournl";
const HEAL: &str = "move the directory away: limits stay exact, what it knew counts as used until the windows turn";
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// A journal that has grown by this since its last image is restated; soon, where crashes in the middle of it are tested.
const LONG_BYTES: u64 = if cfg!(feature = "failpoints") { 16 * 1024 } else { 8 * 1024 * 1024 };
/// Says where on the disk the lock file of this journal is.
const PLACE_FILE: &str = "place";
/// Ends are synced with the next admission, or within this time: answers wait until they are written, and the log alone until they are
/// durable.
const ENDS_WITHIN: Duration = Duration::from_millis(1);
/// Between two attempts on a full disk.
const FULL_RETRY: Duration = Duration::from_millis(100);

/// The journal before anything is admitted: what earlier processes left, and room for what this one will.
pub(crate) struct Opening {
    writer: Writer,
    /// What is left of earlier incarnations, the oldest first.
    pub(crate) remains: Vec<Remains>,
    /// Incarnations that ran on this disk, so that they have ended.
    started: Vec<u64>,
}

/// Opens the journal under `data_dir`.
///
/// # Errors
/// When another process has it, or the file system fails.
pub(crate) fn open(data_dir: &Path) -> anyhow::Result<Opening> {
    let dir = data_dir.join("journal");
    let why = match read(&dir) {
        Err(OpenError::Corrupt { .. } | OpenError::Foreign { .. }) => "is damaged",
        Ok(opening) if opening.remains.is_empty() || is_in_place(&dir) => return settle_down(&dir, opening),
        Ok(_) => "is a copy, and whose it is a copy of may still run",
        Err(error) => return Err(error).with_context(|| format!("node.data_dir: can't open {}", dir.display())),
    };
    let aside = set_aside(&dir).with_context(|| format!("node.data_dir: can't move {} away", dir.display()))?;
    error!(
        moved_to = %aside.display(),
        "the journal of this node {why}: what earlier processes had in hand counts as used until its windows turn"
    );
    let opening = read(&dir).with_context(|| format!("node.data_dir: can't open {}", dir.display()))?;
    settle_down(&dir, opening)
}

/// Where the lock file of a journal is on its disk: of a copy it is elsewhere, and of a later time.
fn place_of(dir: &Path) -> io::Result<String> {
    let lock = fs::metadata(dir.join("lock"))?;
    let made = lock.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Ok(format!("{} {}\n", lock.ino(), made.map_or(0, |since| since.as_nanos())))
}

fn is_in_place(dir: &Path) -> bool {
    let known = fs::read_to_string(dir.join(PLACE_FILE)).ok();
    known.is_some() && known == place_of(dir).ok()
}

/// Writes down where a journal is that has nothing to say yet.
fn settle_down(dir: &Path, opening: Opening) -> anyhow::Result<Opening> {
    if !is_in_place(dir) {
        let write = || {
            let mut file = fs::File::create(dir.join(PLACE_FILE))?;
            file.write_all(place_of(dir)?.as_bytes())?;
            file.sync_all()?;
            fs::File::open(dir)?.sync_all()
        };
        write().with_context(|| format!("node.data_dir: can't write {}", dir.join(PLACE_FILE).display()))?;
    }
    Ok(opening)
}

fn read(dir: &Path) -> Result<Opening, OpenError> {
    let mut replay = Replay::default();
    let options = Options { segment_bytes: SEGMENT_BYTES, ..Options::new(OWNER, HEAL) };
    let opened = tollgate_storage::open(Arc::new(RealDisk), dir, options, &mut |_, entry| replay.entry(entry));
    let opened = opened.inspect_err(|error| warn!(%error, "can't read the journal"))?;
    let remains = replay.finish();
    let started = remains.iter().map(Remains::incarnation).collect();
    Ok(Opening { writer: opened.writer, remains, started })
}

fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let free = (1..).map(|n| dir.with_extension(format!("aside-{n}"))).find(|aside| !aside.exists());
    let aside = free.expect("numbers do not end");
    fs::rename(dir, &aside)?;
    Ok(aside)
}

impl Opening {
    /// Whether this incarnation ran on this disk, whose lock we have.
    pub(crate) fn has_ended(&self, incarnation: u64) -> bool {
        self.started.contains(&incarnation)
    }

    /// Writes down that this incarnation runs on this disk: durable before anybody is told of it.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn start(&mut self, incarnation: u64) -> Result<(), WriteError> {
        let entry = JournalEntry { kind: Some(JournalKind::Start(incarnation)) };
        self.writer.append(&entry.encode_to_vec())?;
        self.writer.commit()?;
        self.started.push(incarnation);
        Ok(())
    }

    /// Begins to write what the desk says.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(crate) fn run(self) -> io::Result<FileJournal> {
        let shared = Arc::new(Shared::default());
        let scribe = Scribe {
            writer: self.writer,
            shared: Arc::clone(&shared),
            image: None,
            since_image: 0,
            unsynced: None,
            pace: Pace::from(Instant::now()),
        };
        let thread = thread::Builder::new().name("journal".into()).spawn(move || scribe.run())?;
        Ok(FileJournal { shared, thread: Mutex::new(Some(thread)) })
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    progress: Watermarks,
}

#[derive(Default)]
struct Queue {
    entries: Vec<JournalEntry>,
    closed: bool,
}

/// The journal of the incarnation that runs.
pub(crate) struct FileJournal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Journal for FileJournal {
    fn append(&self, entries: Vec<JournalEntry>) {
        self.shared.queue.lock().entries.extend(entries);
        self.shared.wake.notify_one();
    }

    fn progress(&self) -> Watermarks {
        self.shared.progress.clone()
    }
}

impl Drop for FileJournal {
    /// What is queued is written before the process ends.
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(Err(_)) = self.thread.lock().take().map(JoinHandle::join) {
            warn!("the journal's thread has panicked");
        }
    }
}

/// The writing thread.
struct Scribe {
    writer: Writer,
    shared: Arc<Shared>,
    /// The segment that begins with the image that is being written.
    image: Option<SegmentId>,
    since_image: u64,
    /// Since when there are ends that were written and not synced.
    unsynced: Option<Instant>,
    pace: Pace,
}

impl Scribe {
    fn run(mut self) {
        while let Some(entries) = self.next() {
            if let Err(error) = self.write(&entries) {
                if matches!(error, WriteError::NoSpace(_)) {
                    return warn!("the journal's last entries found no space"); // only when it is closed
                }
                error!(%error, "the journal can't go on, ending the process");
                std::process::abort();
            }
        }
    }

    /// Whatever is queued; nothing when it is time to sync what was written; none once the journal is closed and all is durable.
    fn next(&mut self) -> Option<Vec<JournalEntry>> {
        if let Some(pause) = self.pace.pause(Instant::now()) {
            thread::sleep(pause); // whoever appends meanwhile need not wake anybody
        }
        let mut queue = self.shared.queue.lock();
        while queue.entries.is_empty() && !queue.closed {
            match self.unsynced {
                None => self.shared.wake.wait(&mut queue),
                Some(since) if self.shared.wake.wait_until(&mut queue, since + ENDS_WITHIN).timed_out() => break,
                Some(_) => {}
            }
        }
        let entries = std::mem::take(&mut queue.entries);
        drop(queue);
        self.pace.took(entries.len() as u64, Instant::now());
        (!entries.is_empty() || self.unsynced.is_some()).then_some(entries)
    }

    fn write(&mut self, entries: &[JournalEntry]) -> Result<(), WriteError> {
        let mut whole = None;
        for entry in entries {
            match &entry.kind {
                Some(JournalKind::Image(_)) => {
                    self.patiently(|writer| writer.roll(0))?;
                    (self.image, self.since_image) = (Some(self.writer.active_segment()), 0);
                }
                Some(JournalKind::ImageEnd(_)) => whole = self.image.take(),
                _ => {}
            }
            let bytes = entry.encode_to_vec();
            self.since_image += bytes.len() as u64;
            self.patiently(|writer| writer.append(&bytes).map(drop))?;
        }
        self.patiently(Writer::write)?;
        self.shared.progress.change(|progress| progress.written += entries.len() as u64);
        if !self.is_waited_for(entries) {
            return Ok(());
        }
        self.patiently(Writer::commit)?;
        self.unsynced = None;
        let is_long = self.since_image > LONG_BYTES;
        self.shared.progress.change(|progress| {
            progress.durable = progress.written;
            progress.is_long = is_long;
        });
        match whole {
            Some(segment) => self.writer.drop_before(segment).map(drop),
            None => Ok(()),
        }
    }

    /// Whether something must be durable now: not ends alone, for a while.
    fn is_waited_for(&mut self, entries: &[JournalEntry]) -> bool {
        let is_end = |entry: &JournalEntry| matches!(entry.kind, Some(JournalKind::End(_)));
        if entries.is_empty() || !entries.iter().all(is_end) {
            return true;
        }
        self.unsynced.get_or_insert_with(Instant::now).elapsed() >= ENDS_WITHIN
    }

    /// Waits for space when the disk is full: nobody was told anything yet.
    fn patiently<T>(&mut self, mut step: impl FnMut(&mut Writer) -> Result<T, WriteError>) -> Result<T, WriteError> {
        loop {
            let result = step(&mut self.writer);
            let full = matches!(result, Err(WriteError::NoSpace(_)));
            self.tell_full(full);
            if !full || self.shared.queue.lock().closed {
                return result;
            }
            thread::sleep(FULL_RETRY);
        }
    }

    fn tell_full(&self, full: bool) {
        let changed = self.shared.progress.now().full != full;
        if changed {
            self.shared.progress.change(|progress| progress.full = full);
        }
        match (changed, full) {
            (true, true) => error!("no space for the journal: what has to be journaled is refused until there is"),
            (true, false) => info!("there is space for the journal again"),
            (false, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_quota::{Outcome, Settle};

    use super::*;

    const END: u64 = 7;

    fn entry(kind: JournalKind) -> JournalEntry {
        JournalEntry { kind: Some(kind) }
    }

    fn end(request: u64) -> JournalEntry {
        let settle = Settle { request, outcome: Outcome::Settled.into(), terminal: request, ..Settle::default() };
        entry(JournalKind::End(tollgate_quota::JournalEnd { request, settle: Some(settle), ..Default::default() }))
    }

    fn written(journal: &FileJournal, durable: u64) {
        let progress = journal.progress();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(progress.durable(durable));
    }

    /// How many ends it knows: it says nothing to a log that knows of more.
    fn ends(remains: &Remains) -> u64 {
        (1..).find(|ends| remains.clone().recover(*ends).is_err()).unwrap() - 1
    }

    fn last(dir: &Path) -> (Vec<u64>, u64) {
        let opening = open(dir).unwrap();
        (opening.started.clone(), opening.remains.last().map_or(0, ends))
    }

    #[test]
    fn the_next_process_reads_what_this_one_wrote_and_knows_that_it_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut opening = open(dir.path()).unwrap();
        assert!(opening.remains.is_empty() && !opening.has_ended(END));
        opening.start(END).unwrap();
        let journal = opening.run().unwrap();
        journal.append(vec![end(1), end(2)]);
        written(&journal, 2);
        assert!(open(dir.path()).is_err(), "it is in use");
        drop(journal);
        assert_eq!(last(dir.path()), (vec![END], 2));
    }

    #[test]
    fn an_end_is_written_at_once_and_durable_soon_though_nothing_follows_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path()).unwrap().run().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for at in 1..20 {
            journal.append(vec![end(at)]);
            runtime.block_on(journal.progress().written(at));
        }
        written(&journal, 19);
        let admitted = entry(JournalKind::Admit(tollgate_quota::JournalAdmit::default()));
        journal.append(vec![end(20), admitted]);
        written(&journal, 21);
        journal.append(vec![end(21)]);
        let progress = journal.progress();
        drop(journal);
        assert_eq!((progress.now().written, progress.now().durable), (22, 22), "what is closed is durable");
    }

    #[test]
    fn an_image_takes_the_place_of_what_was_written_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut opening = open(dir.path()).unwrap();
        opening.start(END).unwrap();
        let journal = opening.run().unwrap();
        let many: Vec<JournalEntry> = (1..=100_000).map(end).collect();
        let entries = many.len() as u64;
        journal.append(many);
        written(&journal, entries);
        assert_eq!(journal.progress().now().is_long, cfg!(feature = "failpoints"), "two megabytes are not long");
        journal.append(vec![entry(JournalKind::Image(END)), entry(JournalKind::ImageEnd(entries)), end(entries + 1)]);
        written(&journal, entries + 3);
        drop(journal);
        let files = fs::read_dir(dir.path().join("journal")).unwrap();
        let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes < 2 * SEGMENT_BYTES, "{bytes}");
        assert_eq!(last(dir.path()), (vec![END], entries + 1));
    }

    #[test]
    fn a_copy_is_set_aside_and_says_nothing_of_whoever_it_was_copied_from() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let mut opening = open(first.path()).unwrap();
        opening.start(END).unwrap();
        let running = opening.run().unwrap();
        running.append(vec![end(1)]);
        written(&running, 1);
        let (from, to) = (first.path().join("journal"), second.path().join("journal"));
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(&from).unwrap() {
            let name = file.unwrap().file_name();
            fs::copy(from.join(&name), to.join(&name)).unwrap();
        }
        let mut copy = open(second.path()).unwrap();
        assert!(copy.remains.is_empty() && !copy.has_ended(END), "its process runs");
        assert!(second.path().join("journal.aside-1").exists());
        copy.start(END + 1).unwrap();
        drop(copy);
        assert_eq!(last(second.path()).0, [END + 1], "it is where it belongs by now");
        drop(running);
        assert_eq!(last(first.path()), (vec![END], 1));
    }

    #[test]
    fn a_damaged_journal_is_set_aside_and_nobody_is_thought_to_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut opening = open(dir.path()).unwrap();
        opening.start(END).unwrap();
        let journal = opening.run().unwrap();
        journal.append((1..50).map(end).collect());
        written(&journal, 49);
        drop(journal);
        let segments = fs::read_dir(dir.path().join("journal")).unwrap().map(|file| file.unwrap().path());
        let segment = segments.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        let mut bytes = fs::read(&segment).unwrap();
        bytes[700] ^= 4;
        fs::write(&segment, bytes).unwrap();
        let opening = open(dir.path()).unwrap();
        assert!(opening.remains.is_empty() && !opening.has_ended(END));
        assert!(dir.path().join("journal.aside-1").exists());
    }
}

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use openraft::{EntryPayload, vote::RaftLeaderId};

use super::*;
use crate::{
    machine::{Applied, Files, Row, StateMachine},
    stamp::Stamp,
    types::{Entry, LogId, Proposal, TypeConfig},
};

/// Rows as a state machine: a command is `key=value`.
#[derive(Default)]
pub(super) struct Rows(std::collections::BTreeMap<Vec<u8>, Vec<u8>>);

impl StateMachine for Rows {
    fn apply(&mut self, at: Applied, command: &[u8], changes: &mut Changes) -> Bytes {
        let text = std::str::from_utf8(command).unwrap();
        let (key, value) = text.split_once('=').unwrap();
        self.0.insert(key.into(), value.into());
        changes.put(key.into(), value.into());
        Bytes::from(at.time_us.to_string())
    }

    fn image(&self) -> Image {
        Box::new(self.0.clone().into_iter())
    }

    fn restore(&mut self, rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<()> {
        self.0 = rows.collect::<io::Result<_>>()?;
        Ok(())
    }
}

fn entry(index: u64, request_id: Option<[u8; 16]>, time_us: u64, command: &str) -> Entry {
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new(1, 1 << 16).to_committed();
    let stamp = Stamp { time_us, age: None };
    let proposal = Proposal { stamp, request: request_id.into(), command: Bytes::from(command.to_owned()) };
    Entry { log_id: LogId::new(leader, index), payload: EntryPayload::Normal(proposal) }
}

fn empty() -> Replicated {
    Replicated::new(Box::new(Rows::default()))
}

fn open(path: &Path) -> (StateStore, Replicated) {
    let mut state = empty();
    let store = StateStore::open(path, &mut state, OnFatal::default()).unwrap();
    (store, state)
}

fn put(store: &StateStore, state: &mut Replicated, index: u64, command: &str) {
    let mut changes = Changes::default();
    state.apply(entry(index, Some([u8::try_from(index % 251).unwrap(); 16]), index, command), &mut changes);
    store.put(&mut changes, || state.image());
}

fn rows(state: &Replicated) -> Vec<Row> {
    state.image().collect()
}

#[test]
fn the_state_is_there_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (store, mut state) = open(&path);
    for index in 1..=200 {
        put(&store, &mut state, index, &format!("k{}=v{index}", index % 17));
    }
    drop(store);
    assert_eq!(rows(&open(&path).1), rows(&state));
}

/// Files of a machine, and how often they were synced; the first time may fail.
#[derive(Default)]
struct Beside {
    synced: AtomicU64,
    fails: Option<io::ErrorKind>,
}

impl Files for Beside {
    fn sync(&self) -> io::Result<()> {
        let is_first = self.synced.fetch_add(1, Ordering::SeqCst) == 0;
        self.fails.filter(|_| is_first).map_or(Ok(()), |kind| Err(kind.into()))
    }
}

/// A machine with files beside its rows.
struct WithFiles(Rows, Arc<Beside>);

impl StateMachine for WithFiles {
    fn apply(&mut self, at: Applied, command: &[u8], changes: &mut Changes) -> Bytes {
        self.0.apply(at, command, changes)
    }

    fn files(&self) -> Arc<dyn Files> {
        Arc::clone(&self.1) as Arc<dyn Files>
    }

    fn image(&self) -> Image {
        self.0.image()
    }

    fn restore(&mut self, rows: &mut dyn Iterator<Item = io::Result<Row>>) -> io::Result<()> {
        self.0.restore(rows)
    }
}

fn with_files(path: &Path, files: &Arc<Beside>, on_fatal: OnFatal) -> (StateStore, Replicated) {
    let mut state = Replicated::new(Box::new(WithFiles(Rows::default(), Arc::clone(files))));
    (StateStore::open(path, &mut state, on_fatal).unwrap(), state)
}

#[test]
fn rows_are_durable_only_after_what_is_kept_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let files = Arc::new(Beside::default());
    let (store, mut state) = with_files(&path, &files, OnFatal::default());
    put(&store, &mut state, 1, "a=1");
    drop(store);
    assert!(files.synced.load(Ordering::SeqCst) > 0);

    let (fatal, told) = std::sync::mpsc::sync_channel(1);
    let files = Arc::new(Beside { fails: Some(io::ErrorKind::Other), ..Beside::default() });
    let on_fatal = OnFatal(Arc::new(move |why: &str| drop(fatal.send(why.to_owned()))));
    let (store, mut state) = with_files(&path, &files, on_fatal);
    put(&store, &mut state, 2, "b=2");
    drop(store);
    assert!(told.recv().unwrap().contains("the state store failed"));
}

#[test]
fn while_files_have_no_space_the_store_does_without() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let files = Arc::new(Beside { fails: Some(io::ErrorKind::StorageFull), ..Beside::default() });
    let (store, mut state) = with_files(&path, &files, OnFatal::default());
    store.replace(state.image());
    put(&store, &mut state, 1, "a=1");
    let deadline = Instant::now() + Duration::from_secs(30);
    // It is begun anew, from the next entry, once there is room.
    for index in 2.. {
        put(&store, &mut state, index, "b=2");
        if files.synced.load(Ordering::SeqCst) > 1 || Instant::now() > deadline {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(store);
    assert_eq!(rows(&open(&path).1), rows(&state));
}

#[test]
fn an_image_replaces_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (store, mut state) = open(&path);
    put(&store, &mut state, 1, "old=1");
    let mut other = empty();
    let mut ignored = Changes::default();
    for index in 5..3_000 {
        other.apply(entry(index, None, index, &format!("k{index}=v")), &mut ignored);
    }
    store.replace(other.image());
    put(&store, &mut other, 3_000, "k3000=w");
    drop(store);
    assert_eq!(rows(&open(&path).1), rows(&other));
}

#[test]
fn a_store_with_a_damaged_file_is_set_aside_and_the_state_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (store, mut state) = open(&path);
    for index in 1..=500 {
        put(&store, &mut state, index, &format!("k{index}=v{index}"));
    }
    drop(store);
    let damaged = damage_all(&path);
    assert!(damaged > 0);
    let (_store, restored) = open(&path);
    assert!(restored.meta().applied.is_none());
    assert!(path.with_extension("damaged").exists());
}

fn damage_all(dir: &Path) -> usize {
    let mut damaged = 0;
    for item in fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            damaged += damage_all(&path);
        } else {
            let mut bytes = fs::read(&path).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 0x55);
            damaged += usize::from(!bytes.is_empty());
            fs::write(&path, bytes).unwrap();
        }
    }
    damaged
}

#[test]
fn log_time_never_goes_back_and_a_repeated_id_gives_the_first_outcome() {
    let mut state = empty();
    let mut changes = Changes::default();
    let first = state.apply(entry(1, Some([1; 16]), 1_000, "a=1"), &mut changes);
    let late = state.apply(entry(2, None, 400, "b=1"), &mut changes);
    let again = state.apply(entry(3, Some([1; 16]), 2_000, "a=1"), &mut changes);
    let other = state.apply(entry(4, Some([1; 16]), 2_000, "a=2"), &mut changes);
    let outcome =
        |index, outcome: &str| crate::types::Reply::Applied { index, outcome: Bytes::from(outcome.to_owned()) };
    assert_eq!(first, outcome(1, "1000"));
    assert_eq!(late, outcome(2, "1000"));
    assert_eq!(again, outcome(1, "1000"));
    assert_eq!(other, crate::types::Reply::RequestIdUsed);
}

#[test]
fn a_row_of_an_earlier_version_has_no_age_and_a_newer_one_keeps_it() {
    let mut state = empty();
    let mut changes = Changes::default();
    let mut aged = entry(1, None, 1_000, "a=1");
    let age = Some(crate::stamp::Age { under: aged.log_id.leader_id, us: 77 });
    if let EntryPayload::Normal(proposal) = &mut aged.payload {
        proposal.stamp.age = age;
    }
    state.apply(aged, &mut changes);
    let mut copy = empty();
    copy.restore(&mut rows(&state).into_iter().map(Ok)).unwrap();
    assert_eq!((copy.meta().time_us, copy.meta().age_us), (1_000, 77));
    let without_age = |(key, mut value): Row| {
        if key == crate::state::rows::META_KEY {
            value.truncate(value.len() - 8);
        }
        Ok((key, value))
    };
    copy.restore(&mut rows(&state).into_iter().map(without_age)).unwrap();
    assert_eq!((copy.meta().time_us, copy.meta().age_us), (1_000, 0));
}

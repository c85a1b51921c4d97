//! Whatever happens to the power, the log is a prefix of what Raft did, and not shorter than what was acknowledged.

use std::collections::BTreeMap;

use openraft::storage::{RaftLogReader, RaftLogStorage};
use proptest::prelude::*;
use tollgate_storage::sim::Random;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    AppendAndWait(usize),
    /// Keeps this share of the entries, in per cent.
    Truncate(u64),
    Purge(u64),
    /// A snapshot was installed: the purge goes beyond the last entry.
    PurgeBeyond,
    Vote,
    Committed,
    Reopen,
    PowerCut(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = || prop_oneof![4 => 1..300usize, 1 => 300..2000usize, 1 => 3000..6000usize];
    let step = prop_oneof![
        8 => proptest::collection::vec(bytes(), 1..5).prop_map(Step::Append),
        3 => bytes().prop_map(Step::AppendAndWait),
        2 => (0..=100u64).prop_map(Step::Truncate),
        2 => (0..=100u64).prop_map(Step::Purge),
        1 => Just(Step::PurgeBeyond),
        2 => Just(Step::Vote),
        2 => Just(Step::Committed),
        1 => Just(Step::Reopen),
        2 => any::<u64>().prop_map(Step::PowerCut),
    ];
    proptest::collection::vec(step, 1..50)
}

/// What the log says.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl State {
    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    /// The entry at a share of the log, in per cent.
    fn at(&self, percent: u64) -> Option<LogId> {
        let n = self.entries.len() as u64 * percent / 100;
        self.entries.values().nth(usize::try_from(n).unwrap()).map(|entry| entry.log_id)
    }

    async fn of(log: &mut LogStore) -> Self {
        let entries = all(log).await.expect("no damage");
        let logged = log.get_log_state().await.unwrap();
        let state = Self {
            vote: log.reader().read_vote().await.unwrap(),
            committed: log.read_committed().await.unwrap(),
            purged: logged.last_purged_log_id,
            entries: entries.into_iter().map(|entry| (entry.log_id.index, entry)).collect(),
        };
        assert_eq!(state.last(), logged.last_log_id);
        state
    }
}

/// Every state that the log went through, one for each record.
struct History {
    states: Vec<State>,
    /// Appends in flight, with the state that holds once they are on the disk.
    flights: Vec<(usize, Flushed)>,
    /// The state that was acknowledged.
    durable: usize,
}

impl History {
    fn new(state: State) -> Self {
        Self { states: vec![state], flights: Vec::new(), durable: 0 }
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn push(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push(state);
    }

    fn push_entries(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.push(|state| drop(state.entries.insert(entry.log_id.index, entry.clone())));
        }
    }

    fn durable_now(&mut self) {
        self.durable = self.states.len() - 1;
    }

    /// Takes note of what was acknowledged by now.
    fn settle(&mut self) {
        let mut durable = self.durable;
        self.flights.retain_mut(|(state, flushed)| match flushed.try_recv() {
            Ok(result) => {
                result.expect("nothing fails");
                durable = durable.max(*state);
                false
            }
            Err(_) => true,
        });
        self.durable = durable;
    }

    fn accept(&self, found: &State) {
        let allowed = &self.states[self.durable..];
        assert!(allowed.contains(found), "found {found:#?}\nnot one of the states {allowed:#?}");
    }
}

async fn run(steps: Vec<Step>) {
    let mut disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    let mut history = History::new(State::default());
    let mut term = 1;
    for step in steps {
        let now = history.now().clone();
        match step {
            Step::Append(sizes) => {
                let entries: Vec<_> = (now.next()..).zip(&sizes).map(|(index, len)| entry(term, index, *len)).collect();
                history.push_entries(&entries);
                let flushed = append(&mut log, entries).await;
                history.flights.push((history.states.len() - 1, flushed));
            }
            Step::AppendAndWait(len) => {
                let entries = vec![entry(term, now.next(), len)];
                history.push_entries(&entries);
                append_and_wait(&mut log, entries).await;
                history.durable_now();
            }
            Step::Truncate(percent) => {
                let after = now.at(percent).or(now.last());
                history.push(|state| state.entries.retain(|index, _| after.is_some_and(|after| *index <= after.index)));
                log.truncate_after(after).await.unwrap();
                term += 1;
            }
            Step::Purge(_) | Step::PurgeBeyond => {
                let up_to = match step {
                    Step::Purge(percent) => now.at(percent),
                    _ => Some(log_id(term, now.next() + 5)),
                };
                let Some(up_to) = up_to else { continue };
                history.push(|state| {
                    state.entries.retain(|index, _| *index > up_to.index);
                    state.purged = Some(up_to);
                });
                log.purge(up_to).await.unwrap();
            }
            Step::Vote => {
                term += 1;
                let vote = Vote::new(term, 1);
                history.push(|state| state.vote = Some(vote));
                log.save_vote(&vote).await.unwrap();
                history.durable_now();
            }
            Step::Committed => {
                history.push(|state| state.committed = now.last());
                log.save_committed(now.last()).await.unwrap();
            }
            Step::Reopen => {
                drop(log);
                log = open(&disk).unwrap();
                history.durable_now();
                history = History::new(history.now().clone());
            }
            Step::PowerCut(seed) => {
                history.settle();
                disk = disk.after_power_cut(seed);
                log = open(&disk).expect("no power cut is corruption");
                let found = State::of(&mut log).await;
                history.accept(&found);
                history = History::new(found);
            }
        }
        assert_eq!(&State::of(&mut log).await, history.now());
    }
    drop(log);
    assert_eq!(&State::of(&mut open(&disk).unwrap()).await, history.now());
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
}

/// A log of several segments with everything in it.
async fn written() -> (SimDisk, State) {
    let disk = SimDisk::default();
    let mut log = open(&disk).unwrap();
    log.save_vote(&Vote::new(3, 1)).await.unwrap();
    for index in 0..30 {
        append_and_wait(&mut log, vec![entry(3, index, 400)]).await;
    }
    log.truncate_after(Some(log_id(3, 25))).await.unwrap();
    log.save_committed(Some(log_id(3, 20))).await.unwrap();
    log.purge(log_id(3, 15)).await.unwrap();
    log.save_vote(&Vote::new(4, 1)).await.unwrap();
    append_and_wait(&mut log, vec![entry(4, 26, 200), entry(4, 27, 200)]).await;
    let state = State::of(&mut log).await;
    (disk, state)
}

fn segment_files(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let mut files = tollgate_storage::Disk::list(disk, Path::new("/log")).unwrap();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    files
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_prefix_of_what_raft_did_and_holds_what_was_acknowledged(steps in steps()) {
        block_on(run(steps));
    }

    #[test]
    fn a_flipped_bit_stops_the_node_or_changes_nothing(seed in any::<u64>()) {
        block_on(async {
            let (disk, state) = written().await;
            let mut random = Random(seed);
            let files = segment_files(&disk);
            let file = &files[usize::try_from(random.below(files.len() as u64)).unwrap()];
            let mut bit = 0;
            disk.tamper(file, |bytes| {
                bit = random.below(bytes.len() as u64 * 8);
                bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
            });
            match open(&disk) {
                Ok(mut log) => assert_eq!(State::of(&mut log).await, state, "bit {bit} of {}", file.display()),
                Err(error) => {
                    let told = error.to_string();
                    assert!(told.contains(".seg") && told.contains("offset") && told.contains("To heal"), "{told}");
                }
            }
        });
    }
}

#[test]
fn a_log_cut_anywhere_loses_nothing_that_was_acknowledged() {
    block_on(async {
        let (disk, state) = written().await;
        let last = segment_files(&disk).pop().unwrap();
        let whole = disk.bytes(&last).unwrap();
        let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for cut in (0..used).step_by(3) {
            let disk = disk.copy();
            disk.tamper(&last, |bytes| bytes[cut..].fill(0));
            if let Ok(mut log) = open(&disk) {
                assert_eq!(State::of(&mut log).await, state, "cut at {cut}");
            }
        }
    });
}

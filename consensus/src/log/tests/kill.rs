//! A process that is killed in mid-write has lost nothing that it acknowledged.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use openraft::storage::RaftLogStorage;
use tollgate_storage::sim::Random;

use super::*;

const DIR: &str = "TOLLGATE_LOG_KILL_DIR";
const ROUNDS: u64 = 50;
/// Entries that the child keeps: enough for several segments over time, few enough to compare them all each round.
const KEPT: u64 = 300;

/// Appends in flight in the child.
const IN_FLIGHT: usize = 8;

fn size_of(index: u64) -> usize {
    usize::try_from(Random(index).below(20_000)).unwrap() + 1
}

/// Not a test of its own: what [`acknowledged_entries_survive_fifty_kills`] starts and kills.
#[test]
fn child_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(append_for_ever(Path::new(&dir)));
}

async fn append_for_ever(dir: &Path) {
    let mut log = LogStore::open(dir, OnFatal::default()).unwrap();
    let mut next = log.get_log_state().await.unwrap().last_log_id.map_or(0, |last| last.index + 1);
    let mut flights = std::collections::VecDeque::new();
    loop {
        let batch = 1 + next % 8;
        let entries = (next..next + batch).map(|index| entry(1, index, size_of(index))).collect();
        next += batch;
        flights.push_back((next - 1, append(&mut log, entries).await));
        if next.is_multiple_of(5) {
            log.save_vote(&Vote::new(next, 1)).await.unwrap();
            println!("voted {next}");
        }
        if next.is_multiple_of(7) && next > KEPT {
            log.purge(log_id(1, next - KEPT)).await.unwrap();
        }
        if flights.len() == IN_FLIGHT {
            let (last, flushed) = flights.pop_front().unwrap();
            flushed.await.unwrap().unwrap();
            println!("acknowledged {last}");
        }
    }
}

fn spawn(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["log::tests::kill::child_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// What a child said before it was killed.
#[derive(Debug, Default)]
struct Said {
    lines: u64,
    acknowledged: Option<u64>,
    voted: Option<u64>,
}

impl Said {
    fn hear(&mut self, line: &str) {
        let number = |word: &str| line.split_once(word).and_then(|(_, number)| number.trim().parse().ok());
        let (acknowledged, voted) = (number("acknowledged "), number("voted "));
        self.lines += u64::from(acknowledged.is_some() || voted.is_some());
        self.acknowledged = self.acknowledged.max(acknowledged);
        self.voted = self.voted.max(voted);
    }
}

/// Kills the child once it has said `lines` things, and listens to the end.
fn kill_after(mut child: Child, lines: u64) -> Said {
    let mut said = Said::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        said.hear(&line.unwrap());
        if said.lines == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(said.lines >= lines, "the child ended by itself: {said:?}");
    said
}

#[tokio::test]
async fn acknowledged_entries_survive_fifty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("log");
    let (mut torn, mut last) = (0, None);
    for round in 0..ROUNDS {
        let said = kill_after(spawn(&dir), 1 + Random(round).below(25));
        let mut log = LogStore::open(&dir, never_fatal()).expect("a kill is no damage");
        let found = log.get_log_state().await.unwrap().last_log_id.map(|last| last.index);
        assert!(found >= said.acknowledged && found >= last, "round {round}: {found:?}, {said:?}");
        let vote = log.reader().read_vote().await.unwrap();
        let voted = said.voted.map(|term| Vote::new(term, 1));
        assert!(voted.is_none_or(|voted| vote >= Some(voted)), "round {round}: {vote:?}, {said:?}");
        for found in all(&log).await.unwrap() {
            let index = found.log_id.index;
            assert!(found == entry(1, index, size_of(index)), "round {round}, entry {index}");
        }
        torn += u64::from(log.reader().stats().torn_bytes > 0);
        last = found;
    }
    println!("{ROUNDS} kills, {last:?} entries, {torn} torn tails cut, nothing acknowledged lost");
}

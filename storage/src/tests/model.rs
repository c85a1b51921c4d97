//! Append, write, commit, roll, drop, end of the process, power cut: what was committed is there, in order, and what
//! is there was appended.

use proptest::prelude::*;

use super::*;
use crate::sim::Faults;

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Write,
    Commit,
    Roll,
    DropOld,
    Reopen,
    PowerCut(u64),
    ShortWrites(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => prop_oneof![4 => 1..200usize, 2 => 200..1500usize, 1 => 3000..9000usize].prop_map(Step::Append),
        2 => Just(Step::Write),
        4 => Just(Step::Commit),
        1 => Just(Step::Roll),
        1 => Just(Step::DropOld),
        1 => Just(Step::Reopen),
        2 => any::<u64>().prop_map(Step::PowerCut),
        1 => any::<bool>().prop_map(Step::ShortWrites),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What has to be in the log.
#[derive(Default)]
struct Model {
    /// Appended and not dropped, with where it was put.
    records: Records,
    /// Of these, so many were committed.
    committed: usize,
    appended: u32,
}

impl Model {
    /// After a crash: everything committed is there, and of the rest a prefix.
    fn accept(&mut self, found: Records) {
        assert!(found.len() >= self.committed, "{} of {} committed", found.len(), self.committed);
        assert!(found.len() <= self.records.len());
        assert_eq!(found, self.records[..found.len()]);
        self.committed = found.len();
        self.records = found;
    }

    fn dropped_before(&mut self, segment: SegmentId) {
        let before = self.records.len();
        self.records.retain(|(at, _)| at.segment >= segment);
        self.committed -= before - self.records.len();
    }
}

fn run(steps: Vec<Step>) {
    let disk = SimDisk::default();
    let (mut log, _) = reopen(&disk).expect("an empty disk");
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Append(len) => {
                model.appended += 1;
                let payload = payload(model.appended, len);
                let at = log.writer.append(&payload).expect("nothing fails");
                model.records.push((at, payload));
            }
            Step::Write => log.writer.write().expect("nothing fails"),
            Step::Commit => {
                log.writer.commit().expect("nothing fails");
                model.committed = model.records.len();
            }
            Step::Roll => {
                log.writer.roll(1).expect("nothing fails");
                model.committed = model.records.len();
            }
            Step::DropOld => {
                log.writer.commit().expect("nothing fails");
                model.committed = model.records.len();
                let active = log.writer.active_segment();
                log.writer.drop_before(active).expect("nothing fails");
                model.dropped_before(active);
            }
            Step::Reopen | Step::PowerCut(_) => {
                drop(log);
                if let Step::PowerCut(seed) = step {
                    disk.power_cut(seed);
                }
                let (opened, found) = reopen(&disk).expect("no crash is corruption");
                model.accept(found);
                log = opened;
            }
            Step::ShortWrites(short_writes) => disk.set_faults(Faults { short_writes, ..Faults::default() }),
        }
    }
    drop(log);
    let (_, found) = reopen(&disk).expect("a clean end");
    model.accept(found);
}

proptest! {
    #[test]
    fn what_was_committed_survives_and_nothing_else_appears(steps in steps()) {
        run(steps);
    }
}

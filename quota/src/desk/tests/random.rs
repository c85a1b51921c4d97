//! A desk with pockets against the plainest model: a list of what was admitted when, and what of it was used.

use proptest::{collection::vec, prelude::*};
use tollgate_model::Algorithm;

use super::{
    leases::{leasing, until},
    pockets::sweep,
    *,
};
use crate::{Account, InFlight, Path};

const CAPACITY: u64 = 100_000;
/// Of the sliding limit: a lease of it ages within the story.
const SECOND: Duration = Duration::from_secs(1);

/// What was admitted from memory.
struct Call {
    at: Instant,
    held: u64,
    used: u64,
    in_flight: Option<InFlight>,
}

struct Story {
    log: Arc<Log>,
    desk: Desk,
    other: Desk,
    path: Path,
    unit: Unit,
    slides: bool,
    calls: Vec<Call>,
    /// Used by all, in the one window of a fixed limit.
    used: u64,
    version: u64,
    served: u64,
    /// Keeps the other node's tracker.
    _trackers: [TaskTracker; 2],
}

#[derive(Debug, Clone)]
enum Step {
    /// One of class `memory`, or several at once.
    Take { amount: u64, times: u64 },
    /// One that is journaled, by the lock.
    Journaled(u64),
    /// One ends.
    End { which: prop::sample::Index, used: u64 },
    /// Time passes.
    Pass(u64),
    /// The other node needs so much.
    Other(u64),
    /// The limit is changed, to this many percent.
    Edit(u64),
    /// The keeper looks.
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..400u64, 1..8u64).prop_map(|(amount, times)| Step::Take { amount, times }),
        2 => (1..400u64).prop_map(Step::Journaled),
        8 => (any::<prop::sample::Index>(), 0..450u64).prop_map(|(which, used)| Step::End { which, used }),
        4 => (1..60u64).prop_map(Step::Pass),
        1 => (200..2_000u64).prop_map(Step::Pass),
        1 => (1_000..90_000u64).prop_map(Step::Other),
        1 => (50..100u64).prop_map(Step::Edit),
        2 => Just(Step::Sweep),
    ]
}

impl Story {
    async fn begin(unit: Unit, algorithm: Algorithm) -> Self {
        let window = if algorithm == Algorithm::Sliding { Window::Second } else { Window::Month };
        let log = Log::with_rule(Rule { unit, algorithm, window, ..rule(1, CAPACITY) });
        let ((desk, tracker), (other, others)) = (leasing(&log, 1), leasing(&log, 2));
        let mut story = Self {
            path: Self::path(&desk, 1),
            log,
            desk,
            other,
            unit,
            slides: unit == Unit::Tokens && algorithm == Algorithm::Sliding,
            calls: Vec::new(),
            used: 0,
            version: 1,
            served: 0,
            _trackers: [tracker, others],
        };
        for _ in 0..40 {
            story.take(5).await;
            let all = story.calls.len();
            story.end(all - 1, 5);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        story
    }

    fn path(desk: &Desk, version: u64) -> Path {
        let (limit, key) = (Name::new("tpm"), vec!["alice".into()]);
        desk.path(vec![Account { limit, version: LogIndex(version), key }])
    }

    async fn tell(&mut self, step: &Step) {
        match step {
            Step::Take { amount, times } => {
                for _ in 0..*times {
                    self.take(*amount).await;
                }
            }
            Step::Journaled(amount) => {
                let charges = vec![Charge { version: LogIndex(self.version), ..charges(*amount).remove(0) }];
                let by = Instant::now() + Duration::from_millis(100);
                let asked = self.desk.reserve(charges, Durability::Journal, by, Duration::from_secs(600)).await;
                self.admitted(asked.ok(), *amount);
            }
            Step::End { which, used } if !self.calls.is_empty() => self.end(which.index(self.calls.len()), *used),
            Step::End { .. } => {}
            Step::Pass(ms) => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Step::Other(amount) => {
                let charges = vec![Charge { version: LogIndex(self.version), ..charges(*amount).remove(0) }];
                let by = Instant::now() + Duration::from_millis(200);
                drop(self.other.reserve(charges, Durability::Journal, by, Duration::from_secs(600)).await);
            }
            Step::Edit(percent) => {
                self.version += 1;
                let current = rule(self.version, CAPACITY / 100 * percent);
                let window = if self.slides { Window::Second } else { Window::Month };
                let algorithm = if self.slides { Algorithm::Sliding } else { Algorithm::Fixed };
                self.log.set_rule(Rule { unit: self.unit, window, algorithm, ..current });
                self.path = Self::path(&self.desk, self.version);
            }
            Step::Sweep => sweep(&self.desk),
        }
        self.check();
    }

    async fn take(&mut self, amount: u64) {
        let by = Instant::now() + Duration::from_millis(100);
        let asked = self.path.reserve(&[amount], Durability::Memory, by, Duration::from_secs(600)).await;
        self.admitted(asked.ok(), amount);
    }

    fn admitted(&mut self, reservation: Option<Reservation>, amount: u64) {
        let Some(reservation) = reservation else { return };
        let is_local = reservation.is_local();
        self.served += u64::from(is_local && self.desk.stats().pockets > 0);
        let at = if is_local { Instant::now() } else { Instant::now() + Duration::from_secs(3_600) };
        let in_flight = Some(reservation.dispatch(Attribution::default()));
        self.calls.push(Call { at, held: amount, used: 0, in_flight });
    }

    fn end(&mut self, which: usize, used: u64) {
        let call = &mut self.calls[which];
        let Some(in_flight) = call.in_flight.take() else { return };
        let used = if used > 400 { 0 } else { used.min(call.held) };
        if used == 0 {
            in_flight.void();
        } else {
            drop(in_flight.settle(input(used), Outcome::Settled, Attribution::default()));
            call.used = if self.unit == Unit::Concurrency { 0 } else { used };
        }
        self.used += call.used;
    }

    /// I2 and I5 by the book itself; and nothing that counts is missing from it.
    fn check(&self) {
        let state = self.desk.shared.lock();
        state.agent.audit().unwrap();
        drop(state);
        sweep(&self.desk);
        let state = self.desk.shared.lock();
        state.agent.audit().unwrap();
        let Some(lease) = state.agent.book().find("tpm", &["alice".to_owned()]) else { return };
        let now = Instant::now();
        // What the log admitted is not in the lease.
        let local = self.calls.iter().filter(|call| call.at <= now);
        let counts = |call: &Call| if call.in_flight.is_some() { call.held } else { call.used };
        let (held, spent) = state.agent.book().counted(lease);
        if self.slides {
            let live: u64 = local.filter(|call| call.at + SECOND > now).map(counts).sum();
            assert!(live <= held + spent, "{live} within a second, and {held} + {spent} counted");
        } else {
            assert!(local.map(counts).sum::<u64>() <= held + spent);
        }
    }

    /// All ends: the log knows of all that was used, and nothing else is left with anybody.
    async fn finish(mut self) -> u64 {
        (0..self.calls.len()).for_each(|which| self.end(which, 1));
        self.check();
        let flushed = [self.desk.stop(Duration::from_secs(60)).await, self.other.stop(Duration::from_secs(60)).await];
        assert_eq!(flushed, [Flushed { unsettled: 0 }; 2]);
        if !self.slides {
            assert_eq!(self.log.alice(), (self.used, 0, 0));
        }
        until(|| self.desk.stats().open == 0).await;
        self.served
    }
}

fn tell(unit: Unit, algorithm: Algorithm, steps: &[Step]) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut story = Story::begin(unit, algorithm).await;
        for step in steps {
            story.tell(step).await;
        }
        story.finish().await
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_unit_of_a_fixed_window_is_lost_or_used_twice(steps in vec(step(), 1..80)) {
        prop_assert!(tell(Unit::Tokens, Algorithm::Fixed, &steps) > 0, "nothing came from pockets");
    }

    #[test]
    fn no_unit_of_a_sliding_window_counts_too_short(steps in vec(step(), 1..80)) {
        prop_assert!(tell(Unit::Tokens, Algorithm::Sliding, &steps) > 0, "nothing came from pockets");
    }

    #[test]
    fn every_permit_comes_back(steps in vec(step(), 1..80)) {
        prop_assert!(tell(Unit::Concurrency, Algorithm::Fixed, &steps) > 0, "nothing came from pockets");
    }
}

//! Every order in which a few things can happen: two nodes, one limit of four units, and a budget of what may happen.
//!
//! The states are those of the real agents and ledgers, found breadth first, so the first story that breaks something is
//! as short as any. A state that was met before is known again by a digest of everything that its parts will ever act
//! upon. After every step I1 in the log's ledger, I2 and I5 on the nodes, I3 and I6 by a count of its own; where a story
//! ends, and in one of some states on the way, I7: all that is sent arrives, and what is then left is admitted.
//!
//! A replica is the ledger as it was at some entry: applying the same entries makes the same ledger, which `world.rs`
//! checks with each run.

mod budget;
mod digest;
mod moves;
mod quiet;
mod seen;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use budget::Budget;
use moves::Move;
use state::State;

use super::Bug;
use crate::invariants::Violation;

/// One state of so many is looked at as if its story ended there.
const QUIET_ONE_OF: u128 = 16;

/// What is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// What may happen.
    pub budget: Budget,
    /// States that are looked at, at most.
    pub states: u64,
    /// What is deliberately wrong.
    pub bug: Option<Bug>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Searched {
    /// Different states that were met.
    pub states: u64,
    /// Steps that led to the last of them.
    pub depth: u32,
    /// There are no more states than these.
    pub exhausted: bool,
    /// States from which everything was brought to its end.
    pub ends: u64,
    /// What does not hold, and the shortest story that shows it.
    pub violation: Option<(Violation, Vec<String>)>,
}

/// One state on the way, for whoever wants to know the way.
#[derive(Debug)]
struct Step {
    from: u32,
    by: Move,
}

/// Looks at all states within a scope, or at as many as it allows.
#[must_use]
pub fn search(scope: Scope) -> Searched {
    Search { scope, known: HashSet::new(), steps: Vec::new(), ends: 0 }.run()
}

struct Search {
    scope: Scope,
    known: HashSet<u128>,
    /// How each state was first met; in order, the first one being its own origin.
    steps: Vec<Step>,
    ends: u64,
}

impl Search {
    fn run(mut self) -> Searched {
        let origin = match State::new(self.scope.budget, self.scope.bug) {
            Ok(origin) => origin,
            Err(violation) => return self.searched(0, false, Some((violation, Vec::new()))),
        };
        self.known.insert(origin.digest());
        self.steps.push(Step { from: 0, by: Move::Begin });
        let mut level = vec![(0, origin)];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (at, state) in level {
                match self.look(at, &state, &mut next) {
                    Ok(true) => {}
                    Ok(false) => return self.searched(depth + 1, false, None),
                    Err(broken) => return self.searched(depth + 1, false, Some(*broken)),
                }
            }
            level = next;
            depth += u32::from(!level.is_empty());
        }
        self.searched(depth, true, None)
    }

    /// Takes every step from a state; false once there are enough of them.
    fn look(
        &mut self,
        at: u32,
        state: &State,
        next: &mut Vec<(u32, State)>,
    ) -> Result<bool, Box<(Violation, Vec<String>)>> {
        let moves = state.moves();
        let is_last = moves.is_empty();
        for by in moves {
            let mut after = state.clone();
            let done = after.take(by).and_then(|()| after.check());
            done.map_err(|violation| Box::new((violation, self.story(at, Some(by)))))?;
            if !self.known.insert(after.digest()) {
                continue;
            }
            let number = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
            self.steps.push(Step { from: at, by });
            if self.steps.len() as u64 >= self.scope.states || number == u32::MAX {
                return Ok(false);
            }
            next.push((number, after));
        }
        if is_last || state.digest().is_multiple_of(QUIET_ONE_OF) {
            self.ends += 1;
            let mut story = self.story(at, None);
            story.push("then all is well again".to_owned());
            state.clone().come_to_an_end().map_err(|violation| Box::new((violation, story)))?;
        }
        Ok(true)
    }

    /// The way to a state, and one step more.
    fn story(&self, mut at: u32, last: Option<Move>) -> Vec<String> {
        let mut moves: Vec<Move> = last.into_iter().collect();
        while at > 0 {
            let step = &self.steps[at as usize];
            moves.push(step.by);
            at = step.from;
        }
        moves.iter().rev().map(Move::to_string).collect()
    }

    fn searched(self, depth: u32, exhausted: bool, violation: Option<(Violation, Vec<String>)>) -> Searched {
        Searched { states: self.steps.len() as u64, depth, exhausted, ends: self.ends, violation }
    }
}

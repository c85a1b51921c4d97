//! What can happen next, and what it is called.

use std::fmt;

use super::state::{GREATEST, State};

/// One thing that happens. Processes and frames are named by their place in the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Begin,
    Reserve { process: usize, amount: u64 },
    End { process: usize, request: u64, used: u64 },
    Leave { process: usize, request: u64 },
    Retry { process: usize },
    Send { process: usize },
    Deliver { frame: usize, answered: bool, again: bool },
    Lose { frame: usize },
    Apply { process: usize, snapshot: bool },
    Replace { process: usize, dead: bool },
    Edit,
    Silence,
    Turn,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin => write!(f, "two nodes start"),
            Self::Reserve { process, amount } => write!(f, "process {process} is asked for {amount}"),
            Self::End { process, request, used } => {
                write!(f, "process {process} ends request {request}: {used} used")
            }
            Self::Leave { process, request } => write!(f, "process {process}: the caller of request {request} leaves"),
            Self::Retry { process } => write!(f, "process {process} begins anew with what waits"),
            Self::Send { process } => write!(f, "process {process} sends its frame"),
            Self::Deliver { frame, answered, again } => {
                let answer = if *answered { "answered" } else { "the answer is lost" };
                let copy = if *again { ", and comes once more" } else { "" };
                write!(f, "frame {frame} of those under way is applied, {answer}{copy}")
            }
            Self::Lose { frame } => write!(f, "frame {frame} of those under way is lost"),
            Self::Apply { process, snapshot: false } => write!(f, "process {process} applies the log"),
            Self::Apply { process, snapshot: true } => write!(f, "process {process} is given a snapshot"),
            Self::Replace { process, dead: true } => write!(f, "process {process} dies, and the next one starts"),
            Self::Replace { process, dead: false } => {
                write!(f, "process {process} is cut off, and the next one starts")
            }
            Self::Edit => write!(f, "the limit is changed"),
            Self::Silence => write!(f, "time passes"),
            Self::Turn => write!(f, "the window ends"),
        }
    }
}

impl State {
    /// Everything that can happen now, in one order.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for process in 0..self.processes.len() {
            if self.processes[process].alive {
                self.moves_of(process, &mut moves);
            }
        }
        for frame in 0..self.under_way.len() {
            for (answered, again) in [(true, false), (false, false), (true, true), (false, true)] {
                let lost = u8::from(!answered);
                if self.left.losses >= lost && self.left.repeats >= u8::from(again) {
                    moves.push(Move::Deliver { frame, answered, again });
                }
            }
            if self.left.losses > 0 {
                moves.push(Move::Lose { frame });
            }
        }
        let once = [(self.left.edits, Move::Edit), (self.left.silences, Move::Silence), (self.left.turns, Move::Turn)];
        moves.extend(once.into_iter().filter(|(left, _)| *left > 0).map(|(_, it)| it));
        moves
    }

    fn moves_of(&self, process: usize, moves: &mut Vec<Move>) {
        let it = &self.processes[process];
        if self.left.requests > 0 {
            moves.extend((1..=GREATEST).map(|amount| Move::Reserve { process, amount }));
        }
        for (request, labels) in &it.flights {
            let most = labels.iter().map(|(.., amount)| *amount).max().unwrap_or_default();
            moves.extend([most, most - 1].map(|used| Move::End { process, request: *request, used }));
        }
        if self.left.cancels > 0 {
            moves.extend(it.waiting.keys().map(|request| Move::Leave { process, request: *request }));
        }
        if it.cut {
            return;
        }
        if it.agent.is_waiting() && self.left.retries > 0 {
            moves.push(Move::Retry { process });
        }
        if self.can_send(process) {
            moves.push(Move::Send { process });
        }
        if self.is_behind(process) {
            moves.push(Move::Apply { process, snapshot: false });
            if self.left.snapshots > 0 {
                moves.push(Move::Apply { process, snapshot: true });
            }
        }
        if self.left.crashes > 0 {
            moves.extend([true, false].map(|dead| Move::Replace { process, dead }));
        }
    }
}

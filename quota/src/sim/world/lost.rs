//! Nodes that an operator gives up: dead ones, and ones that are only cut off; whose disks may come back.

use tollgate_proto::state::v1::WriteOff;

use super::*;

/// How often a node that is dead or cut off is given up; and where nodes have standing shares, of which only a journal can tell.
const PERCENT: u64 = 25;
const PERCENT_OF_SHARERS: u64 = 50;

impl Process {
    /// Whether this is the newest incarnation of its node by what a ledger says, and was not given up.
    pub(super) fn is_newest(&self, ledger: &Ledger) -> bool {
        let newest = ledger.node(self.node).map_or(0, |(incarnation, _)| incarnation);
        newest < self.incarnation || newest == self.incarnation && !ledger.is_lost(self.node)
    }
}

impl World {
    /// Maybe an operator gives up on the node of a process that nobody hears any more.
    pub(super) fn give_up_on(&mut self, at: usize) -> Checked {
        let Process { node, incarnation, .. } = self.processes[at];
        let is_newest = self.truth.node(node).is_some_and(|(newest, _)| newest == incarnation);
        let percent = if self.plan.standing { PERCENT_OF_SHARERS } else { PERCENT };
        let strikes = self.plan.faults.has(Fault::GivenUp) && self.orders.percent(percent);
        if !strikes || !is_newest || self.wrong() == Some(Wrong::SameIncarnation) {
            return Ok(());
        }
        self.report.faults.note(Fault::GivenUp);
        self.report.shares_lost += u64::from(self.processes[at].agent.unrecorded() > 0);
        if self.processes[at].alive {
            // Nobody listens to it any more, and not all that it has to say is on its disk.
            self.forget_unsaid(at, &BTreeSet::new());
        }
        let orders = [WriteOff::Hold, WriteOff::Consume, WriteOff::Release, WriteOff::Release];
        let write_off = orders[self.orders.index(orders.len())].into();
        let lost = NodeLost { node, incarnation, write_off, actor: String::new() };
        self.append(Command::Lose(lost))?;
        self.served.give_up(node, incarnation);
        // By its own clock, which may be slow by one in a hundred.
        self.queue.at(self.now + ISOLATION * 100 / 99, Event::Isolated { process: at });
        // Somebody finds the machine, or sets up another one.
        for soonest in [0, 4 * SECOND] {
            let back = self.now + soonest + self.orders.range(50 * MS, 4 * SECOND);
            self.queue.at(back, Event::Restart { process: at });
        }
        Ok(())
    }

    /// From when on others have what lost nodes had in hand, and what that may come to.
    pub(super) fn note_released(&mut self) {
        if self.truth.counters().released_units == self.released_units {
            return;
        }
        self.released_units = self.truth.counters().released_units;
        for node in 1..=self.plan.nodes {
            for ((incarnation, account, epoch), amount) in self.truth.released_by(node) {
                self.released.entry((node, incarnation)).or_insert(self.now);
                if self.written_off.insert((node, incarnation, account, epoch)) {
                    self.witness.may_lose((account, epoch), amount);
                }
            }
        }
    }
}

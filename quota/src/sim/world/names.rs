//! Which account a label means: nodes draw on standing shares of accounts that the log may have no number for.

use std::collections::btree_map;

use super::*;
use crate::journal::OWN_NUMBERS;

/// Accounts by window and key, once a node has drawn on one that it knew no number of.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    by_name: BTreeMap<u64, BTreeMap<String, u32>>,
    given: u32,
}

impl Numbers {
    fn of(&self, epoch: u64, key: &str) -> Option<u32> {
        self.by_name.get(&epoch)?.get(key).copied()
    }
}

impl World {
    /// What a request has drawn. An account that the log has no number for is given one, and seen by the witness.
    pub(super) fn labels(&mut self, at: usize, request: u64) -> Vec<Label> {
        for (own, epoch, _) in self.processes[at].agent.drawn(request) {
            if own >= OWN_NUMBERS {
                self.number(at, own, epoch);
            }
        }
        self.drawn(at, request)
    }

    /// As [`World::labels`], of accounts that were seen before.
    pub(super) fn drawn(&self, at: usize, request: u64) -> Vec<Label> {
        let drawn = self.processes[at].agent.drawn(request).into_iter();
        drawn.map(|(account, epoch, amount)| (self.known(at, account, epoch), epoch, amount)).collect()
    }

    fn known(&self, at: usize, account: u32, epoch: u64) -> u32 {
        if account < OWN_NUMBERS {
            return self.common(account, epoch);
        }
        let key = self.processes[at].agent.name_of_own(account).map(|(_, key)| key.concat()).unwrap_or_default();
        self.numbers.of(epoch, &key).unwrap_or(account)
    }

    /// The number that all labels of an account have, the log's among them.
    pub(super) fn common(&self, account: u32, epoch: u64) -> u32 {
        if !self.numbers.by_name.contains_key(&epoch) {
            return account;
        }
        let place = self.witness.place(account, epoch);
        place.and_then(|(_, key, _)| self.numbers.of(epoch, key)).unwrap_or(account)
    }

    fn number(&mut self, at: usize, own: u32, epoch: u64) {
        let Some((limit, key)) = self.processes[at].agent.name_of_own(own) else { return };
        let (limit, key) = (limit.to_owned(), key.to_vec());
        let names = self.numbers.by_name.entry(epoch).or_default();
        let btree_map::Entry::Vacant(place) = names.entry(key.concat()) else { return };
        if let Some(account) = self.truth.account_in(epoch, &limit, &key) {
            place.insert(account);
            return;
        }
        self.numbers.given += 1;
        let number = *place.insert(OWN_NUMBERS | self.numbers.given);
        // A process may be in a window that the log has left out.
        let window = self.truth.window_of(&limit, epoch).or(self.processes[at].replica.window_of(&limit, epoch));
        if let Some((start, capacity, by_rule)) = window {
            let place = self.named_by_window((limit, key.concat(), start), epoch);
            self.witness.see(self.now, (number, epoch), &place, capacity, by_rule, by_rule);
        }
    }

    /// I8 for a standing share: nothing is drawn that this node knows to be called back.
    pub(super) fn may_draw(&self, at: usize, account: u32, epoch: u64) -> bool {
        let it = &self.processes[at];
        let mut number = Some(account);
        if let Some((limit, key)) = it.agent.name_of_own(account).filter(|_| account >= OWN_NUMBERS) {
            number = it.replica.account_in(epoch, limit, key);
        }
        match number {
            Some(account) => {
                let view = it.replica.lease(it.node, it.incarnation, account).filter(|view| view.epoch == epoch);
                view.is_some_and(|view| !view.central && view.in_force)
            }
            None => {
                let shares = it.replica.shares_of(it.node, it.incarnation);
                shares.iter().any(|share| share.epoch == epoch && share.in_force && !share.shut)
            }
        }
    }
}

impl World {
    /// What is known at a process of what one of its requests has drawn.
    pub(super) fn about(&self, at: usize, account: u32, epoch: u64) -> String {
        let it = &self.processes[at];
        let name = it.agent.name_of_own(account).filter(|_| account >= OWN_NUMBERS);
        let number = name.and_then(|(limit, key)| it.replica.account_in(epoch, limit, key)).unwrap_or(account);
        let view = it.replica.lease(it.node, it.incarnation, number);
        let shares = it.replica.shares_of(it.node, it.incarnation);
        let share = shares.iter().filter(|share| name.is_none_or(|(limit, _)| *share.limit == *limit));
        format!("{name:?} in {epoch}: {view:?}, {:?}", share.collect::<Vec<_>>())
    }
}

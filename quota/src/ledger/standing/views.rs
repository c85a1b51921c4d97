//! What there is of standing shares, for those who only look: nodes that spend them, answers, and the audit.

use tollgate_model::{LogIndex, Name, Unit};

use super::{Kind, Ledger, Member, Stand, join};
use crate::invariants::{Violation, require};

/// A standing share as the node that has it needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShareView {
    pub(crate) limit: Name,
    pub(crate) epoch: u64,
    pub(crate) share: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) versions: (LogIndex, LogIndex),
    pub(crate) unit: Unit,
    pub(crate) capacity: u64,
    /// The limit is not deleted.
    pub(crate) in_force: bool,
    /// Nothing is drawn on it any more, and what is unspent goes back.
    pub(crate) shut: bool,
    /// The window is the one that is open in the log.
    pub(crate) current: bool,
}

/// See [`Ledger::way_of`].
#[cfg(any(test, feature = "seeded-bugs"))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct WayView {
    pub(crate) slides: bool,
    pub(crate) window: (u64, u64),
    pub(crate) epoch: u64,
    pub(crate) next: Option<(u64, u64)>,
}

impl Ledger {
    /// Standing shares of an incarnation.
    pub(crate) fn shares_of(&self, node: u64, incarnation: u64) -> Vec<ShareView> {
        let mut shares = Vec::new();
        for (_, state) in self.rules.slab.iter() {
            let next = state.next.iter().map(|it| (it.epoch, it.start, it.end, &it.roster, false));
            let now = (state.epoch, state.window_start, state.window_end, &state.roster, true);
            for (epoch, start, end, roster, current) in std::iter::once(now).chain(next) {
                let own = roster.position(node, incarnation).map(|at| roster.members[at].stand);
                if own != Some(Stand::Active) || roster.share == 0 {
                    continue;
                }
                shares.push(ShareView {
                    limit: state.rule.limit.clone(),
                    epoch,
                    share: roster.share,
                    start,
                    end,
                    versions: (LogIndex(state.oldest()), state.rule.version),
                    unit: state.rule.unit,
                    capacity: state.rule.capacity,
                    in_force: state.deleted_at.is_none() && !state.rule.shadow,
                    shut: roster.shut,
                    current,
                });
            }
        }
        shares
    }

    /// The account of a key in a window of a limit, should it have a record.
    pub(crate) fn account_in(&self, epoch: u64, limit: &str, key: &[String]) -> Option<u32> {
        let rule = self.rules.of_epoch(limit, epoch)?;
        let id = self.accounts.find(rule, &join(key)?)?;
        self.accounts.get(id).filter(|account| account.epoch == epoch).map(|_| id)
    }

    /// What of an account is used, held or in suspense, in a window that its node may have a share of, but for what that
    /// incarnation has said itself: whether or not there is a record.
    pub(crate) fn elsewhere(&self, (node, incarnation): (u64, u64), epoch: u64, limit: &str, key: &[String]) -> u64 {
        let known = self.account_in(epoch, limit, key).and_then(|id| self.lease(node, incarnation, id));
        let of_rule = || self.rules.of_epoch(limit, epoch).map(|id| self.rules.get(id));
        known.map_or_else(
            || of_rule().map_or(0, |rule| rule.untouched_elsewhere(epoch, self.age())),
            |view| view.elsewhere,
        )
    }

    /// What an account of a limit is called, and its window: where nodes may know it by that alone.
    pub(crate) fn name_of(&self, account: u32) -> Option<(u64, Vec<String>)> {
        let it = self.accounts.get(account)?;
        let rule = self.rules.get(it.rule);
        if rule.roster.share == 0 || rule.epoch != it.epoch || it.rare().kind == Kind::Shared {
            return None;
        }
        let text = self.accounts.keys.text(it.key);
        let key = if rule.rule.per.is_empty() { Vec::new() } else { text.split('\0').map(str::to_owned).collect() };
        Some((it.epoch, key))
    }

    /// Where a window began, what each account holds, and what of that is out by rule of one that has no record.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn window_of(&self, limit: &str, epoch: u64) -> Option<(u64, u64, u64)> {
        let state = self.rules.get(self.rules.of_epoch(limit, epoch)?);
        let next = state.next.as_ref().filter(|next| next.epoch == epoch);
        let (start, roster) = next.map_or((state.window_start, &state.roster), |next| (next.start, &next.roster));
        Some((start, state.rule.capacity, roster.by_rule(0).sum()))
    }

    /// Whether what is used of a limit ages, and the window that is open, with what names it: as it counts by now. Where nodes may
    /// draw on the next window already, when that begins, and what names it.
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn way_of(&self, limit: &str) -> Option<WayView> {
        let state = self.rules.get(self.rules.live(limit)?);
        Some(WayView {
            slides: state.rule.span().is_some(),
            window: (state.window_start, state.window_end),
            epoch: state.epoch,
            next: state.next.as_ref().map(|next| (next.start, next.epoch)),
        })
    }

    /// The windows that nodes may draw on by rule: where each began, and as [`Ledger::window_of`].
    #[cfg(any(test, feature = "seeded-bugs"))]
    pub(crate) fn windows(&self) -> Vec<(u64, u64, u64, u64)> {
        let rules = self.rules.slab.iter().map(|(_, state)| state).filter(|state| state.roster.share > 0);
        let epochs = rules.flat_map(|it| {
            std::iter::once(it.epoch).chain(it.next.iter().map(|next| next.epoch)).map(|epoch| (&it.rule.limit, epoch))
        });
        let window = |(limit, epoch): (&Name, u64)| {
            self.window_of(limit, epoch).map(|(start, capacity, by_rule)| (epoch, start, capacity, by_rule))
        };
        epochs.filter_map(window).collect()
    }

    /// Accounts that were called back of which an incarnation has a share by rule.
    pub(crate) fn called_by_rule(&self, node: u64, incarnation: u64) -> impl Iterator<Item = u32> {
        let called = self.accounts.called.iter().filter_map(|id| Some((*id, self.accounts.get(*id)?)));
        let central = called.filter(|(_, account)| account.rare().central);
        central.filter(move |(_, it)| self.share_by_rule(it, node, incarnation) > 0).map(|(id, _)| id)
    }

    /// I1 for what is out by rule: it is in the hands of those who are there, and nobody else's.
    pub(in crate::ledger) fn audit_rosters(&self) -> Result<(), Violation> {
        let rosters =
            self.rules.slab.iter().flat_map(|(_, state)| {
                std::iter::once(&state.roster).chain(state.next.iter().map(|next| &next.roster))
            });
        let active = rosters.flat_map(|it| &it.members).filter(|it| it.stand == Stand::Active);
        let is_open = |it: &&Member| self.nodes.get(it.node).is_some_and(|node| node.is_open(it.incarnation));
        let dead = active.into_iter().find(|it| !is_open(it));
        require(dead.is_none(), "I1", || format!("{dead:?} is over, and has standing shares"))
    }

    /// Accounts of a limit with standing shares of which too much is out.
    pub(in crate::ledger) fn over_by_rule(&self, rule: u32) -> Vec<u32> {
        let state = self.rules.get(rule);
        if state.roster.share == 0 {
            return Vec::new();
        }
        let current = self.accounts.slab.iter().filter(|(_, it)| it.rule == rule && it.epoch == state.epoch);
        current.filter(|(id, _)| self.free_of(*id) < 0).map(|(id, _)| id).collect()
    }
}

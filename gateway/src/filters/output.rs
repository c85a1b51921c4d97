//! More output for a request that is on its way, held in every limit that holds output, all or none.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tollgate_model::{ConfigView, Durability, Limit, Mode, Reserve, Subject, Unit};
use tollgate_quota::{Charge, HeldPart, ReserveError, Standing};

use super::{
    admit::standing_of,
    reserve::{newer_view, quota_durability},
};
use crate::{gateway::Shared, pricing::Pricing};

/// Limits that change while they are asked: each time they are asked again as they are then.
const EDITS: usize = 3;

/// The accounts that output of one request is charged to, and what has to be written down of it.
#[derive(Debug, Clone)]
pub(crate) struct OutputPath {
    accounts: Vec<Account>,
    durability: Durability,
    /// The input that is held, and by what it and its output are paid for.
    input: u64,
    pricing: Arc<Pricing>,
}

#[derive(Debug, Clone)]
struct Account {
    limit: Arc<Limit>,
    key: Vec<String>,
}

/// More that could not be held; with what is left, if the log said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoMore {
    pub(crate) left: Option<u64>,
    /// Others hold what is short: they may not use all of it.
    pub(crate) others_hold: bool,
}

fn counts_output(limit: &Limit) -> bool {
    limit.mode == Mode::Enforce && matches!(limit.unit, Unit::Tokens | Unit::OutputTokens | Unit::Cost(_))
}

fn holds_output(limit: &Limit) -> bool {
    counts_output(limit) && limit.reserve == Reserve::Full
}

impl OutputPath {
    /// None where a limit counts output and holds none of it: it would count what the first hold was for, and no more.
    pub(crate) fn of(
        view: &ConfigView,
        subject: Subject<'_>,
        at_least: Durability,
        input: u64,
        pricing: &Arc<Pricing>,
    ) -> Option<Self> {
        let enforced = || view.limits_for(subject).filter(|limit| limit.mode == Mode::Enforce);
        if enforced().any(|limit| counts_output(limit) && !holds_output(limit)) {
            return None;
        }
        let account = |limit: &Arc<Limit>| Account { limit: Arc::clone(limit), key: limit.key(&subject) };
        let accounts = enforced().filter(|limit| holds_output(limit)).map(account).collect();
        let durability = enforced().map(|limit| limit.durability).fold(at_least, Durability::max);
        Some(Self { accounts, durability, input, pricing: Arc::clone(pricing) })
    }

    /// The output that is free, or that there is money for beside the input, in the account that has least, by what this node
    /// knows. None where nothing holds output.
    pub(crate) fn free(&self, shared: &Shared) -> Option<u64> {
        if self.accounts.is_empty() {
            return None;
        }
        let names: Vec<_> = self.accounts.iter().map(|it| (it.limit.name.clone(), it.key.clone())).collect();
        self.least(&shared.accounts.standings(&names), None)
    }

    /// Of what is left the output that may be held, beside the output that is `held`. None: not even the input is.
    fn least(&self, standings: &[Standing], held: Option<u64>) -> Option<u64> {
        let left = |it: &Account| {
            // An account that this node does not know is one that nobody has used.
            let left = standing_of(standings, &it.limit.name).map_or(it.limit.limit, |it| it.remaining);
            match it.limit.unit {
                Unit::Cost(_) => self.output_for(left, held),
                _ => left,
            }
        };
        self.accounts.iter().map(left).min()
    }

    fn output_for(&self, money: u64, held: Option<u64>) -> u64 {
        let paid = held.map_or(0, |held| self.pricing.most(self.input, held));
        let all = self.pricing.output_within(self.input, paid.saturating_add(money));
        all.unwrap_or(0).saturating_sub(held.unwrap_or(0))
    }

    /// What so much output and its input come to in a limit's unit.
    fn amount(&self, unit: Unit, output: u64) -> u64 {
        match unit {
            Unit::Cost(_) => self.pricing.most(self.input, output),
            Unit::Tokens => self.input.saturating_add(output),
            _ => output,
        }
    }

    /// Whether others hold something of an account of which less is left than wanted, beside the output that is `held`.
    fn others_hold(&self, shared: &Shared, standings: &[Standing], held: u64, wanted: u64) -> bool {
        self.accounts.iter().any(|Account { limit, key }| {
            let own = self.amount(limit.unit, held);
            let wanted = self.amount(limit.unit, held.saturating_add(wanted)).saturating_sub(own);
            let left = standing_of(standings, &limit.name).map_or(limit.limit, |it| it.remaining);
            let unused = shared.accounts.unused(&limit.name, key);
            left < wanted && unused.is_some_and(|unused| unused > own.saturating_add(left))
        })
    }

    /// Holds so much more output, beside the output that is `held`. It may be drawn on: it is durable.
    pub(crate) async fn hold(
        mut self,
        shared: &Shared,
        held: u64,
        output: u64,
        hold_for: Duration,
        deadline: Instant,
    ) -> Result<HeldPart, NoMore> {
        const UNDECIDED: NoMore = NoMore { left: None, others_hold: false };
        for _ in 0..EDITS {
            self.renew(&shared.current().view).ok_or(UNDECIDED)?;
            let durability = quota_durability(self.durability);
            match shared.desk.reserve(self.charges(held, output), durability, deadline, hold_for).await {
                Ok(reservation) => {
                    let part = reservation.dispatch_part();
                    if part.durable(deadline).await.is_err() {
                        part.void();
                        return Err(UNDECIDED);
                    }
                    self.accounts.iter().for_each(|it| shared.metrics.decision(&it.limit.name, "extended"));
                    return Ok(part);
                }
                Err(ReserveError::Exhausted { limit, standings, .. }) => {
                    shared.metrics.decision(&limit, "not_extended");
                    let others_hold = self.others_hold(shared, &standings, held, output);
                    return Err(NoMore { left: self.least(&standings, Some(held)), others_hold });
                }
                Err(ReserveError::Stale { version, .. }) => {
                    newer_view(shared, version, deadline).await.ok_or(UNDECIDED)?;
                }
                Err(error) => {
                    tracing::debug!(%error, "more output can't be held");
                    return Err(UNDECIDED);
                }
            }
        }
        Err(UNDECIDED)
    }

    fn charges(&self, held: u64, output: u64) -> Vec<Charge> {
        let most = |output| self.pricing.most(self.input, output);
        let cost = most(held.saturating_add(output)).saturating_sub(most(held));
        let charge = |Account { limit, key }: &Account| {
            let amount = if limit.unit.currency().is_some() { cost } else { output };
            let (limit, version, key) = (limit.name.clone(), limit.version, key.clone());
            (amount > 0).then_some(Charge { limit, version, key, amount }) // what costs nothing is held of no money
        };
        self.accounts.iter().filter_map(charge).collect()
    }

    /// The same accounts under their limits as they are now. A limit that is gone, or holds no output any more, asks for
    /// none; one that has other accounts now can't be asked.
    fn renew(&mut self, view: &ConfigView) -> Option<()> {
        let mut renewed = Vec::with_capacity(self.accounts.len());
        for Account { limit, key } in std::mem::take(&mut self.accounts) {
            let Some(now) = view.limits.get(&limit.name).filter(|now| holds_output(now)) else { continue };
            if now.per != limit.per || now.unit.currency() != limit.unit.currency() {
                return None;
            }
            renewed.push(Account { limit: Arc::clone(now), key });
        }
        self.accounts = renewed;
        Some(())
    }
}

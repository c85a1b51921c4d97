//! Accounts that run out one after the other, so that some limit is contested for as long as a test lasts.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Context;
use tokio::time::{self, Instant};
use tollgate_mock_llm::{Counters, Outcome};

use crate::{Cluster, Provider, calls::Call, checkers, eventually, resources::document};

/// What has ended is charged by then, that of a node which had to come back included.
pub const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(200);

/// Refusals after which callers leave an account: what calls in flight give back, others have taken by then.
const REFUSALS: u64 = 20;

/// One limit of tokens a day with an account for each model; when one account has said no often enough, all callers go on to
/// the next model.
#[derive(Debug)]
pub struct Accounts {
    prefix: String,
    limit: u64,
    /// The number of the model in use.
    round: AtomicU64,
    /// Refusals of all rounds so far; nobody is refused for a round that is over, but by chance.
    refusals: AtomicU64,
}

/// What the provider counted, and the product charged, on all accounts that were called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Accounts called.
    pub accounts: u64,
    /// Tokens that the provider served.
    pub witnessed: u64,
    /// Tokens charged.
    pub used: u64,
    /// Tokens beyond the limit, of the worst account, by the provider's count or by the product's own.
    pub over: u64,
    /// Tokens of answers that the provider has finished, and that were not charged, of the worst account.
    pub forgotten: u64,
    /// Of these, tokens that are not in suspense either, so that they could be spent again.
    pub lost: u64,
}

/// What the product says of one account.
#[derive(Clone, Copy, Debug, Default)]
struct Charged {
    used: u64,
    suspense: u64,
}

impl Accounts {
    /// Models are named `<prefix>-<round>`, each with so many tokens a day.
    pub fn new(prefix: &str, limit: u64) -> Accounts {
        Accounts { prefix: prefix.into(), limit, round: AtomicU64::new(0), refusals: AtomicU64::new(0) }
    }

    /// The limit itself, for one consumer.
    pub fn resource(&self, consumer: &str) -> String {
        let (name, limit) = (self.limit_name(), self.limit);
        let spec = format!(
            "{{match: {{consumers: [{consumer}]}}, per: [model], unit: tokens, limit: {limit}, window: 1d, algorithm: fixed}}"
        );
        document("Limit", &name, &spec)
    }

    fn limit_name(&self) -> String {
        format!("{}-tokens", self.prefix)
    }

    fn model(&self, round: u64) -> String {
        format!("{}-{round}", self.prefix)
    }

    /// The call as it is to be made now, and the round that it belongs to.
    pub fn now(&self, call: &Call) -> (Call, u64) {
        let round = self.round.load(Ordering::Acquire);
        let mut call = call.clone();
        call.body["model"] = self.model(round).into();
        (call, round)
    }

    /// A call of this round was refused.
    pub fn refused(&self, round: u64) {
        let refusals = self.refusals.fetch_add(1, Ordering::AcqRel) + 1;
        if refusals.is_multiple_of(REFUSALS) {
            // Somebody else may have gone on before.
            let _ = self.round.compare_exchange(round, round + 1, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Rounds that have run out so far.
    pub fn rounds(&self) -> u64 {
        self.round.load(Ordering::Acquire)
    }

    /// Compares every account with what the provider counted, once nothing is in flight. What is charged has a moment to show.
    ///
    /// # Errors
    /// Something stays in flight.
    pub async fn judge(&self, cluster: &Cluster, provider: &Provider) -> anyhow::Result<Ledger> {
        let models = provider.settled().await?.models;
        let mut finished = BTreeMap::<String, u64>::new();
        for record in provider.records().await?.into_iter().filter(|record| record.outcome == Outcome::Finished) {
            *finished.entry(record.model).or_default() += record.input_tokens + record.output_tokens;
        }
        let deadline = Instant::now() + SHOWN_WITHIN;
        loop {
            let ledger = self.compare(&models, &finished, &self.charged(cluster).await?);
            if ledger.forgotten == 0 || Instant::now() > deadline {
                return Ok(ledger);
            }
            time::sleep(AGAIN).await;
        }
    }

    fn compare(
        &self,
        models: &BTreeMap<String, Counters>,
        finished: &BTreeMap<String, u64>,
        charged: &BTreeMap<String, Charged>,
    ) -> Ledger {
        let mut ledger = Ledger::default();
        for round in 0..=self.rounds() {
            let model = self.model(round);
            let Some(counters) = models.get(&model) else { continue };
            let witnessed = counters.input_tokens + counters.output_tokens;
            // An account that is not there any more has forgotten everything.
            let Charged { used, suspense } = charged.get(&model).copied().unwrap_or_default();
            let finished = finished.get(&model).copied().unwrap_or_default();
            ledger.accounts += 1;
            ledger.witnessed += witnessed;
            ledger.used += used;
            ledger.over = ledger.over.max(checkers::over_admitted(witnessed.max(used), self.limit));
            ledger.forgotten = ledger.forgotten.max(finished.saturating_sub(used));
            ledger.lost = ledger.lost.max(finished.saturating_sub(used + suspense));
        }
        ledger
    }

    /// What each account has used, once none of them holds anything.
    async fn charged(&self, cluster: &Cluster) -> anyhow::Result<BTreeMap<String, Charged>> {
        let name = self.limit_name();
        eventually("no call holds anything", || async {
            let rows = cluster.cli().rows(&["limits", "show"]).await?;
            let mut charged = BTreeMap::new();
            for row in rows.iter().filter(|row| row["limit"] == name.as_str()) {
                anyhow::ensure!(row["held"] == 0, "{row}");
                let account = row["account"].as_str().with_context(|| format!("no account in {row}"))?;
                let of = |part: &str| row[part].as_u64().with_context(|| format!("no {part} in {row}"));
                charged.insert(account.to_owned(), Charged { used: of("used")?, suspense: of("suspense")? });
            }
            Ok(charged)
        })
        .await
    }
}

impl Ledger {
    /// For people and for `grep`.
    pub fn line(&self) -> String {
        let Ledger { accounts, witnessed, used, over, forgotten, lost } = self;
        format!("accounts={accounts} witnessed={witnessed} used={used} over={over} forgotten={forgotten} lost={lost}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_go_on_together_after_some_refusals() {
        let accounts = Accounts::new("m", 10);
        let call = Call::chat("k", "any");
        let (first, round) = accounts.now(&call);
        assert_eq!((first.body["model"].as_str(), round), (Some("m-0"), 0));
        for _ in 1..REFUSALS {
            accounts.refused(round);
        }
        assert_eq!(accounts.rounds(), 0);
        accounts.refused(round);
        let (second, round) = accounts.now(&call);
        assert_eq!((second.body["model"].as_str(), round, accounts.rounds()), (Some("m-1"), 1, 1));
    }
}

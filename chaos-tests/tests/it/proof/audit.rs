//! The judge: every row against what the providers counted, and every sum against every other.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use tollgate_chaos_tests::{Run, eventually};
use tollgate_mock_llm::{Outcome as Ended, Record};

use super::{
    evidence::{Balances, Cost, Evidence, Row, pico},
    load::Told,
    stage::{COST, MAIN, PAYERS, Payer, Stage, UNTOLD},
    strikes::Struck,
};

/// A provider reads by then what a node that is dead now has sent, on a machine that is busy.
const READ_US: u128 = 3_000_000;
/// A call is written down by then after its provider was done with it.
const WRITTEN_US: u128 = 10_000_000;

type Witnessed = BTreeMap<&'static str, Record>;

/// How many rows there are of each sort, and their tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    rows: u64,
    dispatched: u64,
    /// Heard by their callers to the end.
    complete: u64,
    /// Equal to the provider's count, token by token.
    exact: u64,
    exact_tokens: u64,
    /// Ended early: within what was written to the gateway, and not less than the caller got.
    bounded: u64,
    voided: u64,
    orphaned: u64,
    /// Of these, streams whose last event was out when their nodes died; must be none.
    heard: u64,
    recovered: u64,
    /// Of requests that no provider has seen, as their nodes died with them on their way.
    unseen: u64,
    /// The same, as the provider was so busy that it had not read them when their time was up.
    unread: u64,
    costs: u64,
    exact_costs: u64,
}

impl Found {
    pub(super) fn line(&self) -> String {
        format!("{self:?}")
    }

    /// A proof about nothing is none.
    pub(super) fn must_be_much_of(&self, calls: u64) -> anyhow::Result<()> {
        let Found { dispatched, complete, exact, bounded, voided, exact_costs, unread, heard, .. } = *self;
        let much = dispatched >= calls && complete * 2 > calls && exact * 2 > calls && exact_costs * 2 > calls;
        anyhow::ensure!(much && bounded > 0 && voided > 0, "too little was tried: {self:?}");
        anyhow::ensure!(heard == 0, "streams were heard to their last event for nothing: {self:?}");
        anyhow::ensure!(unread * 50 <= calls, "too much is billed that nobody has read: {self:?}");
        Ok(())
    }
}

pub(super) async fn audit(stage: &mut Stage, told: &BTreeMap<String, Told>, struck: &Struck) -> anyhow::Result<Found> {
    let witnessed = stage.witnessed().await?;
    stage.at_rest().await?;
    let evidence = Evidence::of(&stage.cluster, |rows| {
        let known: BTreeSet<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
        let missing: Vec<_> = witnessed.iter().filter(|(id, _)| !known.contains(id.as_str())).take(3).collect();
        anyhow::ensure!(missing.is_empty(), "no row of {missing:?}");
        Ok(())
    })
    .await?;
    let mut found = Found { dispatched: witnessed.len() as u64, ..Found::default() };
    let rows = one_each(&evidence.rows)?;
    for (id, row) in &rows {
        let (records, told) = (witnessed.get(*id), told.get(*id));
        found.judge(row, records, told, struck).with_context(|| format!("{row:?} of {records:?}, told {told:?}"))?;
    }
    for (id, told) in told.iter().filter(|(_, told)| told.complete) {
        found.complete += 1;
        anyhow::ensure!(rows.contains_key(id.as_str()), "{id} was answered and has no row: {told:?}");
    }
    found.judge_costs(&rows, &witnessed, &evidence.costs)?;
    sums(stage, &evidence).await?;
    offline(stage).await?;
    Ok(found)
}

fn one_each(rows: &[Row]) -> anyhow::Result<BTreeMap<&str, &Row>> {
    let events: BTreeSet<&str> = rows.iter().map(|row| row.event_id.as_str()).collect();
    anyhow::ensure!(events.len() == rows.len(), "two rows have one event id");
    let mut by_request = BTreeMap::new();
    for row in rows {
        let other = by_request.insert(row.request_id.as_str(), row);
        anyhow::ensure!(other.is_none(), "two rows of one request: {row:?}, {other:?}");
    }
    Ok(by_request)
}

impl Found {
    fn judge(
        &mut self,
        row: &Row,
        records: Option<&Witnessed>,
        told: Option<&Told>,
        struck: &Struck,
    ) -> anyhow::Result<()> {
        self.rows += 1;
        self.recovered += u64::from(row.usage_source == "recovered");
        let payer = payer(&row.tenant)?;
        let used = i128::from(row.input_tokens) * payer.input + i128::from(row.output_tokens) * payer.output;
        let cost = pico(row.cost.as_deref().unwrap_or("0"))?;
        anyhow::ensure!(row.currency == payer.currency && cost == used, "{cost} pico, and not {used}");
        match row.outcome.as_str() {
            "orphaned" => self.orphaned(row, records, told, struck),
            "voided" => self.voided(row, records.context("nobody refused it")?, told),
            "settled" => self.settled(row, asked_last(row, records)?, told),
            "partial" if records.is_none() => self.unread(row, told),
            "partial" => self.partial(row, asked_last(row, records)?, told),
            other => anyhow::bail!("{other} is no end"),
        }
    }

    /// Nobody knows its end: its node was killed under it, and its caller did not hear the end either.
    fn orphaned(
        &mut self,
        row: &Row,
        records: Option<&Witnessed>,
        told: Option<&Told>,
        struck: &Struck,
    ) -> anyhow::Result<()> {
        self.orphaned += 1;
        self.unseen += u64::from(records.is_none());
        anyhow::ensure!((row.input_tokens, row.output_tokens) == (0, 0), "nobody knows what it used");
        if told.is_some_and(|it| it.complete) {
            self.heard += 1;
            let is_stream = records.is_some_and(|it| it.values().all(|it| it.stream));
            anyhow::ensure!(is_stream, "its caller has heard it to the end");
        }
        let begun = records.and_then(|it| it.values().map(|it| it.started_us).min());
        let ended = records.and_then(|it| it.values().map(|it| it.ended_us).max());
        let (begun, ended) =
            (begun.map_or(0, |it| u128::from(it) - READ_US), ended.map_or(u128::MAX, |it| u128::from(it) + WRITTEN_US));
        let killed = struck.killed.iter().any(|(node, at)| *node == row.node && (begun..=ended).contains(at));
        anyhow::ensure!(killed, "its node was not killed under it: {:?}", struck.killed);
        Ok(())
    }

    /// Refused by whoever was asked, so it is free; its caller was told what the row says.
    fn voided(&mut self, row: &Row, records: &Witnessed, told: Option<&Told>) -> anyhow::Result<()> {
        self.voided += 1;
        let refused = records.values().all(|it| it.outcome == Ended::Refused && it.status >= 400);
        let same = told.is_none_or(|it| it.status == row.status);
        anyhow::ensure!(refused && same && (row.input_tokens, row.output_tokens) == (0, 0), "it is not free");
        Ok(())
    }

    /// Answered to its end: token by token what the provider counted.
    fn settled(&mut self, row: &Row, record: &Record, told: Option<&Told>) -> anyhow::Result<()> {
        anyhow::ensure!(record.outcome == Ended::Finished, "its provider was not done");
        anyhow::ensure!(row.output_tokens == record.output_tokens, "another output");
        let is_told = record.model != UNTOLD;
        // The provider's words are not those of its vocabulary: where it says nothing, what comes in is counted otherwise.
        anyhow::ensure!(!is_told || row.input_tokens == record.input_tokens, "another input");
        let source = if is_told { "provider" } else { "counted" };
        anyhow::ensure!([source, "recovered"].contains(&row.usage_source.as_str()), "its provider has said otherwise");
        anyhow::ensure!(told.is_none_or(|it| it.tokens <= row.output_tokens), "its caller has more");
        self.exact += 1;
        self.exact_tokens += row.input_tokens + row.output_tokens;
        Ok(())
    }

    /// Ended early: not more than was written to the gateway, and not less than its caller got.
    fn partial(&mut self, row: &Row, record: &Record, told: Option<&Told>) -> anyhow::Result<()> {
        self.bounded += 1;
        anyhow::ensure!(!told.is_some_and(|it| it.complete), "its caller has heard it to the end");
        let least = told.map_or(0, |it| it.tokens);
        anyhow::ensure!((least..=record.output_tokens).contains(&row.output_tokens), "its caller got {least}");
        Ok(())
    }

    /// Sent, and its time was up before the provider had read it: for all that anybody can know that may be billed, the input alone.
    fn unread(&mut self, row: &Row, told: Option<&Told>) -> anyhow::Result<()> {
        self.unread += 1;
        let failed = told.is_none_or(|it| it.status == row.status && it.tokens == 0);
        anyhow::ensure!(failed && row.status == 504 && row.output_tokens == 0, "main was not asked");
        Ok(())
    }

    /// Each attempt that a provider worked for has one cost; of an orphan nobody knows who did.
    fn judge_costs(
        &mut self,
        rows: &BTreeMap<&str, &Row>,
        witnessed: &BTreeMap<String, Witnessed>,
        costs: &[Cost],
    ) -> anyhow::Result<()> {
        let mut open = BTreeMap::new();
        for (id, records) in witnessed {
            if rows[id.as_str()].outcome != "orphaned" {
                let worked = records.iter().filter(|(_, record)| record.outcome != Ended::Refused);
                open.extend(worked.map(|(provider, record)| ((id.as_str(), *provider), record)));
            }
        }
        for cost in costs {
            let record = open.remove(&(cost.request_id.as_str(), cost.provider.as_str()));
            let unread = record.is_none() && rows[cost.request_id.as_str()].status == 504;
            self.judge_cost(cost, record, unread).with_context(|| format!("{cost:?} of {record:?}"))?;
        }
        let missing: Vec<_> = open.iter().take(3).collect();
        anyhow::ensure!(missing.is_empty(), "no cost of {} attempts: {missing:?}", open.len());
        Ok(())
    }

    fn judge_cost(&mut self, cost: &Cost, record: Option<&Record>, unread: bool) -> anyhow::Result<()> {
        let amount = i128::from(cost.input_tokens) * COST.0 + i128::from(cost.output_tokens) * COST.1;
        anyhow::ensure!(cost.currency == "USD" && pico(&cost.cost)? == amount, "not {amount} pico");
        self.costs += 1;
        if unread {
            anyhow::ensure!(cost.usage_source == "counted" && cost.output_tokens == 0, "nobody worked for that");
            return Ok(());
        }
        let record = record.context("nobody worked for that")?;
        // Whoever works a whole answer out bills it all, and of a stream what was taken.
        let output = if record.stream { record.output_tokens } else { record.planned_tokens };
        if cost.usage_source == "provider" {
            self.exact_costs += 1;
            let told = (cost.input_tokens, cost.output_tokens);
            anyhow::ensure!(told == (record.input_tokens, output), "the provider bills {output}");
        }
        let within = record.input_tokens <= cost.input_at_most && output <= cost.output_at_most;
        anyhow::ensure!(within, "the provider bills {output}, more than all that it can have been");
        Ok(())
    }
}

fn payer(tenant: &str) -> anyhow::Result<Payer> {
    PAYERS.into_iter().find(|it| it.tenant == tenant).with_context(|| format!("there is no tenant {tenant}"))
}

/// What the provider knows that the row is about.
fn asked_last<'a>(row: &Row, records: Option<&'a Witnessed>) -> anyhow::Result<&'a Record> {
    let provider = row.provider.as_deref().unwrap_or(MAIN);
    records.and_then(|it| it.get(provider)).with_context(|| format!("{provider} was not asked"))
}

/// Σ rows = Σ balances, to the pico, and all of them together are nothing; what was paid in is what was used and what is left. What was
/// written off is the provider's, as much of it as histories tell of.
async fn sums(stage: &Stage, evidence: &Evidence) -> anyhow::Result<()> {
    let mut sums = Balances::new();
    let mut post = |to: String, from: String, currency: &str, amount: i128| {
        *sums.entry((to, currency.to_owned())).or_default() += amount;
        *sums.entry((from, currency.to_owned())).or_default() -= amount;
    };
    for row in &evidence.rows {
        let amount = pico(row.cost.as_deref().unwrap_or("0"))?;
        post(format!("tenant:{}:consumed", row.tenant), "provider:revenue".into(), &row.currency, amount);
    }
    for cost in &evidence.costs {
        let owed = format!("upstream:{}:owed", cost.provider);
        post("provider:cost".into(), owed, &cost.currency, pico(&cost.cost)?);
    }
    for payer in PAYERS {
        for amount in written_off(stage, payer).await? {
            post("provider:loss".into(), format!("tenant:{}:forgiven", payer.tenant), payer.currency, amount);
        }
    }
    sums.retain(|_, amount| *amount != 0);
    let mut balances = evidence.balances.clone();
    balances.retain(|_, amount| *amount != 0);
    anyhow::ensure!(sums == balances, "the rows come to {sums:?}, the balances are {balances:?}");
    let mut trial = BTreeMap::<&str, i128>::new();
    for ((_, currency), amount) in &balances {
        *trial.entry(currency).or_default() += amount;
    }
    anyhow::ensure!(trial.values().all(|sum| *sum == 0), "together they are not nothing: {trial:?}");
    for payer in PAYERS {
        let key = (format!("tenant:{}:consumed", payer.tenant), payer.currency.to_owned());
        credit(stage, payer, balances.get(&key).copied().unwrap_or_default()).await?;
    }
    Ok(())
}

async fn written_off(stage: &Stage, payer: Payer) -> anyhow::Result<Vec<i128>> {
    if payer.credit.is_none() {
        return Ok(Vec::new());
    }
    let history = stage.cluster.cli().rows(&["credits", "history", payer.tenant]).await?;
    let told = history.iter().filter(|event| event["kind"] == "writtenOff");
    told.map(|event| pico(event["amount"].as_str().unwrap_or("none"))).collect()
}

async fn credit(stage: &Stage, payer: Payer, consumed: i128) -> anyhow::Result<()> {
    anyhow::ensure!(consumed > 0, "{} has used nothing", payer.tenant);
    let Some(credit) = payer.credit else { return Ok(()) };
    for first in 0..3 {
        eventually("the credit is what the rows left of it", || async {
            let row = stage.cluster.cli_from(first).rows(&["credits", "show", payer.tenant]).await?.remove(0);
            let of = |name: &str| pico(row[name].as_str().unwrap_or("none"));
            let told = (of("granted")?, of("spent")?, of("balance")?, of("owed")?);
            let granted = credit * 1_000_000_000_000;
            anyhow::ensure!(told == (granted, consumed, granted - consumed, 0), "{row}, and {consumed} pico used");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The files alone say the same, without any node's word: those of each node are whole.
async fn offline(stage: &mut Stage) -> anyhow::Result<()> {
    for node in &mut stage.cluster.nodes {
        node.kill()?;
        let dir = node.data_dir();
        let run = Run::offline(&["ledger", "verify", "--dir", &dir.to_string_lossy()], &node.dir, &[]).await?;
        anyhow::ensure!(run.code == 0, "node {}: {run:?}", node.id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: Ended) -> Record {
        Record {
            sequence: 1,
            request_id: Some("r".into()),
            path: "/v1/chat/completions".into(),
            model: super::super::stage::MODEL.into(),
            stream: true,
            status: 200,
            input_tokens: 5,
            output_tokens: 30,
            planned_tokens: 30,
            started_us: 50_000_000,
            first_byte_us: 50_000_001,
            ended_us: 50_000_002,
            outcome,
        }
    }

    /// Of the first payer, at its price.
    fn row(outcome: &str, input: u64, output: u64) -> Row {
        let cost = i128::from(input) * PAYERS[0].input + i128::from(output) * PAYERS[0].output;
        Row {
            event_id: "1-1".into(),
            request_id: "r".into(),
            tenant: PAYERS[0].tenant.into(),
            provider: Some(MAIN.into()),
            input_tokens: input,
            output_tokens: output,
            usage_source: "provider".into(),
            status: 200,
            outcome: outcome.into(),
            cost: Some(format!("0.{cost:012}")),
            currency: PAYERS[0].currency.into(),
            node: 1,
        }
    }

    fn is_right(row: &Row, record: Record, told: Option<&Told>, killed: &[(u64, u128)]) -> bool {
        let mut struck = Struck::default();
        struck.killed.extend(killed);
        Found::default().judge(row, Some(&Witnessed::from([(MAIN, record)])), told, &struck).is_ok()
    }

    #[test]
    fn a_token_or_a_pico_too_many_or_too_few_is_seen() {
        let finished = || record(Ended::Finished);
        assert!(is_right(&row("settled", 5, 30), finished(), None, &[]));
        for (input, output) in [(5, 29), (5, 31), (4, 30), (6, 30)] {
            assert!(!is_right(&row("settled", input, output), finished(), None, &[]), "{input} {output}");
        }
        let dear = Row { cost: Some("0.000312500226".into()), ..row("settled", 5, 30) };
        assert!(!is_right(&dear, finished(), None, &[]), "a pico more than {:?}", row("settled", 5, 30).cost);
        let told = |complete, tokens| Told { status: 200, complete, tokens };
        let left = || record(Ended::Aborted);
        assert!(is_right(&row("partial", 5, 20), left(), Some(&told(false, 20)), &[]));
        assert!(!is_right(&row("partial", 5, 19), left(), Some(&told(false, 20)), &[]), "its caller got more");
        assert!(!is_right(&row("partial", 5, 31), left(), None, &[]), "more than was written");
        assert!(!is_right(&row("settled", 5, 30), left(), None, &[]));
    }

    #[test]
    fn nothing_is_free_but_what_was_refused_or_died() {
        let complete = Told { status: 200, complete: true, tokens: 30 };
        assert!(is_right(&row("orphaned", 0, 0), record(Ended::Aborted), None, &[(1, 50_000_001)]));
        assert!(!is_right(&row("orphaned", 0, 0), record(Ended::Aborted), None, &[(2, 50_000_001)]), "another node");
        assert!(!is_right(&row("orphaned", 0, 0), record(Ended::Aborted), None, &[(1, 90_000_000)]), "long after");
        let whole = Record { stream: false, ..record(Ended::Finished) };
        assert!(!is_right(&row("orphaned", 0, 0), whole, Some(&complete), &[(1, 50_000_001)]), "heard to its end");
        assert!(!is_right(&row("voided", 0, 0), record(Ended::Finished), None, &[]));
        assert!(!is_right(&row("partial", 5, 30), record(Ended::Finished), Some(&complete), &[]));
    }
}

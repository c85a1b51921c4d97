//! Whoever was refused and comes again when he was told is admitted: one caller, nodes with agents and leases, and clocks as
//! wrong as they may be, in virtual time.

use proptest::{collection::vec, prelude::*};
use tollgate_proto::state::v1::Refusal;

use super::*;
use crate::{Charge, Durability, agent::Agent, slide::Span};

/// A frame of a node is as late as this.
const LATE: u64 = 250_000;
/// As much as there is.
const ALL: u64 = u64::MAX;
/// After so long a request has an answer.
const PATIENCE: u64 = SECOND;

pub(super) struct Cluster {
    pub(super) ledger: Ledger,
    pub(super) agents: Vec<Agent>,
    /// How fast their clocks go, and that of the leader, in thousandths.
    rates: Vec<u64>,
    leader_rate: u64,
    limit: Rule,
    pub(super) now: u64,
    /// Of the requests to come.
    pub(super) durability: Durability,
    index: u64,
}

impl Cluster {
    pub(super) fn new(limit: Rule, rates: Vec<u64>, leader_rate: u64) -> Self {
        let mut ledger = Ledger::new();
        ledger.set_rule(Timestamp(NOON), limit.clone(), &mut Changes::new());
        let mut agents = Vec::new();
        for node in 1..=rates.len() as u64 {
            let open = NodeOpen { node, incarnation: 1, ..NodeOpen::default() };
            ledger.open(LogIndex(1), Timestamp(NOON), &open, &mut Changes::new());
            agents.push(Agent::new(node, 1));
        }
        Self { ledger, agents, rates, leader_rate, limit, now: 0, durability: Durability::Journal, index: 1 }
    }

    pub(super) fn time(&self) -> Timestamp {
        Timestamp(NOON + self.now)
    }

    /// Everyone says what there is to say, and hears of it. What was decided of a request.
    pub(super) fn exchange(&mut self, of: Option<u64>) -> Option<HoldOutcome> {
        let mut decided = None;
        for at in 0..self.agents.len() {
            self.agents[at].pass(self.now * self.rates[at] / 1_000);
            let time = self.time();
            while let Some(frame) = self.agents[at].next_frame(time) {
                self.index += 1;
                self.ledger.stamp(1 + self.now * self.leader_rate / 1_010);
                let batch = QuotaBatch { frames: vec![frame] };
                let applied = self.ledger.apply(LogIndex(self.index), time, &batch, &mut Changes::new());
                let news = self.ledger.take_news();
                self.agents.iter_mut().for_each(|agent| agent.follow(&self.ledger, &news));
                let answers = self.agents[at].applied(&applied.outcome.frames[0], time);
                decided = answers.into_iter().find(|it| Some(it.request) == of).and_then(|it| it.outcome).or(decided);
            }
        }
        decided
    }

    /// Time passes; what agents have to say by then they say late.
    pub(super) fn pass(&mut self, us: u64) {
        let until = self.now + us;
        if until > self.now + LATE && self.agents.iter().any(Agent::has_lease_news) {
            self.now += LATE;
            self.exchange(None);
        }
        loop {
            let news = |(agent, rate): (&Agent, &u64)| Some(agent.next_lease_news()? * 1_000 / rate + 1 + LATE);
            let next = self.agents.iter().zip(&self.rates).filter_map(news).min();
            let Some(next) = next.filter(|at| *at <= until) else { break };
            self.now = self.now.max(next);
            self.exchange(None);
        }
        self.now = until;
        for (agent, rate) in self.agents.iter_mut().zip(&self.rates) {
            agent.pass(until * rate / 1_000);
        }
    }

    /// A request that is over at once, having used all that it reserved; when to come again, if it was refused.
    pub(super) fn ask(&mut self, at: usize, amount: u64) -> Result<(), u64> {
        let Rule { limit, version, .. } = self.limit.clone();
        let charge = Charge { limit, version, key: vec!["alice".into()], amount };
        let now = self.time();
        let (request, granted) = self.agents[at].reserve(&[charge], self.durability, HOUR, now);
        if granted.is_none() {
            let until = self.now + PATIENCE;
            let said = loop {
                if let Some(said) = self.exchange(Some(request)) {
                    break said;
                }
                assert!(self.now < until, "nobody decides");
                self.pass(20_000);
                let (now, agent) = (self.time(), &mut self.agents[at]);
                if let Some(said) = agent.retry(now).into_iter().find_map(|it| it.outcome) {
                    break said;
                }
            };
            if !said.granted {
                assert_eq!(said.refusal(), Refusal::Exhausted);
                return Err(said.standings[0].resets_in_us);
            }
        }
        self.agents[at].dispatch(request, Attribution::default(), self.durability);
        self.agents[at].settle(settle(request, amount, Outcome::Settled));
        Ok(())
    }
}

pub(super) fn limit(window: Window, capacity: u64) -> Rule {
    Rule { algorithm: Algorithm::Sliding, window, ..rule("tpm", 1, capacity) }
}

/// Asks until it is refused, some more after each wait; with what was told each time.
fn come_again(mut cluster: Cluster, calls: &[(usize, u64, u64)], in_seconds: bool) -> Vec<u64> {
    let length = cluster.limit.window.longest_us();
    let mut told = Vec::new();
    for (node, amount, gap) in calls.iter().cycle().take(600) {
        cluster.pass(gap * length / 1_000);
        let node = node % cluster.agents.len();
        let amount = &(*amount).min(cluster.limit.capacity);
        if let Err(hint) = cluster.ask(node, *amount) {
            told.push(hint);
            let other = (node + told.len()) % cluster.agents.len();
            cluster.pass(if in_seconds { hint.div_ceil(SECOND) * SECOND } else { hint });
            assert_eq!(cluster.ask(other, *amount), Ok(()), "after {hint} us, by node {other} as {node} had refused");
            if told.len() == 4 {
                break;
            }
        }
    }
    told
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whoever_comes_again_when_he_was_told_is_admitted(
        window in prop_oneof![Just(Window::Second), Just(Window::Minute), Just(Window::Hour)],
        nodes in 1..4_usize,
        clocks in vec(990..1_011_u64, 4),
        calls in vec((0..3_usize, prop_oneof![9 => 1..40_u64, 1 => Just(ALL)], prop_oneof![Just(0), 0..30_u64]), 1..40),
        capacity in prop_oneof![40..120_u64, 120..3_000_u64],
        in_seconds in any::<bool>(),
    ) {
        let cluster = Cluster::new(limit(window, capacity), clocks[..nodes].to_vec(), clocks[3]);
        for hint in come_again(cluster, &calls, in_seconds) {
            // And no later than the slowest clocks need.
            let longest = Span::of(window).longest() * 104 / 100 + 400_000;
            prop_assert!(hint <= longest, "{hint}");
        }
    }
}

/// All in the hands of the nodes, or all in the log, or some here and some there: the smallest that shows each term.
#[test]
fn it_is_so_for_what_the_log_holds_and_for_what_nodes_do() {
    for (capacity, amount) in [(10, 5), (10, 10), (100, 1), (4_000, 10)] {
        for window in [Window::Minute, Window::Hour] {
            for clocks in [[1_000; 4], [990; 4], [1_010; 4]] {
                let cluster = Cluster::new(limit(window, capacity), clocks[..3].to_vec(), clocks[3]);
                let told = come_again(cluster, &[(0, amount, 0), (1, amount, 1)], true);
                assert!(!told.is_empty(), "{capacity} {amount}: nobody was refused");
            }
        }
    }
    for rate in [1_000, 990, 1_010] {
        let cluster = Cluster::new(limit(Window::Hour, 4_000), vec![rate; 3], rate);
        let mut calls = vec![(0, 10, 0); 100];
        calls.push((0, ALL, 0));
        assert!(come_again(cluster, &calls, false)[0] > HOUR, "just now something was taken of a lease");
    }
}

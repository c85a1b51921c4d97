//! The audit that always runs: this node's own replica against its invariants, some accounts every few seconds.
//!
//! It works on an image, on a thread that may block. An account that does not add up is closed on this node until its window
//! turns or `limits reset` mends it, and an error says so: whoever sees it keeps the logs and the data directory, and asks what
//! wrote that row.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval},
};
use tollgate_billing::ledger::Keeper;
use tollgate_model::Name;
use tollgate_quota::{
    Desk,
    ledger::{Image, Sums},
};
use tracing::{error, warn};

use crate::state::Shared;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// Accounts for each look: some milliseconds of one thread, and a million of them within two minutes.
const SLICE: u32 = 50_000;

/// What audits have found, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) checks: AtomicU64,
    pub(crate) violations: AtomicU64,
    /// How often the books of the billing ledger did not add up.
    pub(crate) unbalanced: AtomicU64,
    /// Bytes of that ledger which this node has to fetch from others.
    ledger_missing: Arc<AtomicU64>,
    /// Of the last round through all accounts.
    sums: Mutex<BTreeMap<Name, Sums>>,
}

impl Findings {
    /// Where it is said how much of the billing ledger is missing.
    pub(crate) fn ledger_missing(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ledger_missing)
    }

    /// The trial balance: nothing of it can be mended, as all nodes have the same.
    fn try_books(&self, books: &Keeper) {
        if let Err((currency, sum)) = books.look(|state| state.books().trial()) {
            self.unbalanced.fetch_add(1, Relaxed);
            error!(
                %currency, %sum,
                "the books of the ledger do not add up: keep the logs and the data directory, and run `tollgate ledger verify`"
            );
        }
    }

    /// What the accounts of each limit came to in the last round.
    pub(crate) fn sums(&self) -> BTreeMap<Name, Sums> {
        self.sums.lock().clone()
    }
}

/// Goes through all accounts, round after round.
#[derive(Debug, Default)]
struct Round {
    at: u32,
    sums: BTreeMap<Name, Sums>,
}

impl Round {
    /// The next slice.
    fn look(mut self, image: &Image, desk: &Desk, findings: &Findings) -> Self {
        let audited = image.audit(self.at, SLICE);
        findings.checks.fetch_add(audited.checked, Relaxed);
        for (limit, sums) in &audited.sums {
            self.sums.entry(limit.clone()).or_default().merge(sums);
        }
        for found in &audited.unsound {
            findings.violations.fetch_add(1, Relaxed);
            let account = found.key.as_ref().map_or_else(|| "_OVERFLOW".to_owned(), |key| key.join("/"));
            error!(
                limit = %found.limit,
                account,
                error = %found.violation,
                "an account does not add up: it is closed on this node until its window turns or `limits reset` mends it"
            );
            let until = Instant::now() + Duration::from_micros(found.window_left_us);
            desk.quarantine(&found.limit, found.key.as_deref(), until);
        }
        if audited.more {
            warn!(named = Image::MAX_UNSOUND, "more accounts do not add up than are named");
        }
        match audited.next {
            Some(next) => self.at = next,
            None => {
                *findings.sums.lock() = std::mem::take(&mut self.sums);
                self.at = 0;
            }
        }
        self
    }
}

/// Audits until it is dropped.
pub(crate) async fn run(state: Arc<Shared>, desk: Desk, findings: Arc<Findings>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = Round::default();
    loop {
        ticks.tick().await;
        findings.try_books(state.books());
        let (image, desk, findings) =
            (state.ledger(tollgate_quota::Ledger::image), desk.clone(), Arc::clone(&findings));
        let look = spawn_blocking(move || round.look(&image, &desk, &findings));
        round = look.await.unwrap_or_else(|failed| {
            error!(error = %failed, "an audit has failed");
            Round::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tokio_util::task::TaskTracker;
    use tollgate_model::{Algorithm, KeyPart, LogIndex, NodeId, TimeZone, Timestamp, Unit, Window};
    use tollgate_proto::state::v1::{
        AccountRow, Charge as WireCharge, Frame, FrameOutcome, Hold, LimitReset, NodeOpen, QuotaBatch, Record, record,
    };
    use tollgate_quota::{
        BoxFuture, Charge, DeskConfig, Durability, Ledger, ReserveError, Rule, Unavailable, Uplink, UplinkError,
        journal::Forgetful, ledger::Query,
    };

    use super::*;

    /// A log that is never there: what is refused without it is refused by the desk.
    struct Nowhere;

    impl Uplink for Nowhere {
        fn propose(&self, _: Frame, _: Instant) -> BoxFuture<'_, Result<FrameOutcome, UplinkError>> {
            Box::pin(async { Err(UplinkError::NotDone("no leader".into())) })
        }
    }

    fn ledger() -> Ledger {
        let (now, mut rows) = (Timestamp::from_secs(1_800_000_000), Vec::new());
        let mut ledger = Ledger::new();
        let rule = Rule {
            limit: Name::new("tpm"),
            version: LogIndex(1),
            unit: Unit::Tokens,
            per: vec![KeyPart::Consumer],
            capacity: 100,
            window: Window::Hour,
            algorithm: Algorithm::Fixed,
            time_zone: TimeZone::UTC,
            apart: false,
            shadow: false,
        };
        ledger.set_rule(now, rule, &mut rows);
        ledger.open(LogIndex(2), now, &NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }, &mut rows);
        let hold = |request: u64, key: &str| {
            let charge = WireCharge { limit: "tpm".into(), key: vec![key.into()], amount: 10, limit_version: 1 };
            Record {
                kind: Some(record::Kind::Hold(Hold {
                    request,
                    charges: vec![charge],
                    hold_for_us: 1_000_000,
                    ..Hold::default()
                })),
            }
        };
        let records = vec![hold(1, "alice"), hold(2, "bob")];
        let frames = vec![Frame { node: 1, incarnation: 1, first_seq: 1, records, ..Frame::default() }];
        ledger.apply(LogIndex(3), now, &QuotaBatch { frames }, &mut rows);
        ledger
    }

    /// The same ledger, where one account's row says something else.
    fn damaged(ledger: &Ledger, change: impl Fn(&mut AccountRow)) -> Ledger {
        let rows = ledger.image().into_rows().map(|(key, value)| {
            let row = AccountRow::decode(value.as_slice()).ok().filter(|row| key[0] == b'a' && row.key == "alice");
            let changed = row.map(|mut row| {
                change(&mut row);
                row.encode_to_vec()
            });
            Ok::<_, std::convert::Infallible>((key, changed.unwrap_or(value)))
        });
        Ledger::restore(rows).unwrap()
    }

    async fn refusal(desk: &Desk, consumer: &str) -> Unavailable {
        let key = vec![consumer.to_owned()];
        let charge = Charge { limit: Name::new("tpm"), version: LogIndex(1), key, amount: 1 };
        let deadline = Instant::now() + Duration::from_millis(50);
        match desk.reserve(vec![charge], Durability::Journal, deadline, Duration::from_secs(60)).await {
            Err(ReserveError::Unavailable(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_does_not_add_up_is_closed_and_no_other() {
        let tracker = TaskTracker::new();
        let desk =
            Desk::spawn(DeskConfig::new(NodeId(1), 1), Arc::new(Nowhere), Arc::new(Forgetful::default()), &tracker);
        let (sound, findings) = (ledger(), Findings::default());
        let round = Round::default().look(&sound.image(), &desk, &findings);
        assert_eq!((findings.checks.load(Relaxed), findings.violations.load(Relaxed)), (2, 0));
        let sums = findings.sums();
        let tpm = &sums[&Name::new("tpm")];
        assert_eq!((tpm.accounts, tpm.held, tpm.used), (2, 20, 0));
        assert_eq!(refusal(&desk, "alice").await, Unavailable::Deadline, "it was asked for");

        let wrong = damaged(&sound, |row| row.held += 5);
        assert_eq!(wrong.accounts(Timestamp(0), &Query::default()).accounts[0].held, 15);
        let round = round.look(&wrong.image(), &desk, &findings);
        assert_eq!(findings.violations.load(Relaxed), 1);
        assert_eq!(refusal(&desk, "alice").await, Unavailable::Quarantined);
        assert_eq!(refusal(&desk, "bob").await, Unavailable::Deadline);
        assert_eq!(desk.stats().quarantined, 1);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(refusal(&desk, "alice").await, Unavailable::Deadline, "its window has turned");

        let round = round.look(&wrong.image(), &desk, &findings);
        assert_eq!(refusal(&desk, "alice").await, Unavailable::Quarantined);
        let alice = vec!["alice".to_owned()];
        assert_eq!((desk.end_quarantine("tpm", Some(&alice)), desk.end_quarantine("tpm", Some(&alice))), (true, false));
        assert_eq!(refusal(&desk, "alice").await, Unavailable::Deadline, "somebody said so");
        let round = round.look(&wrong.image(), &desk, &findings);
        assert_eq!(refusal(&desk, "alice").await, Unavailable::Quarantined, "and it still does not add up");
        let mut mended = damaged(&sound, |row| row.held += 5);
        let reset = LimitReset { limit: "tpm".into(), key: alice.clone(), ..LimitReset::default() };
        assert_eq!(mended.reset(Timestamp(0), &reset, &mut Vec::new()).problem, "");
        desk.end_quarantine("tpm", Some(&alice));
        let round = round.look(&mended.image(), &desk, &findings);
        assert_eq!(refusal(&desk, "alice").await, Unavailable::Deadline, "now it does");
        drop(round);
    }
}

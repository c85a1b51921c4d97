use std::{collections::BTreeMap, time::Duration};

use tokio_util::task::TaskTracker;
use tollgate_billing::export::Source;
use tollgate_model::{Name, NodeId};
use tollgate_proto::{
    state::v1::{
        Charge, ConfigOutcome, Frame, Hold, LimitResetOutcome, NodeOpen, PutResource, QuotaOutcome, Record, Settle,
        TokenRecord, Usage, ZoneChange, record, token_change,
    },
    v1::Resource,
};
use tollgate_quota::{
    Attribution, BoxFuture, Desk, DeskConfig, Durability, FrameOutcome, Outcome, Uplink, UplinkError,
    journal::Forgetful,
};

mod alerts;
mod credits;

use super::*;

mod zones;

const RESOURCES: &str = r#"
apiVersion: tollgate/v1
kind: Tenant
metadata: {name: acme}
spec: {timeZone: Europe/Berlin}
---
apiVersion: tollgate/v1
kind: Limit
metadata: {name: tpm}
spec: {match: {tenants: [acme]}, per: [tenant], unit: tokens, limit: 1000, window: 1d, algorithm: fixed}
"#;

/// A state, and beside it the rows that its changes add up to.
struct Driven {
    state: ReplicatedState,
    shared: Arc<Shared>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
    /// Where the billing ledger is.
    _dir: tempfile::TempDir,
}

impl Driven {
    fn new() -> Driven {
        let dir = tempfile::tempdir().unwrap();
        let (state, shared) = ReplicatedState::new(dir.path().to_owned());
        Driven { state, shared, rows: BTreeMap::new(), index: 0, _dir: dir }
    }

    fn apply(&mut self, kind: command::Kind) -> Bytes {
        self.index += 1;
        let mut changes = Changes::default();
        let at = Applied {
            index: self.index,
            time_us: 1_800_000_000_000_000 + self.index * 1_000,
            age_us: self.index * 1_000,
        };
        let outcome =
            self.state.apply(at, &Command { kind: Some(kind), ..Command::default() }.encode_to_vec(), &mut changes);
        for (key, value) in changes.drain() {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        outcome
    }

    fn image(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.state.image().collect()
    }
}

fn resources() -> Vec<Resource> {
    let (parsed, problems) = tollgate_model::yaml::parse("test.yaml", RESOURCES);
    assert!(problems.is_empty(), "{problems}");
    parsed.into_iter().map(|parsed| parsed.resource).collect()
}

fn configure(driven: &mut Driven) {
    let puts = resources().into_iter().map(|resource| PutResource { resource: Some(resource), expected_version: None });
    let change = ConfigChange { puts: puts.collect(), ..ConfigChange::default() };
    let outcome = ConfigOutcome::decode(driven.apply(command::Kind::Config(change))).unwrap();
    assert!(outcome.problems.is_empty(), "{outcome:?}");
}

fn frame(first_seq: u64, records: Vec<record::Kind>) -> command::Kind {
    let records = records.into_iter().map(|kind| Record { kind: Some(kind) }).collect();
    command::Kind::Quota(QuotaBatch {
        frames: vec![Frame { node: 1, incarnation: 1, first_seq, records, ..Frame::default() }],
    })
}

fn hold(request: u64, amount: u64, limit_version: u64) -> record::Kind {
    let charge = Charge { limit: "tpm".to_owned(), key: vec!["acme".to_owned()], amount, limit_version };
    record::Kind::Hold(Hold { request, charges: vec![charge], hold_for_us: 60_000_000, ..Hold::default() })
}

fn settle(request: u64, output_tokens: u64) -> record::Kind {
    let attribution = Attribution { tenant: "acme".to_owned(), model: "mock-1".to_owned(), ..Attribution::default() };
    record::Kind::Settle(Settle {
        request,
        outcome: Outcome::Settled.into(),
        usage: Some(Usage { output_tokens, ..Usage::default() }),
        attribution: Some(attribution.into()),
        ..Settle::default()
    })
}

fn driven() -> Driven {
    let mut driven = Driven::new();
    configure(&mut driven);
    driven.apply(command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    let version = driven.shared.ledger(|ledger| ledger.rules()[0].version.0);
    let outcome = driven.apply(frame(1, vec![hold(1, 600, version), hold(2, 600, version)]));
    let outcome = QuotaOutcome::decode(outcome).unwrap();
    let granted: Vec<_> = outcome.frames[0].holds.iter().map(|hold| hold.granted).collect();
    assert_eq!(granted, [true, false], "both together are over the limit");
    driven.apply(frame(3, vec![settle(1, 250)]));
    let record = TokenRecord { id: "t1".into(), role: "admin".into(), hash: vec![7; 32], ..TokenRecord::default() };
    driven.apply(command::Kind::Token(TokenChange { kind: Some(token_change::Kind::Create(record)) }));
    let of_nodes = vec!["az-a".to_owned(), "az-b".to_owned()];
    let drain = ZoneChange { zone: "az-a".to_owned(), drained: true, actor: "t1".to_owned(), of_nodes };
    driven.apply(command::Kind::Zone(drain));
    assert!(driven.rows.contains_key(b"zaz-a".as_slice()));
    driven
}

#[test]
fn whoever_follows_hears_of_drained_zones_and_finds_them_after_a_restart() {
    let mut driven = driven();
    let mut follows = driven.shared.follow_zones();
    assert!(follows.borrow_and_update().is_drained("az-a"));
    let mut restored = Driven::new();
    let mut restored_follows = restored.shared.follow_zones();
    restored.state.restore(&mut driven.image().into_iter().map(Ok)).unwrap();
    assert!(restored_follows.has_changed().unwrap() && restored_follows.borrow_and_update().is_drained("az-a"));
    let undrain = ZoneChange { zone: "az-a".to_owned(), ..ZoneChange::default() };
    driven.apply(command::Kind::Zone(undrain.clone()));
    assert!(follows.has_changed().unwrap() && !follows.borrow_and_update().is_drained("az-a"));
    assert_eq!(driven.rows, driven.image());
    driven.apply(command::Kind::Zone(undrain));
    assert!(!follows.has_changed().unwrap(), "it was so already");
}

#[test]
fn the_rows_of_all_changes_are_the_image() {
    let driven = driven();
    assert_eq!(driven.rows, driven.image());
    assert!(driven.rows.len() >= 6, "every part has rows: {:?}", driven.rows.keys().collect::<Vec<_>>());
}

#[test]
fn a_restored_state_goes_on_like_the_one_it_was_taken_from() {
    let mut original = driven();
    let mut restored = Driven::new();
    let rows = original.image();
    restored.state.restore(&mut rows.clone().into_iter().map(Ok)).unwrap();
    restored.rows = rows;
    restored.index = original.index;
    assert_eq!(restored.shared.config().borrow().index, LogIndex(1));
    assert_eq!(restored.shared.tokens().list(Timestamp(0)).count(), 1);

    let version = original.shared.ledger(|ledger| ledger.rules()[0].version.0);
    for driven in [&mut original, &mut restored] {
        driven.apply(frame(4, vec![hold(3, 700, version), hold(4, 100, version), settle(4, 20)]));
    }
    assert_eq!(original.image(), restored.image());
    assert_eq!(restored.rows, restored.image());
}

#[test]
fn a_packed_frame_does_what_the_same_frame_does() {
    let (mut plain, mut packed) = (driven(), driven());
    let named = |request: u64| {
        let record::Kind::Settle(mut settle) = settle(request, 20) else { unreachable!("it settles") };
        settle.unheld = true;
        let attribution = settle.attribution.as_mut().unwrap();
        attribution.request_id = format!("01890a5d-ac96-774b-bcce-b302099a{request:04}");
        attribution.provider = "mock".to_owned();
        record::Kind::Settle(settle)
    };
    let command::Kind::Quota(batch) = frame(4, vec![named(0), hold(3, 10, 1), named(7)]) else {
        unreachable!("it is a frame")
    };
    let mut short = batch.clone();
    short.frames.iter_mut().for_each(compact::pack);
    assert!(short.encoded_len() < batch.encoded_len());
    let outcomes = [plain.apply(command::Kind::Quota(batch)), packed.apply(command::Kind::Quota(short))];
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(plain.image(), packed.image());
    let rows = |driven: &Driven| driven.shared.books().rows(0, 10).unwrap();
    assert_eq!(rows(&plain), rows(&packed));
    assert_eq!(rows(&packed).len(), 2);
}

/// A log of one node: what is proposed is applied.
struct Log(Arc<parking_lot::Mutex<Driven>>);

impl Uplink for Log {
    fn propose(&self, frame: Frame, _: tokio::time::Instant) -> BoxFuture<'_, Result<FrameOutcome, UplinkError>> {
        let outcome = self.0.lock().apply(command::Kind::Quota(QuotaBatch { frames: vec![frame] }));
        Box::pin(async { Ok(QuotaOutcome::decode(outcome).unwrap().frames.remove(0)) })
    }
}

#[tokio::test]
async fn a_desk_learns_of_its_leases_from_what_is_applied() {
    let mut driven = Driven::new();
    configure(&mut driven);
    driven.apply(command::Kind::NodeOpen(NodeOpen { node: 1, incarnation: 1, ..NodeOpen::default() }));
    let shared = Arc::clone(&driven.shared);
    let log = Arc::new(parking_lot::Mutex::new(driven));
    let (uplink, journal) = (Arc::new(Log(Arc::clone(&log))), Arc::new(Forgetful::default()));
    let desk = Desk::spawn(DeskConfig::new(NodeId(1), 1), uplink, journal, &TaskTracker::new());
    shared.show_to(desk.clone());
    let version = shared.ledger(|ledger| ledger.rules()[0].version);
    for _ in 0..100 {
        let charge =
            tollgate_quota::Charge { limit: Name::new("tpm"), version, key: vec!["acme".to_owned()], amount: 1 };
        let by = tokio::time::Instant::now() + Duration::from_secs(5);
        drop(desk.reserve(vec![charge], Durability::Journal, by, Duration::from_secs(60)).await.unwrap());
        if desk.stats().local > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no lease came: {:?}", desk.stats());
}

#[test]
fn a_row_of_no_part_is_refused() {
    let (mut state, _) = ReplicatedState::new("unused".into());
    let mut rows = [Ok((b"?x".to_vec(), Vec::new()))].into_iter();
    let error = state.restore(&mut rows).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[test]
#[should_panic(expected = "a command that this version does not know")]
fn an_unknown_command_is_never_skipped() {
    let (mut state, _) = ReplicatedState::new("unused".into());
    state.apply(Applied { index: 1, time_us: 1, age_us: 1 }, &[0xfa, 0x07, 0x00], &mut Changes::default());
}

#[test]
fn the_ledger_follows_limits_that_change_and_go() {
    let mut driven = driven();
    let rule = driven.shared.ledger(|ledger| ledger.rules()[0].clone());
    assert_eq!((rule.capacity, rule.time_zone.name()), (1_000, "Europe/Berlin"));
    let delete =
        tollgate_proto::state::v1::DeleteResource { kind: "Limit".into(), name: "tpm".into(), expected_version: None };
    driven.apply(command::Kind::Config(ConfigChange { deletes: vec![delete], ..ConfigChange::default() }));
    assert!(driven.shared.ledger(|ledger| ledger.rules().is_empty()));
    assert_eq!(driven.rows, driven.image());
}

#[test]
fn the_same_request_is_known_by_what_was_asked_and_not_by_how_it_was_sealed() {
    let (state, _) = ReplicatedState::new("unused".into());
    let fingerprint = |apply_set: &str, asked: &'static [u8]| {
        let change = ConfigChange { apply_set: apply_set.into(), ..ConfigChange::default() };
        let command = Command { kind: Some(command::Kind::Config(change)), asked: Bytes::from_static(asked) };
        state.fingerprint(&command.encode_to_vec())
    };
    assert_eq!(fingerprint("sealed so", b"one"), fingerprint("sealed otherwise", b"one"));
    assert_ne!(fingerprint("sealed so", b"one"), fingerprint("sealed so", b"two"));
    assert_eq!(fingerprint("a", b""), fingerprint("a", b""));
    assert_ne!(fingerprint("a", b""), fingerprint("b", b""));
}

#[test]
fn a_reset_forgives_what_was_used_and_is_in_the_rows() {
    let mut driven = driven();
    let reset =
        |limit: &str| LimitReset { limit: limit.to_owned(), key: vec!["acme".to_owned()], ..LimitReset::default() };
    let outcome = LimitResetOutcome::decode(driven.apply(command::Kind::LimitReset(reset("tpm")))).unwrap();
    let (before, after) = (outcome.before.unwrap(), outcome.after.unwrap());
    assert_eq!((outcome.problem.as_str(), before.used, after.used, after.free), ("", 250, 0, 1_000));
    assert_eq!(driven.image(), driven.rows, "what was written adds up to what there is");
    let outcome = LimitResetOutcome::decode(driven.apply(command::Kind::LimitReset(reset("tmp")))).unwrap();
    assert_eq!((outcome.problem.as_str(), outcome.before), ("there is no limit tmp", None));
}

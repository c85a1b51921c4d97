//! Frames as the log has them: who used what is most of a settlement, and the same for many; so is for whom a hold is.
//!
//! [`pack`] says in a frame once what the attributions of its settlements and holds have in common, and [`unpack`] puts it back, before anybody
//! looks at it. A frame that was never packed is unpacked already.

use std::hash::{Hash, Hasher};

use foldhash::HashMap;
use prost::bytes::Bytes;
use tollgate_proto::{
    Shared,
    state::v1::{Attempt, Attribution, Frame, Hold, Record, Settle, record::Kind},
};
use uuid::Uuid;

use crate::ledger::requests_of;

/// Says once what is the same. What has no request id of ours stays as it is.
pub fn pack(frame: &mut Frame) {
    debug_assert!(frame.attributions.is_empty(), "a frame is packed once");
    let Frame { incarnation, records, attributions, since_us, .. } = frame;
    let first_request = requests_of(*incarnation);
    let admitted = |record: &mut Record| Some(packable(&mut record.kind)?.attribution.as_ref()?.admitted_us);
    *since_us = records.iter_mut().find_map(admitted).unwrap_or(0);
    let mut known: HashMap<Common, u32> = HashMap::default();
    for said in records.iter_mut().filter_map(|record| packable(&mut record.kind)) {
        let Some((id, after)) = said.attribution.as_deref().and_then(|it| own(it, *since_us)) else { continue };
        let Some(request) = counted_from(first_request, *said.request) else { continue };
        let Some(whose) = said.attribution.take() else { continue };
        *said.attributed = *known.entry(Common(whose)).or_insert_with_key(|Common(whose)| {
            let common = Attribution { request_id: String::new(), admitted_us: 0, ..Attribution::clone(whose) };
            attributions.push(common);
            u32::try_from(attributions.len()).expect("a frame is bounded")
        });
        *said.request_uuid = id.into_bytes().to_vec().into();
        *said.admitted_after_us = after;
        *said.request = request;
    }
}

/// An attribution, as far as others may be the same.
struct Common(Shared<Attribution>);

impl Common {
    /// All but the id and the time: a field that is added is in here, too.
    fn key(&self) -> ([&str; 7], (u32, u64, bool), &[Attempt]) {
        let Attribution {
            request_id: _,
            tenant,
            consumer,
            route,
            provider,
            model,
            provider_model,
            status,
            admitted_us: _,
            config_index,
            currency,
            prepaid,
            earlier,
        } = &*self.0;
        let names = [tenant, consumer, route, provider, model, provider_model, currency];
        (names.map(String::as_str), (*status, *config_index, *prepaid), earlier)
    }
}

impl Hash for Common {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}

impl PartialEq for Common {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Common {}

/// The number of a request within its incarnation; requests that nothing is held for have none.
fn counted_from(first: u64, request: u64) -> Option<u64> {
    if request == 0 { Some(0) } else { request.checked_sub(first).filter(|it| *it > 0) }
}

/// What is said of one alone, if it can be said in short.
fn own(attribution: &Attribution, since: u64) -> Option<(Uuid, i64)> {
    let id = Uuid::try_parse(&attribution.request_id).ok()?;
    let is_ours = *id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == *attribution.request_id;
    let after = i64::try_from(i128::from(attribution.admitted_us) - i128::from(since)).ok()?;
    is_ours.then_some((id, after))
}

/// Puts everything back. What names nothing that the frame has is of nobody: the gate lets no such frame into the log.
pub fn unpack(frame: &mut Frame) {
    let Frame { incarnation, records, attributions, since_us, .. } = frame;
    for said in records.iter_mut().filter_map(|record| packable(&mut record.kind)) {
        if *said.attributed == 0 {
            continue;
        }
        let common = attribution(*said.attributed, attributions);
        let id = Uuid::from_slice(&std::mem::take(said.request_uuid)).unwrap_or_default();
        *said.attribution = common.map(|common| {
            let request_id = id.hyphenated().to_string();
            let admitted_us = since_us.saturating_add_signed(*said.admitted_after_us);
            Attribution { request_id, admitted_us, ..common.clone() }.into()
        });
        if *said.request != 0 {
            *said.request = said.request.saturating_add(requests_of(*incarnation));
        }
        (*said.attributed, *said.admitted_after_us) = (0, 0);
    }
    attributions.clear();
    *since_us = 0;
}

/// Whether all that a frame refers to is in it.
#[must_use]
pub fn is_whole(frame: &Frame) -> bool {
    let refers = frame.records.iter().filter_map(|record| match &record.kind {
        Some(Kind::Settle(it)) => Some((it.attributed, it.request_uuid.len())),
        Some(Kind::Hold(it)) => Some((it.attributed, it.request_uuid.len())),
        _ => None,
    });
    let is_known = |to: u32, id_bytes: usize| attribution(to, &frame.attributions).is_some() && id_bytes == 16;
    refers.into_iter().all(|(to, id_bytes)| to == 0 || is_known(to, id_bytes))
}

fn attribution(attributed: u32, attributions: &[Attribution]) -> Option<&Attribution> {
    attributions.get(usize::try_from(attributed).ok()?.checked_sub(1)?)
}

/// What of a record says whose request it is, in full or in short.
struct Packable<'a> {
    request: &'a mut u64,
    attribution: &'a mut Option<Shared<Attribution>>,
    attributed: &'a mut u32,
    request_uuid: &'a mut Bytes,
    admitted_after_us: &'a mut i64,
}

/// A settlement, or a hold.
fn packable(kind: &mut Option<Kind>) -> Option<Packable<'_>> {
    match kind {
        Some(Kind::Settle(Settle { request, attribution, attributed, request_uuid, admitted_after_us, .. })) => {
            Some(Packable { request, attribution, attributed, request_uuid, admitted_after_us })
        }
        Some(Kind::Hold(Hold { request, attribution, attributed, request_uuid, admitted_after_us, .. })) => {
            Some(Packable { request, attribution, attributed, request_uuid, admitted_after_us })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use tollgate_proto::state::v1::{Outcome, Usage};

    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    /// A settlement of incarnation 7.
    fn of(request: u64, consumer: u64, id: String, admitted_us: u64) -> Record {
        let name = |what: &str, at: u64| format!("{what}-{at}");
        let attribution = Attribution {
            request_id: id,
            tenant: name("tenant", consumer / 4),
            consumer: name("consumer", consumer),
            route: "chat".into(),
            provider: "openai-eu".into(),
            model: "gpt-4o-mini".into(),
            provider_model: "gpt-4o-mini-2024-07-18".into(),
            status: 200,
            admitted_us,
            config_index: 123_456,
            currency: "USD".into(),
            prepaid: true,
            ..Attribution::default()
        };
        let usage = Usage { input_tokens: 1_234, output_tokens: 345, cost: 1_234_567_890, ..Usage::default() };
        let settle = Settle {
            request,
            outcome: Outcome::Settled.into(),
            usage: Some(usage),
            attribution: Some(attribution.into()),
            terminal: request & 0xff_ffff,
            ..Settle::default()
        };
        Record { kind: Some(Kind::Settle(settle)) }
    }

    fn uuid(at: u64) -> String {
        uuid::Builder::from_unix_timestamp_millis(at / 1_000, &[7; 10]).into_uuid().hyphenated().to_string()
    }

    /// What was held for it.
    fn as_hold(settled: Record) -> Record {
        let Some(Kind::Settle(Settle { request, attribution, .. })) = settled.kind else { panic!("{settled:?}") };
        Record { kind: Some(Kind::Hold(Hold { request, attribution, journaled: true, ..Hold::default() })) }
    }

    fn id() -> impl Strategy<Value = String> {
        let ours = any::<u128>().prop_map(|id| Uuid::from_u128(id).hyphenated().to_string());
        prop_oneof![8 => ours.clone(), 1 => ours.prop_map(|id| id.to_uppercase()), 1 => "[a-f0-9-]{0,40}"]
    }

    fn record() -> impl Strategy<Value = Record> {
        let first = requests_of(7);
        let request = prop_oneof![Just(0), Just(1), first - 1..first + 3, any::<u64>()];
        let settled = (request, 0..8_u64, id(), any::<u64>());
        let settled = settled.prop_map(|(request, consumer, id, at)| of(request, consumer, id, at)).boxed();
        let held = settled.clone().prop_map(as_hold);
        let other = [Record::default(), Record { kind: Some(Kind::Hold(Hold::default())) }];
        let unnamed = Record { kind: Some(Kind::Settle(Settle { request: 9, ..Settle::default() })) };
        prop_oneof![8 => settled, 4 => held, 1 => prop::sample::select(other.to_vec()), 1 => Just(unnamed)]
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_as_it_was(records in prop::collection::vec(record(), 0..40)) {
            let frame = Frame { node: 3, incarnation: 7, first_seq: 1, records, ..Frame::default() };
            let mut packed = frame.clone();
            pack(&mut packed);
            prop_assert!(is_whole(&packed));
            prop_assert!(packed.encoded_len() <= frame.encoded_len() + 16, "{} {}", packed.encoded_len(), frame.encoded_len());
            let mut unpacked = Frame::decode(&*packed.encode_to_vec()).unwrap();
            unpack(&mut unpacked);
            prop_assert_eq!(&unpacked, &frame);
            unpack(&mut unpacked);
            prop_assert_eq!(&unpacked, &frame, "what is unpacked already stays as it is");
        }

        #[test]
        fn whatever_a_frame_refers_to_nothing_breaks(attributed: u32, after: i64, id in prop::collection::vec(any::<u8>(), 0..40)) {
            let settle = Settle { attributed, request_uuid: id.clone().into(), admitted_after_us: after, ..Settle::default() };
            let records = vec![Record { kind: Some(Kind::Settle(settle)) }];
            let mut frame = Frame { records, attributions: vec![Attribution::default()], ..Frame::default() };
            prop_assert_eq!(is_whole(&frame), attributed == 0 || (attributed == 1 && id.len() == 16));
            unpack(&mut frame);
            let Some(Kind::Settle(settle)) = &frame.records[0].kind else { panic!("{frame:?}") };
            prop_assert_eq!(settle.attribution.is_some(), attributed == 1);
        }
    }

    /// The target: 64 bytes a row.
    #[test]
    fn a_settlement_takes_64_bytes_of_the_log_where_calls_are_many() {
        const ROWS: u64 = 200;
        let records =
            (0..ROWS).map(|at| of(requests_of(7) + 1_000_000 + at, at % 20, uuid(NOW + at * 1_000), NOW + at * 1_000));
        let mut frame = Frame { node: 3, incarnation: 7, first_seq: 1, records: records.collect(), ..Frame::default() };
        let plain = frame.encoded_len() as u64 / ROWS;
        pack(&mut frame);
        let packed = frame.encoded_len() as u64 / ROWS;
        assert!(packed <= 64 && plain > 150, "{packed} bytes, {plain} as they were");
    }
}

mod standing;

use tollgate_proto::state::v1::{FrameOutcome, Refusal, Usage};

use super::*;

fn agent() -> Agent {
    Agent::new(1, 1)
}

fn seqs(frame: &Frame) -> (u64, usize) {
    (frame.first_seq, frame.records.len())
}

/// What a ledger that grants everything says of `frame`.
fn granted(frame: &Frame) -> FrameOutcome {
    said(frame, |request| HoldOutcome { request, granted: true, ..HoldOutcome::default() })
}

fn said(frame: &Frame, word: impl Fn(u64) -> HoldOutcome) -> FrameOutcome {
    let holds = frame.records.iter().filter_map(|record| match &record.kind {
        Some(Kind::Hold(hold)) => Some(word(hold.request)),
        _ => None,
    });
    FrameOutcome {
        node: frame.node,
        incarnation: frame.incarnation,
        last_seq: frame.first_seq + frame.records.len() as u64 - 1,
        holds: holds.collect(),
        ..FrameOutcome::default()
    }
}

fn settled(request: u64) -> Settle {
    Settle { request, outcome: Outcome::Settled.into(), usage: Some(Usage::default()), ..Settle::default() }
}

#[test]
fn records_are_numbered_without_a_gap_and_settlements_go_first() {
    let mut agent = agent();
    let first = agent.hold(Hold::default());
    agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    assert_eq!(seqs(&frame), (1, 2));
    assert_eq!(agent.applied(&granted(&frame), Timestamp(0)).len(), 2);
    agent.hold(Hold::default());
    agent.settle(settled(first));
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    assert_eq!(seqs(&frame), (3, 2));
    assert!(matches!(frame.records[0].kind, Some(Kind::Settle(_))));
}

#[test]
fn an_unconfirmed_frame_is_given_out_again_unchanged() {
    let mut agent = agent();
    agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    agent.hold(Hold::default());
    assert_eq!(agent.next_frame(Timestamp(0)).unwrap(), frame);
    let older = FrameOutcome { last_seq: 0, ..granted(&frame) };
    assert!(agent.applied(&older, Timestamp(0)).is_empty());
    let other = FrameOutcome { holds: Vec::new(), ..granted(&frame) };
    assert!(agent.applied(&other, Timestamp(0)).is_empty(), "the answer to another frame");
    assert_eq!(agent.next_frame(Timestamp(0)).unwrap(), frame);
    assert_eq!(agent.applied(&granted(&frame), Timestamp(0)).len(), 1);
    assert_eq!(seqs(&agent.next_frame(Timestamp(0)).unwrap()), (2, 1));
}

#[test]
fn a_hold_whose_deadline_passed_before_its_answer_came_is_ended() {
    let mut agent = agent();
    let request = agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    let expired = |request| HoldOutcome { request, refusal: Refusal::Expired.into(), ..HoldOutcome::default() };
    let answers = agent.applied(&said(&frame, expired), Timestamp(0));
    assert!(answers[0].outcome.as_ref().is_some_and(|said| !said.granted));
    let next = agent.next_frame(Timestamp(0)).expect("the log still holds it");
    assert!(
        matches!(&next.records[0].kind, Some(Kind::Settle(it)) if (it.request, it.outcome()) == (request, Outcome::Voided))
    );
}

#[test]
fn a_hold_that_was_not_sent_is_forgotten_with_its_caller() {
    let mut agent = agent();
    let request = agent.hold(Hold::default());
    agent.cancel(request);
    assert_eq!((agent.next_frame(Timestamp(0)), agent.load(), agent.queued()), (None, 0, (0, 0)));
}

#[test]
fn a_queue_of_forgotten_holds_does_not_grow() {
    let mut agent = agent();
    for _ in 0..1_000 {
        let request = agent.hold(Hold::default());
        agent.cancel(request);
    }
    assert!(agent.holds.len() <= 65);
}

#[test]
fn a_hold_whose_caller_is_gone_is_voided_when_granted() {
    let mut agent = agent();
    let request = agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    agent.cancel(request);
    agent.cancel(request);
    assert!(agent.applied(&granted(&frame), Timestamp(0)).is_empty());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    let Some(Kind::Settle(settle)) = &frame.records[0].kind else { panic!("{frame:?}") };
    assert_eq!((settle.request, settle.outcome()), (request, Outcome::Voided));
    agent.applied(&granted(&frame), Timestamp(0));
    assert_eq!(agent.load(), 0);
}

#[test]
fn a_refused_hold_leaves_nothing_behind() {
    let mut agent = agent();
    let request = agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    let outcome =
        said(&frame, |request| HoldOutcome { request, refusal: Refusal::Exhausted.into(), ..HoldOutcome::default() });
    let answers = agent.applied(&outcome, Timestamp(0));
    assert_eq!((answers.len(), answers[0].request), (1, request));
    assert_eq!(agent.load(), 0);
}

#[test]
fn a_hold_to_be_asked_anew_is_queued_again_and_nobody_is_told() {
    let mut agent = agent();
    agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    let again =
        said(&frame, |request| HoldOutcome { request, refusal: Refusal::Again.into(), ..HoldOutcome::default() });
    assert!(agent.applied(&again, Timestamp(0)).is_empty());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    assert_eq!(seqs(&frame), (2, 1));
    assert_eq!(agent.applied(&granted(&frame), Timestamp(0)).len(), 1);
}

#[test]
fn a_fenced_agent_tells_everyone_who_waits_and_says_no_more() {
    let mut agent = agent();
    let open = agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    agent.applied(&granted(&frame), Timestamp(0));
    let (sent, queued) = (agent.hold(Hold::default()), {
        agent.next_frame(Timestamp(0)).unwrap();
        agent.hold(Hold::default())
    });
    let fenced = FrameOutcome { node: 1, incarnation: 1, fenced: true, ..FrameOutcome::default() };
    let answers = agent.applied(&fenced, Timestamp(0));
    assert_eq!(answers.iter().map(|answer| answer.request).collect::<Vec<_>>(), [sent, queued]);
    assert!(answers.iter().all(|answer| answer.outcome.is_none()));
    agent.settle(settled(open));
    assert!(agent.is_fenced());
    assert_eq!((agent.next_frame(Timestamp(0)), agent.load()), (None, 0));
}

#[test]
fn another_process_under_our_name_is_noticed() {
    let mut agent = agent();
    agent.hold(Hold::default());
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    agent.applied(&FrameOutcome { last_seq: 7, ..granted(&frame) }, Timestamp(0));
    assert!(agent.is_fenced());
}

#[test]
fn frames_are_bounded_by_records_and_by_bytes() {
    let mut agent = agent();
    for _ in 0..MAX_FRAME_RECORDS + 1 {
        agent.hold(Hold::default());
    }
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    assert_eq!(frame.records.len(), MAX_FRAME_RECORDS);
    agent.applied(&granted(&frame), Timestamp(0));
    for _ in 0..10 {
        let mut settle = settled(agent.admit());
        settle.unheld = true;
        settle.attribution =
            Some(tollgate_proto::state::v1::Attribution { model: "x".repeat(100_000), ..Default::default() }.into());
        agent.settle(settle);
    }
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    assert_eq!(frame.records.len(), 6);
    assert_eq!(agent.queued(), (1, 4));
}

#[test]
fn load_counts_a_request_until_its_end_is_confirmed() {
    let mut agent = agent();
    let request = agent.hold(Hold::default());
    agent.admit();
    assert_eq!(agent.load(), 2);
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    agent.applied(&granted(&frame), Timestamp(0));
    agent.release(0);
    assert_eq!(agent.load(), 1);
    agent.settle(settled(request));
    let frame = agent.next_frame(Timestamp(0)).unwrap();
    assert_eq!(agent.load(), 1);
    agent.applied(&granted(&frame), Timestamp(0));
    assert_eq!(agent.load(), 0);
}

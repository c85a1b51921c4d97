//! Streams cut everywhere: in chunks, and off.

use std::sync::LazyLock;

use proptest::prelude::*;
use tollgate_llm::{Dialect, UsageSource};

use crate::golden::Case;

/// The cases with streams.
fn streams() -> &'static [(Case, Vec<u8>)] {
    static STREAMS: LazyLock<Vec<(Case, Vec<u8>)>> = LazyLock::new(|| {
        let cases = Case::all().into_iter();
        cases.filter_map(|case| case.stream().map(|stream| (case, stream.to_vec()))).collect()
    });
    &STREAMS
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for (case, stream) in streams() {
        let whole = case.relay([&stream[..]].into_iter());
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            assert_eq!(case.relay([head, tail].into_iter()), whole, "{} cut at {at}", case.name());
        }
        assert_eq!(case.relay(stream.chunks(1)), whole, "{} byte by byte", case.name());
    }
}

#[test]
fn line_endings_of_any_kind_give_the_same_answer() {
    for (case, stream) in streams() {
        let text = String::from_utf8(stream.clone()).unwrap();
        if case.provider == case.request.dialect() {
            continue;
        }
        let whole = case.relay([text.as_bytes()].into_iter());
        for end in ["\r", "\r\n"] {
            let other = format!("\u{feff}{}", text.replace('\n', end));
            assert_eq!(case.relay(other.as_bytes().chunks(7)), whole, "{} with {end:?}", case.name());
        }
    }
}

#[test]
fn a_stream_that_breaks_off_never_looks_complete() {
    for (case, stream) in streams() {
        let (whole, _) = case.relay([&stream[..]].into_iter());
        if whole.contains("\"error\":{") {
            continue;
        }
        // The end is where a cut could be mistaken for one; before it, every third byte will do.
        let end = stream.len().saturating_sub(300);
        for at in (0..end).step_by(3).chain(end..stream.len()) {
            let (out, usage) = case.relay([&stream[..at]].into_iter());
            let complete = out.contains("[DONE]") || out.contains("message_stop") || out.contains("response.completed");
            if complete {
                let rest = String::from_utf8_lossy(&stream[at..]);
                assert!(rest.trim().is_empty(), "{} cut at {at} looks complete", case.name());
                continue;
            }
            let last = out.trim_end().rsplit("\n\n").next().unwrap_or_default();
            assert!(last.contains("\"error\":{"), "{} cut at {at} ends with {last}", case.name());
            assert!(out.ends_with("\n\n"));
            assert!(usage.input > 0, "{} cut at {at} was free", case.name());
        }
    }
}

#[test]
fn what_went_by_of_a_broken_stream_is_counted() {
    for (case, stream) in streams() {
        let text = String::from_utf8(stream.clone()).unwrap();
        let Some(at) = text.find("message_delta").or_else(|| text.find("\"finish_reason\":\"")) else { continue };
        let at = text[..at].rfind("\n\n").unwrap_or(0) + 2;
        if !text[..at].contains("delta") {
            continue;
        }
        let (_, usage) = case.relay([&text.as_bytes()[..at]].into_iter());
        assert_eq!(usage.source, UsageSource::Counted, "{}", case.name());
        assert!(usage.output > 0, "{}", case.name());
    }
}

/// The words by which an event says that the answer came to its bound, or that there is none.
const BOUNDS: [&str; 4] = [
    r#""finish_reason":"length""#,
    r#""stop_reason":"max_tokens""#,
    r#""incomplete_details":{"reason":"max_output_tokens"}"#,
    r#""error":{"#,
];

#[test]
fn a_stream_cut_anywhere_ends_as_one_that_came_to_its_bound() {
    for (case, stream) in streams() {
        let (whole, usage) = case.relay([&stream[..]].into_iter());
        for at in (0..=stream.len()).step_by(5) {
            let (sent, end, told) = case.cut(&stream[..at]);
            assert!(whole.starts_with(&sent), "{} cut at {at}", case.name());
            if end.is_empty() {
                assert_eq!(told, usage, "{} had ended at {at}", case.name());
                continue;
            }
            let name = case.name();
            assert!(end.ends_with("\n\n"), "{name} cut at {at}: {end}");
            let bounded = [&sent, &end].iter().any(|it| BOUNDS.iter().any(|bound| it.contains(bound)));
            let finished = sent.contains("\"finish_reason\":\"") || sent.contains("\"stop_reason\":\"");
            assert!(bounded || finished, "{name} cut at {at}: {end}");
            let last = end.trim_end().rsplit("\n\n").next().unwrap_or_default();
            let terminal = ["data: [DONE]", "\"type\":\"message_stop\"", "\"type\":\"response.incomplete\""];
            let ended = terminal.iter().any(|it| last.contains(it));
            // A library takes an `error` for a failure, whatever has come before it.
            let failed = end.contains("\"error\":{") && !last.contains("\"type\":\"response.incomplete\"");
            assert!(ended != failed, "{name} cut at {at} ends with {last}");
            assert!(!failed || !end.contains("\"finish_reason\":\"length\""), "{name} cut at {at}: {end}");
            let (starts, stops) = ("\"type\":\"content_block_start\"", "\"type\":\"content_block_stop\"");
            let all = format!("{sent}{end}");
            let closed = all.matches(starts).count() == all.matches(stops).count();
            assert!(closed || last.contains("\"error\":{"), "{name} cut at {at}: {end}");
        }
    }
}

#[test]
fn a_stream_of_the_same_dialect_passes_byte_for_byte_when_usage_was_asked_for() {
    let mut checked = 0;
    for (case, stream) in streams() {
        let asked = case.request.client_wants_usage() || case.provider == Dialect::Anthropic;
        if case.provider == case.request.dialect() && asked {
            assert_eq!(case.relay(stream.chunks(11)).0.as_bytes(), &stream[..], "{}", case.name());
            checked += 1;
        }
    }
    assert!(checked > 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_in_a_stream_panics(garbage in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..2_000) {
        for (case, stream) in streams() {
            let at = at.min(stream.len());
            let mixed = [&stream[..at], &garbage[..], &stream[at..]].concat();
            let (out, _) = case.relay(mixed.chunks(64).collect::<Vec<_>>().into_iter());
            prop_assert!(out.is_empty() || out.ends_with('\n') || out.ends_with('\r'));
        }
    }
}

use bytes::Bytes;

use super::*;
use crate::dialect::{Dialect, Operation};
use crate::read;

fn tally(operation: Operation, model: &str) -> Tally {
    let body =
        Bytes::from_static(br#"{"model":"m","messages":[{"role":"user","content":"12345678"}],"input":"12345678"}"#);
    Tally::new(&AiRequest::parse(operation, body).unwrap(), model, MaxTokens::Keep)
}

fn chat(usage: &str) -> Usage {
    let mut tally = tally(Operation::ChatCompletions, "m");
    let answer = format!(r#"{{"choices":[{{"message":{{"content":"12345678"}}}}],"usage":{usage}}}"#);
    read::chunk(&answer, &mut tally).unwrap();
    tally.usage()
}

#[test]
fn sane_figures_are_taken_as_they_are() {
    let usage = chat(
        r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}"#,
    );
    let expected = Usage {
        input: 10,
        cached_input: 4,
        output: 5,
        reasoning: 2,
        source: UsageSource::Provider,
        ..Usage::default()
    };
    assert_eq!(usage, expected);
}

#[test]
fn nonsense_is_replaced_by_what_was_counted_and_flagged() {
    for figure in ["-1", "9223372036854775808", "99999999999999999999999", "1.5", "1e3", "\"7\"", "[]", "true"] {
        let usage = chat(&format!(r#"{{"prompt_tokens":10,"completion_tokens":{figure}}}"#));
        assert_eq!((usage.input, usage.output), (10, 2), "{figure}");
        assert_eq!((usage.source, usage.clamped), (UsageSource::Counted, true), "{figure}");
    }
}

#[test]
fn a_part_is_never_more_than_the_whole() {
    let usage = chat(
        r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":40},"completion_tokens_details":{"reasoning_tokens":20}}"#,
    );
    assert_eq!((usage.cached_input, usage.reasoning, usage.clamped), (10, 5, true));
    assert_eq!(usage.source, UsageSource::Provider);
}

#[test]
fn sound_is_told_by_side_and_what_a_cache_had_is_none() {
    let usage = chat(
        r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":3,"audio_tokens":8},"completion_tokens_details":{"audio_tokens":3,"reasoning_tokens":1}}"#,
    );
    assert_eq!((usage.audio_input, usage.audio_output, usage.reasoning, usage.clamped), (7, 3, 1, false));
    let usage = chat(
        r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"audio_tokens":11},"completion_tokens_details":{"audio_tokens":6}}"#,
    );
    assert_eq!((usage.audio_input, usage.audio_output, usage.clamped), (10, 5, true));
}

#[test]
fn a_claim_of_nothing_is_not_believed_where_there_is_text() {
    for (figures, input, output) in [((0, 5), 8, 5), ((10, 0), 10, 2), ((0, 0), 8, 2)] {
        let usage = chat(&format!(r#"{{"prompt_tokens":{},"completion_tokens":{}}}"#, figures.0, figures.1));
        assert_eq!((usage.input > 3, usage.output), (true, output), "{figures:?}");
        assert!(figures.0 == 0 || usage.input == input, "{figures:?}: {usage:?}");
        assert_eq!((usage.source, usage.clamped), (UsageSource::Counted, true), "{figures:?}");
    }
    let mut silent = tally(Operation::ChatCompletions, "m");
    read::chunk(
        r#"{"choices":[{"message":{"content":""}}],"usage":{"prompt_tokens":9,"completion_tokens":0}}"#,
        &mut silent,
    )
    .unwrap();
    let usage = silent.usage();
    assert_eq!((usage.output, usage.source, usage.clamped), (0, UsageSource::Provider, false), "there was no text");
}

#[test]
fn a_claim_of_no_input_is_believed_of_a_request_without_any() {
    for (operation, body, is_empty) in [
        (Operation::ChatCompletions, r#"{"model":"m","messages":[],"max_tokens":9}"#, true),
        (Operation::Embeddings, r#"{"model":"m","input":[]}"#, true),
        (Operation::ChatCompletions, r#"{"model":"m","messages":[{"role":"user","content":""}]}"#, false),
        (
            Operation::ChatCompletions,
            r#"{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"f"}}]}"#,
            false,
        ),
        (Operation::Embeddings, r#"{"model":"m","input":[1]}"#, false),
    ] {
        let request = AiRequest::parse(operation, Bytes::from_static(body.as_bytes())).unwrap();
        let mut tally = Tally::new(&request, "m", MaxTokens::Keep);
        read::chunk(r#"{"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#, &mut tally).unwrap();
        let usage = tally.usage();
        let source = if is_empty { UsageSource::Provider } else { UsageSource::Counted };
        assert_eq!((usage.input == 0, usage.source, usage.clamped), (is_empty, source, !is_empty), "{body}: {usage:?}");
        assert_eq!(tally.at_most().input == 0, is_empty, "{body}");
    }
}

#[test]
fn a_claim_far_below_the_text_is_not_believed() {
    let claim = |claimed: u64| {
        let mut tally = tally(Operation::ChatCompletions, "m");
        let text = "1234 ".repeat(800); // a thousand tokens by their bytes
        let usage = format!(r#"{{"prompt_tokens":10,"completion_tokens":{claimed}}}"#);
        let answer = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{usage}}}"#);
        read::chunk(&answer, &mut tally).unwrap();
        assert_eq!(tally.is_reported(), tally.usage().source == UsageSource::Provider);
        (tally.usage().output, tally.usage().source, tally.usage().clamped)
    };
    assert_eq!(claim(80), (1_000, UsageSource::Counted, true), "a tenth of what it was, claimed by its words");
    assert_eq!(claim(125), (125, UsageSource::Provider, false), "few, but not impossible");
    assert_eq!(claim(5_000), (5_000, UsageSource::Provider, false), "reasoning is not seen");
}

#[test]
fn a_claim_beyond_what_the_request_allows_is_brought_down_to_that() {
    let body = r#"{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"12345678"}]}"#;
    let request = AiRequest::parse(Operation::ChatCompletions, body.into()).unwrap();
    let claim = |max_tokens, words: usize, input: u64, output: u64| {
        let mut tally = Tally::new(&request, "m", max_tokens);
        let usage = format!(r#"{{"prompt_tokens":{input},"completion_tokens":{output}}}"#);
        let text = "1234".repeat(words);
        let answer = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{usage}}}"#);
        read::chunk(&answer, &mut tally).unwrap();
        let usage = tally.usage();
        assert_eq!(usage.source, UsageSource::Provider);
        (usage.input, usage.output, usage.clamped)
    };
    let bound = request.input_bound("m");
    assert_eq!(claim(MaxTokens::Keep, 10, bound, 100), (bound, 100, false));
    assert_eq!(claim(MaxTokens::Keep, 10, bound + 1, 100), (bound, 100, true));
    assert_eq!(claim(MaxTokens::Keep, 10, 9, 101), (9, 100, true));
    assert_eq!(claim(MaxTokens::Set(40), 10, 9, 100), (9, 40, true));
    assert_eq!(claim(MaxTokens::Keep, 300, 9, 250), (9, 250, false), "the text is there to show for it");
    assert_eq!(claim(MaxTokens::Keep, 300, 9, 900), (9, 300, true), "for so much of it, that is");
}

#[test]
fn a_missing_block_is_counted() {
    for missing in ["null", "{}", "[]", "7", r#"{"total_tokens":8}"#, r#"{"prompt_tokens":null}"#] {
        let usage = chat(missing);
        assert!(usage.input > 2 && usage.output == 2, "{missing}: {usage:?}");
        assert_eq!((usage.source, usage.clamped), (UsageSource::Counted, false), "{missing}");
    }
}

#[test]
fn anthropic_figures_are_added_up() {
    let mut tally = tally(Operation::Messages, "m");
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":5,"cache_read_input_tokens":20,"cache_creation_input_tokens":3,"output_tokens":1}}}"#;
    read::event(start, &mut tally).unwrap();
    read::event(r#"{"delta":{"type":"text_delta","text":"12345678"},"type":"content_block_delta"}"#, &mut tally)
        .unwrap();
    let so_far = tally.usage();
    assert_eq!((so_far.input, so_far.output, so_far.source), (28, 2, UsageSource::Counted));
    read::event(r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":9}}"#, &mut tally).unwrap();
    read::event(r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":9}}"#, &mut tally).unwrap();
    let usage = tally.usage();
    assert_eq!((usage.input, usage.cached_input, usage.cache_write, usage.output), (28, 20, 3, 9));
    assert_eq!(usage.source, UsageSource::Provider);
}

#[test]
fn known_models_are_counted_with_their_vocabulary() {
    crate::preload("gpt-4o");
    let mut tally = tally(Operation::ChatCompletions, "gpt-4o");
    let text = "counting ".repeat(2_000);
    for piece in text.as_bytes().chunks(90) {
        let piece = std::str::from_utf8(piece).unwrap();
        read::chunk(&format!(r#"{{"choices":[{{"delta":{{"content":"{piece}"}}}}]}}"#), &mut tally).unwrap();
    }
    let usage = tally.usage();
    assert!((2_000..2_020).contains(&usage.output), "{usage:?}");
    assert!(tally.counter.estimate() > 2_000);
}

#[test]
fn embeddings_have_no_output() {
    let mut tally = tally(Operation::Embeddings, "m");
    let answer = r#"{"data":[{"embedding":"x"}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    read::embeddings(answer, &mut tally).unwrap();
    assert_eq!(tally.usage(), Usage { input: 8, source: UsageSource::Provider, ..Usage::default() });
    assert_eq!(Dialect::OpenAi.name(), "openai");
}

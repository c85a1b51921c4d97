//! What one call costs here: `cargo bench -p tollgate-llm`. Each figure is the best of several rounds.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use tollgate_llm::{AiRequest, Dialect, MaxTokens, Operation, StreamRelay, preload, translate_answer};

fn main() {
    let (short, long) = (body(200), body(10_000));
    for (name, body) in [("0.4 KB", &short), ("10 KB", &long)] {
        measure(&format!("parse a request of {name}"), 1, || {
            AiRequest::parse(Operation::ChatCompletions, body.clone())
        });
        let request = parse(body);
        measure(&format!("splice a request of {name}"), 1, || {
            request.for_provider(Dialect::OpenAi, "gpt-4o-mini", MaxTokens::Set(4_096))
        });
        measure(&format!("translate a request of {name}"), 1, || {
            request.for_provider(Dialect::Anthropic, "claude-opus-4-7", MaxTokens::Set(4_096))
        });
        measure(&format!("bound the input of {name} by bytes"), 1, || parse(body).input_bound("mock"));
        preload("gpt-4o");
        measure(&format!("bound the input of {name} by tokens"), 1, || parse(body).input_bound("gpt-4o"));
    }
    let request = parse(&short);
    let answer = Bytes::from(answer(1_000));
    measure("read an answer of 1 KB", 1, || {
        translate_answer(&request, Dialect::OpenAi, "mock", MaxTokens::Keep, 0, &answer)
    });
    for (name, model) in [("", "mock"), (", text collected for the tokenizer", "gpt-4o")] {
        let events = stream(1_000);
        measure(&format!("relay one event of a stream{name}"), 1_000, || relay(&request, model, &events));
    }
}

fn relay(request: &AiRequest, model: &str, events: &[Bytes]) -> usize {
    let mut relay = StreamRelay::new(request, Dialect::OpenAi, model, MaxTokens::Keep, 0);
    events.iter().map(|event| relay.push(event).map_or(0, |emit| emit.byte_len())).sum()
}

fn parse(body: &Bytes) -> AiRequest {
    AiRequest::parse(Operation::ChatCompletions, body.clone()).expect("the bench's own request is one")
}

fn body(bytes: usize) -> Bytes {
    let text = "Tell me, in a few words, what it is that you know about gates.\n".repeat(bytes / 63 + 1);
    let messages = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]);
    json!({"model": "gpt-4o", "stream": true, "temperature": 0.2, "messages": messages}).to_string().into()
}

fn answer(bytes: usize) -> String {
    let message = json!({"role": "assistant", "content": "Gates open and close. ".repeat(bytes / 22)});
    let choices = json!([{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}]);
    json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": choices,
        "usage": {"prompt_tokens": 10, "completion_tokens": 200, "total_tokens": 210}})
    .to_string()
}

fn stream(events: usize) -> Vec<Bytes> {
    let event = |n| {
        let choices =
            json!([{"index": 0, "delta": {"content": format!(" word{n}")}, "logprobs": null, "finish_reason": null}]);
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o",
            "system_fingerprint": "fp_1", "choices": choices, "usage": null});
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    (0..events).map(event).collect()
}

/// Prints nanoseconds for each of the `units` that one run does.
fn measure<T>(name: &str, units: u128, mut run: impl FnMut() -> T) {
    const ROUNDS: usize = 10;
    const RUNS: u128 = 200;
    let mut best = u128::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..RUNS {
            black_box(run());
        }
        best = best.min(start.elapsed().as_nanos() / (RUNS * units));
    }
    println!("{name:<60} {best:>9} ns");
}

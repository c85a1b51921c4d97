//! What will be answered: decided before the first byte, so that a test can know it too.

use serde_json::{Number, Value};

use crate::{
    call::{Call, Operation},
    knobs::{Knobs, UsageFault},
    text,
};

/// What will be answered.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of the request; ids of answers derive from it.
    pub(crate) sequence: u64,
    pub(crate) model: String,
    pub(crate) created: u64,
    pub(crate) choices: u64,
    /// Tokens of each choice, reasoning included in the first.
    pub(crate) tokens: u64,
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) reasoning: u64,
    /// The answer stopped because the request allows no more.
    pub(crate) full: bool,
    pub(crate) tool: Option<String>,
    pub(crate) include_usage: bool,
    pub(crate) chunk: u64,
    pub(crate) inputs: u64,
    pub(crate) usage: UsageFault,
}

impl Plan {
    pub(crate) fn new(call: &Call, knobs: &Knobs, sequence: u64, created: u64) -> Plan {
        let wanted = match call.operation {
            Operation::Embeddings => 0,
            _ => knobs.output.min(call.max_output.unwrap_or(u64::MAX)).saturating_add(knobs.overrun),
        };
        Plan {
            sequence,
            model: call.model.clone(),
            created,
            choices: if call.operation == Operation::Embeddings { 0 } else { call.choices },
            tokens: wanted,
            input: call.input,
            cached: knobs.cached.min(call.input),
            reasoning: knobs.reasoning.min(wanted.saturating_sub(1)),
            full: call.max_output.is_some_and(|max| knobs.output > max),
            tool: call.tool.as_ref().filter(|tool| tool.required || knobs.tool).map(|tool| tool.name.clone()),
            include_usage: call.include_usage,
            chunk: knobs.chunk,
            inputs: call.inputs,
            usage: knobs.usage,
        }
    }

    /// Output tokens of all choices.
    pub(crate) fn output(&self) -> u64 {
        self.tokens.saturating_mul(self.choices)
    }

    /// The words of choice `choice`, cut into the pieces of a stream: `(text, tokens)`. Reasoning counts with the first.
    pub(crate) fn pieces(&self, choice: u64) -> impl Iterator<Item = (String, u64)> + use<> {
        let hidden = if choice == 0 { self.reasoning } else { 0 };
        let (total, chunk) = (self.tokens - hidden, self.chunk);
        (0..total.div_ceil(chunk)).map(move |number| {
            let from = number * chunk;
            let count = chunk.min(total - from);
            (text::words(from, count), count + if number == 0 { hidden } else { 0 })
        })
    }

    /// The whole text of choice `choice`.
    pub(crate) fn text(&self, choice: u64) -> String {
        text::words(0, self.tokens - if choice == 0 { self.reasoning } else { 0 })
    }

    /// What the usage block claims.
    pub(crate) fn claim(&self) -> Claim {
        Claim {
            input: self.input,
            cached: self.cached,
            output: self.output(),
            reasoning: self.reasoning,
            fault: self.usage,
        }
    }
}

/// A usage block before it is put in a dialect's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    input: u64,
    cached: u64,
    output: u64,
    reasoning: u64,
    fault: UsageFault,
}

impl Claim {
    pub(crate) fn is_missing(self) -> bool {
        self.fault == UsageFault::Missing
    }

    /// The first of two blocks, if there shall be two.
    pub(crate) fn half(self) -> Option<Claim> {
        let half = Claim { output: self.output / 2, fault: UsageFault::Exact, ..self };
        (self.fault == UsageFault::Twice).then_some(half)
    }

    /// The same with other output: what an early block of a stream says.
    pub(crate) fn so_far(self, output: u64) -> Claim {
        Claim { output, ..self }
    }

    pub(crate) fn input(self) -> Value {
        self.figure(self.input)
    }

    pub(crate) fn uncached_input(self) -> Value {
        self.figure(self.input - self.cached)
    }

    pub(crate) fn cached(self) -> Value {
        self.figure(self.cached)
    }

    pub(crate) fn output(self) -> Value {
        self.figure(self.output)
    }

    pub(crate) fn visible_output(self) -> Value {
        self.figure(self.output.saturating_sub(self.reasoning))
    }

    pub(crate) fn reasoning(self) -> Value {
        self.figure(self.reasoning)
    }

    pub(crate) fn total(self) -> Value {
        self.figure(self.input.saturating_add(self.output))
    }

    fn figure(self, truth: u64) -> Value {
        let number: Number = match self.fault {
            UsageFault::Exact | UsageFault::Missing | UsageFault::Twice => truth.into(),
            UsageFault::Zero => 0.into(),
            UsageFault::Tenth => (truth / 10).into(),
            UsageFault::Tenfold => truth.saturating_mul(10).into(),
            UsageFault::Negative => i64::try_from(truth).map_or(i64::MIN, |truth| -truth).into(),
            UsageFault::Huge => (1_u64 << 63).into(),
        };
        Value::Number(number)
    }
}

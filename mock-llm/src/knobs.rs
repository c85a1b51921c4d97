//! What can be asked of the provider: one table of knobs, the same for flags, model names, headers and `/__mock/knobs`.

use std::{fmt, time::Duration};

/// Tokens of an answer unless the request allows less.
const OUTPUT: u64 = 16;
/// How the parts of a failure rate are counted.
const MILLION: u32 = 1_000_000;

/// One knob: its name and what it does.
#[derive(Clone, Copy, Debug)]
pub struct Knob {
    /// As in `--knob NAME=VALUE`, `model+NAME=VALUE` and the header `x-mock-NAME`.
    pub name: &'static str,
    /// The values that it takes and what they mean.
    pub help: &'static str,
}

/// Every knob there is.
pub const KNOBS: &[Knob] = &[
    Knob { name: "output", help: "tokens of an answer, never more than the request allows (16)" },
    Knob { name: "overrun", help: "tokens more than the request allows (0)" },
    Knob { name: "chunk", help: "tokens in one event of a stream (1)" },
    Knob { name: "delay", help: "time before the first byte: 250ms, 2s" },
    Knob { name: "pace", help: "time between two events of a stream" },
    Knob { name: "status", help: "fail with this HTTP status instead of answering" },
    Knob { name: "error-rate", help: "the part of requests that `status` applies to, 0 to 1 (1)" },
    Knob { name: "retry-after", help: "seconds, sent with a failure" },
    Knob {
        name: "usage",
        help: "exact | missing | twice | zero | tenth | tenfold | negative | huge: the usage that is claimed (exact)",
    },
    Knob {
        name: "cut",
        help: "none | rst | fin | end | silence: how an answer stops in the middle; `end` is well framed but incomplete (none)",
    },
    Knob { name: "cut-after", help: "tokens before the cut (half of the answer)" },
    Knob {
        name: "body",
        help: "normal | html | truncated | short | long | error | empty | endless | headers | gzip: what is wrong with the answer (normal)",
    },
    Knob { name: "hang", help: "true: read the request and never answer" },
    Knob { name: "close", help: "true: read the request and close without a byte" },
    Knob { name: "tool", help: "true: call the first tool of the request even where it is free not to" },
    Knob { name: "cached", help: "input tokens said to come from a cache, never more than there are (0)" },
    Knob { name: "reasoning", help: "output tokens said to be reasoning, which the text then lacks (0)" },
];

/// Model names that end like this set a knob, so that a client that can't send headers can ask as well.
const SUFFIXES: &[(&str, &str, &str)] = &[
    ("-cut", "cut", "rst"),
    ("-cut-rst", "cut", "rst"),
    ("-cut-fin", "cut", "fin"),
    ("-cut-end", "cut", "end"),
    ("-cut-silence", "cut", "silence"),
    ("-slow", "pace", "100ms"),
    ("-hang", "hang", "true"),
    ("-close", "close", "true"),
    ("-nousage", "usage", "missing"),
    ("-html", "body", "html"),
    ("-truncated", "body", "truncated"),
    ("-500", "status", "500"),
    ("-503", "status", "503"),
    ("-429", "status", "429"),
];

/// The state of every knob.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Tokens of an answer, if the request allows as many.
    pub output: u64,
    /// Tokens beyond what the request allows.
    pub overrun: u64,
    /// Tokens in one event of a stream; at least 1.
    pub chunk: u64,
    /// Time before the first byte.
    pub delay: Duration,
    /// Time between two events.
    pub pace: Duration,
    /// Fail with this status.
    pub status: Option<u16>,
    /// In how many of a million requests.
    pub error_ppm: u32,
    /// Seconds, sent with a failure.
    pub retry_after: Option<u64>,
    /// What is claimed of the usage.
    pub usage: UsageFault,
    /// How the answer stops in the middle.
    pub cut: Cut,
    /// After how many tokens; half of the answer when absent.
    pub cut_after: Option<u64>,
    /// What is wrong with the body.
    pub body: BodyFault,
    /// Never answer.
    pub hang: bool,
    /// Close without a byte.
    pub close: bool,
    /// Call a tool.
    pub tool: bool,
    /// Input tokens claimed as cached.
    pub cached: u64,
    /// Output tokens claimed as reasoning.
    pub reasoning: u64,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs {
            output: OUTPUT,
            overrun: 0,
            chunk: 1,
            delay: Duration::ZERO,
            pace: Duration::ZERO,
            status: None,
            error_ppm: MILLION,
            retry_after: None,
            usage: UsageFault::Exact,
            cut: Cut::None,
            cut_after: None,
            body: BodyFault::Normal,
            hang: false,
            close: false,
            tool: false,
            cached: 0,
            reasoning: 0,
        }
    }
}

/// A knob that does not exist or a value that it does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnobError {
    name: String,
    value: String,
}

impl fmt::Display for KnobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KNOBS.iter().find(|knob| knob.name == self.name) {
            Some(knob) => write!(f, "knob {} can't be {:?}: {}", self.name, self.value, knob.help),
            None => {
                let names: Vec<&str> = KNOBS.iter().map(|knob| knob.name).collect();
                write!(f, "there is no knob {:?}, but {}", self.name, names.join(", "))
            }
        }
    }
}

impl std::error::Error for KnobError {}

impl Knobs {
    /// Sets one knob.
    ///
    /// # Errors
    /// There is no such knob, or it does not take this value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), KnobError> {
        self.try_set(name, value.trim()).ok_or_else(|| KnobError { name: name.into(), value: value.into() })
    }

    fn try_set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "output" => self.output = value.parse().ok()?,
            "overrun" => self.overrun = value.parse().ok()?,
            "chunk" => self.chunk = value.parse().ok().filter(|&tokens| tokens > 0)?,
            "delay" => self.delay = duration(value)?,
            "pace" => self.pace = duration(value)?,
            "status" if value == "none" => self.status = None,
            "status" => self.status = Some(value.parse().ok().filter(|status| (400..=599).contains(status))?),
            "error-rate" => self.error_ppm = parts_per_million(value)?,
            "retry-after" => self.retry_after = Some(value.parse().ok()?),
            "usage" => self.usage = UsageFault::parse(value)?,
            "cut" => self.cut = Cut::parse(value)?,
            "cut-after" => self.cut_after = Some(value.parse().ok()?),
            "body" => self.body = BodyFault::parse(value)?,
            "hang" => self.hang = value.parse().ok()?,
            "close" => self.close = value.parse().ok()?,
            "tool" => self.tool = value.parse().ok()?,
            "cached" => self.cached = value.parse().ok()?,
            "reasoning" => self.reasoning = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    /// Sets what a model name asks for: one of the known endings, or `+knob=value` any number of times.
    ///
    /// # Errors
    /// As for [`Knobs::set`].
    pub fn set_by_model(&mut self, model: &str) -> Result<(), KnobError> {
        let mut parts = model.split('+');
        let base = parts.next().unwrap_or_default();
        if let Some((_, knob, value)) =
            SUFFIXES.iter().filter(|(end, ..)| base.ends_with(end)).max_by_key(|s| s.0.len())
        {
            self.set(knob, value)?;
        }
        for part in parts {
            let (knob, value) = part.split_once('=').unwrap_or((part, ""));
            self.set(knob, value)?;
        }
        Ok(())
    }
}

/// What is claimed of the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageFault {
    /// The truth.
    Exact,
    /// No usage block at all.
    Missing,
    /// The block comes twice: a half of it first, the truth afterwards.
    Twice,
    /// Zero tokens.
    Zero,
    /// A tenth of the truth.
    Tenth,
    /// Ten times the truth.
    Tenfold,
    /// Minus the truth.
    Negative,
    /// 2^63 for each figure.
    Huge,
}

impl UsageFault {
    fn parse(value: &str) -> Option<UsageFault> {
        Some(match value {
            "exact" => UsageFault::Exact,
            "missing" => UsageFault::Missing,
            "twice" => UsageFault::Twice,
            "zero" => UsageFault::Zero,
            "tenth" => UsageFault::Tenth,
            "tenfold" => UsageFault::Tenfold,
            "negative" => UsageFault::Negative,
            "huge" => UsageFault::Huge,
            _ => return None,
        })
    }
}

/// How an answer stops in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It does not.
    None,
    /// The connection is reset.
    Rst,
    /// The connection is closed before the end of the body.
    Fin,
    /// The body ends as HTTP wants, but the answer is not complete.
    End,
    /// Nothing more comes, and the connection stays open.
    Silence,
}

impl Cut {
    fn parse(value: &str) -> Option<Cut> {
        Some(match value {
            "none" => Cut::None,
            "rst" => Cut::Rst,
            "fin" => Cut::Fin,
            "end" => Cut::End,
            "silence" => Cut::Silence,
            _ => return None,
        })
    }
}

/// What is wrong with the body of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFault {
    /// Nothing.
    Normal,
    /// A 200 with an HTML page.
    Html,
    /// JSON that stops in the middle, framed as complete.
    Truncated,
    /// Less body than `content-length` says, then a close.
    Short,
    /// More body than `content-length` says.
    Long,
    /// A 200 with an error object.
    Error,
    /// A 200 with nothing.
    Empty,
    /// A body that never ends.
    Endless,
    /// Ten megabytes of headers.
    Headers,
    /// A gzip that unpacks to very much more than it is.
    Gzip,
}

impl BodyFault {
    fn parse(value: &str) -> Option<BodyFault> {
        Some(match value {
            "normal" => BodyFault::Normal,
            "html" => BodyFault::Html,
            "truncated" => BodyFault::Truncated,
            "short" => BodyFault::Short,
            "long" => BodyFault::Long,
            "error" => BodyFault::Error,
            "empty" => BodyFault::Empty,
            "endless" => BodyFault::Endless,
            "headers" => BodyFault::Headers,
            "gzip" => BodyFault::Gzip,
            _ => return None,
        })
    }
}

/// `250ms`, `2s`, `1m`, or a bare number of milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "" | "ms" => Some(Duration::from_millis(count)),
        "us" => Some(Duration::from_micros(count)),
        "s" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_secs(count.checked_mul(60)?)),
        _ => None,
    }
}

/// `0.25` as parts of a million.
fn parts_per_million(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let parts: u32 = format!("{fraction:0<6}").parse().ok()?;
    let ppm = whole.parse::<u32>().ok()?.checked_mul(MILLION)?.checked_add(parts)?;
    (ppm <= MILLION).then_some(ppm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_of_the_table_is_known_and_refuses_nonsense() {
        for knob in KNOBS {
            let error = Knobs::default().set(knob.name, "nonsense").unwrap_err().to_string();
            assert!(error.contains(knob.help), "{}: {error}", knob.name);
        }
        let error = Knobs::default().set("colour", "red").unwrap_err().to_string();
        assert!(error.contains("no knob \"colour\", but output"), "{error}");
    }

    #[test]
    fn a_model_name_sets_knobs_by_its_ending_and_by_plus() {
        let mut knobs = Knobs::default();
        knobs.set_by_model("mock-1-cut-silence+delay=2s+output=500+error-rate=0.25").unwrap();
        assert_eq!(knobs.cut, Cut::Silence);
        assert_eq!(knobs.delay, Duration::from_secs(2));
        assert_eq!(knobs.output, 500);
        assert_eq!(knobs.error_ppm, 250_000);
        assert!(Knobs::default().set_by_model("mock-1+nothing").is_err());
        assert!(Knobs::default().set_by_model("mock-1").is_ok());
    }

    #[test]
    fn durations_and_rates_have_bounds() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("7"), Some(Duration::from_millis(7)));
        assert_eq!(duration("99999999999999999999s"), None);
        assert_eq!(duration("1h"), None);
        assert_eq!(parts_per_million("1"), Some(MILLION));
        assert_eq!(parts_per_million("0.000001"), Some(1));
        assert_eq!(parts_per_million("1.1"), None);
        assert_eq!(parts_per_million("-1"), None);
    }
}

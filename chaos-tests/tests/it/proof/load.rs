//! Callers: whole answers and streams of both dialects, and all that can go wrong with one.

use std::time::Duration;

use rand::RngExt;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tollgate_chaos_tests::{
    Seed,
    calls::{self, Call},
    client::{CallError, Client, Event},
    resources::api_key,
};

use super::stage::{GONE, MAIN, MODEL, PAYERS, UNTOLD, consumer};

/// A caller gives up on a call after this long.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// Between two calls of a caller whose node was not there: the shape of the load.
const AGAIN: Duration = Duration::from_millis(100);

/// What is special about a call.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Who is asked first.
    provider: &'static str,
    model: &'static str,
    stream: bool,
    knobs: &'static [(&'static str, &'static str)],
    leaves_after: Option<usize>,
    /// How many of some hundred calls are of this kind.
    weight: u32,
}

const fn kind(weight: u32, stream: bool, knobs: &'static [(&'static str, &'static str)]) -> Kind {
    Kind { provider: MAIN, model: MODEL, stream, knobs, leaves_after: None, weight }
}

/// Of which the provider does not say what it used.
const fn untold(stream: bool) -> Kind {
    Kind { model: UNTOLD, ..kind(4, stream, &[]) }
}

const fn after(provider: &'static str, weight: u32) -> Kind {
    Kind { provider, ..kind(weight, false, &[]) }
}

const fn leaving(after: usize, knobs: &'static [(&'static str, &'static str)]) -> Kind {
    Kind { leaves_after: Some(after), ..kind(4, true, knobs) }
}

const KINDS: &[Kind] = &[
    kind(20, false, &[]),
    kind(20, true, &[]),
    kind(4, true, &[("pace", "5ms")]),
    untold(false),
    untold(true),
    kind(3, true, &[("usage", "twice")]),
    kind(4, false, &[("status", "503")]),
    kind(3, false, &[("status", "429")]),
    kind(3, true, &[("status", "500")]),
    kind(3, true, &[("cut", "fin"), ("pace", "2ms")]),
    kind(3, true, &[("cut", "end")]),
    kind(2, true, &[("cut", "rst"), ("pace", "2ms")]),
    kind(1, true, &[("cut", "silence"), ("pace", "2ms")]),
    kind(1, false, &[("hang", "true")]),
    kind(3, false, &[("close", "true")]),
    kind(2, false, &[("delay", "200ms")]),
    leaving(1, &[("pace", "5ms")]),
    leaving(3, &[]),
    after(GONE, 4),
    after("refusing", 4),
    after("closing", 4),
    after("late", 1),
];

/// What a caller was told about one request.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) status: u16,
    /// The answer came to its end, and said so.
    pub(super) complete: bool,
    /// Words of the answer that came.
    pub(super) tokens: u64,
}

pub(super) struct Caller {
    pub(super) client: Client,
    pub(super) origins: Vec<String>,
    pub(super) stop: CancellationToken,
}

impl Caller {
    /// Calls until it is stopped; all that it was told.
    pub(super) async fn calls(self, seed: Seed, number: usize) -> Vec<(String, Told)> {
        let mut rng = seed.rng(&format!("caller {number}"));
        let all: u32 = KINDS.iter().map(|kind| kind.weight).sum();
        let mut told = Vec::new();
        while !self.stop.is_cancelled() {
            let kind = pick(rng.random_range(0..all));
            let origin = &self.origins[rng.random_range(0..self.origins.len())];
            let payer = PAYERS[rng.random_range(0..PAYERS.len())];
            let call = call(kind, payer.tenant, rng.random_range(8..60), rng.random());
            match self.once(&call, kind, origin).await {
                Ok(one) => told.push(one),
                // Of what nobody was told, the providers and the ledger know.
                Err(_) => time::sleep(AGAIN).await,
            }
        }
        told
    }

    async fn once(&self, call: &Call, kind: Kind, origin: &str) -> Result<(String, Told), CallError> {
        if !kind.stream {
            let answer = self.client.send(call.request(origin), TRY_LIMIT).await?;
            let text = answer.json().map(|body| calls::text(call.dialect(), &body)).unwrap_or_default();
            let told = Told { status: answer.status, complete: answer.status == 200, tokens: words(&text) };
            return Ok((answer.header("x-request-id").to_owned(), told));
        }
        let mut stream = self.client.open(call.request(origin), TRY_LIMIT).await?;
        let (status, headers) = (stream.status, stream.headers.clone());
        let id = headers.get("x-request-id").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        let (mut left, mut events) = (kind.leaves_after.unwrap_or(usize::MAX), Vec::<Event>::new());
        while left > 0
            && let Ok(event) = stream.next().await
        {
            events.push(event);
            left -= 1;
        }
        let complete = status == 200 && calls::is_complete(call.dialect(), &events);
        Ok((id, Told { status, complete, tokens: words(&calls::streamed_text(call.dialect(), &events)) }))
    }
}

fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn pick(mut at: u32) -> Kind {
    for kind in KINDS {
        match at.checked_sub(kind.weight) {
            Some(rest) => at = rest,
            None => return *kind,
        }
    }
    unreachable!("it is drawn below the sum of all weights")
}

/// A call whose answer has `tokens` tokens, less than it asks for.
fn call(kind: Kind, tenant: &str, tokens: u64, is_openai: bool) -> Call {
    let key = api_key(&consumer(tenant));
    let call = if is_openai { Call::chat(&key, kind.model) } else { Call::messages(&key, kind.model) };
    let call = call.max_tokens(tokens + 20).header("x-mock-output", &tokens.to_string());
    let call = call.header("host", &format!("{}.test", kind.provider));
    let call = if kind.stream { call.stream().header("x-mock-chunk", "4") } else { call };
    kind.knobs.iter().fold(call, |call, (name, value)| call.header(&format!("x-mock-{name}"), value))
}

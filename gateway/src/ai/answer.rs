//! What a provider answered: an error, a whole answer, or the beginning of a stream.

use std::{future::Future, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header, response};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};
use tollgate_llm::{AnswerError, Emit, StreamRelay, code, provider_message, translate_answer, translate_error};
use tollgate_model::Failure;
use tollgate_quota::Outcome;

use super::{
    attempt::{Failed, KeyFault, Sent},
    growing,
    leave::Source,
    provider,
    settle::{Call, Used},
    stream::AiStream,
};
use crate::{
    body::ResponseBody,
    clock,
    error::Rejection,
    exchange::{self, Exchange},
    retry::retry_after,
    upstream::{SendError, UpstreamBody},
};

/// A whole answer at most: the longest completions are a few megabytes, embeddings of large batches some tens.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// A long one is read in parts of so much, or as it comes.
const PART_BYTES: usize = 1024 * 1024;
/// An error's body at most; of a longer one the beginning is no JSON.
const MAX_ERROR_BYTES: usize = 256 * 1024;
/// An error's body is waited for this long.
const ERROR_PATIENCE: Duration = Duration::from_secs(5);

/// Reads the provider's answer as far as it takes to know that it is one. Takes the call when it is.
pub(super) async fn read(
    exchange: &Exchange,
    sent: Sent<'_>,
    answer: Response<UpstreamBody>,
    call: &mut Option<Call>,
) -> Result<Response<ResponseBody>, Failed> {
    let (head, body) = answer.into_parts();
    if head.status.is_client_error() || head.status.is_server_error() {
        return Err(refused(&sent, &head, body).await);
    }
    if head.status != StatusCode::OK {
        let message = format!("The provider answered with the unexpected status {}.", head.status.as_u16());
        return Err(Failed::garbage(Rejection::upstream_error(message)));
    }
    if head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Failed::garbage(Rejection::upstream_error(
            "The provider's answer is compressed, which was not asked for.",
        )));
    }
    if sent.request.stream() {
        stream(exchange, sent, head, body, call).await
    } else {
        whole(exchange, sent, head, body, call).await
    }
}

async fn whole(
    exchange: &Exchange,
    sent: Sent<'_>,
    head: response::Parts,
    body: UpstreamBody,
    call: &mut Option<Call>,
) -> Result<Response<ResponseBody>, Failed> {
    // It is made and will be billed: it is counted, and not refused.
    let mut room = exchange.shared.overload.room(exchange::rank(exchange));
    let collecting =
        collect(body, MAX_ANSWER_BYTES, exchange.plan.route.timeouts.idle, |bytes| room.take_anyway(bytes));
    let body = by(sent.deadline, collecting).await.map_err(Failed::from)?;
    let Collected::Whole(body) = body else {
        return Err(Failed::garbage(Rejection::upstream_error("The provider's answer is too large.")));
    };
    let dialect = provider::dialect(sent.provider.provider.dialect);
    let answer = translate_answer(sent.request, dialect, sent.model, sent.max_tokens, clock::now_seconds(), &body);
    let answer = answer.map_err(|error| Failed::garbage(garbage(error)))?;
    if let Some(call) = call.take() {
        call.settle(Used { usage: answer.usage, at_most: answer.at_most }, Outcome::Settled, 200).await;
    }
    Ok(respond(&sent, head, "application/json", ResponseBody::full_in(room, answer.body)))
}

/// A stream is one once its first bytes make sense: until then another provider may still be asked.
async fn stream(
    exchange: &Exchange,
    mut sent: Sent<'_>,
    head: response::Parts,
    mut body: UpstreamBody,
    call: &mut Option<Call>,
) -> Result<Response<ResponseBody>, Failed> {
    let kind = head.headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
    if !kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
        return Err(Failed::garbage(Rejection::upstream_error("The provider did not answer with a stream of events.")));
    }
    let dialect = provider::dialect(sent.provider.provider.dialect);
    let mut relay = StreamRelay::new(sent.request, dialect, sent.model, sent.max_tokens, clock::now_seconds());
    let emit = first_words(&mut body, &mut relay, sent.first_byte).await?;
    let Some(mut call) = call.take() else { return Err(Failed::from(SendError::Reset)) };
    call.first_chunk();
    let timeouts = exchange.plan.route.timeouts;
    let whole = timeouts.stream.map(|whole| exchange.record.started() + whole);
    let source = Source::new(body, relay, call);
    let body = match (sent.growth.take(), sent.permit.take()) {
        (None, None) => ResponseBody::stream(AiStream::new(source, emit, timeouts.idle, whole)),
        (growth, permit) => {
            let terms = growing::Terms { growth, permit };
            ResponseBody::pieces(growing::relay(source, emit, terms, timeouts.idle, whole))
        }
    };
    Ok(respond(&sent, head, "text/event-stream", body))
}

/// The first bytes for the caller. A provider that fails by its own words before them has not begun to answer.
async fn first_words(body: &mut UpstreamBody, relay: &mut StreamRelay, until: Instant) -> Result<Emit, Failed> {
    loop {
        let chunk = first_chunk(body, until).await.map_err(Failed::from)?;
        let emit = relay.push(&chunk).map_err(|error| Failed::garbage(Rejection::upstream_error(sentence(&error))))?;
        if let Some(message) = relay.failure() {
            let message = format!("The provider failed: {message}");
            return Err(Failed { label: "failed", ..Failed::garbage(Rejection::upstream_error(message)) });
        }
        if !emit.is_empty() || relay.is_complete() {
            return Ok(emit);
        }
    }
}

async fn first_chunk(body: &mut UpstreamBody, until: Instant) -> Result<Bytes, SendError> {
    by(until, async {
        loop {
            match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(data),
                    _ => {}
                },
                Some(Err(_)) | None => return Err(SendError::Reset),
            }
        }
    })
    .await
}

fn respond(sent: &Sent<'_>, head: response::Parts, kind: &'static str, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.headers_mut() = provider::answer_headers(head.headers, sent.provider, sent.model);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// What the caller is told of a provider's error: a 4xx, 503, 504 or 529 as it is, in the caller's dialect and with
/// its `retry-after`; any other is the provider's failure.
async fn refused(sent: &Sent<'_>, head: &response::Parts, body: UpstreamBody) -> Failed {
    let until = sent.deadline.min(Instant::now() + ERROR_PATIENCE);
    let body = by(until, collect(body, MAX_ERROR_BYTES, ERROR_PATIENCE, |_| {})).await;
    let body = match body {
        Ok(Collected::Whole(body)) => body,
        _ => Bytes::new(),
    };
    let (status, key) = (head.status.as_u16(), key_fault(head.status.as_u16(), &body));
    let may_have_begun = may_have_begun(status);
    let rejection = if head.status.is_client_error() || matches!(status, 503 | 504 | 508 | 529) {
        let body = translate_error(sent.request.dialect(), status, &body);
        let rejection = Rejection::passed_on(status, code_of(status), body);
        match head.headers.get(header::RETRY_AFTER) {
            Some(after) => rejection.with_header(header::RETRY_AFTER, after.clone()),
            None => rejection,
        }
    } else {
        let said = provider_message(&body).map(|message| format!(" {message}")).unwrap_or_default();
        Rejection::upstream_error(format!("The provider failed with status {status}.{said}"))
    };
    let mut served = http::HeaderMap::new();
    provider::served_by(&mut served, sent.provider, sent.model);
    let label = if head.status.is_client_error() { "refused" } else { "failed" };
    Failed {
        failure: Some(Failure::Status(status)),
        rejection: rejection.with_headers(&served),
        billable: may_have_begun,
        refused: !may_have_begun,
        retry_after: retry_after(&head.headers),
        key,
        label,
    }
}

/// Whether whoever says so may have given up on work that goes on behind it: 408, 504, and what Cloudflare says of an origin that
/// does not answer in time.
fn may_have_begun(status: u16) -> bool {
    matches!(status, 408 | 504 | 524)
}

/// What a refusal says of the key. Any caller may send a request that is refused for itself: keys are not rested for that.
fn key_fault(status: u16, body: &[u8]) -> KeyFault {
    match status {
        401 => KeyFault::Refused,
        429 if is_too_large(body) => KeyFault::None,
        429 => KeyFault::Refused,
        403 => KeyFault::Perhaps,
        _ => KeyFault::None,
    }
}

/// Whether an error says that no limit will ever have room for this request. OpenAI has no code for that, but words.
fn is_too_large(body: &[u8]) -> bool {
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { return false };
    let said = |field: &str| body["error"][field].as_str().unwrap_or_default();
    let is_code =
        |code: &str| matches!(code, "request_too_large" | "context_length_exceeded" | "string_above_max_length");
    is_code(said("code")) || is_code(said("type")) || said("message").starts_with("Request too large")
}

/// The public code of an error that is passed on, for metrics and logs.
fn code_of(status: u16) -> &'static str {
    match status {
        401 | 403 => code::UPSTREAM_ERROR, // about our account, see `translate_error`
        504 => code::UPSTREAM_TIMEOUT,
        508 => code::LOOP_DETECTED,
        429 => code::RATE_LIMIT_EXCEEDED,
        400..=499 => code::INVALID_REQUEST,
        _ => code::UPSTREAM_ERROR,
    }
}

fn garbage(error: AnswerError) -> Rejection {
    Rejection::upstream_error(sentence(&error))
}

pub(super) fn sentence(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).chain(['.']).collect()
}

enum Collected {
    Whole(Bytes),
    TooLarge,
}

async fn collect(
    mut body: UpstreamBody,
    limit: usize,
    idle: Duration,
    mut comes: impl FnMut(usize),
) -> Result<Collected, SendError> {
    let (mut read, mut length) = (Vec::<BytesMut>::new(), 0);
    let mut first = Bytes::new();
    while let Some(frame) = by(Instant::now() + idle, async { Ok(body.frame().await) }).await? {
        let Ok(data) = frame.map_err(|_| SendError::Reset)?.into_data() else { continue };
        length += data.len();
        if length > limit {
            return Ok(Collected::TooLarge);
        }
        comes(data.len());
        if first.is_empty() && read.is_empty() {
            first = data;
            continue;
        }
        for data in [std::mem::take(&mut first), data] {
            append(&mut read, &data);
        }
    }
    if read.len() > 1 {
        return Ok(Collected::Whole(read.concat().into()));
    }
    Ok(Collected::Whole(read.pop().map_or(first, BytesMut::freeze)))
}

/// One buffer would be twice what it holds, and three times that while it grows.
fn append(read: &mut Vec<BytesMut>, data: &[u8]) {
    match read.last_mut().filter(|last| last.len() + data.len() <= PART_BYTES) {
        Some(last) => last.extend_from_slice(data),
        None => read.push(data.into()),
    }
}

async fn by<T>(deadline: Instant, future: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
    timeout_at(deadline, future).await.unwrap_or(Err(SendError::Timeout))
}

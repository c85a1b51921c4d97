//! One call: who asks, what for, what goes wrong on purpose, and the answer.

use std::future;

use serde_json::Value;

use crate::{
    call::{Call, Operation},
    clock, dialect, faults,
    http::{Connection, Gone, Request},
    knobs::{BodyFault, Cut, Knobs},
    plan::Plan,
    server::Shared,
    witness::{Latest, Outcome, Record, Ticket},
};

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Request,
    Close,
    Reset,
}

const JSON: &str = "content-type: application/json\r\n";
const EVENTS: &str = "content-type: text/event-stream\r\ncache-control: no-cache\r\n";

/// Answers one call.
pub(crate) async fn answer(connection: &mut Connection, request: &Request, shared: &Shared) -> Result<Next, Gone> {
    let sequence = shared.witness.arrived(|sequence| Latest {
        sequence,
        method: request.method.clone(),
        target: request.target.clone(),
        headers: request.headers.clone(),
        body: String::from_utf8_lossy(&request.body).into_owned(),
    });
    let found = Operation::at(&request.method, request.path());
    let operation = found.as_ref().map(|(operation, _)| *operation);
    let wanted = authorised(request, shared).and_then(|()| match found {
        Some((Operation::Models, _)) => Ok(None),
        Some((operation, model)) => prepare(operation, model, request, shared.knobs()).map(Some),
        None => Err((404, format!("there is no {} {}", request.method, request.path()))),
    });
    let mut record = Record { sequence, ..blank(request) };
    match wanted {
        Err((status, message)) => {
            let ticket = shared.witness.begin(record);
            refuse(connection, ticket, operation, (status, &message), "").await
        }
        Ok(None) => {
            let ticket = shared.witness.begin(record);
            let body = dialect::models(&shared.options, request.header("anthropic-version").is_some());
            ticket.answered(200);
            connection.respond(200, JSON, body.to_string().as_bytes()).await?;
            ticket.end(Outcome::Finished);
            Ok(Next::Request)
        }
        Ok(Some((call, knobs))) => {
            let plan = Plan::new(&call, &knobs, sequence, clock::now_us() / 1_000_000);
            let failure = knobs.status.filter(|_| faults::strikes(shared.options.seed, sequence, knobs.error_ppm));
            record.model.clone_from(&call.model);
            record.stream = dialect::streams(&call);
            if failure.is_none() && call.operation.generates() {
                (record.input_tokens, record.planned_tokens) = (plan.input, plan.output());
            }
            let ticket = shared.witness.begin(record);
            serve(connection, ticket, &call, &knobs, &plan, failure).await
        }
    }
}

pub(crate) fn blank(request: &Request) -> Record {
    Record {
        sequence: 0,
        request_id: request.header("x-request-id").map(str::to_owned),
        path: request.path().to_owned(),
        model: String::new(),
        stream: false,
        status: 0,
        input_tokens: 0,
        output_tokens: 0,
        planned_tokens: 0,
        started_us: clock::now_us(),
        first_byte_us: 0,
        ended_us: 0,
        outcome: Outcome::Active,
    }
}

pub(crate) fn authorised(request: &Request, shared: &Shared) -> Result<(), (u16, String)> {
    let Some(key) = &shared.options.api_key else { return Ok(()) };
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let given = [bearer, request.header("x-api-key"), request.header("x-goog-api-key"), request.query("key")];
    if given.contains(&Some(key.as_str())) { Ok(()) } else { Err((401, "the API key is missing or wrong".into())) }
}

/// The call, and the knobs as the server, then the model, then the headers set them.
fn prepare(
    operation: Operation,
    path_model: Option<String>,
    request: &Request,
    mut knobs: Knobs,
) -> Result<(Call, Knobs), (u16, String)> {
    let invalid = |message: String| (400, message);
    let body: Value =
        serde_json::from_slice(&request.body).map_err(|error| invalid(format!("the body is not JSON: {error}")))?;
    let call = Call::parse(operation, path_model, &body).map_err(invalid)?;
    knobs.set_by_model(&call.model).map_err(|error| invalid(error.to_string()))?;
    for (name, value) in &request.headers {
        if let Some(knob) = name.strip_prefix("x-mock-") {
            knobs.set(knob, value).map_err(|error| invalid(error.to_string()))?;
        }
    }
    Ok((call, knobs))
}

async fn refuse(
    connection: &mut Connection,
    ticket: Ticket,
    operation: Option<Operation>,
    (status, message): (u16, &str),
    headers: &str,
) -> Result<Next, Gone> {
    let body = dialect::error(operation, status, message).to_string();
    ticket.answered(status);
    connection.respond(status, &format!("{JSON}{headers}"), body.as_bytes()).await?;
    ticket.end(Outcome::Refused);
    Ok(Next::Request)
}

async fn serve(
    connection: &mut Connection,
    ticket: Ticket,
    call: &Call,
    knobs: &Knobs,
    plan: &Plan,
    failure: Option<u16>,
) -> Result<Next, Gone> {
    if knobs.close {
        ticket.end(Outcome::Spoilt);
        return Ok(Next::Reset);
    }
    if knobs.hang {
        connection.gone().await;
        return Err(Gone);
    }
    connection.wait(knobs.delay).await?;
    if let Some(status) = failure {
        let retry = knobs.retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
        return refuse(connection, ticket, Some(call.operation), (status, "the mock was told to fail"), &retry).await;
    }
    match knobs.body {
        BodyFault::Normal if dialect::streams(call) => stream(connection, ticket, call, knobs, plan).await,
        BodyFault::Normal => whole(connection, ticket, call, knobs, plan).await,
        fault => faults::spoil(connection, ticket, fault, call, plan).await,
    }
}

/// A JSON answer, cut in the middle if a knob wants that.
async fn whole(
    connection: &mut Connection,
    ticket: Ticket,
    call: &Call,
    knobs: &Knobs,
    plan: &Plan,
) -> Result<Next, Gone> {
    let body = dialect::answer(call.operation, plan).to_string();
    ticket.answered(200);
    if knobs.cut == Cut::None {
        connection.respond(200, JSON, body.as_bytes()).await?;
        if call.operation.generates() {
            ticket.wrote(plan.output());
        }
        ticket.end(Outcome::Finished);
        return Ok(Next::Request);
    }
    let half = &body.as_bytes()[..body.len() / 2];
    if knobs.cut == Cut::End {
        connection.respond(200, JSON, half).await?;
    } else {
        let mut bytes = crate::http::head(200, &format!("{JSON}content-length: {}\r\n", body.len()));
        bytes.extend_from_slice(half);
        connection.write(&bytes).await?;
    }
    stop(connection, ticket, knobs.cut).await
}

/// A stream of events, cut after so many tokens if a knob wants that.
async fn stream(
    connection: &mut Connection,
    ticket: Ticket,
    call: &Call,
    knobs: &Knobs,
    plan: &Plan,
) -> Result<Next, Gone> {
    let events = dialect::events(call.operation, plan).expect("only what streams comes here");
    let limit = match knobs.cut {
        Cut::None => None,
        _ => Some(knobs.cut_after.unwrap_or(plan.output() / 2)),
    };
    let mut written = 0;
    connection.begin_chunks(200, EVENTS).await?;
    ticket.answered(200);
    for (number, event) in events.enumerate() {
        if limit.is_some_and(|limit| written >= limit) {
            if knobs.cut == Cut::End {
                connection.end_chunks().await?;
            }
            return stop(connection, ticket, knobs.cut).await;
        }
        if number > 0 {
            connection.wait(knobs.pace).await?;
        }
        connection.chunk(&event.to_bytes()).await?;
        ticket.wrote(event.tokens);
        written += event.tokens;
    }
    connection.end_chunks().await?;
    ticket.end(Outcome::Finished);
    Ok(Next::Request)
}

async fn stop(connection: &Connection, ticket: Ticket, cut: Cut) -> Result<Next, Gone> {
    if cut == Cut::Silence {
        connection.gone().await;
    }
    ticket.end(Outcome::Spoilt);
    match cut {
        Cut::Rst => Ok(Next::Reset),
        Cut::End => Ok(Next::Request),
        Cut::Fin | Cut::Silence => Ok(Next::Close),
        Cut::None => future::pending().await,
    }
}

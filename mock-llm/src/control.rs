//! `/__mock/…`: the witness is read and the knobs are turned here.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    http::{Connection, Gone, Request},
    knobs::Knobs,
    server::Shared,
    witness::{Outcome, Record},
};

/// Records in one answer unless the request asks for another number.
const PAGE: usize = 10_000;
const DAY_US: u64 = 24 * 3_600_000_000;

pub(crate) async fn answer(connection: &mut Connection, request: &Request, shared: &Shared) -> Result<(), Gone> {
    let (status, body) = match (request.method.as_str(), request.path()) {
        ("GET", "/__mock/witness") => (200, to_value(&shared.witness.summary())),
        ("GET", "/__mock/requests") => records(request, shared),
        ("GET", "/__mock/usage") => usage(request, shared),
        ("GET", "/__mock/last") => (200, to_value(&shared.witness.latest())),
        ("GET", "/__mock/knobs") => (200, json!({"knobs": format!("{:?}", shared.knobs())})),
        ("POST", "/__mock/knobs") => turn(&request.body, shared),
        ("POST", "/__mock/reset") => {
            shared.witness.reset();
            shared.set_knobs(shared.options.knobs.clone());
            (200, json!({}))
        }
        _ => (404, json!({"error": "there is nothing here; see the crate's documentation"})),
    };
    connection.respond(status, "content-type: application/json\r\n", body.to_string().as_bytes()).await
}

fn to_value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("plain data becomes JSON")
}

fn records(request: &Request, shared: &Shared) -> (u16, Value) {
    let number = |name: &str, default: u64| request.query(name).map_or(Some(default), |text| text.parse().ok());
    match (number("since", 0), number("limit", PAGE as u64)) {
        (Some(since), Some(limit)) => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            (200, to_value(&shared.witness.records(since, limit)))
        }
        _ => (400, json!({"error": "since and limit are whole numbers"})),
    }
}

/// What a provider bills that works a whole answer out whether or not anybody waits for it, and a stream as far as it is taken. What it
/// refused costs nothing.
fn usage(request: &Request, shared: &Shared) -> (u16, Value) {
    let billed = shared.witness.records(0, usize::MAX).into_iter().filter(|it| it.outcome != Outcome::Refused);
    let output = |it: &Record| if it.stream { it.output_tokens } else { it.planned_tokens };
    if request.query("by") != Some("day") {
        let line = |it: Record| {
            json!({
                "request_id": it.request_id, "timestamp": it.started_us, "model": it.model, "requests": 1,
                "input_tokens": it.input_tokens, "output_tokens": output(&it),
            })
        };
        return (200, billed.map(line).collect());
    }
    let mut days: BTreeMap<u64, BTreeMap<String, [u64; 3]>> = BTreeMap::new();
    for it in billed {
        let sums = days.entry(it.started_us / DAY_US).or_default().entry(it.model.clone()).or_default();
        for (sum, more) in sums.iter_mut().zip([1, it.input_tokens, output(&it)]) {
            *sum = sum.saturating_add(more);
        }
    }
    let result = |(model, [requests, input, output]): (&String, &[u64; 3])| {
        json!({
            "object": "organization.usage.completions.result", "model": model, "num_model_requests": requests,
            "input_tokens": input, "input_cached_tokens": 0, "output_tokens": output, "project_id": null,
        })
    };
    let bucket = |(day, models): (&u64, &BTreeMap<String, [u64; 3]>)| {
        let (start, results) = (day * (DAY_US / 1_000_000), models.iter().map(result).collect::<Vec<_>>());
        json!({"object": "bucket", "start_time": start, "end_time": start + DAY_US / 1_000_000, "results": results})
    };
    let data: Vec<Value> = days.iter().map(bucket).collect();
    (200, json!({"object": "page", "data": data, "has_more": false, "next_page": null}))
}

/// All knobs of the request, or none.
fn turn(body: &[u8], shared: &Shared) -> (u16, Value) {
    let Ok(wanted) = serde_json::from_slice::<Map<String, Value>>(body) else {
        return (400, json!({"error": "the body is a JSON object of knobs"}));
    };
    match turned(shared.knobs(), &wanted) {
        Ok(knobs) => {
            shared.set_knobs(knobs);
            (200, json!({}))
        }
        Err(message) => (400, json!({"error": message})),
    }
}

fn turned(mut knobs: Knobs, wanted: &Map<String, Value>) -> Result<Knobs, String> {
    for (name, value) in wanted {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        knobs.set(name, &text).map_err(|error| error.to_string())?;
    }
    Ok(knobs)
}

//! `/__mock/…`: the witness is read and the knobs are turned here.

use serde_json::{Map, Value, json};

use crate::{
    http::{Connection, Gone, Request},
    knobs::Knobs,
    server::Shared,
};

/// Records in one answer unless the request asks for another number.
const PAGE: usize = 10_000;

pub(crate) async fn answer(connection: &mut Connection, request: &Request, shared: &Shared) -> Result<(), Gone> {
    let (status, body) = match (request.method.as_str(), request.path()) {
        ("GET", "/__mock/witness") => (200, to_value(&shared.witness.summary())),
        ("GET", "/__mock/requests") => records(request, shared),
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

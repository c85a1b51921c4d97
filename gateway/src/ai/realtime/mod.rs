//! OpenAI's realtime API over WebSocket: a session with one provider, in which each response is a request of its own to limits,
//! credit and ledger.
//!
//! `open.rs` asks providers until one agrees, `relay.rs` passes messages on both ways and looks at them (`events.rs`), `session.rs`
//! decides which of them may go on, with `context.rs` for how much a response can read, and `hold.rs` holds and settles.

mod context;
mod events;
mod hold;
mod naming;
mod open;
mod relay;
mod session;

use http::{HeaderMap, HeaderValue, header, request};
use tollgate_llm::is_realtime;

use crate::websocket::Wish;
pub(super) use open::open;
pub(crate) use relay::Realtime;

/// How browsers say their API key, which can't set headers.
const KEY_PROTOCOL: &str = "openai-insecure-api-key.";

/// Whether this asks for a realtime session.
pub(crate) fn is_asked_for(head: &request::Parts, path: &str) -> bool {
    Wish::of(head) == Wish::WebSocket && is_realtime(path)
}

/// The model that the query names, decoded.
pub(crate) fn model(query: Option<&str>) -> Option<String> {
    parameters(query).find(|(name, _)| name == "model").map(|(_, value)| value).filter(|model| !model.is_empty())
}

/// The parameters of a query, decoded.
fn parameters(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = after.first_chunk::<2>().and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(escaped)) => {
                bytes.push(escaped);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As a parameter of a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// Moves an API key from the subprotocols to where keys are looked for. What is left of them goes upstream.
pub(crate) fn take_key(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    let all: Vec<&str> = lines.iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).collect();
    let (keys, others): (Vec<&str>, Vec<&str>) =
        all.into_iter().map(str::trim).filter(|it| !it.is_empty()).partition(|it| it.starts_with(KEY_PROTOCOL));
    if keys.is_empty() {
        return;
    }
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(others) = HeaderValue::try_from(others.join(", "))
        && !others.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
    }
    for key in keys {
        if let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {}", &key[KEY_PROTOCOL.len()..])) {
            bearer.set_sensitive(true);
            headers.append(header::AUTHORIZATION, bearer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_among_the_subprotocols_is_taken_out_and_the_others_stay() {
        let mut headers = HeaderMap::new();
        let all = "realtime, openai-insecure-api-key.sk-a ,openai-beta.realtime-v1";
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(all));
        take_key(&mut headers);
        assert_eq!(headers[header::AUTHORIZATION], "Bearer sk-a");
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "realtime, openai-beta.realtime-v1");
        let mut alone = HeaderMap::new();
        alone.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("openai-insecure-api-key.sk-a"));
        take_key(&mut alone);
        assert!(!alone.contains_key(header::SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn a_model_is_read_from_the_query_and_written_into_one() {
        assert_eq!(model(Some("a=b&model=org%2Fx+1%zz")).as_deref(), Some("org/x 1%zz"));
        assert_eq!((model(Some("model=")), model(None)), (None, None));
        assert_eq!(encoded("org/x 1&ü"), "org%2Fx%201%26%C3%BC");
        assert_eq!(decoded(&encoded("org/x 1&ü%")), "org/x 1&ü%");
    }
}

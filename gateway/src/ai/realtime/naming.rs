//! Names for events that a client has not named: else nobody could tell which of them an error is about.

use super::events::{Client, ClientKind};
use crate::{request_id::RequestId, websocket::Message};

/// The event, and how it reads, under a name where what it asks for may be refused.
pub(super) fn named(message: Message, mut event: Client) -> (Message, Client) {
    let (None, ClientKind::Create { .. } | ClientKind::Update(_)) = (&event.id, &event.kind) else {
        return (message, event);
    };
    let id = format!("event_{}", RequestId::generate().as_str());
    // An object that has a type, and so something behind the name.
    let at = message.data.iter().position(|byte| *byte == b'{').map_or(0, |at| at + 1);
    let (head, rest) = message.data.split_at(at);
    let data = [head, format!("\"event_id\":\"{id}\",").as_bytes(), rest].concat();
    event.id = Some(id);
    (Message::text(data), event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_refused_has_a_name_and_says_the_same() {
        for (text, gets_one) in [
            (r#" { "type":"response.create","response":{"max_output_tokens":7}}"#, true),
            (r#"{"type":"session.update","session":{}}"#, true),
            (r#"{"type":"response.create","event_id":"mine"}"#, false),
            (r#"{"type":"input_audio_buffer.commit"}"#, false),
        ] {
            let event = Client::read(text.as_bytes()).unwrap();
            let (message, event) = named(Message::text(text), event);
            assert_eq!(Client::read(&message.data).as_ref(), Ok(&event), "{text}");
            assert_eq!(message.data != text.as_bytes(), gets_one, "{text}");
            assert_eq!(event.id.is_some_and(|id| id.starts_with("event_")), gets_one, "{text}");
        }
    }
}

//! What is read of events that go by (OpenAI's realtime API: client and server events). Whatever is not named here is passed
//! over, and what we rely on may stand there only once, so that nobody can read another value than we did.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// What a client may send: all that the API has, as what we don't know could begin a response.
const PLAIN: [&str; 7] = [
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.truncate",
    "conversation.item.delete",
    "conversation.item.retrieve",
    "response.cancel",
];

/// A client's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// By which a server's error names it.
    pub(super) id: Option<String>,
    pub(super) kind: ClientKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientKind {
    /// `response.create`.
    Create {
        bound: Bounds,
    },
    /// `input_audio_buffer.append`, with so many bytes of sound.
    Append {
        bytes: u64,
    },
    /// `session.update`.
    Update(Update),
    Other,
}

/// What a session is told to do from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Update {
    /// The bound on output, where it says one.
    pub(super) bound: Bounds,
    /// From now on the server may begin responses by itself.
    pub(super) begins_by_itself: bool,
    pub(super) changes_format: bool,
}

/// A bound on a response's output by its names in both versions of the API: one that has the other name is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bounds {
    /// `max_output_tokens`.
    pub(super) current: Option<Bound>,
    /// `max_response_output_tokens`, of the beta.
    pub(super) beta: Option<Bound>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    Tokens(u64),
    /// `"inf"`: as much as the model has.
    Model,
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw<'a> {
            Tokens(u64),
            Text(#[serde(borrow)] Cow<'a, str>),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Tokens(tokens) => Ok(Self::Tokens(tokens)),
            Raw::Text(text) if text == "inf" => Ok(Self::Model),
            Raw::Text(_) => Err(serde::de::Error::custom("a bound on output is a whole number, or `inf`")),
        }
    }
}

/// Why a client's event goes to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) id: Option<String>,
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
}

#[derive(Deserialize)]
struct RawClient<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "there")]
    event_id: Option<Option<String>>,
    #[serde(borrow)]
    audio: Option<Cow<'a, str>>,
    session: Option<RawSession>,
    response: Option<RawSession>,
}

/// A session's settings, or those of one response.
#[derive(Deserialize, Default)]
struct RawSession {
    #[serde(default, deserialize_with = "there")]
    max_output_tokens: Option<Option<Bound>>,
    #[serde(default, deserialize_with = "there")]
    max_response_output_tokens: Option<Option<Bound>>,
    #[serde(default, deserialize_with = "there")]
    turn_detection: Option<Option<Turns>>,
    audio: Option<Audio>,
    input_audio_format: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    tools: Option<Vec<Tool>>,
    prompt: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Audio {
    input: Option<Input>,
}

#[derive(Deserialize)]
struct Input {
    #[serde(default, deserialize_with = "there")]
    turn_detection: Option<Option<Turns>>,
    format: Option<Tool>,
}

/// How the server finds the ends of turns.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Turns {
    create_response: Option<bool>,
    idle_timeout_ms: Option<u64>,
}

/// That a field is there, if only as `null`.
fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl RawSession {
    fn bounds(&self) -> Bounds {
        let told = |bound: Option<Option<Bound>>| bound.map(|bound| bound.unwrap_or(Bound::Model));
        Bounds { current: told(self.max_output_tokens), beta: told(self.max_response_output_tokens) }
    }

    /// What it says of turns, if it does: none where there is no such detection.
    fn turns(&self) -> impl Iterator<Item = Option<Turns>> {
        let of_input = self.audio.as_ref().and_then(|audio| audio.input.as_ref()?.turn_detection);
        self.turn_detection.into_iter().chain(of_input)
    }

    fn format(&self) -> Option<&str> {
        let of_input = || self.audio.as_ref()?.input.as_ref()?.format.as_ref()?.kind.as_deref();
        self.input_audio_format.as_deref().or_else(of_input)
    }

    /// What could begin responses that nobody has asked for, or makes a prompt longer by what nobody here has seen.
    fn refused(&self) -> Option<(&'static str, &'static str)> {
        let is_remote = |tool: &Tool| tool.kind.as_deref().is_some_and(|kind| kind != "function");
        if self.kind.as_deref().is_some_and(|kind| kind != "realtime") {
            return Some(("session.type", "Only sessions of type `realtime` are supported."));
        }
        if self.tools.iter().flatten().any(is_remote) {
            let message = "Only tools of type `function` are supported: others begin responses by themselves.";
            return Some(("tools", message));
        }
        if self.prompt.is_some() {
            return Some(("prompt", "Stored prompts are not supported: send `instructions` and `tools` themselves."));
        }
        let idles = self.turns().flatten().any(|turns| turns.idle_timeout_ms.is_some());
        idles.then_some((
            "turn_detection.idle_timeout_ms",
            "`idle_timeout_ms` is not supported: it begins responses without anybody having said anything.",
        ))
    }
}

impl Turns {
    fn begin_responses(self) -> bool {
        self.create_response != Some(false)
    }
}

impl Client {
    pub(super) fn read(text: &[u8]) -> Result<Self, Refusal> {
        let raw: RawClient<'_> = serde_json::from_slice(text).map_err(|error| Refusal {
            id: None,
            message: format!("The event can't be read: {error}."),
            param: None,
        })?;
        let (is_null, id) = (raw.event_id == Some(None), raw.event_id.flatten());
        let refused = |param: &'static str, message: String| Refusal { id: id.clone(), message, param: Some(param) };
        if is_null {
            return Err(refused("event_id", "`event_id` is null: name the event, or leave it out.".to_owned()));
        }
        let mut settings = raw.session.iter().chain(&raw.response);
        if let Some((param, message)) = settings.find_map(RawSession::refused) {
            return Err(refused(param, message.to_owned()));
        }
        let kind = match raw.kind.as_deref() {
            Some("response.create") => ClientKind::Create { bound: raw.response.unwrap_or_default().bounds() },
            Some("input_audio_buffer.append") => {
                let audio = raw.audio.as_ref().ok_or_else(|| refused("audio", "`audio` is missing.".to_owned()))?;
                ClientKind::Append { bytes: (audio.len() as u64).div_ceil(4).saturating_mul(3) }
            }
            Some("session.update") => {
                let session = raw.session.unwrap_or_default();
                ClientKind::Update(Update {
                    bound: session.bounds(),
                    begins_by_itself: session.turns().flatten().any(Turns::begin_responses),
                    changes_format: session.format().is_some(),
                })
            }
            Some(kind) if PLAIN.contains(&kind) => ClientKind::Other,
            Some(kind) => {
                let shown: String = kind.chars().take(60).collect();
                return Err(refused("type", format!("Events of type `{shown}` are not supported.")));
            }
            None => return Err(refused("type", "`type` is missing.".to_owned())),
        };
        Ok(Self { id, kind })
    }
}

/// A server's event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Server {
    /// `session.created`, `session.updated`.
    Session {
        is_update: bool,
        facts: Facts,
    },
    /// `response.created`.
    Began(Response),
    /// `response.done`.
    Done(Response),
    /// Output of a response: so many tokens, probably.
    Wrote {
        response: String,
        text_bytes: u64,
        audio_bytes: u64,
    },
    /// Something was added to the conversation.
    Added,
    /// A turn has come to its end: a response may follow.
    TurnEnded,
    Error {
        event: Option<String>,
        is_busy: bool,
    },
    Other,
}

/// How a session is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) bound: Bounds,
    pub(super) begins_by_itself: bool,
    /// It even does while nobody speaks.
    pub(super) begins_unasked: bool,
    /// Sound is sent as 16 bits, 24,000 times a second; else as less.
    pub(super) is_pcm16: bool,
}

/// A response, as its first or last event tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Response {
    pub(super) id: String,
    pub(super) bound: Option<u64>,
    /// It continues the session's conversation, and becomes part of it.
    pub(super) in_conversation: bool,
    pub(super) has_failed: bool,
    pub(super) usage: Option<Reported>,
}

/// `response.usage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reported {
    pub(super) input: u64,
    pub(super) cached_input: u64,
    pub(super) output: u64,
    /// The part of the input that is sound and that no cache had.
    pub(super) audio_input: u64,
    pub(super) audio_output: u64,
}

#[derive(Deserialize)]
struct RawServer<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    session: Option<RawSession>,
    response: Option<RawResponse>,
    #[serde(borrow)]
    response_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    delta: Option<Cow<'a, str>>,
    error: Option<RawError>,
}

#[derive(Deserialize)]
struct RawResponse {
    id: Option<String>,
    status: Option<String>,
    conversation_id: Option<String>,
    max_output_tokens: Option<Bound>,
    usage: Option<RawUsage>,
}

#[derive(Deserialize)]
struct RawUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    #[serde(default)]
    input_token_details: Option<RawDetails>,
    #[serde(default)]
    output_token_details: Option<RawDetails>,
}

#[derive(Deserialize, Default)]
struct RawDetails {
    cached_tokens: Option<u64>,
    audio_tokens: Option<u64>,
    cached_tokens_details: Option<RawCached>,
}

#[derive(Deserialize)]
struct RawCached {
    audio_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct RawError {
    code: Option<String>,
    event_id: Option<String>,
}

/// What one response can't have used: figures beyond are nobody's.
const ABSURD: u64 = 100_000_000;

impl RawResponse {
    fn read(self) -> Response {
        let usage = self.usage.and_then(|usage| {
            let (input, output) = (usage.input_tokens?, usage.output_tokens?);
            let details = usage.input_token_details.unwrap_or_default();
            let cached_input = details.cached_tokens.unwrap_or(0).min(input);
            let cached_audio = details.cached_tokens_details.and_then(|cached| cached.audio_tokens).unwrap_or(0);
            let audio_input = details.audio_tokens.unwrap_or(0).saturating_sub(cached_audio).min(input - cached_input);
            let audio_output = usage.output_token_details.and_then(|details| details.audio_tokens).unwrap_or(0);
            let audio_output = audio_output.min(output);
            let is_one = input <= ABSURD && output <= ABSURD;
            is_one.then_some(Reported { input, cached_input, output, audio_input, audio_output })
        });
        Response {
            id: self.id.unwrap_or_default(),
            bound: match self.max_output_tokens {
                Some(Bound::Tokens(tokens)) => Some(tokens),
                Some(Bound::Model) | None => None,
            },
            in_conversation: self.conversation_id.is_some(),
            has_failed: self.status.as_deref() == Some("failed"),
            usage,
        }
    }
}

impl Server {
    /// What can't be read is passed on, too, but for what tells of sessions and responses.
    pub(super) fn read(text: &[u8]) -> Result<Self, &'static str> {
        const UNREADABLE: &str = "The provider has sent an event that can't be read.";
        let raw: RawServer<'_> = serde_json::from_slice(text).map_err(|_| UNREADABLE)?;
        let kind = raw.kind.as_deref().unwrap_or_default();
        Ok(match kind {
            "session.created" | "session.updated" => {
                let session = raw.session.ok_or(UNREADABLE)?;
                Self::Session { is_update: kind == "session.updated", facts: Facts::of(&session) }
            }
            "response.created" => Self::Began(raw.response.ok_or(UNREADABLE)?.read()),
            "response.done" => Self::Done(raw.response.ok_or(UNREADABLE)?.read()),
            "conversation.item.created" | "conversation.item.added" => Self::Added,
            "input_audio_buffer.speech_stopped" | "input_audio_buffer.committed" => Self::TurnEnded,
            "error" => {
                let error = raw.error.ok_or(UNREADABLE)?;
                let is_busy = error.code.as_deref() == Some("conversation_already_has_active_response");
                Self::Error { event: error.event_id, is_busy }
            }
            _ => match (raw.response_id, raw.delta) {
                (Some(response), Some(delta)) => {
                    let is_audio = kind.ends_with("audio.delta");
                    let bytes = delta.len() as u64;
                    let (text_bytes, audio_bytes) = if is_audio { (0, bytes / 4 * 3) } else { (bytes, 0) };
                    Self::Wrote { response: response.into_owned(), text_bytes, audio_bytes }
                }
                _ => Self::Other,
            },
        })
    }
}

impl Facts {
    fn of(session: &RawSession) -> Self {
        // Where nothing is said of turns, their ends may be found.
        let turns = || session.turns().flatten();
        let says_nothing = session.turns().next().is_none();
        Self {
            bound: session.bounds(),
            begins_by_itself: says_nothing || turns().any(Turns::begin_responses),
            begins_unasked: turns().any(|turns| turns.idle_timeout_ms.is_some()),
            is_pcm16: matches!(session.format(), Some("pcm16" | "audio/pcm")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Result<ClientKind, Refusal> {
        Client::read(text.as_bytes()).map(|event| event.kind)
    }

    #[test]
    fn what_begins_responses_is_told_from_what_does_not() {
        let bound = |current, beta| ClientKind::Create { bound: Bounds { current, beta } };
        for (text, kind) in [
            (r#"{"type":"response.create"}"#, bound(None, None)),
            (r#"{"type":"response.create","response":{"max_output_tokens":7}}"#, bound(Some(Bound::Tokens(7)), None)),
            (
                r#"{"\u0074ype":"response.create","response":{"max_output_tokens":null}}"#,
                bound(Some(Bound::Model), None),
            ),
            (
                r#"{"type":"response.create","response":{"max_response_output_tokens":"inf"}}"#,
                bound(None, Some(Bound::Model)),
            ),
            (r#"{"type":"input_audio_buffer.append","audio":"AAAAAA=="}"#, ClientKind::Append { bytes: 6 }),
            (r#"{"type":"conversation.item.create","item":{"type":"message"}}"#, ClientKind::Other),
        ] {
            assert_eq!(client(text).as_ref(), Ok(&kind), "{text}");
        }
        let update = |turns: &str| match client(&format!(r#"{{"type":"session.update","session":{{{turns}}}}}"#)) {
            Ok(ClientKind::Update(update)) => update.begins_by_itself,
            other => panic!("{other:?}"),
        };
        assert!(update(r#""turn_detection":{"type":"server_vad"}"#));
        assert!(update(r#""audio":{"input":{"turn_detection":{"type":"semantic_vad","create_response":true}}}"#));
        assert!(!update(r#""audio":{"input":{"turn_detection":null}}"#));
        assert!(!update(r#""turn_detection":{"type":"server_vad","create_response":false}"#));
        assert!(!update(r#""instructions":"turn_detection""#));
    }

    #[test]
    fn what_is_ambiguous_or_can_not_be_held_is_refused_by_name() {
        for (text, names) in [
            (r#"{"type":"input_audio_buffer.clear","type":"response.create"}"#, "duplicate field"),
            (r#"{"type":"response.create","response":{"max_output_tokens":1,"max_output_tokens":9}}"#, "duplicate"),
            (r#"{"type":"response.create","response":{"max_output_tokens":"many"}}"#, "whole number"),
            (r#"{"type":"response.begin"}"#, "`response.begin`"),
            (r#"{"event_id":"x"}"#, "`type`"),
            (r#"{"type":"response.create","event_id":null}"#, "`event_id`"),
            (r#"[]"#, "can't be read"),
            (r#"{"type":"session.update","session":{"tools":[{"type":"mcp"}]}}"#, "`function`"),
            (r#"{"type":"session.update","session":{"prompt":{"id":"p"}}}"#, "prompts"),
            (r#"{"type":"session.update","session":{"turn_detection":{"idle_timeout_ms":5000}}}"#, "idle_timeout_ms"),
            (r#"{"type":"session.update","session":{"type":"transcription"}}"#, "`realtime`"),
            (r#"{"type":"input_audio_buffer.append"}"#, "`audio`"),
            (r#"{"type":"response.create","session":{},"response":{"tools":[{"type":"mcp"}]}}"#, "`function`"),
        ] {
            let refused = client(text).unwrap_err();
            assert!(refused.message.contains(names), "{text}: {refused:?}");
        }
    }

    #[test]
    fn a_response_tells_what_it_used_or_does_not() {
        let done = |response: &str| match Server::read(
            format!(r#"{{"type":"response.done","response":{response}}}"#).as_bytes(),
        ) {
            Ok(Server::Done(response)) => response,
            other => panic!("{other:?}"),
        };
        let told = done(
            r#"{"id":"r","status":"completed","conversation_id":"c","usage":{"total_tokens":9,"input_tokens":5,
                "output_tokens":4,"input_token_details":{"cached_tokens":8,"audio_tokens":1}}}"#,
        );
        assert_eq!(told.usage, Some(Reported { input: 5, cached_input: 5, output: 4, ..Reported::default() }));
        let sound = done(
            r#"{"id":"r","usage":{"input_tokens":50,"output_tokens":9,"output_token_details":{"audio_tokens":7},
                "input_token_details":{"cached_tokens":20,"audio_tokens":30,"cached_tokens_details":{"audio_tokens":12}}}}"#,
        );
        let usage = sound.usage.unwrap();
        assert_eq!((usage.cached_input, usage.audio_input, usage.audio_output), (20, 18, 7));
        assert!(told.in_conversation && !told.has_failed);
        assert_eq!(done(r#"{"id":"r","status":"failed","usage":null}"#).usage, None);
        let absurd = format!(r#"{{"id":"r","usage":{{"input_tokens":1,"output_tokens":{}}}}}"#, u64::MAX);
        assert_eq!(done(&absurd).usage, None);
        assert!(Server::read(b"{").is_err());
    }
}

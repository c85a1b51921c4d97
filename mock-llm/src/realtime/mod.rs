//! The realtime API over WebSocket: `GET /v1/realtime?model=…`, in its current words, or in those of the beta where the request has
//! `openai-beta: realtime=v1`.
//!
//! # The usage rule
//! * A word is a token, each item is one more; 4,800 bytes of sound (100 ms of PCM16) are one, and each begun.
//! * `input` of a response = the words of the session's instructions and all items so far; its output is an item then.
//! * Sound that is not silent (all zero) is speech, and silence behind it ends the turn: where the session detects turns, a
//!   response begins by itself then, and one that is under way is cancelled.

mod conversation;
mod socket;

use serde_json::{Value, json};
use tokio::time::{self, Instant};

use crate::{
    clock,
    exchange::{authorised, blank},
    http::{Connection, Gone, Request},
    knobs::{Knobs, UsageFault},
    server::Shared,
    text,
    witness::{Latest, Outcome, Record, Ticket},
};
use conversation::{Conversation, Used};
use socket::{Incoming, Socket};

/// Whether a request is for a session.
pub(crate) fn is_asked_for(request: &Request) -> bool {
    request.path().ends_with("/realtime") && request.header("upgrade").is_some()
}

/// Serves one session to its end.
pub(crate) async fn serve(mut connection: Connection, request: &Request, shared: &Shared) -> Result<(), Gone> {
    shared.witness.arrived(|sequence| Latest {
        sequence,
        method: request.method.clone(),
        target: request.target.clone(),
        headers: request.headers.clone(),
        body: String::new(),
    });
    let refusal = match (authorised(request, shared), request.query("model"), shared.knobs().status) {
        (Err((status, message)), ..) => Some((status, message)),
        (_, None, _) => Some((400, "there is no model".to_owned())),
        (.., Some(status)) => Some((status, "the mock was told to fail".to_owned())),
        _ => None,
    };
    let key = request.header("sec-websocket-key").unwrap_or_default();
    if let Some((status, message)) = refusal {
        let body = json!({"error": {"message": message}}).to_string();
        return connection.respond(status, "content-type: application/json\r\n", body.as_bytes()).await;
    }
    let protocols = request.header("sec-websocket-protocol").unwrap_or_default();
    let protocol = protocols.split(',').map(str::trim).find(|it| *it == "realtime");
    let protocol = protocol.map(|it| format!("sec-websocket-protocol: {it}\r\n")).unwrap_or_default();
    let agreed = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {}\r\n{protocol}\r\n",
        socket::accept(key)
    );
    connection.write(agreed.as_bytes()).await?;
    let (stream, input) = connection.into_parts();
    let model = request.query("model").unwrap_or_default().to_owned();
    let mut knobs = shared.knobs();
    let _ = knobs.set_by_model(&model); // a name that sets nothing
    let is_beta = request.header("openai-beta").is_some_and(|it| it.contains("realtime=v1"));
    let mut session = Session {
        socket: Socket::new(stream, input),
        knobs,
        shared,
        request,
        model,
        is_beta,
        conversation: Conversation::default(),
        running: None,
        number: 0,
    };
    session.run().await
}

struct Session<'a> {
    socket: Socket,
    knobs: Knobs,
    shared: &'a Shared,
    request: &'a Request,
    model: String,
    is_beta: bool,
    conversation: Conversation,
    running: Option<Running>,
    number: u64,
}

/// A response under way.
struct Running {
    id: String,
    ticket: Ticket,
    used: Used,
    planned: u64,
    is_audio: bool,
    next_at: Instant,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<(), Gone> {
        self.say("session.created", json!({"session": self.described()})).await?;
        loop {
            let next_at = self.running.as_ref().map(|running| running.next_at);
            let due = async {
                match next_at {
                    Some(at) => time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                incoming = self.socket.read() => match incoming? {
                    Incoming::Text(text) => self.take(&text).await?,
                    Incoming::Ping(data) => self.socket.pong(&data).await?,
                    Incoming::Close(data) => return self.socket.close(&data).await,
                },
                () = due => self.write_on().await?,
            }
        }
    }

    /// The session as both versions of the API describe it.
    fn described(&self) -> Value {
        let turns = if self.conversation.detects_turns {
            json!({"type": "server_vad", "create_response": true, "silence_duration_ms": 500})
        } else {
            Value::Null
        };
        let max = self.conversation.max.map_or_else(|| json!("inf"), Value::from);
        if self.is_beta {
            return json!({
                "id": "sess_1", "object": "realtime.session", "model": self.model, "modalities": ["audio", "text"],
                "instructions": "", "input_audio_format": "pcm16", "turn_detection": turns, "tools": [],
                "max_response_output_tokens": max,
            });
        }
        json!({
            "id": "sess_1", "object": "realtime.session", "type": "realtime", "model": self.model,
            "output_modalities": ["audio"], "instructions": "", "tools": [], "max_output_tokens": max,
            "audio": {"input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": turns}},
        })
    }

    async fn say(&mut self, kind: &str, mut event: Value) -> Result<(), Gone> {
        self.number += 1;
        event["type"] = kind.into();
        event["event_id"] = format!("event_{}", self.number).into();
        self.socket.text(&event.to_string()).await
    }

    async fn refuse(&mut self, about: &Value, code: &str, message: &str) -> Result<(), Gone> {
        let error = json!({
            "type": "invalid_request_error", "code": code, "message": message, "param": null, "event_id": about["event_id"],
        });
        self.say("error", json!({"error": error})).await
    }

    async fn take(&mut self, text: &[u8]) -> Result<(), Gone> {
        let Ok(event) = serde_json::from_slice::<Value>(text) else {
            return self.refuse(&Value::Null, "invalid_json", "the event is not JSON").await;
        };
        match event["type"].as_str().unwrap_or_default() {
            "session.update" => {
                self.conversation.update(&event["session"]);
                self.say("session.updated", json!({"session": self.described()})).await
            }
            "conversation.item.create" => {
                self.conversation.add(&event["item"]);
                self.say("conversation.item.added", json!({"item": event["item"]})).await
            }
            "input_audio_buffer.append" => {
                if self.conversation.hear(event["audio"].as_str().unwrap_or_default()) {
                    self.turn_ended().await?;
                }
                Ok(())
            }
            "input_audio_buffer.commit" => {
                self.conversation.commit();
                self.say("input_audio_buffer.committed", json!({})).await
            }
            "response.create" if self.running.is_some() => {
                let message = "Conversation already has an active response";
                self.refuse(&event, "conversation_already_has_active_response", message).await
            }
            "response.create" => self.begin(&event["response"]).await,
            "response.cancel" => self.end("cancelled").await,
            other => {
                let message = format!("there is no event {other}");
                self.refuse(&event, "invalid_value", &message).await
            }
        }
    }

    async fn turn_ended(&mut self) -> Result<(), Gone> {
        self.end("cancelled").await?;
        self.conversation.commit();
        self.say("input_audio_buffer.speech_stopped", json!({})).await?;
        self.say("input_audio_buffer.committed", json!({})).await?;
        if self.conversation.creates { self.begin(&json!({"output_modalities": ["audio"]})).await } else { Ok(()) }
    }

    async fn begin(&mut self, wanted: &Value) -> Result<(), Gone> {
        let told = &wanted[if self.is_beta { "max_response_output_tokens" } else { "max_output_tokens" }];
        let max = told.as_u64().or(self.conversation.max);
        let planned = self.knobs.output.min(max.unwrap_or(u64::MAX)).saturating_add(self.knobs.overrun);
        let used = self.conversation.used();
        let sequence = self.shared.witness.arrived(|sequence| Latest {
            sequence,
            method: "response.create".to_owned(),
            target: self.request.target.clone(),
            headers: Vec::new(),
            body: wanted.to_string(),
        });
        let record = Record {
            sequence,
            model: self.model.clone(),
            stream: true,
            input_tokens: used.input(),
            planned_tokens: planned,
            started_us: clock::now_us(),
            ..blank(self.request)
        };
        let ticket = self.shared.witness.begin(record);
        let is_audio = [&wanted["output_modalities"], &wanted["modalities"]]
            .into_iter()
            .filter_map(Value::as_array)
            .any(|kinds| kinds.contains(&json!("audio")));
        let id = format!("resp_{sequence}");
        let response = json!({
            "id": id, "object": "realtime.response", "status": "in_progress", "conversation_id": "conv_1",
            "max_output_tokens": max.map_or_else(|| json!("inf"), Value::from), "usage": null,
        });
        self.say("response.created", json!({"response": response})).await?;
        ticket.answered(200);
        let next_at = Instant::now() + self.knobs.delay;
        self.running = Some(Running { id, ticket, used, planned, is_audio, next_at });
        Ok(())
    }

    /// The next token of what is under way, or its end.
    async fn write_on(&mut self) -> Result<(), Gone> {
        let Some(running) = &mut self.running else { return Ok(()) };
        if running.used.output() >= running.planned {
            return self.end("completed").await;
        }
        running.next_at = Instant::now() + self.knobs.pace;
        let (id, is_audio, at) = (running.id.clone(), running.is_audio, running.used.output());
        let (kind, delta) = match (is_audio, self.is_beta) {
            (true, true) => ("response.audio.delta", socket::base64(&[0; 2_400])),
            (true, false) => ("response.output_audio.delta", socket::base64(&[0; 2_400])),
            (false, true) => ("response.text.delta", text::words(at, 1)),
            (false, false) => ("response.output_text.delta", text::words(at, 1)),
        };
        self.say(kind, json!({"response_id": id, "delta": delta})).await?;
        if let Some(running) = &mut self.running {
            running.used.wrote(is_audio);
            running.ticket.wrote(1);
        }
        Ok(())
    }

    async fn end(&mut self, status: &str) -> Result<(), Gone> {
        let Some(running) = self.running.take() else { return Ok(()) };
        self.conversation.answered(&running.used);
        let usage = if self.knobs.usage == UsageFault::Missing { Value::Null } else { running.used.told() };
        let response = json!({
            "id": running.id, "object": "realtime.response", "status": status, "conversation_id": "conv_1", "usage": usage,
        });
        self.say("response.done", json!({"response": response})).await?;
        running.ticket.end(Outcome::Finished);
        Ok(())
    }
}

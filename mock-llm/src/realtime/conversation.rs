//! What a session's responses read: instructions, items, and sound that is not an item yet.

use serde_json::{Value, json};

use crate::text;

/// 100 ms of PCM16 at 24,000 samples a second.
const BYTES_PER_TOKEN: u64 = 4_800;

/// One session's conversation and settings.
#[derive(Debug)]
pub(super) struct Conversation {
    /// Words of the instructions.
    instructions: u64,
    text: u64,
    audio: u64,
    /// Sound that is no item yet, in bytes.
    buffered: u64,
    speaks: bool,
    /// The most output of a response that says nothing itself.
    pub(super) max: Option<u64>,
    /// The ends of turns are found in the sound.
    pub(super) detects_turns: bool,
    /// Responses begin at them.
    pub(super) creates: bool,
}

impl Default for Conversation {
    fn default() -> Conversation {
        Conversation {
            instructions: 0,
            text: 0,
            audio: 0,
            buffered: 0,
            speaks: false,
            max: None,
            detects_turns: true,
            creates: true,
        }
    }
}

/// What one response has used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    text_in: u64,
    audio_in: u64,
    text_out: u64,
    audio_out: u64,
}

impl Conversation {
    pub(super) fn update(&mut self, session: &Value) {
        if let Some(instructions) = session["instructions"].as_str() {
            self.instructions = text::count(instructions);
        }
        for name in ["max_output_tokens", "max_response_output_tokens"] {
            if let Some(max) = session.get(name) {
                self.max = max.as_u64();
            }
        }
        let of_input = session["audio"]["input"].get("turn_detection");
        if let Some(turns) = session.get("turn_detection").or(of_input) {
            self.detects_turns = !turns.is_null();
            self.creates = self.detects_turns && turns["create_response"].as_bool() != Some(false);
        }
    }

    pub(super) fn add(&mut self, item: &Value) {
        let parts = item["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        let words: u64 = parts.iter().filter_map(|part| part["text"].as_str()).map(text::count).sum();
        self.text += 1 + words + item["output"].as_str().map_or(0, text::count);
    }

    /// Takes sound in base64. Whether it ends a turn.
    pub(super) fn hear(&mut self, audio: &str) -> bool {
        let padding = audio.bytes().rev().take_while(|byte| *byte == b'=').count();
        self.buffered += (audio.len() / 4 * 3 - padding) as u64;
        let is_silent = audio.bytes().all(|byte| byte == b'A' || byte == b'=');
        let ends = self.detects_turns && self.speaks && is_silent;
        self.speaks = !is_silent || self.speaks && !ends;
        ends
    }

    pub(super) fn commit(&mut self) {
        if self.buffered > 0 {
            self.audio += self.buffered.div_ceil(BYTES_PER_TOKEN);
            self.text += 1;
        }
        (self.buffered, self.speaks) = (0, false);
    }

    /// Of a response that begins now.
    pub(super) fn used(&self) -> Used {
        Used { text_in: self.instructions + self.text, audio_in: self.audio, text_out: 0, audio_out: 0 }
    }

    /// What was said is an item.
    pub(super) fn answered(&mut self, used: &Used) {
        self.text += 1 + used.text_out;
        self.audio += used.audio_out;
    }
}

impl Used {
    pub(super) fn wrote(&mut self, is_audio: bool) {
        *(if is_audio { &mut self.audio_out } else { &mut self.text_out }) += 1;
    }

    pub(super) fn input(&self) -> u64 {
        self.text_in + self.audio_in
    }

    pub(super) fn output(&self) -> u64 {
        self.text_out + self.audio_out
    }

    /// As `response.done` tells it.
    pub(super) fn told(&self) -> Value {
        json!({
            "total_tokens": self.input() + self.output(),
            "input_tokens": self.input(),
            "output_tokens": self.output(),
            "input_token_details": {
                "text_tokens": self.text_in, "audio_tokens": self.audio_in, "cached_tokens": 0,
            },
            "output_token_details": {"text_tokens": self.text_out, "audio_tokens": self.audio_out},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_behind_speech_ends_a_turn_and_what_was_said_is_read_from_then_on() {
        let mut conversation = Conversation::default();
        conversation.update(&json!({"instructions": "be brief"}));
        conversation.add(&json!({"content": [{"type": "input_text", "text": "who is there"}]}));
        let (sound, silence) = ("//8A".repeat(1_600), "AAAA".repeat(1_600));
        assert_eq!([&silence, &sound, &sound, &silence].map(|it| conversation.hear(it)), [false, false, false, true]);
        conversation.commit();
        let mut used = conversation.used();
        assert_eq!((used.text_in, used.audio_in, used.input()), (2 + 4 + 1, 4, 11));
        used.wrote(true);
        conversation.answered(&used);
        assert_eq!(conversation.used().input(), 13);
        assert!(!conversation.hear(&silence));
    }
}

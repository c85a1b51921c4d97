//! How long the input of a session's next response can be. Pure.
//!
//! It is the whole conversation: what the last response was told to have read and written, and all that came after it. Text is
//! counted by the bytes of its events, as no token is less than one. Sound that a client sends is one token for 100 ms, by
//! OpenAI's documentation; of PCM16 that is 4,800 bytes, of G.711 800, which is taken where the format is not known. What the
//! server had not worked in when a response began is no part of that one's input: of sound that was on its way then, ten seconds
//! are counted once more.

/// Of PCM16 at 24,000 samples a second.
const PCM16_BYTES_PER_TOKEN: u64 = 4_800;
/// Of G.711 at 8,000 samples a second: no format has less for 100 ms.
const BYTES_PER_TOKEN: u64 = 800;
/// What an assistant says is one token for 50 ms, in the format of PCM16.
const OUTPUT_BYTES_PER_TOKEN: u64 = 2_400;
/// Ten seconds.
const ON_THE_WAY: u64 = 100;
/// What a message is framed by, and one more for its reply.
const FRAMING: u64 = 64;
/// Bytes of an event for one token of its text, probably.
const TEXT_BYTES_PER_TOKEN: u64 = 6;

/// What was added to a conversation.
#[derive(Debug, Clone, Copy, Default)]
struct Added {
    text_bytes: u64,
    sound: u64,
}

impl Added {
    fn most(self) -> u64 {
        self.text_bytes.saturating_add(self.sound)
    }

    fn probably(self) -> u64 {
        (self.text_bytes / TEXT_BYTES_PER_TOKEN).saturating_add(self.sound)
    }
}

/// A session's conversation.
#[derive(Debug)]
pub(super) struct Context {
    /// As the last response said.
    most: u64,
    probably: u64,
    /// Since then.
    added: Added,
    /// The part of that which came after the last response began.
    since: Added,
    /// Tokens of sound that are part of no message yet, as far as is known.
    buffered: u64,
    bytes_per_token: u64,
    /// Bytes of sound that were no whole token yet.
    rest: u64,
    output_rest: u64,
}

impl Default for Context {
    fn default() -> Self {
        let (added, since) = (Added::default(), Added::default());
        let bytes_per_token = BYTES_PER_TOKEN;
        Self { most: FRAMING, probably: 0, added, since, buffered: 0, bytes_per_token, rest: 0, output_rest: 0 }
    }
}

impl Context {
    pub(super) fn add_text(&mut self, bytes: u64) {
        for added in [&mut self.added, &mut self.since] {
            added.text_bytes = added.text_bytes.saturating_add(bytes);
        }
    }

    pub(super) fn add_sound(&mut self, bytes: u64) {
        let all = self.rest.saturating_add(bytes);
        self.rest = all % self.bytes_per_token;
        self.buffered = self.buffered.saturating_add(all / self.bytes_per_token);
        for added in [&mut self.added, &mut self.since] {
            added.sound = added.sound.saturating_add(all / self.bytes_per_token);
        }
    }

    pub(super) fn is_pcm16(&mut self) {
        self.bytes_per_token = PCM16_BYTES_PER_TOKEN;
    }

    pub(super) fn forget_format(&mut self) {
        self.bytes_per_token = BYTES_PER_TOKEN;
    }

    /// The input of the next response with so many bytes of text and of sound more: at most, and probably.
    pub(super) fn with(&self, text: u64, sound: u64) -> (u64, u64) {
        let heard = self.rest.saturating_add(sound).div_ceil(self.bytes_per_token);
        let most = [self.added.most(), text, heard, FRAMING].into_iter().fold(self.most, u64::saturating_add);
        let probably = self.probably.saturating_add(self.added.probably()).saturating_add(text / TEXT_BYTES_PER_TOKEN);
        (most, probably.min(most))
    }

    /// What the server has heard is a message now: all but what was on its way.
    pub(super) fn committed(&mut self) {
        self.buffered = self.buffered.min(ON_THE_WAY);
    }

    /// A response begins that continues the conversation. It reads nothing of what is no message yet.
    pub(super) fn began(&mut self) {
        self.since = Added { text_bytes: 0, sound: self.since.sound.min(self.buffered.max(ON_THE_WAY)) };
    }

    /// It is over. Only what it `is_all` of tells how long the conversation is.
    pub(super) fn ended(&mut self, input: u64, output: u64, is_all: bool) {
        let whole = input.saturating_add(output);
        if is_all {
            (self.most, self.probably) = (whole, whole);
            self.added = self.since;
        } else {
            self.most = self.most.max(input).saturating_add(output);
            self.probably = self.probably.saturating_add(output);
        }
    }

    /// Tokens of output that goes by, probably.
    pub(super) fn output(&mut self, text_bytes: u64, audio_bytes: u64) -> u64 {
        let all = self.output_rest.saturating_add(audio_bytes);
        self.output_rest = all % OUTPUT_BYTES_PER_TOKEN;
        text_bytes.div_ceil(4).saturating_add(all / OUTPUT_BYTES_PER_TOKEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_input_is_what_was_read_and_written_and_what_came_after() {
        let mut context = Context::default();
        context.add_text(600);
        assert_eq!(context.with(60, 0), (64 + 600 + 60 + 64, 110));
        context.began();
        context.add_text(30);
        context.ended(90, 10, true);
        assert_eq!(context.with(0, 0), (100 + 30 + 64, 105));
        // One that does not tell how long the conversation is makes it no shorter.
        context.ended(5, 7, false);
        assert_eq!(context.with(0, 0).0, 107 + 30 + 64);
    }

    #[test]
    fn sound_is_counted_by_its_length_and_once_more_where_it_was_on_its_way() {
        let mut context = Context::default();
        (0..10).for_each(|_| context.add_sound(160));
        assert_eq!(context.with(0, 0), (64 + 2 + 64, 2), "200 ms of G.711");
        context.is_pcm16();
        context.add_sound(48_000 * 60);
        assert_eq!(context.with(0, 0).1, 602);
        context.committed();
        context.began();
        context.ended(600, 40, true);
        assert_eq!(context.with(0, 0).1, 640 + ON_THE_WAY);
        // What is no message yet is read by a later one.
        context.add_sound(48_000 * 60);
        context.began();
        context.ended(640, 60, true);
        assert_eq!(context.with(0, 0).1, 700 + ON_THE_WAY + 600);
    }
}

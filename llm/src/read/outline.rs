//! What of a stream is open, and has to be closed should it end early.

/// Choices beyond these are not followed; nobody streams as many.
const CHOICES: u64 = 128;

/// The shape of a stream so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outline {
    /// OpenAI: a bit for each choice that has been told why it ended.
    finished: u128,
    /// Anthropic: the number of the content block that is open.
    pub(crate) open_block: Option<u64>,
    /// Anthropic: why the message ended has been told.
    pub(crate) is_stopped: bool,
    /// Responses: the number that the next event has.
    pub(crate) next_number: u64,
}

impl Outline {
    /// A choice was told why it ended.
    pub(super) fn finish(&mut self, choice: u64) {
        if choice < CHOICES {
            self.finished |= 1 << choice;
        }
    }

    /// Those of the first `choices` that have not ended.
    pub(crate) fn open_choices(&self, choices: u64) -> impl Iterator<Item = u32> + use<> {
        let finished = self.finished;
        let choices = u32::try_from(choices.min(CHOICES)).unwrap_or_default();
        (0..choices).filter(move |choice| finished >> choice & 1 == 0)
    }
}

//! What the leader asks about a command before it proposes it.

use std::sync::Arc;

use bytes::Bytes;

/// How a command goes into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// In an entry of its own.
    Alone,
    /// In one entry with others that came within some milliseconds.
    Shared {
        /// What it counts for there: an entry takes so many records of all of them.
        records: usize,
    },
}

/// Judges commands without the state, which may be behind: what it lets pass, `StateMachine::apply` must know, as nothing in
/// the log is ever skipped. Only a leader asks.
pub trait Gate: Send + Sync + 'static {
    /// Whether `apply` knows this command, and how it goes into the log. `node` proposes it, by its certificate: it may speak in
    /// no other's name.
    ///
    /// # Errors
    /// Why it is no command, for whoever proposed it.
    fn check(&self, node: u64, command: &[u8]) -> Result<Passage, String>;

    /// One command that does what these do, in their order. All of them passed as [`Passage::Shared`].
    fn join(&self, commands: &[Bytes]) -> Bytes;

    /// The outcomes of the commands, from that of the one they were joined to; `None` when it is not one.
    fn split(&self, outcome: &Bytes, commands: usize) -> Option<Vec<Bytes>>;
}

/// Lets everything pass, alone.
#[derive(Debug)]
struct Open;

impl Gate for Open {
    fn check(&self, _: u64, _: &[u8]) -> Result<Passage, String> {
        Ok(Passage::Alone)
    }

    fn join(&self, commands: &[Bytes]) -> Bytes {
        commands.concat().into()
    }

    fn split(&self, _: &Bytes, _: usize) -> Option<Vec<Bytes>> {
        None
    }
}

/// A gate for a state machine that knows every command.
pub(crate) fn open() -> Arc<dyn Gate> {
    Arc::new(Open)
}

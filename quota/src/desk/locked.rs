//! The desk's lock, which leaves nothing unsaid.

use std::ops::{Deref, DerefMut};

use parking_lot::MutexGuard;

use super::{front::Front, shared::State};

/// The state, while nobody else has it. What requests without a lock go by is published when it is given back.
pub(super) struct Locked<'a> {
    state: MutexGuard<'a, State>,
    front: &'a Front,
}

impl<'a> Locked<'a> {
    pub(super) fn new(state: MutexGuard<'a, State>, front: &'a Front) -> Self {
        Self { state, front }
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let until = if self.state.stop_by.is_some() { 0 } else { self.state.agent.spends_until() };
        self.front.publish(until, self.state.agent.load());
    }
}

//! The streams of one HTTP/2 connection: each a task with an owner and an end.

use std::{future::Future, sync::Arc, time::Duration};

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

use crate::body::{Moves, while_taken};

/// Runs them.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    tasks: TaskTracker,
    /// When some of any answer went out.
    moves: Arc<Moves>,
    taken_within: Duration,
}

impl Streams {
    /// One whose client takes nothing of its answer for so long ends, or somewhat later while it takes of others.
    pub(super) fn new(tasks: TaskTracker, taken_within: Duration) -> Self {
        Self { tasks, moves: Arc::new(Moves::new()), taken_within }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let (moves, within) = (Arc::clone(&self.moves), self.taken_within);
        self.tasks.spawn(async move { while_taken(stream, &moves, within).await });
    }
}

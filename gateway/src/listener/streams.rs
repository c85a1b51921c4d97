//! The streams of one HTTP/2 connection: each a task with an owner and an end.

use std::{future::Future, time::Duration};

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

use crate::body::while_taken;

/// Runs them.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    tasks: TaskTracker,
    taken_within: Duration,
}

impl Streams {
    /// One whose client takes nothing of its answer for so long ends.
    pub(super) fn new(tasks: TaskTracker, taken_within: Duration) -> Self {
        Self { tasks, taken_within }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.tasks.spawn(while_taken(stream, self.taken_within));
    }
}

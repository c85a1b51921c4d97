//! The streams of one HTTP/2 connection: each a task with an owner and an end.

use std::{future::Future, sync::Arc, time::Duration};

use hyper::rt::Executor;
use tokio_util::task::TaskTracker;

use crate::body::{Line, while_taken};

/// Runs them.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    tasks: TaskTracker,
    line: Arc<Line>,
    taken_within: Duration,
}

impl Streams {
    /// One whose client takes nothing of its answer for so long ends, or somewhat later while it takes of others.
    pub(super) fn new(tasks: TaskTracker, taken_within: Duration) -> Self {
        Self { tasks, line: Arc::new(Line::new()), taken_within }
    }

    /// What ends their connection: a client that takes nothing of what is left of a stream that has ended. The first resolves then, and the
    /// second once it takes nothing of any other either.
    pub(super) fn not_taken(&self) -> (impl Future<Output = ()> + use<>, impl Future<Output = ()> + use<>) {
        let (line, within) = (Arc::clone(&self.line), self.taken_within);
        let others = Arc::clone(&line);
        (async move { line.not_taken(within).await }, async move { others.still(within).await })
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let (line, within) = (Arc::clone(&self.line), self.taken_within);
        self.tasks.spawn(async move { while_taken(stream, &line, within).await });
    }
}

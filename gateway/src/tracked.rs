//! hyper's tasks get an owner.

use std::future::Future;

use tokio_util::task::TaskTracker;

/// An executor whose tasks belong to a tracker.
#[derive(Debug, Clone)]
pub(crate) struct Tracked(TaskTracker);

impl Tracked {
    pub(crate) fn new(tasks: TaskTracker) -> Self {
        Self(tasks)
    }
}

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

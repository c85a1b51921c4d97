//! hyper's tasks get an owner.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// An executor whose tasks belong to a tracker.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    tasks: TaskTracker,
    runtime: Handle,
}

impl Tracked {
    /// Its tasks run there, wherever they are begun.
    pub(crate) fn on(tasks: TaskTracker, runtime: Handle) -> Self {
        Self { tasks, runtime }
    }
}

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.tasks.spawn_on(future, &self.runtime);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use hyper::rt::Executor as _;
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn tasks_run_where_they_are_told_to() {
        let named = |name: &str| Builder::new_multi_thread().worker_threads(1).thread_name(name).build().unwrap();
        let (here, there) = (named("here"), named("there"));
        let _begun = here.enter();
        let (tell, told) = mpsc::sync_channel(1);
        let executor = Tracked::on(TaskTracker::new(), there.handle().clone());
        executor.execute(async move { drop(tell.send(thread::current().name().map(str::to_owned))) });
        assert_eq!(told.recv().unwrap().as_deref(), Some("there"));
    }
}

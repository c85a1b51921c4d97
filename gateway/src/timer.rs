//! A deadline that moves often and passes seldom.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

/// One timer for many deadlines: it is set again only when it fires too early or the deadline comes nearer, so that
/// moving a deadline on with every byte costs no timer operation.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Ready once `deadline` has passed; else the task is woken when it may have.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_may_move_either_way() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        poll_fn(|cx| {
            assert!(timer.poll(cx, start + Duration::from_secs(9)).is_pending());
            assert!(timer.poll(cx, start + Duration::from_secs(20)).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| timer.poll(cx, start + Duration::from_secs(20))).await;
        assert_eq!(start.elapsed().as_secs(), 20);
        poll_fn(|cx| timer.poll(cx, start + Duration::from_secs(30))).await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }
}

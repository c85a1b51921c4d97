//! One connection that serves one request at a time (HTTP/1.1).
//!
//! It is driven by the task of the request that has it, and by nobody between two: a task of its own would have to be woken twice for
//! each request. What it could not be without is bodies that come while their answer is not read, and protocols that it is
//! switched to: from such a request on it has one.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
    rt::Executor as _,
};
use tokio::time::Instant;

use super::counted::Counted;
use crate::{body::UpstreamRequestBody, timer::LazyTimer, tracked::Tracked};

type Driver = http1::Connection<Counted, UpstreamRequestBody>;

/// When a connection was made, and what that took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Made {
    pub(crate) at: Instant,
    pub(crate) took: Duration,
}

/// What became of a request that was sent.
pub(super) enum Sent {
    Answered(Response<Incoming>),
    Failed(TrySendError<Request<UpstreamRequestBody>>),
    /// Its time was over.
    Late,
}

/// The connection, for whoever has it.
pub(super) struct Http1 {
    sender: http1::SendRequest<UpstreamRequestBody>,
    /// None once it is over, or driven by a task.
    driver: Option<Pin<Box<Driver>>>,
    pub(super) made: Made,
    /// Of one request after the other: most end long before their time, so it is hardly ever set.
    timer: LazyTimer,
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("made", &self.made).finish_non_exhaustive()
    }
}

impl Http1 {
    pub(super) async fn new(io: Counted, builder: &http1::Builder, made: Made) -> hyper::Result<Self> {
        let (sender, driver) = builder.handshake(io).await?;
        Ok(Self { sender, driver: Some(Box::pin(driver)), made, timer: LazyTimer::default() })
    }

    /// Whether it takes a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether something comes over it only when it is driven.
    pub(super) fn is_driven_here(&self) -> bool {
        self.driver.is_some()
    }

    /// Reads and writes as far as that goes.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        // How it ended is told to the request that it was for.
        if self.driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            self.driver = None;
        }
    }

    /// The same where nobody waits for what comes of it. Whoever has it next asks anew.
    pub(super) fn look(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }

    /// A task drives it from now on.
    pub(super) fn leave_to_a_task(&mut self, tasks: &Tracked) {
        if let Some(driver) = self.driver.take() {
            let driver = Pin::into_inner(driver).with_upgrades();
            tasks.execute(async move { drop(driver.await) }); // how it ended is told to the request
        }
    }

    /// Sends a request and waits for the answer's head. Who does not wait any longer closes it.
    pub(super) async fn send(&mut self, request: Request<UpstreamRequestBody>, by: Option<Instant>) -> Sent {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            let polled = if self.is_driven_here() {
                self.drive(cx);
                // Nobody else brings it about, so that nobody need be woken.
                answer.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            } else {
                answer.as_mut().poll(cx)
            };
            match polled {
                Poll::Ready(Ok(answer)) => Poll::Ready(Sent::Answered(answer)),
                Poll::Ready(Err(error)) => Poll::Ready(Sent::Failed(error)),
                Poll::Pending => match by {
                    Some(by) => self.timer.poll(cx, by).map(|()| Sent::Late),
                    None => Poll::Pending,
                },
            }
        })
        .await
    }

    /// Waits until it takes a request again. Whether it does.
    pub(super) async fn readies(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

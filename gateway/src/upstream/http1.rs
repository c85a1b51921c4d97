//! One connection that serves one request at a time (HTTP/1.1).
//!
//! It is driven by the task of the request that has it, and by nobody between two: a task of its own would have to be woken twice for
//! each request. What it could not be without is bodies that come while their answer is not read, and protocols that it is
//! switched to: from such a request on it has one.

use std::{
    fmt,
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
    rt::Executor as _,
};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

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

/// Wakes whoever has the connection now, as the socket knows only whom it was told of first. Between two requests that is nobody.
#[derive(Debug, Default)]
struct Bell {
    /// Whoever has it looks anyway before it waits.
    is_muted: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_muted.load(Ordering::Acquire)
            && let Some(task) = &*self.task.lock()
        {
            task.wake_by_ref();
        }
    }
}

impl Bell {
    fn is_for(&self, task: &Waker) {
        let mut known = self.task.lock();
        if !known.as_ref().is_some_and(|known| known.will_wake(task)) {
            *known = Some(task.clone());
        }
        self.is_muted.store(false, Ordering::Release);
    }
}

/// The connection, for whoever has it.
pub(super) struct Http1 {
    sender: http1::SendRequest<UpstreamRequestBody>,
    /// None once it is over, or driven by a task.
    driver: Option<Pin<Box<Driver>>>,
    bell: Arc<Bell>,
    waker: Waker,
    pub(super) made: Made,
    /// Ends the task that drives it.
    stop: Option<oneshot::Sender<()>>,
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
        let bell = Arc::new(Bell::default());
        let (driver, waker) = (Some(Box::pin(driver)), Waker::from(Arc::clone(&bell)));
        Ok(Self { sender, driver, bell, waker, made, stop: None, timer: LazyTimer::default() })
    }

    /// Whether it takes a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether something comes over it only when it is driven.
    pub(super) fn is_driven_here(&self) -> bool {
        self.driver.is_some()
    }

    /// Reads and writes as far as that goes. The task is woken when it may go further.
    pub(super) fn drive(&mut self, cx: &Context<'_>) {
        self.bell.is_for(cx.waker());
        self.look();
    }

    /// The same where nobody waits for what comes of it.
    pub(super) fn look(&mut self) {
        let cx = &mut Context::from_waker(&self.waker);
        // How it ended is told to the request that it was for.
        if self.driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
            self.driver = None;
        }
    }

    /// Nobody is woken before it is driven again.
    pub(super) fn mute(&self) {
        self.bell.is_muted.store(true, Ordering::Release);
    }

    /// Nobody has it for now.
    pub(super) fn rest(&self) {
        drop(self.bell.task.lock().take());
    }

    /// A task drives it from now on.
    pub(super) fn leave_to_a_task(&mut self, tasks: &Tracked) {
        if let Some(driver) = self.driver.take() {
            let driver = Pin::into_inner(driver).with_upgrades();
            let (stop, stopped) = oneshot::channel();
            self.stop = Some(stop);
            // Without anybody who could stop it, it goes on to its end.
            let stopped = async {
                if stopped.await.is_err() {
                    pending().await
                }
            };
            tasks.execute(async move {
                tokio::select! {
                    _ = driver => {} // how it ended is told to the request
                    () = stopped => {}
                }
            });
        }
    }

    /// Closes it, whoever drives it and whatever is still on its way.
    pub(super) fn close(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // it may have ended by itself
        }
    }

    /// Whether it takes no request any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and waits for the answer's head. Who does not wait any longer closes it.
    pub(super) async fn send(&mut self, request: Request<UpstreamRequestBody>, by: Option<Instant>) -> Sent {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            let polled = if self.is_driven_here() {
                self.drive(cx);
                // Nobody else brings it about, so that nobody need be woken: not before it is over.
                let nobody = &mut Context::from_waker(Waker::noop());
                let context = if self.is_driven_here() { nobody } else { &mut *cx };
                answer.as_mut().poll(context)
            } else {
                answer.as_mut().poll(cx)
            };
            match polled {
                Poll::Ready(Ok(answer)) => Poll::Ready(Sent::Answered(answer)),
                Poll::Ready(Err(error)) => Poll::Ready(Sent::Failed(error)),
                Poll::Pending => match by {
                    Some(by) => {
                        self.bell.is_for(cx.waker());
                        self.timer.poll(&mut Context::from_waker(&self.waker), by).map(|()| Sent::Late)
                    }
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

//! A connection whose client asks for another protocol than HTTP, and what runs on it once it has it.
//!
//! Behind a head that asks, nothing tells what the next bytes are before the answer is decided: more requests, or frames
//! of the other protocol. So nothing behind it is read by anybody until then (`http1`), and a refused upgrade can carry no
//! request that was not inspected.

use std::{
    sync::OnceLock,
    task::{Context, Poll, Waker},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What one connection may be switched to.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    gate: Mutex<Gate>,
    /// hyper's promise to hand the socket over (HTTP/1), until somebody is given it.
    promised: Mutex<Option<OnUpgrade>>,
    tunnels: OnceLock<Tunnels>,
}

#[derive(Debug, Default)]
enum Gate {
    /// What comes is HTTP.
    #[default]
    Open,
    /// Not decided yet. Whoever reads the socket waits for it.
    Held(Option<Waker>),
    /// What comes is another protocol's.
    Switched,
}

/// The tasks that relay what the connection was switched to.
#[derive(Debug, Default)]
struct Tunnels {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Switch {
    /// A head has passed that asks for another protocol.
    pub(super) fn hold(&self) {
        *self.gate.lock() = Gate::Held(None);
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(*self.gate.lock(), Gate::Held(_))
    }

    /// Ready once it is decided, with whether the connection is switched.
    pub(super) fn poll_decided(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut *self.gate.lock() {
            Gate::Open => Poll::Ready(false),
            Gate::Switched => Poll::Ready(true),
            Gate::Held(waiting) => {
                *waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The answer to the head that asks is decided.
    pub(super) fn decide(&self, switched: bool) {
        let mut gate = self.gate.lock();
        if !matches!(*gate, Gate::Held(_)) {
            return;
        }
        let decided = if switched { Gate::Switched } else { Gate::Open };
        if let Gate::Held(Some(waiting)) = std::mem::replace(&mut *gate, decided) {
            waiting.wake();
        }
    }

    /// Keeps what hyper promises with a request of HTTP/1 that asks.
    pub(crate) fn keep(&self, promised: OnUpgrade) {
        *self.promised.lock() = Some(promised);
    }

    pub(crate) fn take(&self) -> Option<OnUpgrade> {
        self.promised.lock().take()
    }

    /// Closes a connection that hyper hands over at its end though nobody was given it: as any other, so that its last
    /// answer arrives.
    pub(super) async fn close_unused(&self) {
        let promised = self.take();
        if let Some(promised) = promised
            && let Ok(socket) = promised.await
        {
            let _ = TokioIo::new(socket).shutdown().await; // the client may be gone
        }
    }

    /// Runs what `relay` makes, until it ends or is told to by its token.
    pub(crate) fn run<F>(&self, relay: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tunnels = self.tunnels.get_or_init(Tunnels::default);
        tunnels.tasks.spawn(relay(tunnels.cut.clone()));
    }

    /// Waits for all of them.
    pub(super) async fn tunnels_ended(&self) {
        if let Some(tunnels) = self.tunnels.get() {
            tunnels.tasks.close();
            tunnels.tasks.wait().await;
        }
    }

    /// Ends all of them, and waits until that is recorded.
    pub(super) async fn cut_tunnels(&self) {
        if let Some(tunnels) = self.tunnels.get() {
            tunnels.cut.cancel();
        }
        self.tunnels_ended().await;
    }
}

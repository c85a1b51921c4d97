//! How one request comes to a connection: one that is there, one that is made for it, or one that it waits for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::rt::Executor as _;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    SendError,
    breaker::{Pending, Permit},
    lane::{CONNECT_WITHIN, Connection, Dialed, Fresh, Given, Lacks, Lane, Told},
    within::Within,
};

/// One request's place on a connection to an endpoint, until its answer has been read.
pub(crate) struct Place {
    pub(super) lane: Arc<Lane>,
    /// By which a connection is known that was made ahead for it; 0 where none was.
    number: AtomicU64,
}

/// What a request that found no connection does about it.
enum Step {
    Has(Connection),
    /// Somebody makes one that all share.
    Wait(Told),
    Connect(Told, Coming),
    /// No more may be made for now.
    Pend(Told, Pending),
}

/// A connection for one request.
enum Coming {
    Ahead(oneshot::Receiver<Dialed>),
    Permitted(Permit),
}

impl Lane {
    /// One that is made, or that another request no longer needs, whichever comes first, and no later than `within` has it, which begins anew
    /// for who stood in line. With `patience` one that is made is not waited for any longer than that.
    ///
    /// # Errors
    /// None could be made, or none was free in time. Nothing was sent.
    ///
    /// # Cancel safety
    /// Safe: what was being made for the request alone is closed.
    pub(super) async fn connection(
        self: &Arc<Self>,
        mut within: Option<&mut Within>,
        patience: Option<Duration>,
    ) -> Result<Given, SendError> {
        let until = within.iter().map(|it| it.by()).chain([Instant::now() + CONNECT_WITHIN]).min();
        let until = until.unwrap_or_else(Instant::now);
        let by = |within: Option<&Within>| {
            let patience = patience.map(|patience| Instant::now() + patience);
            within.map(Within::by).into_iter().chain(patience).min()
        };
        loop {
            let told = match self.step()? {
                Step::Has(connection) => return Ok(Given { connection, is_kept: true }),
                Step::Wait(told) => told,
                Step::Connect(told, coming) => return self.connect(told, coming, by(within.as_deref())).await,
                Step::Pend(mut told, mut pending) => {
                    let permit = tokio::select! {
                        biased;
                        given = &mut told => match given {
                            Ok(given) => {
                                within.into_iter().for_each(Within::begin_anew);
                                return given;
                            }
                            Err(_) => continue,
                        },
                        permit = pending.permit() => permit,
                        () = sleep_until(until) => {
                            self.breaker.was_late();
                            return Err(SendError::Full);
                        }
                    };
                    drop(pending); // it waits no longer
                    within.iter_mut().for_each(|it| it.begin_anew());
                    if let Some(permit) = self.permitted(permit) {
                        return self.connect(told, Coming::Permitted(permit), by(within.as_deref())).await;
                    }
                    told.close();
                    match told.try_recv() {
                        Ok(given) => return given,
                        Err(_) => continue,
                    }
                }
            };
            match timeout_at(by(within.as_deref()).map_or(until, |by| by.min(until)), told).await {
                Ok(Ok(given)) => return given,
                // Who is told nothing asks again.
                Ok(Err(_)) => {}
                Err(_) => return Err(SendError::Connect),
            }
        }
    }

    fn step(self: &Arc<Self>) -> Result<Step, SendError> {
        let mut state = self.state.lock();
        if let Some(connection) = state.take(self) {
            return Ok(Step::Has(connection));
        }
        let shares = self.shares(&state);
        let lacks = if shares { state.lacks(1) } else { Lacks::Connection };
        match lacks {
            Lacks::Nothing => return Ok(Step::Wait(state.wait(false))),
            // One that was made ahead may have waited for long.
            Lacks::Connection if !shares && let Some((_, coming)) = state.ahead.pop_front() => {
                return Ok(Step::Connect(state.wait(false), Coming::Ahead(coming)));
            }
            Lacks::Connection if let Some(permit) = self.breaker.permit() => {
                let told = state.wait(false);
                if !shares {
                    return Ok(Step::Connect(told, Coming::Permitted(permit)));
                }
                let dialing = self.begin(&mut state, permit);
                drop(state);
                dialing.run();
                return Ok(Step::Wait(told));
            }
            Lacks::Connection | Lacks::Stream => {}
        }
        drop(state);
        self.pend(lacks)
    }

    fn pend(self: &Arc<Self>, lacks: Lacks) -> Result<Step, SendError> {
        let stands_in_line = lacks == Lacks::Connection;
        let has_room = stands_in_line && self.breaker.make_room();
        let pending =
            if stands_in_line { self.breaker.stand_in_line(self.id(), has_room)? } else { self.breaker.wait()? };
        let mut state = self.state.lock();
        if let Some(connection) = state.take(self) {
            return Ok(Step::Has(connection));
        }
        let told = state.wait(stands_in_line);
        drop(state);
        // What was given back elsewhere before it was known that somebody waits.
        if stands_in_line && !has_room {
            self.breaker.make_room();
        }
        Ok(Step::Pend(told, pending))
    }

    /// Leave to connect has come. It is given back where the connection is made by another task, or is not lacking any more.
    fn permitted(self: &Arc<Self>, permit: Permit) -> Option<Permit> {
        let mut state = self.state.lock();
        if !self.shares(&state) {
            return Some(permit);
        }
        if state.lacks(0) == Lacks::Connection {
            let dialing = self.begin(&mut state, permit);
            drop(state);
            dialing.run();
        }
        None
    }

    /// By a connection of its own, unless another one is free before.
    async fn connect(
        self: &Arc<Self>,
        mut told: Told,
        coming: Coming,
        by: Option<Instant>,
    ) -> Result<Given, SendError> {
        let (lane, is_kept) = (Arc::clone(self), matches!(coming, Coming::Ahead(_)));
        let mut dialing = Box::pin(async move {
            match coming {
                Coming::Ahead(coming) => coming.await.unwrap_or(Err(SendError::Connect)),
                Coming::Permitted(permit) => lane.dial(permit).await,
            }
        });
        let too_late = async {
            match by {
                Some(by) => sleep_until(by).await,
                None => std::future::pending().await,
            }
        };
        let dialed = tokio::select! {
            biased;
            Ok(given) = &mut told => {
                let lane = Arc::clone(self);
                self.dialer.means.tasks.execute(async move {
                    if let Ok(Some(Connection::Http1(connection))) = dialing.await.map(|fresh| lane.keep(fresh, false)) {
                        Self::give_back(&lane, connection);
                    }
                });
                return given;
            }
            dialed = &mut dialing => dialed,
            () = too_late => return Err(SendError::Connect),
        };
        told.close();
        let given = told.try_recv();
        match dialed {
            Err(error) => given.unwrap_or(Err(error)),
            Ok(fresh) => {
                if let Ok(Ok(Given { connection: Connection::Http1(connection), .. })) = given {
                    Self::give_back(self, connection);
                }
                let is_dead = matches!(&fresh, Fresh::Http2(shared) if !shared.is_there());
                // Else its peer takes nothing.
                let error = if is_dead { SendError::Connect } else { SendError::Full };
                let connection = self.keep(fresh, false).ok_or(error)?;
                Ok(Given { connection, is_kept })
            }
        }
    }
}

impl Place {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        lane.counts.comes();
        Self { lane, number: AtomicU64::new(0) }
    }

    /// Begins to connect, unless there are connections enough: a request that may not be sent yet has its connection made meanwhile.
    pub(super) fn connect_ahead(&self) {
        let lane = &self.lane;
        let mut state = lane.state.lock();
        if lane.shares(&state) {
            if state.has_room() || state.lacks(1) != Lacks::Connection {
                return;
            }
            let begins = lane.breaker.permit().map(|permit| lane.begin(&mut state, permit));
            drop(state);
            return begins.into_iter().for_each(super::lane::Dialing::run);
        }
        if !lane.counts.lacks(state.ahead.len()) {
            return;
        }
        let Some(permit) = lane.breaker.permit() else { return };
        let (tell, told) = oneshot::channel();
        let number = lane.next_number.fetch_add(1, Ordering::Relaxed);
        self.number.store(number, Ordering::Relaxed);
        state.ahead.push_back((number, told));
        drop(state);
        lane.dialer.means.tasks.execute(dial_for(Arc::clone(lane), permit, tell));
    }
}

/// Connects, unless nobody wants it any more.
async fn dial_for(lane: Arc<Lane>, permit: Permit, mut tell: oneshot::Sender<Dialed>) {
    let dialed = tokio::select! {
        dialed = lane.dial(permit) => dialed,
        () = tell.closed() => return,
    };
    // Who has gone just now does not want it.
    let _ = tell.send(dialed);
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("endpoint", &self.lane.endpoint).finish_non_exhaustive()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lane.counts.leaves();
        let number = *self.number.get_mut();
        if number == 0 {
            return;
        }
        let mut state = self.lane.state.lock();
        let at = state.ahead.iter().position(|(of, _)| *of == number);
        let unused = at.and_then(|at| state.ahead.remove(at));
        drop(state);
        // It is closed when its lane may be locked again.
        drop(unused);
    }
}

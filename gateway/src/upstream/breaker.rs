//! How many connections an upstream may have, and who waits until one more may be made.
//!
//! Whoever connects has a [`Permit`], which lasts as long as the socket, whatever is spoken over it. Who gets none stands in a line
//! with all others of the upstream, whichever endpoint they want, and is bounded in number. Nothing of this was sent anywhere, so
//! nobody is to blame for it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use tollgate_model::CircuitBreaker;

use super::{SendError, lanes::Lanes};

/// Who wait at once where nothing else is said.
const MAX_PENDING: usize = 1_024;
/// Who has waited for that long in vain has a connection of another endpoint closed once that is free, however many wait there.
const PATIENCE: Duration = Duration::from_millis(100);

/// The connections of one upstream on this node; of one endpoint where its upstreams say nothing of them.
#[derive(Debug)]
pub(crate) struct Breaker {
    room: Mutex<Room>,
    /// Somebody stands in line, or there are more than may be: what is idle is closed.
    wants_room: AtomicBool,
    /// Requests that wait.
    pending: AtomicUsize,
    /// Not waited for, as too many did.
    refused: AtomicU64,
    /// Waited for until their time was over.
    late: AtomicU64,
    /// Where connections are that count.
    lanes: Mutex<Vec<Weak<Lanes>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Room {
    open: usize,
    max_connections: usize,
    max_pending: usize,
    line: VecDeque<Waiting>,
    /// How often the line was empty, and when it was last looked in vain for what is idle: while somebody stands in it, whatever gets
    /// idle is closed by whoever gives it back, so nothing is to be found before it was empty again.
    emptied: u64,
    searched: Option<u64>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    lane: usize,
    since: Instant,
    tell: oneshot::Sender<Permit>,
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Connections, those that are being made included.
    pub(super) open: usize,
    pub(super) pending: usize,
    pub(super) refused: u64,
    pub(super) late: u64,
}

fn most(given: Option<u32>, otherwise: usize) -> usize {
    given.map_or(otherwise, |most| usize::try_from(most).unwrap_or(usize::MAX))
}

impl Breaker {
    /// With as many connections as are wanted.
    pub(super) fn new() -> Arc<Self> {
        let (max_connections, line) = (usize::MAX, VecDeque::new());
        let room = Room { open: 0, max_connections, max_pending: MAX_PENDING, line, emptied: 0, searched: None };
        Arc::new(Self {
            room: Mutex::new(room),
            wants_room: AtomicBool::default(),
            pending: AtomicUsize::default(),
            refused: AtomicU64::default(),
            late: AtomicU64::default(),
            lanes: Mutex::default(),
            next: AtomicU64::default(),
        })
    }

    /// With so many.
    pub(super) fn within(terms: CircuitBreaker) -> Arc<Self> {
        let breaker = Self::new();
        breaker.follow(terms);
        breaker
    }

    /// From now on.
    pub(super) fn follow(self: &Arc<Self>, terms: CircuitBreaker) {
        let (given, too_many) = {
            let mut room = self.room.lock();
            room.max_connections = most(terms.max_connections, usize::MAX);
            room.max_pending = most(terms.max_pending, MAX_PENDING);
            let more = room.max_connections.saturating_sub(room.open).min(room.line.len());
            room.open += more;
            let given: Vec<Waiting> = room.line.drain(..more).collect();
            self.note(&mut room);
            (given, room.open.saturating_sub(room.max_connections))
        };
        // Of who has gone meanwhile the permit is for the next one.
        given.into_iter().for_each(|it| drop(it.tell.send(Permit::of(self))));
        let _ = (0..too_many).all(|_| self.make_room()); // what is busy is closed once it is idle
    }

    /// Idle connections there may be closed.
    pub(super) fn counts_those_of(&self, lanes: &Arc<Lanes>) {
        let mut known = self.lanes.lock();
        known.retain(|lanes| lanes.strong_count() > 0);
        known.push(Arc::downgrade(lanes));
    }

    /// Leave to connect, if there is any.
    pub(super) fn permit(self: &Arc<Self>) -> Option<Permit> {
        let mut room = self.room.lock();
        (room.open < room.max_connections && room.line.is_empty()).then(|| {
            room.open += 1;
            Permit::of(self)
        })
    }

    /// Stands in line for a connection of `lane`. `has_room` says that a connection is being closed for it.
    ///
    /// # Errors
    /// [`SendError::Full`] where too many wait already.
    pub(super) fn stand_in_line(self: &Arc<Self>, lane: usize, has_room: bool) -> Result<Pending, SendError> {
        let mut room = self.room.lock();
        let (tell, told) = oneshot::channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut place = self.wait_within(&room, has_room)?;
        (place.place, place.told) = (Some(number), Some(told));
        if room.open < room.max_connections && room.line.is_empty() {
            room.open += 1;
            drop(room);
            drop(tell.send(Permit::of(self))); // its other end is here
        } else {
            room.line.push_back(Waiting { number, lane, since: Instant::now(), tell });
            self.note(&mut room);
        }
        Ok(place)
    }

    /// Waits for what no permit helps to.
    ///
    /// # Errors
    /// [`SendError::Full`] where too many wait already.
    pub(super) fn wait(self: &Arc<Self>) -> Result<Pending, SendError> {
        self.wait_within(&self.room.lock(), false)
    }

    fn wait_within(self: &Arc<Self>, room: &Room, has_room: bool) -> Result<Pending, SendError> {
        // Whoever comes has the lock.
        if self.pending.load(Ordering::Relaxed) >= room.max_pending && !has_room {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(SendError::Full);
        }
        self.pending.fetch_add(1, Ordering::Relaxed);
        Ok(Pending { breaker: Arc::clone(self), place: None, told: None })
    }

    /// Whether what is idle is to be closed.
    pub(super) fn wants_room(&self) -> bool {
        self.wants_room.load(Ordering::SeqCst)
    }

    /// Whether somebody of another lane has stood in line for too long.
    pub(super) fn is_overdue(&self, lane: usize) -> bool {
        let is_overdue = |first: &Waiting| first.lane != lane && first.since.elapsed() > PATIENCE;
        self.wants_room() && self.room.lock().line.front().is_some_and(is_overdue)
    }

    /// Closes a connection that is idle. Whether there was one.
    pub(super) fn make_room(&self) -> bool {
        let before = {
            let room = self.room.lock();
            if !room.line.is_empty() && room.searched == Some(room.emptied) {
                return false;
            }
            (!room.line.is_empty()).then_some(room.emptied)
        };
        let all: Vec<Arc<Lanes>> = self.lanes.lock().iter().filter_map(Weak::upgrade).collect();
        let is_made = all.iter().any(|lanes| lanes.close_idle());
        if !is_made && before.is_some() {
            self.room.lock().searched = before;
        }
        is_made
    }

    pub(super) fn was_late(&self) {
        self.late.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            open: self.room.lock().open,
            pending: self.pending.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }

    fn note(&self, room: &mut Room) {
        room.emptied += u64::from(room.line.is_empty());
        self.wants_room.store(!room.line.is_empty() || room.open > room.max_connections, Ordering::SeqCst);
    }

    /// A connection is gone: one more may be made, by who has waited longest.
    fn release(self: &Arc<Self>) {
        loop {
            let first = {
                let mut room = self.room.lock();
                let first = if room.open > room.max_connections { None } else { room.line.pop_front() };
                if first.is_none() {
                    room.open = room.open.saturating_sub(1);
                }
                self.note(&mut room);
                first
            };
            match first.map(|first| first.tell.send(Permit::of(self))) {
                Some(Err(back)) => back.disarm(),
                _ => return,
            }
        }
    }
}

/// One connection more, while this is there.
#[derive(Debug)]
pub(super) struct Permit(Option<Arc<Breaker>>);

impl Permit {
    fn of(breaker: &Arc<Breaker>) -> Self {
        Self(Some(Arc::clone(breaker)))
    }

    /// What it stands for is for another one.
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.take().iter().for_each(Breaker::release);
    }
}

/// A request that waits, while this is there.
#[derive(Debug)]
pub(super) struct Pending {
    breaker: Arc<Breaker>,
    /// In the line.
    place: Option<u64>,
    told: Option<oneshot::Receiver<Permit>>,
}

impl Pending {
    /// Waits for leave to connect; for ever where it does not stand in line. Cancel-safe.
    pub(super) async fn permit(&mut self) -> Permit {
        let told = match &mut self.told {
            Some(told) => told.await.ok(),
            None => None,
        };
        match told {
            Some(permit) => {
                self.told = None;
                permit
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut room = self.breaker.room.lock();
        self.breaker.pending.fetch_sub(1, Ordering::Relaxed);
        let Some(number) = self.place else { return };
        let at = room.line.iter().position(|it| it.number == number);
        // Its other end is closed with this.
        let gone = at.and_then(|at| room.line.remove(at));
        self.breaker.note(&mut room);
        drop(room);
        drop(gone);
    }
}

#[cfg(test)]
mod tests;

//! How far a journal has come, and who waits for it to come further: each is woken once, when it has come that far. Of a channel
//! everybody who waits would be woken by every step of it, twice for each sync, to find that it is not his turn.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use parking_lot::Mutex;

use super::Progress;

/// What both sides share: cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Watermarks(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    progress: Progress,
    written: Waiters,
    durable: Waiters,
    /// Tells apart who waits for the same.
    next: u64,
}

/// In the order of what they wait for, which is nearly that in which they come.
#[derive(Debug, Default)]
struct Waiters(VecDeque<Waiter>);

#[derive(Debug)]
struct Waiter {
    /// Up to where it waits, and its number.
    key: (u64, u64),
    waker: Waker,
}

/// How sure an entry has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Written,
    Durable,
}

impl Watermarks {
    /// How far it has come by now.
    #[must_use]
    pub fn now(&self) -> Progress {
        self.0.lock().progress
    }

    /// It has come further, or its disk is full, or is no more. Wakes those who need not wait any longer.
    pub fn change(&self, change: impl FnOnce(&mut Progress)) {
        let mut woken = Vec::new();
        {
            let state = &mut *self.0.lock();
            change(&mut state.progress);
            state.written.take_up_to(state.progress.written, &mut woken);
            state.durable.take_up_to(state.progress.durable, &mut woken);
        }
        woken.into_iter().for_each(Waker::wake);
    }

    /// Resolves once entries are written up to there: they survive the end of this process.
    pub fn written(&self, position: u64) -> Reached {
        self.reached(Stage::Written, position)
    }

    /// Resolves once entries are durable up to there: they survive a power cut.
    pub fn durable(&self, position: u64) -> Reached {
        self.reached(Stage::Durable, position)
    }

    fn reached(&self, stage: Stage, position: u64) -> Reached {
        Reached { marks: self.clone(), stage, position, number: None }
    }
}

impl State {
    fn of(&mut self, stage: Stage) -> (u64, &mut Waiters) {
        match stage {
            Stage::Written => (self.progress.written, &mut self.written),
            Stage::Durable => (self.progress.durable, &mut self.durable),
        }
    }
}

impl Waiters {
    fn take_up_to(&mut self, position: u64, woken: &mut Vec<Waker>) {
        let over = self.0.partition_point(|waiter| waiter.key.0 <= position);
        woken.extend(self.0.drain(..over).map(|waiter| waiter.waker));
    }

    fn place(&self, key: (u64, u64)) -> Result<usize, usize> {
        self.0.binary_search_by_key(&key, |waiter| waiter.key)
    }

    fn wait(&mut self, key: (u64, u64), waker: &Waker) {
        match self.place(key) {
            Ok(at) => self.0[at].waker.clone_from(waker),
            Err(at) => self.0.insert(at, Waiter { key, waker: waker.clone() }),
        }
    }

    fn leave(&mut self, key: (u64, u64)) -> Option<Waiter> {
        self.place(key).ok().and_then(|at| self.0.remove(at))
    }
}

/// Resolves once a journal has come so far. Dropped, it waits no more.
#[derive(Debug)]
#[must_use = "it does nothing unless it is waited for"]
pub struct Reached {
    marks: Watermarks,
    stage: Stage,
    position: u64,
    /// Among those who wait, once it does.
    number: Option<u64>,
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { marks, stage, position, number } = &mut *self;
        let mut state = marks.0.lock();
        let is_there = state.of(*stage).0 >= *position;
        if is_there {
            // Whoever makes it come that far takes it out.
            *number = None;
            return Poll::Ready(());
        }
        let key = (*position, *number.get_or_insert(state.next));
        state.next = state.next.max(key.1 + 1);
        state.of(*stage).1.wait(key, cx.waker());
        Poll::Pending
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let left = self.marks.0.lock().of(self.stage).1.leave((self.position, number));
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::Wake,
    };

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn waiting(marks: &Watermarks) -> usize {
        let state = marks.0.lock();
        state.written.0.len() + state.durable.0.len()
    }

    #[test]
    fn who_waits_is_woken_once_and_not_before_it_is_his_turn() {
        let marks = Watermarks::default();
        let wakes: Vec<Arc<Count>> = (0..4).map(|_| Arc::default()).collect();
        let mut waits = [marks.durable(3), marks.durable(1), marks.written(3), marks.durable(3)];
        let mut poll = |at: usize| {
            let waker = Waker::from(Arc::clone(&wakes[at]));
            Pin::new(&mut waits[at]).poll(&mut Context::from_waker(&waker)).is_ready()
        };
        for at in [0, 1, 2, 3, 0] {
            assert!(!poll(at));
        }
        assert_eq!(waiting(&marks), 4, "who asks twice waits once");
        let woken = || wakes.iter().map(|wake| wake.0.load(SeqCst)).collect::<Vec<_>>();
        marks.change(|progress| progress.written = 3);
        assert_eq!(woken(), [0, 0, 1, 0]);
        marks.change(|progress| progress.full = true);
        marks.change(|progress| progress.durable = 1);
        assert_eq!(woken(), [0, 1, 1, 0]);
        assert!(poll(1) && poll(2) && !poll(3));
        marks.change(|progress| progress.durable = 5);
        assert_eq!(woken(), [1, 1, 1, 1]);
        assert!(poll(0) && poll(3));
        assert_eq!(waiting(&marks), 0);
    }

    #[tokio::test]
    async fn who_comes_late_does_not_wait_and_who_leaves_is_forgotten() {
        let marks = Watermarks::default();
        marks.change(|progress| progress.durable = 7);
        marks.durable(7).await;
        {
            let mut gone = pin!(marks.durable(8));
            let is_pending = poll_fn(|cx| Poll::Ready(gone.as_mut().poll(cx).is_pending())).await;
            assert!(is_pending);
            assert_eq!(waiting(&marks), 1);
        }
        assert_eq!(waiting(&marks), 0);
    }

    proptest! {
        #[test]
        fn nobody_is_forgotten_whatever_the_order(steps in prop::collection::vec((0..3_u8, 0..20_u64), 1..80)) {
            let marks = Watermarks::default();
            let mut waits: Vec<(u64, Arc<Count>, Pin<Box<Reached>>)> = Vec::new();
            for (step, position) in steps {
                match step {
                    0 => marks.change(|progress| progress.durable = progress.durable.max(position)),
                    1 => drop(waits.pop()),
                    _ => {
                        let (wakes, mut wait) = (Arc::new(Count::default()), Box::pin(marks.durable(position)));
                        let waker = Waker::from(Arc::clone(&wakes));
                        if wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                            waits.push((position, wakes, wait));
                        }
                    }
                }
                let durable = marks.now().durable;
                for (position, wakes, _) in &waits {
                    prop_assert_eq!(wakes.0.load(SeqCst), usize::from(*position <= durable));
                }
            }
            drop(waits);
            prop_assert_eq!(waiting(&marks), 0);
        }
    }
}

use loom::sync::{
    Arc,
    atomic::{AtomicBool as LoomBool, AtomicU64 as LoomU64},
};
use proptest::{collection::vec, prelude::*};

use super::*;

impl Word for LoomU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn swap_if(&self, is: u64, then: u64) -> Result<u64, u64> {
        self.compare_exchange(is, then, AcqRel, Acquire)
    }

    fn add(&self, amount: u64) -> u64 {
        self.fetch_add(amount, AcqRel)
    }

    fn set(&self, bits: u64) -> u64 {
        self.fetch_or(bits, AcqRel)
    }

    fn take(&self) -> u64 {
        self.swap(0, AcqRel)
    }
}

/// The keeper's side of one pocket: what it drew from its lease, and what has come of it.
#[derive(Debug, Default)]
struct Keeper {
    /// Of the lease, free.
    free: u64,
    /// Of the lease, in the pocket or held of it.
    held: u64,
    spent: u64,
    seen: Sums,
    closed: bool,
}

impl Keeper {
    fn pour<W: Word>(&mut self, pocket: &Pocket<W>, amount: u64) {
        self.free -= amount;
        self.held += amount;
        pocket.pour(amount);
    }

    fn take_back<W: Word>(&mut self, pocket: &Pocket<W>, amount: u64) {
        let back = pocket.take_back(amount);
        self.held -= back;
        self.free += back;
    }

    fn close<W: Word>(&mut self, pocket: &Pocket<W>) {
        pocket.close();
        self.closed = true;
        self.look(pocket);
    }

    /// The lease is never said to hold less than what requests hold of it: `held` does not go below zero.
    fn look<W: Word>(&mut self, pocket: &Pocket<W>) {
        let sums = pocket.sums();
        let spent = sums.spent - self.seen.spent;
        self.held -= spent;
        self.spent += spent;
        self.seen.spent = sums.spent;
        if self.closed {
            let back = sums.left() - self.seen.left();
            self.held -= back;
            self.free += back;
            self.seen = sums;
        }
    }
}

/// A request, that is told when the pocket was closed: whether it held something, and whether the keeper must be told.
fn request(pocket: &Pocket<LoomU64>, closed: &LoomBool, amount: u64, used: u64) -> (bool, bool) {
    let is_closed = closed.load(Acquire);
    let took = pocket.take(amount).is_some();
    assert!(!(took && is_closed), "taken after it was closed");
    let late = took && pocket.end(amount, used) == Ended::Late;
    (took, late)
}

/// In every order in which threads may take turns with at most three of them interrupted, and every value that a load may
/// then see.
fn in_every_order(story: impl Fn() + Sync + Send + 'static) {
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = Some(3);
    checker.check(story);
}

/// Two requests and a keeper that closes meanwhile.
#[test]
fn whatever_the_order_no_unit_is_lost_and_nothing_is_taken_from_what_is_closed() {
    in_every_order(|| {
        let (pocket, closed) = (Arc::new(Pocket::<LoomU64>::new()), Arc::new(LoomBool::new(false)));
        let mut keeper = Keeper { free: 4, ..Keeper::default() };
        keeper.pour(&pocket, 3);
        let requests = [(2, 1), (2, 2)].map(|(amount, used)| {
            let (pocket, closed) = (Arc::clone(&pocket), Arc::clone(&closed));
            loom::thread::spawn(move || request(&pocket, &closed, amount, used))
        });
        keeper.close(&pocket);
        closed.store(true, Ordering::Release);
        let settled = keeper.held == 0;
        let [one, other] = requests.map(|request| request.join().unwrap());
        assert!(settled || one.1 || other.1 || keeper.held == 0, "the keeper was told of what it had not seen");
        keeper.look(&pocket);
        assert_eq!((keeper.held, keeper.free + keeper.spent), (0, 4));
        assert_eq!(keeper.spent, u64::from(one.0) + 2 * u64::from(other.0));
    });
}

/// A keeper that looks only when it is told to, and has been told before.
#[test]
fn whatever_the_order_an_end_after_the_closing_is_seen() {
    in_every_order(|| {
        let (pocket, mark) = (Arc::new(Pocket::<LoomU64>::new()), Arc::new(Mark::<LoomU64>::new()));
        let mut keeper = Keeper { free: 3, ..Keeper::default() };
        keeper.pour(&pocket, 3);
        assert!(mark.set() && !mark.set());
        let requests = [(2, 1), (1, 0)].map(|(amount, used)| {
            let (pocket, mark) = (Arc::clone(&pocket), Arc::clone(&mark));
            loom::thread::spawn(move || {
                if pocket.take(amount).is_some() && pocket.end(amount, used) == Ended::Late {
                    mark.set_for_sure();
                }
            })
        });
        keeper.close(&pocket);
        mark.clear();
        keeper.look(&pocket);
        requests.into_iter().for_each(|request| request.join().unwrap());
        if mark.is_set() {
            keeper.look(&pocket);
        }
        assert_eq!((keeper.held, keeper.free + keeper.spent), (0, 3));
    });
}

/// While it is open it is filled and emptied too, and what one gives back another takes.
#[test]
fn whatever_the_order_pouring_and_taking_back_lose_no_unit() {
    in_every_order(|| {
        let pocket = Arc::new(Pocket::<LoomU64>::new());
        let mut keeper = Keeper { free: 4, ..Keeper::default() };
        keeper.pour(&pocket, 2);
        let requests = [(2, 0), (1, 1)].map(|(amount, used)| {
            let pocket = Arc::clone(&pocket);
            loom::thread::spawn(move || {
                let took = pocket.take(amount).is_some();
                if took {
                    assert_eq!(pocket.end(amount, used), Ended::Unseen);
                }
                took
            })
        });
        keeper.pour(&pocket, 1);
        keeper.look(&pocket);
        keeper.take_back(&pocket, 2);
        let [_, other] = requests.map(|request| request.join().unwrap());
        keeper.close(&pocket);
        assert_eq!((keeper.held, keeper.free + keeper.spent, keeper.spent), (0, 4, u64::from(other)));
    });
}

/// All or none of two pockets, while one of them is closed.
#[test]
fn whatever_the_order_a_path_is_held_whole_or_not_at_all() {
    in_every_order(|| {
        let pockets = Arc::new([Pocket::<LoomU64>::new(), Pocket::new()]);
        let mut keepers = [Keeper { free: 1, ..Keeper::default() }, Keeper { free: 1, ..Keeper::default() }];
        keepers.iter_mut().zip(&*pockets).for_each(|(keeper, pocket)| keeper.pour(pocket, 1));
        let requests = [(); 2].map(|()| {
            let pockets = Arc::clone(&pockets);
            loom::thread::spawn(move || {
                pockets[0].take(1)?;
                if pockets[1].take(1).is_none() {
                    pockets[0].end(1, 0);
                    return None;
                }
                pockets[0].end(1, 1);
                pockets[1].end(1, 1);
                Some(())
            })
        });
        keepers[1].close(&pockets[1]);
        let whole = requests.map(|request| request.join().unwrap()).iter().flatten().count() as u64;
        keepers[0].close(&pockets[0]);
        keepers[1].look(&pockets[1]);
        for keeper in &keepers {
            assert_eq!((keeper.held, keeper.free, keeper.spent), (0, 1 - whole, whole));
        }
    });
}

#[test]
fn what_is_used_beyond_what_was_taken_is_known_and_takes_nothing() {
    let pocket = Pocket::<AtomicU64>::new();
    pocket.pour(10);
    assert_eq!((pocket.take(11), pocket.take(4)), (None, Some(6)));
    assert_eq!(pocket.end(4, 9), Ended::Unseen);
    assert_eq!(pocket.sums(), Sums { taken: 4, credit: 10, spent: 4, overrun: 5 });
}

#[test]
fn a_worn_pocket_gives_nothing_and_its_sums_stay_clear_of_the_bit() {
    let pocket = Pocket::<AtomicU64>::new();
    pocket.pour(MOST);
    for _ in 0..2 {
        if pocket.take(WORN - 1).is_some() {
            pocket.end(WORN - 1, 0);
        }
    }
    assert_eq!((pocket.take(2), pocket.take(u64::MAX)), (None, None));
    assert!(pocket.sums().credit < CLOSED && pocket.take(1).is_some());
}

proptest! {
    /// Against the plainest model: one number, and a list of what is held.
    #[test]
    fn it_is_a_number_and_a_list(
        steps in vec((0..6u8, 0..40u64, 0..60u64, any::<prop::sample::Index>()), 1..200)
    ) {
        let pocket = Pocket::<AtomicU64>::new();
        let mut keeper = Keeper { free: 500, ..Keeper::default() };
        let (mut left, mut spent, mut overrun, mut open) = (0, 0, 0, Vec::new());
        for (what, amount, used, pick) in steps {
            match what {
                0 if !keeper.closed && keeper.free >= amount => {
                    keeper.pour(&pocket, amount);
                    left += amount;
                }
                1 | 2 => {
                    let fits = !keeper.closed && left >= amount;
                    prop_assert_eq!(pocket.take(amount), fits.then(|| left - amount));
                    if fits {
                        left -= amount;
                        open.push(amount);
                    }
                }
                3 if !open.is_empty() => {
                    let held = open.swap_remove(pick.index(open.len()));
                    prop_assert_eq!(pocket.end(held, used) == Ended::Late, keeper.closed);
                    let within = used.min(held);
                    (left, spent, overrun) = (left + held - within, spent + within, overrun + used - within);
                }
                4 if !keeper.closed => {
                    keeper.take_back(&pocket, amount);
                    left -= amount.min(left);
                }
                5 if amount == 0 && !keeper.closed => keeper.close(&pocket),
                _ => {}
            }
            keeper.look(&pocket);
            prop_assert_eq!((keeper.spent, pocket.sums().overrun), (spent, overrun));
            let in_hand = if keeper.closed { 0 } else { left };
            prop_assert_eq!(keeper.held, in_hand + open.iter().sum::<u64>());
            prop_assert_eq!(keeper.free + keeper.held + keeper.spent, 500);
        }
    }
}

//! What clients asked and were told, with times: the only evidence that the checkers take.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// What a client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is done; for a read, this is the value.
    Done(u64),
    /// Nothing certain: it may or may not have happened.
    Unknown,
}

/// What a client asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To write this value; values of one history only grow.
    Write(u64),
    /// To read.
    Read,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was asked.
    pub asked: Asked,
    /// When.
    pub invoked: Instant,
    /// What was told.
    pub told: Told,
    /// When.
    pub returned: Instant,
}

/// The operations of all clients on one register.
#[derive(Debug, Default)]
pub struct History {
    operations: Mutex<Vec<Operation>>,
}

impl History {
    /// Adds one that has returned.
    pub fn add(&self, asked: Asked, invoked: Instant, told: Told) {
        let operation = Operation { asked, invoked, told, returned: Instant::now() };
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    /// All so far, in the order of their return.
    pub fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Values whose write was acknowledged.
    pub fn acknowledged(&self) -> Vec<u64> {
        let value = |operation: &Operation| match (operation.asked, operation.told) {
            (Asked::Write(value), Told::Done(_)) => Some(value),
            _ => None,
        };
        self.operations().iter().filter_map(value).collect()
    }
}

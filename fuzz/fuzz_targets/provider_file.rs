//! What an upstream's usage report may be: bytes that nobody vouches for.
//!
//! It is read or refused, and what comes of it does not depend on how the bytes arrive.
#![no_main]

use std::io::{self, BufReader};

use libfuzzer_sys::fuzz_target;
use tollgate_billing::{
    export::Source,
    reconcile::{Asked, Reconciled, Reconciler},
};
use tollgate_model::Timestamp;
use tollgate_proto::state::v1::{LedgerRow, PriceVersionRow};

/// A ledger without anything in it.
struct Nothing;

impl Source for Nothing {
    fn last(&self) -> u64 {
        0
    }
    fn before(&self, _: Timestamp) -> io::Result<u64> {
        Ok(0)
    }
    fn rows(&self, _: u64, _: usize) -> io::Result<Vec<LedgerRow>> {
        Ok(Vec::new())
    }
    fn price(&self, _: &str, _: u64) -> io::Result<Option<PriceVersionRow>> {
        Ok(None)
    }
}

fuzz_target!(|data: &[u8]| {
    let whole = reconciled(data, data.len().max(1));
    assert_eq!(whole, reconciled(data, 1));
    assert_eq!(whole, reconciled(data, 7));
});

/// What the file comes to, read so many bytes at a time.
fn reconciled(data: &[u8], window: usize) -> Result<Reconciled, String> {
    let mut pass = Reconciler::new(Asked::default()).map_err(|error| error.to_string())?;
    pass.read(BufReader::with_capacity(window, data)).map_err(|error| error.to_string())?;
    pass.compare(&Nothing, &|| false).map_err(|error| error.to_string())
}

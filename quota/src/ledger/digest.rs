//! A ledger as bytes that are the same whenever it is: for searches that must know a state again.

use tollgate_proto::state::v1::LedgerMetaRow;

use super::{Ledger, rows};

impl Ledger {
    /// Everything that it will ever act upon, in one order: its rows, without what is only counted for metrics.
    pub(crate) fn digest(&self, mut out: impl FnMut(&[u8])) {
        let LedgerMetaRow { last_time_us, next_epoch, sweep_cursor, age_us, stamp_us, .. } = self.meta;
        for (key, value) in self.image().into_rows().filter(|(key, _)| *key != rows::meta_key()) {
            out(&key);
            out(&value);
        }
        let acted_upon = [last_time_us, next_epoch, sweep_cursor.into(), age_us, stamp_us];
        acted_upon.iter().for_each(|it| out(&it.to_be_bytes()));
    }
}

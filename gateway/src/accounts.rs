//! What the data plane asks about limits without reserving: stated here, answered where the ledger is known.

use tollgate_model::{Name, Timestamp};
use tollgate_quota::Standing;

/// The limits' accounts as this node knows them.
pub trait Accounts: Send + Sync + 'static {
    /// How these accounts (a limit and the values of its `per`) stand, by the last that was applied here. Those that
    /// this node does not know are left out. Never waits for the log: a look, cheap enough for every refused request.
    fn standings(&self, accounts: &[(Name, Vec<String>)]) -> Vec<Standing>;

    /// What of an account is not used, whoever holds it or has it in hand. None where this node does not know it.
    fn unused(&self, limit: &Name, key: &[String]) -> Option<u64>;

    /// Log time, as far as this node knows: late, never early. None before it knows.
    fn log_time(&self) -> Option<Timestamp>;
}

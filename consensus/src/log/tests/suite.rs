//! openraft's own tests of a log.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::machine::Machine;
use super::never_fatal;
use crate::log::LogStore;
use crate::types::TypeConfig;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a directory");
        let log = LogStore::open(&dir.path().join("log"), never_fatal()).expect("an empty directory");
        Ok((dir, log, Machine::default()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).await.expect("the suite passes");
}

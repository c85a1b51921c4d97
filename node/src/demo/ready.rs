//! The ready file: where everything of a demo is, for scripts and tests.

use std::{fs, path::Path};

use anyhow::Context;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Ready {
    pub(super) nodes: Vec<ReadyNode>,
    pub(super) providers: Vec<ReadyProvider>,
    pub(super) admin_token: String,
    pub(super) consumers: Vec<ReadyConsumer>,
}

#[derive(Serialize)]
pub(super) struct ReadyNode {
    pub(super) id: u64,
    pub(super) zone: String,
    pub(super) http: String,
    pub(super) admin: String,
    pub(super) pid: u32,
    pub(super) data_dir: String,
    pub(super) config: String,
}

#[derive(Serialize)]
pub(super) struct ReadyProvider {
    pub(super) name: String,
    pub(super) url: String,
}

#[derive(Serialize)]
pub(super) struct ReadyConsumer {
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) api_key: String,
}

impl Ready {
    /// Writes the file under a temporary name and renames it, so that whoever sees it sees all of it.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&temporary, path))
            .with_context(|| format!("can't write the ready file {}", path.display()))
    }
}

//! The unmodified SDKs, through a node, to a provider. `TOLLGATE_SDK_PYTHON` names a Python that has `openai` and
//! `anthropic`.

use std::env;

use tokio::process::Command;
use tollgate_chaos_tests::{Cluster, Outcome, Plan, resources::api_key};

use crate::matrix::say;

const PYTHON: &str = "TOLLGATE_SDK_PYTHON";

#[tokio::test]
async fn the_unmodified_sdks_are_served() -> Outcome {
    let Some(python) = env::var_os(PYTHON) else {
        say("SKIPPED: the SDKs are not tried; set TOLLGATE_SDK_PYTHON to a Python that has `openai` and `anthropic`");
        return Ok(());
    };
    let cluster = Cluster::with(Plan { nodes: 1, ..Plan::default() }).await?;
    let _provider = cluster.with_standard(&[("alice", Some(1_000_000))]).await?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk/check.py");
    let key = api_key("alice");
    let run =
        Command::new(python).args([script, &cluster.origins()[0], &key, "mock-1"]).kill_on_drop(true).output().await?;
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}{}", String::from_utf8_lossy(&run.stderr));
    Ok(())
}

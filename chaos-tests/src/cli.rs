//! The program's verbs, as a person or a script runs them.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::Context;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, process::Command, time};

use crate::tollgate;

/// A verb that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(90);

/// What a verb did.
#[derive(Clone, Debug)]
pub struct Run {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// The same, if the verb did what it was asked for.
    ///
    /// # Errors
    /// It said no: its code and its words.
    pub fn ok(self) -> anyhow::Result<Run> {
        anyhow::ensure!(self.code == 0, "exit code {}: {}{}", self.code, self.stderr, self.stdout);
        Ok(self)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// The verb failed, or did not print JSON.
    pub fn json(self) -> anyhow::Result<Value> {
        let run = self.ok()?;
        serde_json::from_str(&run.stdout).with_context(|| format!("not JSON: {}", run.stdout))
    }
}

/// Runs verbs against some nodes with some token.
#[derive(Clone, Debug)]
pub struct Cli {
    /// `TOLLGATE_ADMIN`.
    pub admin: String,
    /// `TOLLGATE_TOKEN`.
    pub token: String,
}

impl Cli {
    /// Runs a verb.
    ///
    /// # Errors
    /// The program could not be started or does not end. A verb that fails is a [`Run`].
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<Run> {
        self.run_with(args, "").await
    }

    /// Runs a verb that reads standard input.
    ///
    /// # Errors
    /// As for [`Cli::run`].
    pub async fn run_with(&self, args: &[&str], input: &str) -> anyhow::Result<Run> {
        let mut command = Command::new(tollgate());
        command.args(args).env("TOLLGATE_ADMIN", &self.admin).env("TOLLGATE_TOKEN", &self.token);
        finish(command, input).await.with_context(|| format!("tollgate {}", args.join(" ")))
    }

    /// Applies resources: one atomic change.
    ///
    /// # Errors
    /// It was refused, or its outcome is unknown.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<Run> {
        self.run_with(&["apply", "-f", "-"], yaml).await?.ok()
    }

    /// Applies resources, and returns when every live node serves them.
    ///
    /// # Errors
    /// It was refused, or its outcome is unknown.
    pub async fn apply_and_wait(&self, yaml: &str) -> anyhow::Result<Run> {
        self.run_with(&["apply", "-f", "-", "--wait"], yaml).await?.ok()
    }

    /// The rows that a verb prints with `-o json`.
    ///
    /// # Errors
    /// It failed, or did not print a list.
    pub async fn rows(&self, args: &[&str]) -> anyhow::Result<Vec<Value>> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        match self.run(&args).await?.json()? {
            Value::Array(rows) => Ok(rows),
            one @ Value::Object(_) => Ok(vec![one]),
            other => anyhow::bail!("not a list: {other}"),
        }
    }
}

impl Run {
    /// Runs the program without any cluster, in `dir`: `check`, or a `run` that must refuse.
    ///
    /// # Errors
    /// It could not be started or does not end.
    pub async fn offline(args: &[&str], dir: &Path, env: &[(&str, &str)]) -> anyhow::Result<Run> {
        let mut command = Command::new(tollgate());
        command.args(args).current_dir(dir).env_remove("TOLLGATE_ADMIN").env_remove("TOLLGATE_TOKEN");
        command.envs(env.iter().copied());
        finish(command, "").await
    }
}

async fn finish(mut command: Command, input: &str) -> anyhow::Result<Run> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("can't start the program")?;
    let mut stdin = child.stdin.take().context("standard input is a pipe")?;
    let feed = async move {
        // A verb may end without having read it all.
        let _ = stdin.write_all(input.as_bytes()).await;
    };
    let run = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = time::timeout(LIMIT, run).await.context("the verb does not end")??;
    Ok(Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

//! The ready file: where everything of a demo is, for scripts and tests.

use std::{fs, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use serde::Serialize;

/// Removes the file of an earlier demo, so that whoever waits for it waits for this one.
///
/// # Errors
/// When the file could not be written either.
pub(super) fn make_way(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    anyhow::ensure!(folder.is_dir(), "--ready-file: {} is not a folder", folder.display());
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("--ready-file: can't replace {}", path.display()))
        }
        _ => Ok(()),
    }
}

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
    /// Writes the file under a temporary name and renames it, so that whoever sees it sees all of it. It holds the admin
    /// token and every API key: it is for its owner alone.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
        let text = serde_json::to_vec_pretty(self)?;
        write_private(&temporary, &text)
            .and_then(|()| fs::rename(&temporary, path))
            .with_context(|| format!("can't write the ready file {}", path.display()))
    }
}

fn write_private(path: &Path, text: &[u8]) -> io::Result<()> {
    // Whatever an earlier process of this number left may be open to others.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_ready_file_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ready.json");
        fs::write(file.with_extension(format!("tmp-{}", std::process::id())), "left by another").unwrap();
        let ready =
            Ready { nodes: Vec::new(), providers: Vec::new(), admin_token: "secret".into(), consumers: Vec::new() };
        ready.write(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&file).unwrap().contains("secret"));
    }

    #[test]
    fn an_old_ready_file_goes_and_a_folder_that_is_not_there_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ready.json");
        fs::write(&file, "old").unwrap();
        make_way(&file).unwrap();
        assert!(!file.exists());
        make_way(&file).unwrap();
        let absent = make_way(&dir.path().join("absent/ready.json")).unwrap_err();
        assert!(absent.to_string().contains("absent is not a folder"), "{absent}");
        assert!(make_way(dir.path()).unwrap_err().to_string().contains("can't replace"));
    }
}

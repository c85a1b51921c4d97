//! Where a bill is written: standard output, or a file that is there once it is complete.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use tokio::{fs::File, io::AsyncWriteExt};

/// What is written so far.
pub(super) enum Target {
    Stdout,
    File(Unfinished),
}

/// A file under another name. Dropped, it is gone.
pub(super) struct Unfinished {
    file: File,
    named: PathBuf,
    path: PathBuf,
    finished: bool,
}

impl Target {
    /// Standard output, or a file in a folder that is there.
    pub(super) async fn open(output: Option<PathBuf>) -> anyhow::Result<Target> {
        let Some(path) = output else { return Ok(Target::Stdout) };
        let name = path.file_name().with_context(|| format!("--output {}: is no file", path.display()))?;
        anyhow::ensure!(!path.is_dir(), "--output {}: is a folder", path.display());
        let named = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = File::options().write(true).create_new(true).open(&named).await;
        let file = file.with_context(|| format!("can't write {}", named.display()))?;
        Ok(Target::File(Unfinished { file, named, path, finished: false }))
    }

    /// Writes all of it, as far as the system says that it is written.
    pub(super) async fn write(&mut self, data: Vec<u8>) -> anyhow::Result<()> {
        match self {
            // Whoever reads it may take their time.
            Target::Stdout => tokio::task::spawn_blocking(move || {
                let mut out = io::stdout().lock();
                out.write_all(&data)?;
                out.flush()
            })
            .await
            .context("standard output")??,
            Target::File(to) => {
                to.file.write_all(&data).await.with_context(|| to.cant_write())?;
                to.file.flush().await.with_context(|| to.cant_write())?;
            }
        }
        Ok(())
    }

    /// It is complete: durable, and then under its name.
    pub(super) async fn finish(self) -> anyhow::Result<()> {
        let Target::File(mut to) = self else { return Ok(()) };
        to.file.sync_all().await.with_context(|| to.cant_write())?;
        tokio::fs::rename(&to.named, &to.path).await.with_context(|| to.cant_write())?;
        to.finished = true;
        sync_folder(&to.path).await.with_context(|| to.cant_write())
    }
}

impl Unfinished {
    fn cant_write(&self) -> String {
        format!("can't write {}", self.path.display())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = std::fs::remove_file(&self.named)
        {
            anstream::eprintln!("tollgate: {} is left: {error}", self.named.display());
        }
    }
}

async fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).await?.sync_all().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_file_is_there_once_it_is_complete_and_otherwise_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bill.csv");
        std::fs::write(&path, "the last one").unwrap();
        let mut target = Target::open(Some(path.clone())).await.unwrap();
        target.write(b"half".to_vec()).await.unwrap();
        assert_eq!(names(folder.path()).len(), 2);
        drop(target);
        assert_eq!(
            (names(folder.path()), std::fs::read(&path).unwrap()),
            (vec!["bill.csv".to_owned()], b"the last one".to_vec())
        );
        let mut target = Target::open(Some(path.clone())).await.unwrap();
        target.write(b"all ".to_vec()).await.unwrap();
        target.write(b"of it".to_vec()).await.unwrap();
        target.finish().await.unwrap();
        assert_eq!(
            (names(folder.path()), std::fs::read(&path).unwrap()),
            (vec!["bill.csv".to_owned()], b"all of it".to_vec())
        );
        for wrong in [folder.path().to_owned(), folder.path().join("no/such.csv"), PathBuf::from("/")] {
            assert!(Target::open(Some(wrong)).await.is_err());
        }
    }
}

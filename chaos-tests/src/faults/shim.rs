//! A disk whose flushes fail or take long, for one process: `fsync.c`, compiled at test time, before the C library's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use tempfile::TempDir;

const SOURCE: &str = include_str!("fsync.c");

/// What the disk does from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Works.
    Healthy,
    /// Every flush fails with an input/output error.
    Failing,
    /// Every flush takes so much longer.
    Slow(Duration),
}

/// The compiled shim, and the file that steers it.
#[derive(Debug)]
pub struct Shim {
    dir: TempDir,
}

impl Shim {
    /// Compiles it with the system's C compiler.
    ///
    /// # Errors
    /// There is none, or it refuses.
    pub fn build() -> anyhow::Result<Shim> {
        let dir = tempfile::Builder::new().prefix("tollgate-shim-").tempdir()?;
        compile(SOURCE, &dir.path().join("fsync.so"))?;
        let shim = Shim { dir };
        shim.set(Disk::Healthy)?;
        Ok(shim)
    }

    /// Environment for a process that shall meet this disk.
    pub fn env(&self) -> Vec<(String, String)> {
        let library = self.dir.path().join("fsync.so");
        vec![
            ("LD_PRELOAD".into(), library.to_string_lossy().into_owned()),
            ("TOLLGATE_SHIM".into(), self.control().to_string_lossy().into_owned()),
        ]
    }

    /// Changes what the disk does, at once.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn set(&self, disk: Disk) -> anyhow::Result<()> {
        let text = match disk {
            Disk::Healthy => "ok".to_owned(),
            Disk::Failing => "eio".to_owned(),
            Disk::Slow(time) => format!("slow {}", time.as_millis()),
        };
        let new = self.dir.path().join("control.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.control())?)
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }
}

/// Makes a library that stands before the C library's functions.
pub(super) fn compile(source: &str, library: &Path) -> anyhow::Result<()> {
    let file = library.with_extension("c");
    fs::write(&file, source)?;
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(library)
        .arg(&file)
        .args(["-ldl", "-pthread"])
        .output();
    let output = output.context("there is no C compiler `cc`")?;
    anyhow::ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_behind_the_shim_sees_its_flush_fail() {
        let shim = Shim::build().unwrap();
        let file = shim.dir.path().join("some.file");
        let flush = || {
            // `dd conv=fsync` is the one flush that every system has a command for.
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/zero", "bs=1", "count=1", "conv=fsync", "status=none"])
                .arg(format!("of={}", file.display()));
            dd.envs(shim.env()).output().unwrap().status.success()
        };
        assert!(flush());
        shim.set(Disk::Failing).unwrap();
        assert!(!flush());
        shim.set(Disk::Slow(Duration::from_millis(1))).unwrap();
        assert!(flush());
    }
}

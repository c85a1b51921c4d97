//! A bound on the memory of one process: a control group (version 1). Needs the right to make one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const ROOT: &str = "/sys/fs/cgroup/memory";

/// A process in it that wants more than the bound is killed. Gone when it is dropped, after its processes.
#[derive(Debug)]
pub struct MemoryCage(PathBuf);

impl MemoryCage {
    /// `None` without the right to make one, or where the system counts memory in another way.
    pub fn build(bytes: u64) -> Option<MemoryCage> {
        let dir = Path::new(ROOT).join(format!("tollgate-test-{:016x}", rand::random::<u64>()));
        fs::create_dir(&dir).ok()?;
        let cage = MemoryCage(dir);
        cage.limit(bytes).is_ok().then_some(cage)
    }

    /// Changes the bound.
    ///
    /// # Errors
    /// The processes in it use more already.
    pub fn limit(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.0.join("memory.limit_in_bytes"), bytes.to_string())
    }

    /// A program that runs `program` in it from its first moment on, so that it can see its bound; written into `dir`.
    ///
    /// # Errors
    /// It can't be written.
    pub fn program(&self, program: &Path, dir: &Path) -> io::Result<PathBuf> {
        let script = dir.join("caged");
        let (procs, program) = (self.0.join("cgroup.procs"), program.display());
        fs::write(&script, format!("#!/bin/sh\necho $$ > '{}' && exec '{program}' \"$@\"\n", procs.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        Ok(script)
    }

    /// Puts a process in, with all its threads. What it uses already is not counted.
    ///
    /// # Errors
    /// It is gone.
    pub fn put(&self, pid: u32) -> io::Result<()> {
        fs::write(self.0.join("cgroup.procs"), pid.to_string())
    }

    /// The most that was used.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn peak(&self) -> anyhow::Result<u64> {
        Ok(fs::read_to_string(self.0.join("memory.max_usage_in_bytes"))?.trim().parse()?)
    }
}

impl Drop for MemoryCage {
    fn drop(&mut self) {
        // Only an empty one can be removed: its processes go back to where they would be without it.
        let inside = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ = fs::write(Path::new(ROOT).join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

//! A small disk of its own for a directory. Needs the right to mount.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A tmpfs of some megabytes at a directory. Gone when it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None` without the right to.
    pub fn mount(at: &Path, mebibytes: u32) -> Option<SmallDisk> {
        tmpfs(at, &format!("size={mebibytes}m")).then(|| SmallDisk(at.to_owned()))
    }

    /// Makes it larger, with what is on it.
    ///
    /// # Errors
    /// The system refuses.
    pub fn grow(&self, mebibytes: u32) -> anyhow::Result<()> {
        anyhow::ensure!(tmpfs(&self.0, &format!("remount,size={mebibytes}m")), "the disk does not grow");
        Ok(())
    }
}

fn tmpfs(at: &Path, options: &str) -> bool {
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
    mounted.is_ok_and(|output| output.status.success())
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the node may be ending still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

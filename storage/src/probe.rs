//! What the disk's own `fdatasync` costs: the figure to put beside a commit latency.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use crate::disk::{Disk, RealDisk, write_full};

/// How long a write and its `fdatasync` took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// The median.
    pub p50: Duration,
    /// Of a hundred, the second slowest.
    pub p99: Duration,
    /// The slowest.
    pub max: Duration,
}

/// Writes `rounds` blocks of `bytes` to a preallocated file in `dir`, each followed by `fdatasync`, and removes it.
///
/// # Errors
/// What the file system says.
pub fn probe_fdatasync(dir: &Path, rounds: u32, bytes: usize) -> io::Result<Probe> {
    let path = dir.join(format!("fdatasync-probe-{}", std::process::id()));
    let result = measure(&path, rounds.max(1), bytes);
    fs::remove_file(&path)?;
    result
}

fn measure(path: &Path, rounds: u32, bytes: usize) -> io::Result<Probe> {
    let file = RealDisk.file(path, true)?;
    file.allocate(u64::from(rounds) * bytes as u64)?;
    file.sync_data()?;
    let block = vec![0x5a; bytes];
    let mut took = Vec::with_capacity(rounds as usize);
    for round in 0..u64::from(rounds) {
        let start = Instant::now();
        write_full(&*file, &block, round * bytes as u64)?;
        file.sync_data()?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    let of_hundred = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    Ok(Probe { p50: of_hundred(50), p99: of_hundred(99), max: of_hundred(100) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_measures_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let probe = probe_fdatasync(dir.path(), 5, 1024).unwrap();
        assert!(probe.p50 <= probe.p99 && probe.p99 <= probe.max && probe.max > Duration::ZERO);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

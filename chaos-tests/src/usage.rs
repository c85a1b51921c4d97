//! What a process has used of the machine, as Linux tells it.

use std::{fs, time::Duration};

use anyhow::Context;

/// The unit of `/proc/PID/stat`, the same on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process with all its threads so far, in user and kernel; in steps of 10 ms.
///
/// # Errors
/// There is no such process.
pub fn processor_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may hold anything: user and kernel time are the 12th and 13th field.
    let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
    let mut ticks = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        ticks += field.parse::<u32>()?;
    }
    Ok(TICK * ticks)
}

/// Resident memory of a process now, in bytes.
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most that it ever was.
///
/// # Errors
/// There is no such process.
pub fn most_resident(pid: u32) -> anyhow::Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, figure: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(figure)).context("a process has memory")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1_024)
}

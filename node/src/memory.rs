//! How much memory the process may use, so that what it takes on of callers fits into it: a node sheds before it is killed.
//!
//! A control group bounds all that are in it and below it, so the least bound from the process's own group up to the mount counts:
//! `memory.max` of version 2, `memory.limit_in_bytes` of version 1 (cgroups(7),
//! <https://docs.kernel.org/admin-guide/cgroup-v2.html>, <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>).

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Who bounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The file that says so.
    ControlGroup(PathBuf),
    Machine,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlGroup(file) => file.display().fmt(f),
            Self::Machine => f.write_str("the machine"),
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) bytes: u64,
    pub(crate) by: By,
}

/// The process's own; none where the system does not tell.
pub(crate) fn found() -> Option<Memory> {
    find(|path| std::fs::read_to_string(path).ok())
}

/// The same of a system whose files are read so.
fn find(read: impl Fn(&Path) -> Option<String>) -> Option<Memory> {
    let machine = read(Path::new("/proc/meminfo")).as_deref().and_then(total);
    let mut least = machine.map(|bytes| Memory { bytes, by: By::Machine });
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    for file in mounts.lines().filter_map(Mount::parse).flat_map(|mount| mount.files(&groups)) {
        // Version 1 says that there is no bound by a number that no machine has: above the machine's it is none.
        let bytes = read(&file).and_then(|text| text.trim().parse().ok());
        if let Some(bytes) = bytes.filter(|bytes| least.as_ref().is_none_or(|least| *bytes < least.bytes)) {
            least = Some(Memory { bytes, by: By::ControlGroup(file) });
        }
    }
    least
}

/// `MemTotal:       24574292 kB`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1_024)
}

/// A hierarchy of groups that memory is bounded in.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    /// The group that is seen at `at`.
    root: &'a str,
    at: &'a str,
    is_v2: bool,
}

impl<'a> Mount<'a> {
    /// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)); none of another file system, or of other controllers.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, at) = (mount.next()?, mount.next()?);
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        let is_v2 = kind == "cgroup2";
        let is_of_memory = is_v2 || kind == "cgroup" && options.split(',').any(|option| option == "memory");
        is_of_memory.then_some(Self { root, at, is_v2 })
    }

    /// Where the bound of the process's group stands, and those of all above it that are to be seen here.
    fn files(&self, groups: &str) -> Vec<PathBuf> {
        let name = if self.is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        // A group outside of what is mounted, as in a container that shares the host's names, has its bound at the mount itself.
        let group = groups.lines().find_map(|line| self.group(line)).unwrap_or_default();
        let below = Path::new(group).strip_prefix(self.root).unwrap_or(Path::new(""));
        below.ancestors().map(|group| Path::new(self.at).join(group).join(name)).collect()
    }

    /// `4:memory:/of/the/process`, `0::/of/the/process`.
    fn group<'g>(&self, line: &'g str) -> Option<&'g str> {
        let (_, line) = line.split_once(':')?;
        let (controllers, group) = line.split_once(':')?;
        let is_ours = if self.is_v2 { controllers.is_empty() } else { controllers.split(',').any(|it| it == "memory") };
        is_ours.then_some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("/proc/meminfo", "MemTotal:       24574292 kB\nMemFree:        17825792 kB\n");
    const MACHINE: u64 = 24_574_292 * 1_024;
    const V1: &str = "36 32 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      37 32 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";
    const V2: &str = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn of(files: &[(&str, &str)]) -> Option<(u64, String)> {
        let read = |path: &Path| {
            let file = files.iter().chain([&MEMINFO]).find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| (*text).to_owned())
        };
        find(read).map(|memory| (memory.bytes, memory.by.to_string()))
    }

    fn by(bytes: u64, by: &str) -> Option<(u64, String)> {
        Some((bytes, by.to_owned()))
    }

    #[test]
    fn version_2_is_bounded_by_the_least_of_all_above() {
        let (groups, mounts) = (("/proc/self/cgroup", "0::/pods/a/b\n"), ("/proc/self/mountinfo", V2));
        let own = ("/sys/fs/cgroup/pods/a/b/memory.max", "max\n");
        let above = ("/sys/fs/cgroup/pods/memory.max", "536870912\n");
        let more = ("/sys/fs/cgroup/pods/a/memory.max", "1073741824\n");
        assert_eq!(of(&[groups, mounts, own, above, more]), by(512 << 20, above.0));
        assert_eq!(of(&[groups, mounts, own]), by(MACHINE, "the machine"));
        let tight = ("/sys/fs/cgroup/pods/a/b/memory.max", "1000000");
        assert_eq!(of(&[groups, mounts, tight, above]), by(1_000_000, tight.0));
    }

    #[test]
    fn version_1_has_a_number_for_no_bound() {
        let (groups, mounts) =
            (("/proc/self/cgroup", "5:cpu,cpuacct:/c\n4:memory:/m\n0::/\n"), ("/proc/self/mountinfo", V1));
        let none = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(of(&[groups, mounts, none]), by(MACHINE, "the machine"));
        let own = ("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "268435456\n");
        assert_eq!(of(&[groups, mounts, none, own]), by(256 << 20, own.0));
        let both = [V2.replace("/sys/fs/cgroup ", "/sys/fs/cgroup/unified "), V1.to_owned()].concat();
        assert_eq!(of(&[groups, ("/proc/self/mountinfo", &both), own]), by(256 << 20, own.0), "both are mounted");
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount() {
        let mounts = V1.replacen("0:32 / ", "0:32 /docker/ab ", 1);
        let own = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
        for group in ["4:memory:/docker/ab\n", "4:memory:/another\n", "4:memory:/\n", ""] {
            assert_eq!(
                of(&[("/proc/self/cgroup", group), ("/proc/self/mountinfo", &mounts), own]),
                by(512 << 20, own.0)
            );
        }
        let below = ("/sys/fs/cgroup/memory/in/memory.limit_in_bytes", "1048576\n");
        let files = [("/proc/self/cgroup", "4:memory:/docker/ab/in\n"), ("/proc/self/mountinfo", &mounts), own, below];
        assert_eq!(of(&files), by(1 << 20, below.0));
    }

    #[test]
    fn what_nobody_tells_is_not_known() {
        assert_eq!(find(|_| None), None);
        assert_eq!(of(&[("/proc/self/mountinfo", "a - b\n1 2 3 - cgroup2\n")]), by(MACHINE, "the machine"));
        assert_eq!(total("MemTotal: many kB"), None);
        assert!(found().is_some_and(|memory| memory.bytes > 1 << 20), "this machine tells");
    }
}

//! Named places, before and after every step that has to survive a crash, at which a test build ends the process.
//!
//! With the feature `failpoints`, `TOLLGATE_FAILPOINT=name` aborts the process when it first comes to that place, and
//! `TOLLGATE_FAILPOINT=name:n` when it comes there for the nth time: nothing is flushed, no destructor runs. As all logs of a
//! process come to the same places, `thread/name:n` counts one thread alone: `raft-log` or `journal`. Without the
//! feature a place costs nothing and the variable is not read. A place is marked by `failpoint!("name")`, in whichever crate;
//! every name is in the list below, and in the code once.

/// Every place there is, in the order in which what is written goes to the disk.
pub const FAILPOINTS: &[&str] = &[
    // Who the node is.
    "identity.before-sync",
    "identity.before-rename",
    "identity.after-rename",
    // A segment of a log comes.
    "segment.before-sync",
    "segment.before-rename",
    "segment.after-rename",
    "segment.before-trim",
    // What queues for the Raft log.
    "vote.before-write",
    "append.before-write",
    "truncate.before-write",
    "purge.before-write",
    // Any log.
    "log.before-write",
    "log.before-sync",
    "log.after-sync",
    "log.after-watermark",
    // What was queued is on the disk, and nobody was told.
    "vote.before-acknowledge",
    "append.before-acknowledge",
    "purge.before-drop",
    // Old segments go.
    "drop.before-mark",
    "drop.after-mark",
    "drop.after-remove",
    // What is committed changes the state.
    "apply.before",
    "apply.after",
    "apply.before-answer",
    "state.before-batch",
    "state.after-batch",
    "state.before-flush",
    "state.before-image",
    "state.before-digest",
    // A snapshot, made here or sent by the leader.
    "snapshot.before-write",
    "snapshot.before-sync",
    "snapshot.before-rename",
    "snapshot.after-rename",
    "snapshot.before-drop",
    "snapshot.before-restore",
    "snapshot.after-restore",
];

/// Marks a place, which must be in [`FAILPOINTS`].
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoints::reach($name)
    };
}

#[cfg(not(feature = "failpoints"))]
#[doc(hidden)]
#[inline(always)]
pub fn reach(_: &'static str) {}

#[cfg(feature = "failpoints")]
pub use on::{hits, reach};

#[cfg(feature = "failpoints")]
mod on {
    use std::{collections::BTreeMap, env, sync::LazyLock, thread};

    use parking_lot::Mutex;

    const VARIABLE: &str = "TOLLGATE_FAILPOINT";

    static HITS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

    static FATAL: LazyLock<Option<Fatal>> = LazyLock::new(|| env::var(VARIABLE).ok().map(|text| Fatal::parse(&text)));

    /// Counts that the process came to a place, and ends it there if that is what was asked for.
    #[doc(hidden)]
    pub fn reach(name: &'static str) {
        *HITS.lock().entry(name).or_default() += 1;
        let Some(fatal) = FATAL.as_ref().filter(|fatal| fatal.is_at(name)) else { return };
        let mut left = fatal.left.lock();
        *left = left.saturating_sub(1);
        if *left == 0 {
            tracing::error!(name, "failpoint reached, ending the process");
            std::process::abort();
        }
    }

    /// How often the process came to a place.
    #[must_use]
    pub fn hits(name: &str) -> u64 {
        HITS.lock().get(name).copied().unwrap_or(0)
    }

    /// Where the process ends.
    struct Fatal {
        thread: Option<String>,
        name: String,
        /// How often it is still to be come to.
        left: Mutex<u64>,
    }

    impl Fatal {
        /// A name that does not exist would never end anything, and a test with it would prove nothing.
        fn parse(text: &str) -> Fatal {
            let (thread, place) = text.split_once('/').map_or((None, text), |(thread, place)| (Some(thread), place));
            let (name, nth) = place.split_once(':').unwrap_or((place, "1"));
            assert!(super::FAILPOINTS.contains(&name), "{VARIABLE}: there is no failpoint `{name}`");
            let nth = nth.parse().unwrap_or(0);
            assert!(nth > 0, "{VARIABLE}: `{text}` does not end with a number from 1 on");
            Fatal { thread: thread.map(str::to_owned), name: name.to_owned(), left: Mutex::new(nth) }
        }

        fn is_at(&self, name: &str) -> bool {
            self.name == name && self.thread.as_deref().is_none_or(|it| thread::current().name() == Some(it))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_place_ends_the_process_the_nth_time() {
            let run = |fatal: &str| {
                let mut child = std::process::Command::new(env::current_exe().unwrap());
                child.args(["--exact", "failpoints::on::tests::child", "--ignored", "--nocapture"]);
                let output = child.env(VARIABLE, fatal).output().unwrap();
                (output.status.success(), String::from_utf8_lossy(&output.stdout).matches("passed by").count())
            };
            assert_eq!(run("apply.before:3"), (false, 2));
            assert_eq!(run("apply.before"), (false, 0));
            assert_eq!(run("apply.after"), (true, 5));
            assert_eq!(run("elsewhere/apply.before"), (true, 5));
            assert_eq!(run("here/apply.before:2"), (false, 1));
        }

        #[test]
        #[ignore = "the process that the test above starts"]
        fn child() {
            let passes = || {
                for _ in 0..5 {
                    reach("apply.before");
                    println!("passed by");
                }
            };
            thread::Builder::new().name("here".into()).spawn(passes).unwrap().join().unwrap();
        }

        #[test]
        fn a_place_is_named_with_or_without_a_thread_and_a_number() {
            let parsed = |text: &str| {
                let Fatal { thread, name, left } = Fatal::parse(text);
                (thread.unwrap_or_default(), name, left.into_inner())
            };
            let expected = |thread: &str, name: &str, nth: u64| (thread.to_owned(), name.to_owned(), nth);
            assert_eq!(parsed("apply.before"), expected("", "apply.before", 1));
            assert_eq!(parsed("log.after-sync:12"), expected("", "log.after-sync", 12));
            assert_eq!(parsed("journal/log.after-sync:2"), expected("journal", "log.after-sync", 2));
            for wrong in ["", "apply.never", "apply.before:", "apply.before:0", "apply.before:x", "journal/"] {
                assert!(std::panic::catch_unwind(|| Fatal::parse(wrong)).is_err(), "{wrong}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    /// Counts the places that are marked in the sources below `dir`.
    fn count(dir: &Path, found: &mut BTreeMap<String, usize>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                count(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                for rest in text.split("failpoint!(\"").skip(1) {
                    let name = rest.split('"').next().unwrap();
                    *found.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }

    #[test]
    fn every_name_is_in_the_code_once_and_every_place_is_in_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = BTreeMap::new();
        for member in fs::read_dir(root).unwrap() {
            let sources = member.unwrap().path().join("src");
            if sources.is_dir() {
                count(&sources, &mut found);
            }
        }
        found.remove("name"); // of the documentation
        let listed: BTreeMap<String, usize> = FAILPOINTS.iter().map(|name| ((*name).to_owned(), 1)).collect();
        assert_eq!(found, listed);
        assert_eq!(listed.len(), FAILPOINTS.len(), "a name is in the list twice");
    }
}

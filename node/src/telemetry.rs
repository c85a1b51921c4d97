//! Structured logs on standard error: for people on a terminal, JSON lines anywhere else.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// openraft logs every message at `info` and every attempt at a dead peer at `warn`: what an operator must know of elections
/// and members, consensus and the cluster's status say. Two of its targets say nothing but that its core has ended, an
/// error for each stream and each message of a peer that comes while a node stops: that the core has ended, and why, its own
/// target says where it is an error.
const QUIET: &str = "openraft=error,openraft::raft::stream_append=off,openraft::raft::raft_inner=off";

/// Installs the subscriber. `given` was checked with the configuration.
pub(crate) fn init(given: &str) {
    let builder = fmt().with_env_filter(filter(given)).with_writer(io::stderr);
    if io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// What is given, which goes before our own where it names the same target.
fn filter(given: &str) -> EnvFilter {
    EnvFilter::try_new(format!("{QUIET},{given}")).unwrap_or_else(|_| EnvFilter::new("info"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{error, subscriber::with_default};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(given: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = fmt().with_env_filter(filter(given)).with_writer(move || writer.clone()).finish();
        with_default(subscriber, || {
            error!(target: "openraft::raft::stream_append", "the stream of a peer");
            error!(target: "openraft::raft::raft_inner", "the message of a peer");
            error!(target: "openraft::core::raft_core", "a real one");
            error!("ours");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_stop_is_no_error_of_the_streams_and_messages_that_it_ends() {
        let text = logged("info");
        assert!(!text.contains("of a peer"), "{text}");
        assert!(text.contains("a real one") && text.contains("ours"), "{text}");
        assert!(logged("info,openraft::raft::stream_append=error").contains("the stream of a peer"));
    }
}

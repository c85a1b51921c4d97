//! How often each thing may happen.

/// What may happen in one story. Everything else happens as often as there is cause for it: frames are sent and applied,
/// entries reach the replicas, requests end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What the limit holds.
    pub capacity: u64,
    /// What it is changed to when it is edited.
    pub edited: u64,
    /// The story begins when node 1 holds a unit in the log and has a lease.
    pub warm: bool,
    /// Nodes have standing shares: the story begins with a roster.
    pub standing: bool,
    /// Requests, of one unit or of two.
    pub requests: u8,
    /// Frames that are lost, or whose answer is.
    pub losses: u8,
    /// Frames that are applied, and come once more, however late.
    pub repeats: u8,
    /// Processes that die or are cut off, and are replaced by the next.
    pub crashes: u8,
    /// Changes of the limit.
    pub edits: u8,
    /// Windows that end.
    pub turns: u8,
    /// Times that a node waits no longer for others.
    pub silences: u8,
    /// Replicas that are given a snapshot.
    pub snapshots: u8,
    /// Callers that leave without an answer.
    pub cancels: u8,
    /// Times that waiting requests begin anew.
    pub retries: u8,
}

impl Budget {
    /// Nothing but requests.
    const NOTHING: Self = Self {
        capacity: 4,
        edited: 3,
        warm: false,
        standing: false,
        requests: 0,
        losses: 0,
        repeats: 0,
        crashes: 0,
        edits: 0,
        turns: 0,
        silences: 0,
        snapshots: 0,
        cancels: 0,
        retries: 0,
    };

    /// What is searched by name: in each some things may happen together, and in the last everything.
    pub const SCOPES: [(&'static str, Self); 11] = [
        ("crash", Self { requests: 2, crashes: 1, ..Self::NOTHING }),
        ("crash with a window that ends", Self { requests: 2, crashes: 1, turns: 1, ..Self::NOTHING }),
        ("repeats", Self { capacity: 5, warm: true, requests: 2, repeats: 1, losses: 1, ..Self::NOTHING }),
        ("edits", Self { requests: 2, edits: 1, retries: 1, ..Self::NOTHING }),
        ("silence", Self { capacity: 3, warm: true, requests: 2, silences: 1, retries: 1, ..Self::NOTHING }),
        ("snapshots", Self { requests: 2, snapshots: 1, turns: 1, ..Self::NOTHING }),
        ("cancels", Self { requests: 3, cancels: 1, losses: 1, ..Self::NOTHING }),
        ("shares", Self { standing: true, requests: 3, losses: 1, ..Self::NOTHING }),
        ("shares and a crash", Self { standing: true, requests: 2, crashes: 1, turns: 2, ..Self::NOTHING }),
        ("shares and edits", Self { standing: true, requests: 2, edits: 1, turns: 2, retries: 1, ..Self::NOTHING }),
        (
            "everything",
            Self {
                requests: 3,
                losses: 1,
                repeats: 1,
                crashes: 1,
                edits: 1,
                turns: 1,
                silences: 1,
                snapshots: 1,
                cancels: 1,
                retries: 2,
                ..Self::NOTHING
            },
        ),
    ];
}

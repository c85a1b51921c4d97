//! What goes wrong, by kind.

/// One kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process dies, and the next one of its node starts.
    Crash,
    /// As a crash, and the disk is gone.
    LostDisk,
    /// What was journaled takes long to be on the disk.
    SlowDisk,
    /// A process is cut off, and goes on while the next one of its node starts.
    Zombie,
    /// A process is cut off for a while.
    Partition,
    /// Nobody writes the log for a while.
    LeaderOutage,
    /// A limit is raised or lowered.
    Edit,
    /// A limit is deleted, and made again later.
    Delete,
    /// A replica falls behind and is given a snapshot.
    Snapshot,
    /// A frame or an answer never arrives.
    LostMessage,
    /// A frame arrives twice.
    DuplicateMessage,
    /// A frame, an answer or an entry takes up to seconds.
    LateMessage,
    /// A node that is dead, or only cut off, is given up by an operator; its disk may come back.
    GivenUp,
    /// A caller leaves its stream, whatever that is waiting for.
    LeftStream,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Crash,
        Self::LostDisk,
        Self::SlowDisk,
        Self::Zombie,
        Self::Partition,
        Self::LeaderOutage,
        Self::Edit,
        Self::Delete,
        Self::Snapshot,
        Self::LostMessage,
        Self::DuplicateMessage,
        Self::LateMessage,
        Self::GivenUp,
        Self::LeftStream,
    ];

    /// As it is called in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::LostDisk => "lostDisk",
            Self::SlowDisk => "slowDisk",
            Self::Zombie => "zombie",
            Self::Partition => "partition",
            Self::LeaderOutage => "leaderOutage",
            Self::Edit => "edit",
            Self::Delete => "delete",
            Self::Snapshot => "snapshot",
            Self::LostMessage => "lostMessage",
            Self::DuplicateMessage => "duplicateMessage",
            Self::LateMessage => "lateMessage",
            Self::GivenUp => "givenUp",
            Self::LeftStream => "leftStream",
        }
    }
}

/// Some kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults(u16);

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self(0);
    /// Everything goes wrong.
    pub const ALL: Self = Self((1 << Fault::ALL.len()) - 1);

    /// This kind alone.
    #[must_use]
    pub fn only(fault: Fault) -> Self {
        Self(1 << fault as u16)
    }

    /// Whether this kind is one of them.
    #[must_use]
    pub fn has(self, fault: Fault) -> bool {
        self.0 >> fault as u16 & 1 == 1
    }

    /// All of them, and this kind.
    #[must_use]
    pub fn and(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u16)
    }

    /// All of them but one.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u16))
    }

    /// Those that are there.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }
}

/// How often each kind happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts([u64; Fault::ALL.len()]);

impl Counts {
    /// How often this kind happened.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    pub(super) fn note(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    pub(super) fn add(&mut self, next: &Self) {
        self.0.iter_mut().zip(next.0).for_each(|(sum, next)| *sum += next);
    }
}

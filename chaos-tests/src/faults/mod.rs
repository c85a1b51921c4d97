//! Ways to break things on one machine, all but the small disk, the network and the memory cage without root.

mod clock;
mod disk;
pub mod files;
mod memory;
mod network;
mod relay;
mod shim;
pub mod stranger;

pub use clock::{Skew, SkewedClock};
pub use disk::SmallDisk;
pub use memory::MemoryCage;
pub use network::Network;
pub use relay::{Mode, Relay};
pub use shim::{Disk, Shim};

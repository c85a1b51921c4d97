//! Ways to break things on one machine, all but the small disk and the network without root.

mod disk;
pub mod files;
mod network;
mod relay;
mod shim;
pub mod stranger;

pub use disk::SmallDisk;
pub use network::Network;
pub use relay::{Mode, Relay};
pub use shim::{Disk, Shim};

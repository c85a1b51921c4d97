//! Ways to break things on one machine, all but the small disk without root.

mod disk;
pub mod files;
mod relay;
mod shim;
pub mod stranger;

pub use disk::SmallDisk;
pub use relay::{Mode, Relay};
pub use shim::{Disk, Shim};

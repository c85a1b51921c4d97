//! Ways to break things on one machine, without root.

pub mod files;
mod relay;
mod shim;
pub mod stranger;

pub use relay::{Mode, Relay};
pub use shim::{Disk, Shim};

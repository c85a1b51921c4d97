//! The wire contracts: resources, the admin API, the peer protocol and the replicated commands. Generated code, no logic.
#![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]

/// Every message and service, for gRPC reflection and for checking YAML against the schema.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

mod shared;

pub use shared::{Sharable, Shared};

/// Resources: what users declare (`apiVersion: tollgate/v1`).
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/tollgate.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/tollgate.v1.serde.rs"));
}

/// The admin API.
pub mod admin {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/tollgate.admin.v1.rs"));
        include!(concat!(env!("OUT_DIR"), "/tollgate.admin.v1.serde.rs"));
    }
}

/// What nodes say to one another.
pub mod peer {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/tollgate.peer.v1.rs"));
    }
}

/// What the replicated log carries.
pub mod state {
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/tollgate.state.v1.rs"));
    }
}

//! Bad input: each with its clear answer, and the node well afterwards.

mod certificates;
mod node_config;
mod requests;
mod resources;
mod sockets;

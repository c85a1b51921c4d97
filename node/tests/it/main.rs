//! Tests of the whole program and of the workspace's own rules.

mod usage;
mod workspace;

//! What the public face of the crate promises, from outside.

mod allocations;

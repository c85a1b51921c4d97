//! Which route a request belongs to.

mod conditions;
mod matcher;
mod patterns;
mod plan;
mod rendezvous;
mod split;
mod table;

#[cfg(test)]
mod tests;

pub(crate) use conditions::{Facts, Model, decode};
pub use matcher::{Asked, Matcher};
pub(crate) use plan::Plan;
pub(crate) use split::Asker;
pub(crate) use table::{Found, Table};

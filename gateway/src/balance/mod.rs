//! Who has a request: pure functions of weights, of what is known of endpoints, of numbers drawn and times handed in.
//!
//! A [`Lineup`] is made anew whenever what is known changes, which is seldom, and read by every request: selecting from it
//! locks nothing and allocates nothing. Not here: where the knowledge comes from (`upstream::endpoints`).

mod backoff;
mod budget;
mod draw;
mod ejection;
mod hash;
mod health;
mod lineup;
mod maglev;
mod outliers;
mod resting;
mod ring;
mod rotation;
mod table;
#[cfg(test)]
mod tests;
mod window;
mod zones;

pub(crate) use backoff::{jittered, pause};
pub(crate) use budget::{Load, Others};
pub(crate) use draw::{Draw, Tried};
pub(crate) use ejection::{Ejection, may_eject};
pub(crate) use hash::hash;
pub(crate) use health::Checks;
pub(crate) use lineup::{Fitness, Lineup, Member, Terms};
pub(crate) use outliers::{Rate, Times, fails_too_often, percentile, slow};
pub(crate) use resting::{Probed, Resting, Said};
pub(crate) use rotation::Rotation;
pub(crate) use table::Tables;
pub(crate) use window::{PARTS, Tally, Window};
pub(crate) use zones::tier;

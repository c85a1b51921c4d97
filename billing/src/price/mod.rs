//! Prices: what tokens cost, and which figures are a request's.
//!
//! A [`Tariff`] is one version of a price, ready to reckon with; the [`PriceBook`] has every version that a request may still
//! be billed by. All is integers: money in pico-units of its currency, rates in pico-units for one token, so that products
//! and sums are exact and the same on every node, in whatever order they are made.

mod book;
mod tariff;

pub use book::{Asked, BookError, PriceBook};
pub use tariff::{Line, Meter, Quantities, Tariff};

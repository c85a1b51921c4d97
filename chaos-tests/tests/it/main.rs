//! Real node processes: what must work, what must be refused, and what must be survived.

mod bad_days;
mod bad_input;
mod calls;
mod config;
mod cost;
mod demo;
mod fallback;
mod full_disk;
mod isolated;
mod leaving;
mod limit;
mod limit_verbs;
mod matrix;
mod membership;
mod metrics;
mod mix;
mod overshoot;
mod prices;
mod race;
mod sdk;
mod secrets;
mod shares;
mod sliding;
mod starting;
mod unavailable;
mod zones;

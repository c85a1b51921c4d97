//! Process clusters, faults, workload, history, and the checkers that judge them.
//!
//! A test starts real node processes ([`Cluster`]) against providers that count what they serve ([`Provider`]), puts load
//! on them ([`workload`]), breaks something ([`faults`]), and asks the checkers ([`checkers`]) what came of it. The judge is
//! never the product's own word alone: tokens are the provider's, writes and reads are what clients saw, with times.
//!
//! Everything random comes from one seed, printed with the figures; `TOLLGATE_SEED` repeats a run, `TOLLGATE_NIGHTLY`
//! makes it longer. The program under test is `TOLLGATE_BIN`, or is built once in the profile of the test.

pub mod accounts;
pub mod admin;
mod binary;
pub mod burst;
pub mod calls;
pub mod careful;
pub mod checkers;
mod cli;
pub mod client;
mod clock;
mod cluster;
pub mod faults;
pub mod figure;
pub mod history;
mod pki;
mod ports;
mod provider;
mod report;
pub mod resources;
mod seed;
pub mod usage;
mod wait;
pub mod workload;

pub use binary::{tollgate, tollgate_with_failpoints};
pub use cli::{Cli, Run};
pub use clock::{day_with_room, now};
pub use cluster::{Cluster, Demo, DemoConsumer, DemoNode, DemoProvider, Node, Plan};
pub use pki::{Ca, Identity};
pub use ports::free_port;
pub use provider::{Provider, ProviderProcess};
pub use report::{Failed, Figures, Outcome, nightly};
pub use seed::Seed;
pub use wait::{SOON, eventually, eventually_within};

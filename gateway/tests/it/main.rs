//! The gateway on real sockets, between raw clients and upstreams that behave as told.

#![expect(clippy::unwrap_used, reason = "fixtures fail their test by panicking")]

mod again;
mod ai;
mod anthropic;
mod at_most;
mod balancing;
mod clients;
mod cluster;
mod cost;
mod durable;
mod early_answers;
mod fit;
mod growing;
mod grpc;
mod grpc_web;
mod h2c;
mod health;
mod http2;
mod https;
mod keys;
mod limit_keys;
mod limit_modes;
mod limits;
mod mirror;
mod no_file;
mod outliers;
mod pki;
mod proxy;
mod refusals;
mod retries;
mod rewrites;
mod services;
mod shedding;
mod split;
mod tls;
mod trace_context;
mod traffic;
mod unread;
mod untaken;
mod upstream;
mod websockets;

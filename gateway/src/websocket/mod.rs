//! WebSockets: asked for over HTTP/1.1 (RFC 6455) or HTTP/2 (RFC 8441), always over HTTP/1.1 upstream.
//!
//! A request that asks for one is routed, authenticated and admitted as any other. Once its upstream has agreed, bytes go
//! both ways as they are, and what the request holds of limits is held until its connection closes. An upstream that does
//! not agree gives an ordinary answer.
//!
//! Not here: what may follow a head that asks (`listener::switch`), and what messages mean. Those of services nobody reads; of a
//! realtime session `ai::realtime` does (`frames.rs`).

mod frames;
mod handshake;
mod relay;
mod tunnel;

pub(crate) use frames::{Fault, Message, Opcode, Reader};
pub(crate) use handshake::{Handshake, Wish};
pub(crate) use relay::{Patience, Side};
pub(crate) use tunnel::Tunnel;

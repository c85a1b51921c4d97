//! Ports that nothing else takes.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Mutex, PoisonError},
};

use rand::RngExt;

/// Below the range that systems give to outgoing connections, so that a port stays free while its node is down.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port on loopback that is free now, and that this process gives to nobody else.
///
/// # Panics
/// A thousand ports in a row are busy.
pub fn free_port() -> SocketAddr {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1_000 {
        let port = rand::rng().random_range(PORTS);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if !taken.contains(&port) && TcpListener::bind(address).is_ok() {
            taken.insert(port);
            return address;
        }
    }
    panic!("no free port on 127.0.0.1 from {} to {}", PORTS.start, PORTS.end);
}

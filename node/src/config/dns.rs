//! `[dns]`: who is asked for the addresses of upstreams, where not whom the system asks.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tollgate_gateway::DnsConfig;

use super::take::Take;

/// The port of name servers (RFC 1035 §4.2).
const PORT: u16 = 53;
/// As many as resolv.conf(5) can name.
const MAX_NAMESERVERS: usize = 3;
/// Shorter than a round trip nothing is answered, longer than that nobody waits.
const TIMEOUTS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_mins(1));

/// What is not said is as the system has it.
pub(super) fn take(take: &mut Take<'_>) -> DnsConfig {
    let mut nameservers: Vec<SocketAddr> = Vec::new();
    for text in take.texts("dns.nameservers") {
        match nameserver(&text) {
            Some(address) => nameservers.push(address),
            None => {
                let fix = "is no name server: write IP or IP:PORT, such as \"10.0.0.2\" or \"[2001:db8::2]:53\"";
                take.refuse("dns.nameservers", &format!("'{text}' {fix}"));
            }
        }
    }
    if nameservers.len() > MAX_NAMESERVERS {
        take.refuse("dns.nameservers", &format!("names {}, more than {MAX_NAMESERVERS}", nameservers.len()));
    }
    let timeout = take.optional_duration("dns.timeout");
    if timeout.is_some_and(|timeout| !(TIMEOUTS.0..=TIMEOUTS.1).contains(&timeout)) {
        take.refuse("dns.timeout", "must be 10ms to 1m: what one lookup may take");
    }
    let prefer_ipv6 = take.choice("dns.prefer", &["ipv4", "ipv6"]) == 1;
    DnsConfig { nameservers, timeout, prefer_ipv6 }
}

fn nameserver(text: &str) -> Option<SocketAddr> {
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)).or_else(|_| text.parse()).ok()?;
    (!address.ip().is_unspecified() && address.port() > 0).then_some(address)
}

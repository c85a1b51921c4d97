//! Networks as people write them: in CIDR notation, or a single address.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a text is no network. Says what was probably meant, where that can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It is something else.
    #[error("is no network: 10.0.0.0/8, 2001:db8::/32 or one address")]
    Malformed,
    /// Some read those as octal.
    #[error("has a number with a leading zero: write {0}")]
    LeadingZero(IpNet),
    /// It names an address within a network: was that meant, or the whole of it?
    #[error("has bits set beyond its prefix: write {0} for the network, or {1} for that address alone")]
    HostBits(IpNet, IpAddr),
}

/// Reads a network, or an address as the network of that address alone.
///
/// # Errors
/// What is wrong with it.
pub fn parse_network(text: &str) -> Result<IpNet, NetworkError> {
    let network = plain(text).ok_or_else(|| {
        let meant = plain(&without_leading_zeros(text)).map(|network| network.trunc());
        meant.map_or(NetworkError::Malformed, NetworkError::LeadingZero)
    })?;
    if network.addr() == network.network() {
        Ok(network)
    } else {
        Err(NetworkError::HostBits(network.trunc(), network.addr()))
    }
}

fn plain(text: &str) -> Option<IpNet> {
    let Some((address, bits)) = text.split_once('/') else { return text.parse::<IpAddr>().ok().map(IpNet::from) };
    let is_number = bits.bytes().all(|byte| byte.is_ascii_digit()) && (bits.len() == 1 || !bits.starts_with('0'));
    IpNet::new(address.parse().ok()?, bits.parse().ok().filter(|_| is_number)?).ok()
}

/// Of the numbers that are decimal: those of an IPv4 address, and the length of a prefix.
fn without_leading_zeros(text: &str) -> String {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let plain = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let address = match address.contains(':') {
        true => address.to_owned(),
        false => address.split('.').map(plain).collect::<Vec<_>>().join("."),
    };
    bits.map_or(address.clone(), |bits| format!("{address}/{}", plain(bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_addresses_are_read() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "2001:db8::/32", "::/0", "::ffff:10.0.0.0/104"] {
            assert_eq!(parse_network(text).unwrap().to_string(), text);
        }
        assert_eq!(parse_network("192.0.2.7").unwrap().to_string(), "192.0.2.7/32");
        assert_eq!(parse_network("2001:db8::1").unwrap().to_string(), "2001:db8::1/128");
    }

    #[test]
    fn what_was_probably_meant_is_named() {
        for (text, problem) in [
            ("203.0.113.5/24", "write 203.0.113.0/24 for the network, or 203.0.113.5 for that address alone"),
            ("2001:db8::1/32", "write 2001:db8::/32 for the network, or 2001:db8::1 for that address alone"),
            ("10.1.2.3/0", "write 0.0.0.0/0 for the network"),
            ("010.0.0.0/8", "leading zero: write 10.0.0.0/8"),
            ("10.00.0.0/8", "leading zero: write 10.0.0.0/8"),
            ("10.0.0.0/08", "leading zero: write 10.0.0.0/8"),
            ("192.0.2.007", "leading zero: write 192.0.2.7/32"),
            ("010.1.2.3/8", "leading zero: write 10.0.0.0/8"),
        ] {
            let error = parse_network(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
        for text in
            ["", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/-1", "0", "example.com", "1:2/3"]
        {
            assert_eq!(parse_network(text), Err(NetworkError::Malformed), "{text}");
        }
    }
}

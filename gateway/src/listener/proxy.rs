//! The PROXY protocol, versions 1 and 2: a proxy in front says, before anything else, whom a connection is from.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Only of peers that are trusted, and of those always: what may
//! or may not be there could be written by whoever connects through them (§5, "must not try to guess").

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// A proxy sends it with the connection's first packet.
const TIMEOUT: Duration = Duration::from_secs(5);

/// §2.1: the longest line, with its end.
const MAX_LINE: usize = 107;
/// §2.2: what begins version 2, and no other protocol.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const FIXED: usize = 16;
/// Addresses and what a proxy adds to them: a few hundred bytes, 216 of them for two paths.
const MAX_REST: usize = 4 * 1024;

/// What is wrong with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("the connection begins with no PROXY header")]
    None,
    #[error("the PROXY header is malformed")]
    Wrong,
    #[error("the PROXY header is too long")]
    TooLong,
}

impl From<Malformed> for io::Error {
    fn from(malformed: Malformed) -> Self {
        Self::new(io::ErrorKind::InvalidData, malformed)
    }
}

/// Whom a connection is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Client(SocketAddr),
    /// The proxy itself, as to see whether we are well.
    Proxy,
    /// A client whose address the proxy can't say.
    Unknown,
}

/// Reads the header, and not a byte more.
///
/// # Errors
/// There is none, it makes no sense, or it takes too long.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Source> {
    timeout(TIMEOUT, header(stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn header(stream: &mut TcpStream) -> io::Result<Source> {
    let mut begin = [0; SIGNATURE.len()]; // the shortest line is longer
    stream.read_exact(&mut begin).await?;
    if begin == SIGNATURE {
        let mut fixed = [0; FIXED - SIGNATURE.len()];
        stream.read_exact(&mut fixed).await?;
        let [version_command, family, length @ ..] = fixed;
        let length = usize::from(u16::from_be_bytes(length));
        if length > MAX_REST {
            return Err(Malformed::TooLong.into());
        }
        let mut rest = vec![0; length];
        stream.read_exact(&mut rest).await?;
        return Ok(version_2(version_command, family, &rest)?);
    }
    if !begin.starts_with(b"PROXY ") {
        return Err(Malformed::None.into());
    }
    let line = rest_of_line(stream, begin.to_vec()).await?;
    Ok(version_1(&line)?)
}

/// Up to the line's end, which is taken as well.
async fn rest_of_line(stream: &mut TcpStream, mut line: Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        // What follows the line is for others: it is looked at, and taken only as far as the line goes.
        let mut seen = [0; MAX_LINE];
        let room = MAX_LINE - line.len();
        let count = stream.peek(&mut seen[..room]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = seen[..count].iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(count);
        stream.read_exact(&mut seen[..taken]).await?;
        line.extend_from_slice(&seen[..taken]);
        if end.is_some() {
            return Ok(line);
        }
        if line.len() == MAX_LINE {
            return Err(Malformed::TooLong.into());
        }
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`
fn version_1(line: &[u8]) -> Result<Source, Malformed> {
    let line = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix("\r\n")).ok_or(Malformed::Wrong)?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().ok_or(Malformed::Wrong)?;
    if family == "UNKNOWN" {
        return Ok(Source::Unknown); // whatever follows
    }
    let words: Vec<&str> = words.collect();
    let [source, destination, port, to_port] = words[..] else { return Err(Malformed::Wrong) };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _) = address(source).zip(address(destination)).ok_or(Malformed::Wrong)?;
    let (port, _) = number(port).zip(number(to_port)).ok_or(Malformed::Wrong)?;
    Ok(Source::Client(SocketAddr::new(source, port)))
}

/// §2.1: without a sign, without zeros in front.
fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn version_2(version_command: u8, family: u8, rest: &[u8]) -> Result<Source, Malformed> {
    match version_command {
        0x20 => return Ok(Source::Proxy), // LOCAL
        0x21 => {}
        _ => return Err(Malformed::Wrong),
    }
    let port = |at: usize| rest.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let source = match family {
        0x11 if rest.len() >= 12 => {
            let [a, b, c, d] = [rest[0], rest[1], rest[2], rest[3]];
            (IpAddr::from([a, b, c, d]), port(8))
        }
        0x21 if rest.len() >= 36 => {
            let address: [u8; 16] = rest[..16].try_into().map_err(|_| Malformed::Wrong)?;
            (IpAddr::from(address), port(32))
        }
        0x00 => return Ok(Source::Unknown), // unspecified
        // A stream of something that has no address here; datagrams make no sense over TCP.
        0x31 if rest.len() >= 216 => return Ok(Source::Unknown),
        _ => return Err(Malformed::Wrong),
    };
    let (address, Some(port)) = source else { return Err(Malformed::Wrong) };
    Ok(Source::Client(SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_says_whom_a_connection_is_from() {
        for (line, from) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Some("192.0.2.1:56324")),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", Some("[2001:db8::1]:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", None),
        ] {
            let from = from.map_or(Source::Unknown, |from| Source::Client(from.parse().unwrap()));
            assert_eq!(version_1(line.as_bytes()), Ok(from), "{line}");
        }
        for line in [
            "PROXY \r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
            "PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n",
            "PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 443\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 1 443\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 443\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 443\r\n",
        ] {
            assert_eq!(version_1(line.as_bytes()), Err(Malformed::Wrong), "{line}");
        }
    }

    #[test]
    fn so_does_version_two() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb, 1, 2, 3];
        assert_eq!(version_2(0x21, 0x11, &four), Ok(Source::Client("192.0.2.1:56324".parse().unwrap())));
        let mut six = [0; 36];
        (six[15], six[33]) = (1, 7);
        assert_eq!(version_2(0x21, 0x21, &six), Ok(Source::Client("[::1]:7".parse().unwrap())));
        assert_eq!(version_2(0x20, 0x11, &four), Ok(Source::Proxy));
        assert_eq!(version_2(0x20, 0, &[]), Ok(Source::Proxy));
        assert_eq!(version_2(0x21, 0, &[1, 2]), Ok(Source::Unknown));
        assert_eq!(version_2(0x21, 0x31, &[0; 216]), Ok(Source::Unknown));
        for (version_command, family, rest) in [
            (0x11, 0x11, &four[..]),
            (0x22, 0x11, &four),
            (0x21, 0x12, &four), // UDP
            (0x21, 0x11, &four[..11]),
            (0x21, 0x21, &four),
            (0x21, 0x31, &four),
            (0x21, 0x41, &four),
        ] {
            assert_eq!(version_2(version_command, family, rest), Err(Malformed::Wrong), "{version_command} {family}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(line in prop::collection::vec(any::<u8>(), 0..120), version in any::<u8>(), family in any::<u8>()) {
            let _ = (version_1(&line), version_2(version, family, &line), version_2(0x21, family, &line));
        }
    }
}

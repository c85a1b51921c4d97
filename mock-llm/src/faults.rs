//! Answers that no client should have to see.

use crate::{
    call::Call,
    dialect,
    exchange::Next,
    http::{Connection, Gone, head},
    knobs::BodyFault,
    plan::Plan,
    witness::{Outcome, Ticket},
};

/// A stand-in for the error page of some proxy in between.
const PAGE: &str =
    "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>\n";
const JSON: &str = "content-type: application/json\r\n";
/// How much of an endless body is written at a time.
const ENDLESS_BYTES: usize = 16 << 10;
/// Headers that no client should accept: 10,000 of a kilobyte.
const HEADERS: usize = 10_000;
/// The unpacked size of the gzip: 1 GiB.
const BOMB_BYTES: u64 = 1 << 30;

/// Whether request number `sequence` is one of those that fail: the same for the same seed.
pub(crate) fn strikes(seed: u64, sequence: u64, ppm: u32) -> bool {
    // SplitMix64: every sequence a new, even draw.
    let mut mix = seed.wrapping_add(sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mix = (mix ^ (mix >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mix = (mix ^ (mix >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mix ^ (mix >> 31)) % 1_000_000 < u64::from(ppm)
}

/// Writes an answer with this fault.
pub(crate) async fn spoil(
    connection: &mut Connection,
    ticket: Ticket,
    fault: BodyFault,
    call: &Call,
    plan: &Plan,
) -> Result<Next, Gone> {
    let body = dialect::answer(call.operation, plan).to_string().into_bytes();
    let length = body.len();
    ticket.answered(200);
    let next = match fault {
        BodyFault::Normal => connection.respond(200, JSON, &body).await.map(|()| Next::Request)?,
        BodyFault::Html => {
            connection.respond(200, "content-type: text/html\r\n", PAGE.as_bytes()).await.map(|()| Next::Request)?
        }
        BodyFault::Truncated => connection.respond(200, JSON, &body[..length / 2]).await.map(|()| Next::Request)?,
        BodyFault::Empty => connection.respond(200, JSON, b"").await.map(|()| Next::Request)?,
        BodyFault::Error => {
            let error = dialect::error(Some(call.operation), 500, "an error in an answer that says 200").to_string();
            connection.respond(200, JSON, error.as_bytes()).await.map(|()| Next::Request)?
        }
        BodyFault::Short => misframed(connection, length + 100, &body).await?,
        BodyFault::Long => misframed(connection, length - length / 4, &body).await?,
        BodyFault::Endless => endless(connection).await?,
        BodyFault::Headers => {
            let line = format!("x-mock-padding: {}\r\n", "a".repeat(1000));
            connection.write(&head(200, &format!("{JSON}{}content-length: 2\r\n", line.repeat(HEADERS)))).await?;
            connection.write(b"{}").await.map(|()| Next::Close)?
        }
        BodyFault::Gzip => {
            let headers = format!("{JSON}content-encoding: gzip\r\n");
            connection.respond(200, &headers, &gzip_of_zeros(BOMB_BYTES)).await.map(|()| Next::Close)?
        }
    };
    ticket.end(Outcome::Spoilt);
    Ok(next)
}

async fn misframed(connection: &mut Connection, claimed: usize, body: &[u8]) -> Result<Next, Gone> {
    let mut bytes = head(200, &format!("{JSON}content-length: {claimed}\r\n"));
    bytes.extend_from_slice(body);
    connection.write(&bytes).await?;
    Ok(Next::Close)
}

/// Valid JSON so far, for ever.
async fn endless(connection: &mut Connection) -> Result<Next, Gone> {
    connection.begin_chunks(200, JSON).await?;
    connection.chunk(b"{\"id\":\"").await?;
    let filler = vec![b'a'; ENDLESS_BYTES];
    loop {
        connection.chunk(&filler).await?;
    }
}

/// A gzip of `length` zeros: one literal, then copies of 258 bytes in fixed Huffman codes (RFC 1951 §3.2.6), 13 bits each.
fn gzip_of_zeros(length: u64) -> Vec<u8> {
    let mut bits = Bits { bytes: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255], used: 8 };
    bits.push(0b1, 1); // the last block
    bits.push(0b01, 2); // fixed codes
    bits.push_code(0b0011_0000, 8); // literal 0
    for _ in 0..(length - 1) / 258 {
        bits.push_code(0b1100_0101, 8); // length 258
        bits.push_code(0b00000, 5); // distance 1
    }
    bits.push_code(0, 7); // end of block
    bits.bytes.extend_from_slice(&[0; 8]); // a checksum that nobody should live to see
    bits.bytes
}

/// Bits, least significant first.
struct Bits {
    bytes: Vec<u8>,
    /// Of the last byte.
    used: u32,
}

impl Bits {
    fn push(&mut self, value: u32, count: u32) {
        for place in 0..count {
            if self.used == 8 {
                self.bytes.push(0);
                self.used = 0;
            }
            if value >> place & 1 == 1 {
                *self.bytes.last_mut().expect("the header stands before the bits") |= 1 << self.used;
            }
            self.used += 1;
        }
    }

    /// Huffman codes go the other way round.
    fn push_code(&mut self, code: u32, count: u32) {
        self.push(code.reverse_bits() >> (32 - count), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_as_many_requests_fail_as_the_rate_says_and_always_the_same() {
        let struck = |seed| (1..=10_000).filter(|&n| strikes(seed, n, 250_000)).collect::<Vec<_>>();
        let first = struck(1);
        assert!((2_300..2_700).contains(&first.len()), "{}", first.len());
        assert_eq!(first, struck(1));
        assert_ne!(first, struck(2));
        assert!((1..=1_000).all(|n| strikes(3, n, 1_000_000)));
        assert!(!(1..=1_000).any(|n| strikes(3, n, 0)));
    }

    #[test]
    fn the_gzip_is_small_and_well_formed_at_its_start() {
        let bomb = gzip_of_zeros(BOMB_BYTES);
        assert!(bomb.len() < 8 << 20, "{}", bomb.len());
        assert_eq!(bomb[..3], [0x1f, 0x8b, 8]);
        assert!(gzip_of_zeros(1).len() < 24);
    }
}

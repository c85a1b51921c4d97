//! A WebSocket's frames, by hand (RFC 6455): whole messages in, one frame out for each.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::http::Gone;

const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The most bytes of a message.
const MESSAGE_BYTES: usize = 64 << 20;

/// What a client has sent.
#[derive(Debug)]
pub(super) enum Incoming {
    Text(Vec<u8>),
    Ping(Vec<u8>),
    Close(Vec<u8>),
}

/// A connection that was switched.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    input: Vec<u8>,
    /// Fragments of a text.
    text: Vec<u8>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, input: Vec<u8>) -> Socket {
        Socket { stream, input, text: Vec::new() }
    }

    /// The next message. Nothing is lost when this is dropped before it is done.
    pub(super) async fn read(&mut self) -> Result<Incoming, Gone> {
        loop {
            if let Some((first, data)) = self.frame()? {
                match first & 0xf {
                    0x0 | 0x1 => {
                        self.text.extend_from_slice(&data);
                        if first & 0x80 != 0 {
                            return Ok(Incoming::Text(std::mem::take(&mut self.text)));
                        }
                    }
                    0x8 => return Ok(Incoming::Close(data)),
                    0x9 => return Ok(Incoming::Ping(data)),
                    0xa => {}
                    _ => return Err(Gone),
                }
                continue;
            }
            self.input.reserve(16 << 10);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Gone);
            }
        }
    }

    /// A frame of a client's, which is masked.
    fn frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, Gone> {
        let &[first, second, ref rest @ ..] = self.input.as_slice() else { return Ok(None) };
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(Gone);
        }
        let wide = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < wide + 4 {
            return Ok(None);
        }
        let told = rest[..wide].iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
        let length = if wide == 0 { usize::from(second & 0x7f) } else { usize::try_from(told).map_err(|_| Gone)? };
        if length > MESSAGE_BYTES || self.text.len() > MESSAGE_BYTES {
            return Err(Gone);
        }
        let begin = wide + 4;
        let Some(masked) = rest.get(begin..begin + length) else { return Ok(None) };
        let mask = &rest[wide..begin];
        let data = masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        self.input.drain(..2 + begin + length);
        Ok(Some((first, data)))
    }

    pub(super) async fn text(&mut self, text: &str) -> Result<(), Gone> {
        Ok(self.send(0x1, text.as_bytes()).await?)
    }

    pub(super) async fn pong(&mut self, data: &[u8]) -> Result<(), Gone> {
        Ok(self.send(0xa, data).await?)
    }

    /// Answers a close and ends the connection.
    pub(super) async fn close(&mut self, data: &[u8]) -> Result<(), Gone> {
        self.send(0x8, data).await?;
        Ok(self.stream.shutdown().await?)
    }

    async fn send(&mut self, opcode: u8, data: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | opcode];
        match (u8::try_from(data.len()), u16::try_from(data.len())) {
            (Ok(short), _) if short < 126 => frame.push(short),
            (_, Ok(medium)) => {
                frame.push(126);
                frame.extend_from_slice(&medium.to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend_from_slice(&(data.len() as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(data);
        self.stream.write_all(&frame).await
    }
}

/// What shows that a key was read.
pub(super) fn accept(key: &str) -> String {
    base64(&sha1(format!("{key}{GUID}").as_bytes()))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | usize::from(three.get(at).copied().unwrap_or(0)));
        for digit in 0..4 {
            let known = digit <= three.len();
            text.push(if known { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    text
}

/// FIPS 180-4 §6.1.
fn sha1(message: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        for at in 16..80 {
            words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (at, word) in words.into_iter().enumerate() {
            let (f, k) = match at / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = [a.rotate_left(5), f, e, k, word].into_iter().fold(0, u32::wrapping_add);
            (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut digest = [0; 20];
    for (bytes, word) in digest.chunks_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_in_rfc_6455() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn digests_of_every_length_of_padding_are_as_published() {
        let hex = |message: &[u8]| sha1(message).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(b""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(
            hex(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1"
        );
    }
}

//! Frames of a WebSocket (RFC 6455 §5), read into whole messages and written again: for whoever has to know what goes by.
//!
//! No extension is agreed to, so reserved bits are a fault. A message that came in fragments goes on as one frame (§5.4).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// The most of a control frame (§5.5).
const MAX_CONTROL_BYTES: usize = 125;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn bits(self) -> u8 {
        match self {
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    /// None for the rest of a message.
    fn of(bits: u8) -> Result<Option<Self>, Fault> {
        Ok(Some(match bits {
            0x0 => return Ok(None),
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return Err(Fault::Protocol),
        }))
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A whole message, or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) opcode: Opcode,
    pub(crate) data: Bytes,
}

impl Message {
    pub(crate) fn text(data: impl Into<Bytes>) -> Self {
        Self { opcode: Opcode::Text, data: data.into() }
    }

    /// A close frame; of its reason what fits.
    pub(crate) fn close(code: u16, reason: &str) -> Self {
        let cut = reason.floor_char_boundary(MAX_CONTROL_BYTES - 2);
        let data = [&code.to_be_bytes()[..], &reason.as_bytes()[..cut]].concat();
        Self { opcode: Opcode::Close, data: data.into() }
    }

    /// Writes it as one frame; what goes to a server is masked (§5.3).
    pub(crate) fn write(&self, mask: Option<[u8; 4]>, out: &mut BytesMut) {
        let length = self.data.len();
        let masked = if mask.is_some() { MASKED } else { 0 };
        out.reserve(length + 14);
        out.put_u8(FIN | self.opcode.bits());
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(short), _) if length <= MAX_CONTROL_BYTES => out.put_u8(masked | short),
            (_, Ok(medium)) => {
                out.put_u8(masked | 126);
                out.put_u16(medium);
            }
            _ => {
                out.put_u8(masked | 127);
                out.put_u64(length as u64);
            }
        }
        if let Some(mask) = mask {
            out.put_slice(&mask);
        }
        let begin = out.len();
        out.put_slice(&self.data);
        if let Some(mask) = mask {
            apply(mask, &mut out[begin..]);
        }
    }
}

fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    bytes.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Why a connection can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("a frame is malformed")]
    Protocol,
    #[error("a text is not UTF-8")]
    NoText,
    #[error("a message is too large")]
    TooLarge,
}

impl Fault {
    /// As a close frame says it (§7.4.1).
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::Protocol => 1002,
            Self::NoText => 1007,
            Self::TooLarge => 1009,
        }
    }
}

/// Reads what one side sends.
#[derive(Debug)]
pub(crate) struct Reader {
    /// What has arrived and is not read yet: a frame at the most, and what came with its end.
    pub(crate) input: BytesMut,
    /// The message whose fragments are coming.
    begun: Option<(Opcode, BytesMut)>,
    /// Clients mask what they send, servers do not (§5.1).
    from_client: bool,
    max_bytes: usize,
}

struct Head {
    fin: bool,
    opcode: Option<Opcode>,
    mask: Option<[u8; 4]>,
    head_bytes: usize,
    length: usize,
}

impl Reader {
    pub(crate) fn new(from_client: bool, max_bytes: usize) -> Self {
        Self { input: BytesMut::new(), begun: None, from_client, max_bytes }
    }

    /// The next message that is whole. None where more has to arrive.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, Fault> {
        loop {
            let Some(head) = self.head()? else { return Ok(None) };
            if self.input.len() - head.head_bytes < head.length {
                return Ok(None);
            }
            self.input.advance(head.head_bytes);
            let mut data = self.input.split_to(head.length);
            if let Some(mask) = head.mask {
                apply(mask, &mut data);
            }
            if let Some(message) = self.take(&head, data)? {
                return Ok(Some(message));
            }
        }
    }

    fn take(&mut self, head: &Head, data: BytesMut) -> Result<Option<Message>, Fault> {
        let (opcode, data) = match (head.opcode, self.begun.take()) {
            (Some(control), begun) if control.is_control() => {
                self.begun = begun;
                (control, data)
            }
            (Some(opcode), None) => (opcode, data),
            (None, Some((opcode, mut begun))) => {
                begun.extend_from_slice(&data);
                (opcode, begun)
            }
            (Some(_), Some(_)) | (None, None) => return Err(Fault::Protocol),
        };
        if !head.fin {
            self.begun = Some((opcode, data));
            return Ok(None);
        }
        let is_fine = match opcode {
            Opcode::Text => std::str::from_utf8(&data).is_ok(),
            Opcode::Close => data.len() != 1 && std::str::from_utf8(data.get(2..).unwrap_or_default()).is_ok(),
            _ => true,
        };
        if is_fine { Ok(Some(Message { opcode, data: data.freeze() })) } else { Err(Fault::NoText) }
    }

    fn head(&self) -> Result<Option<Head>, Fault> {
        let &[first, second, ref rest @ ..] = &self.input[..] else { return Ok(None) };
        let (fin, is_masked) = (first & FIN != 0, second & MASKED != 0);
        let opcode = Opcode::of(first & 0xf)?;
        let short = usize::from(second & 0x7f);
        let is_control = opcode.is_some_and(Opcode::is_control);
        if first & 0x70 != 0 || is_masked != self.from_client || is_control && (!fin || short > MAX_CONTROL_BYTES) {
            return Err(Fault::Protocol);
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((told, rest)) = rest.split_at_checked(extended) else { return Ok(None) };
        let told = told.iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
        let length = if extended == 0 { short } else { usize::try_from(told).map_err(|_| Fault::TooLarge)? };
        let before = self.begun.as_ref().filter(|_| !is_control).map_or(0, |(_, begun)| begun.len());
        if !is_control && length.saturating_add(before) > self.max_bytes {
            return Err(Fault::TooLarge);
        }
        let mask = match (is_masked, rest.first_chunk::<4>()) {
            (false, _) => None,
            (true, Some(mask)) => Some(*mask),
            (true, None) => return Ok(None),
        };
        let head_bytes = 2 + extended + if is_masked { 4 } else { 0 };
        Ok(Some(Head { fin, opcode, mask, head_bytes, length }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(from_client: bool) -> Reader {
        Reader::new(from_client, 70_000)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_arrives(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            times in prop_oneof![Just(1_usize), Just(230)],
            mask: Option<[u8; 4]>,
            step in 1_usize..5_000,
        ) {
            let message = Message { opcode: Opcode::Binary, data: data.repeat(times).into() };
            let (mut bytes, mut reader) = (BytesMut::new(), reader(mask.is_some()));
            message.write(mask, &mut bytes);
            let last = (bytes.len() - 1) / step;
            for (at, piece) in bytes.chunks(step).enumerate() {
                reader.input.extend_from_slice(piece);
                prop_assert_eq!(reader.next().unwrap(), (at == last).then(|| message.clone()));
            }
            prop_assert!(reader.input.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_is_allowed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::new(bytes.len() % 2 == 0, 40);
            reader.input.extend_from_slice(&bytes);
            while let Ok(Some(message)) = reader.next() {
                prop_assert!(message.data.len() <= MAX_CONTROL_BYTES);
            }
            prop_assert!(reader.begun.is_none_or(|(_, begun)| begun.len() <= 40));
        }
    }

    #[test]
    fn fragments_become_one_message_and_control_frames_between_them_go_first() {
        let mut reader = reader(false);
        reader.input.extend_from_slice(b"\x01\x02he\x89\x01p\x00\x01l\x80\x02lo");
        let mut next = || reader.next().unwrap().unwrap();
        assert_eq!(next(), Message { opcode: Opcode::Ping, data: Bytes::from_static(b"p") });
        assert_eq!(next(), Message::text(&b"hello"[..]));
    }

    #[test]
    fn what_the_protocol_does_not_allow_ends_it() {
        for (bytes, fault) in [
            (&b"\xc1\x01x"[..], Fault::Protocol), // a bit that an extension would have
            (b"\x83\x00", Fault::Protocol),
            (b"\x81\x81abcdx", Fault::Protocol), // a server masks nothing
            (b"\x09\x00", Fault::Protocol),      // half a ping
            (b"\x89\x7e\x00\x7e", Fault::Protocol),
            (b"\x80\x01x", Fault::Protocol), // the rest of nothing
            (b"\x01\x01x\x81\x01y", Fault::Protocol),
            (b"\x88\x01x", Fault::NoText),
            (b"\x81\x01\xff", Fault::NoText),
            (b"\x82\x7f\x00\x00\x00\x00\x00\x01\x11\x71", Fault::TooLarge),
            (b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", Fault::TooLarge),
        ] {
            let mut reader = reader(false);
            reader.input.extend_from_slice(bytes);
            assert_eq!(reader.next(), Err(fault), "{bytes:x?}");
        }
        let mut unmasked = reader(true);
        unmasked.input.extend_from_slice(b"\x81\x01x");
        assert_eq!(unmasked.next(), Err(Fault::Protocol));
        let (mut small, mut bytes) = (Reader::new(false, 3), BytesMut::new());
        small.input.extend_from_slice(b"\x01\x02he\x80\x02lo");
        assert_eq!(small.next(), Err(Fault::TooLarge));
        Message::close(1008, &"é".repeat(90)).write(None, &mut bytes);
        let mut reader = reader(false);
        reader.input = bytes;
        assert_eq!(reader.next().unwrap().unwrap().data.len(), 124);
    }
}

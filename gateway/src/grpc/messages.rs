//! A call's messages, followed as they go by: each has a flag, a length of four bytes, and so many bytes.

/// Before each message.
const PREFIX_BYTES: usize = 5;

/// Follows one direction of a call. Pure.
///
/// A call may go on for ever, so that no bound on its whole body fits; each message is held in memory by whoever reads it, so
/// each is bounded.
#[derive(Debug)]
pub(crate) struct Messages {
    limit: u64,
    prefix: [u8; PREFIX_BYTES],
    filled: usize,
    left: u64,
}

/// A message is larger than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Messages {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, prefix: [0; PREFIX_BYTES], filled: 0, left: 0 }
    }

    pub(crate) fn go_by(&mut self, mut bytes: &[u8]) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (PREFIX_BYTES - self.filled).min(bytes.len());
            self.prefix[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                (self.filled, self.left) = (0, u64::from(u32::from_be_bytes(length)));
                if self.left > self.limit {
                    return Err(TooLarge);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_bounded_however_they_are_cut_and_however_many_there_are() {
        let message = |length: u8| [&[0, 0, 0, 0, length][..], &vec![0xff; usize::from(length)]].concat();
        let good = [message(3), message(0), message(10), message(10)].concat();
        let bad = [good.as_slice(), &[1, 0, 0, 0, 11]].concat();
        for cut in 1..bad.len() {
            let follow = |bytes: &[u8]| {
                let mut messages = Messages::new(10);
                bytes.chunks(cut).try_for_each(|piece| messages.go_by(piece))
            };
            assert_eq!((follow(&good), follow(&bad)), (Ok(()), Err(TooLarge)), "cut at {cut}");
        }
    }
}

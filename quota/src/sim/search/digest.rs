//! By what a state is known again: 128 bits of FNV-1a over everything that it will ever act upon.

use std::fmt::{self, Debug, Write as _};

#[derive(Debug, Clone, Copy)]
pub(super) struct Digest(u128);

impl Digest {
    pub(super) fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
        self.0 = (self.0 ^ 0x100).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    }

    pub(super) fn say(&mut self, it: impl Debug) {
        write!(self, "{it:?}").expect("a digest takes every text");
    }

    pub(super) fn end(self) -> u128 {
        self.0
    }
}

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

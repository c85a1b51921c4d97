//! Amounts as rows have them: 16 bytes, signed, big-endian, and nothing for 0.

/// The bytes of an amount, in pico-units.
#[must_use]
pub fn bytes(pico: i128) -> Vec<u8> {
    if pico == 0 { Vec::new() } else { pico.to_be_bytes().to_vec() }
}

/// The amount that bytes are; none where they are none.
pub(crate) fn pico(bytes: &[u8]) -> Option<i128> {
    if bytes.is_empty() { Some(0) } else { Some(i128::from_be_bytes(bytes.try_into().ok()?)) }
}

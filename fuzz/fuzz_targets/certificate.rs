//! Certificates as somebody may make them: DER that an authority signed without looking, and PEM that somebody pasted.
//!
//! It is read or refused, and what is passed on of it is one header value in visible ASCII, whatever stood in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate_model::{
    Secret,
    tls::{Authorities, Chain, Described, private_key, staple},
};

fuzz_target!(|data: &[u8]| {
    if let Ok(described) = Described::read(data) {
        let told = described.forwarded();
        assert!(told.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{told}");
        assert_eq!(told.matches('"').count() % 2, 0, "{told}");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = (Chain::parse(text), Authorities::parse(text), staple(text));
        let _ = private_key(&Secret::new(text.to_owned()));
    }
});

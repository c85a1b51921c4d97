//! Sealed texts and hash texts.
//!
//! `sealed:v1:<key id>:<base64>`: a data key of its own for each secret, sealed under the cluster's sealing key, and the
//! secret sealed under that data key; AES-256-GCM with random nonces, the text before the base64 authenticated with
//! both. `hash:v1:<key id>:<hex>`: a keyed BLAKE3 hash.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroize;

use super::{ClusterKey, Secret, SecretError};

const SEALED: &str = "sealed:v1:";
const HASH: &str = "hash:v1:";
const DATA_KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const WRAPPED_BYTES: usize = NONCE_LEN + DATA_KEY_BYTES + TAG_BYTES;

impl ClusterKey {
    /// Seals a secret: the same secret gives another text each time.
    #[must_use]
    pub fn seal(&self, plain: &str) -> String {
        let head = format!("{SEALED}{}", self.id());
        let mut data_key = [0; DATA_KEY_BYTES];
        fill(&mut data_key);
        let mut bytes = encrypt(self.sealing(), &data_key, head.as_bytes());
        bytes.extend(encrypt(&data_key, plain.as_bytes(), head.as_bytes()));
        data_key.zeroize();
        format!("{head}:{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Opens what [`Self::seal`] sealed.
    ///
    /// # Errors
    /// When it was sealed under another key, or is damaged.
    pub fn open(&self, sealed: &str) -> Result<Secret<String>, SecretError> {
        let (key_id, bytes) = parse_sealed(sealed)?;
        self.expect_own(key_id)?;
        let head = format!("{SEALED}{key_id}");
        let (wrapped, secret) = bytes.split_at_checked(WRAPPED_BYTES).ok_or(SecretError::Damaged)?;
        let data_key = decrypt(self.sealing(), wrapped, head.as_bytes())?;
        let data_key: &[u8; DATA_KEY_BYTES] =
            data_key.expose().as_slice().try_into().map_err(|_| SecretError::Damaged)?;
        let plain = decrypt(data_key, secret, head.as_bytes())?;
        let plain = std::str::from_utf8(plain.expose()).map_err(|_| SecretError::Damaged)?;
        Ok(Secret::new(plain.to_owned()))
    }

    /// The text that is kept in place of an API key.
    #[must_use]
    pub fn hash_text(&self, api_key: &str) -> String {
        format!("{HASH}{}:{}", self.id(), hex::encode(self.hash_api_key(api_key)))
    }

    /// That a hash text was made under this key.
    ///
    /// # Errors
    /// When it was made under another key, or is damaged.
    pub fn check_hash(&self, text: &str) -> Result<(), SecretError> {
        let (key_id, _) = parse_hash(text)?;
        self.expect_own(key_id)
    }

    fn expect_own(&self, key_id: &str) -> Result<(), SecretError> {
        if key_id == self.id() {
            return Ok(());
        }
        Err(SecretError::OtherKey { theirs: key_id.to_owned(), ours: self.id().to_owned() })
    }
}

/// The key id and the bytes of a sealed text.
pub(crate) fn parse_sealed(text: &str) -> Result<(&str, Vec<u8>), SecretError> {
    let (key_id, payload) = parts(text, SEALED)?;
    let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| SecretError::Damaged)?;
    if bytes.len() < WRAPPED_BYTES + NONCE_LEN + TAG_BYTES { Err(SecretError::Damaged) } else { Ok((key_id, bytes)) }
}

/// The key id and the hash of a hash text.
pub(crate) fn parse_hash(text: &str) -> Result<(&str, [u8; 32]), SecretError> {
    let (key_id, payload) = parts(text, HASH)?;
    if payload.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(SecretError::Damaged); // one hash, one text: the catalog compares texts
    }
    let mut hash = [0; 32];
    hex::decode_to_slice(payload, &mut hash).map_err(|_| SecretError::Damaged)?;
    Ok((key_id, hash))
}

fn parts<'a>(text: &'a str, prefix: &str) -> Result<(&'a str, &'a str), SecretError> {
    let (key_id, payload) =
        text.strip_prefix(prefix).and_then(|rest| rest.split_once(':')).ok_or(SecretError::Damaged)?;
    let is_id = key_id.len() == 12 && key_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_id { Ok((key_id, payload)) } else { Err(SecretError::Damaged) }
}

fn fill(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).expect("the system has random numbers");
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length"))
}

/// The nonce, the ciphertext and its tag.
fn encrypt(key: &[u8; 32], plain: &[u8], aad: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    fill(&mut nonce);
    let mut text = plain.to_vec();
    cipher(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut text)
        .expect("a secret is far below the cipher's bound");
    [nonce.as_slice(), &text].concat()
}

fn decrypt(key: &[u8; 32], bytes: &[u8], aad: &[u8]) -> Result<Secret<Vec<u8>>, SecretError> {
    let (nonce, text) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(SecretError::Damaged)?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = cipher(key).open_in_place(nonce, Aad::from(aad), &mut text).map_err(|_| SecretError::Damaged)?.len();
    text.truncate(length);
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_sealed_opens_again_and_reads_differently_each_time() {
        let (key, _) = ClusterKey::generate();
        let (one, two) = (key.seal("sk-secret"), key.seal("sk-secret"));
        assert_ne!(one, two);
        assert!(!one.contains("sk-secret"));
        assert_eq!(key.open(&one).unwrap().expose(), "sk-secret");
        assert_eq!(key.open(&two).unwrap().expose(), "sk-secret");
        assert_eq!(key.open(&key.seal("")).unwrap().expose(), "");
    }

    #[test]
    fn another_clusters_key_is_named() {
        let ((ours, _), (theirs, _)) = (ClusterKey::generate(), ClusterKey::generate());
        let error = ours.open(&theirs.seal("x")).unwrap_err();
        assert_eq!(error, SecretError::OtherKey { theirs: theirs.id().into(), ours: ours.id().into() });
        assert!(error.to_string().contains("[cluster] key_file"));
        assert_eq!(ours.check_hash(&theirs.hash_text("x")), Err(error));
        assert_eq!(ours.check_hash(&ours.hash_text("x")), Ok(()));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (key, _) = ClusterKey::generate();
        let sealed = key.seal("sk-secret");
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(key.open(&changed).is_err(), "byte {at}");
            assert!(key.open(&sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let (key, _) = ClusterKey::generate();
        let good = key.hash_text("x");
        for bad in ["", "hash:v1:", "hash:v1:00:00", &good[1..], &good[..good.len() - 1], &good.to_uppercase()] {
            assert_eq!(parse_hash(bad), Err(SecretError::Damaged), "{bad}");
        }
        assert_eq!(parse_hash(&good).unwrap().1, key.hash_api_key("x"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(sealed:v1:[0-9a-f]{12}:)?.{0,200}") {
            let (key, _) = ClusterKey::generate();
            let _ = (key.open(&text), parse_hash(&text));
        }
    }
}

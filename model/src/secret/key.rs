//! The cluster key, and the keys that are derived from it.

use std::{fmt, io, path::Path, sync::Arc};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroize;

use super::Secret;

/// Bytes of the cluster key.
const KEY_BYTES: usize = 32;

/// More than this is no key file; it also bounds what a wrong path (`/dev/zero`) can do.
const MAX_FILE_BYTES: usize = 4096;

/// The key that secrets are sealed under. It is in a file on every node and nowhere else.
#[derive(Clone)]
pub struct ClusterKey(Arc<Derived>);

/// One key for each purpose, so that no output of one says anything about another.
struct Derived {
    id: String,
    sealing: Secret<[u8; KEY_BYTES]>,
    api_keys: Secret<[u8; KEY_BYTES]>,
    tokens: Secret<[u8; KEY_BYTES]>,
    requests: Secret<[u8; KEY_BYTES]>,
    statements: Secret<[u8; KEY_BYTES]>,
}

/// Why there is no cluster key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file could not be read.
    #[error("cannot read the cluster key")]
    Read(#[source] io::Error),
    /// It holds something else.
    #[error("a cluster key is 32 random bytes in base64 (`openssl rand -base64 32`): {0}")]
    Content(String),
}

impl ClusterKey {
    /// Reads the key file: 32 random bytes as base64 text.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        use io::Read;
        let file = std::fs::File::open(path).map_err(KeyFileError::Read)?;
        let mut bytes = Vec::with_capacity(MAX_FILE_BYTES);
        file.take(MAX_FILE_BYTES as u64).read_to_end(&mut bytes).map_err(KeyFileError::Read)?;
        let key = match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text),
            Err(_) => Err(KeyFileError::Content("the file is not text".to_owned())),
        };
        bytes.zeroize();
        key
    }

    /// Reads the text of a key file; white space around it is ignored.
    ///
    /// # Errors
    /// When it is not 32 bytes in base64.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyFileError::Content("the file is empty".to_owned()));
        }
        let mut bytes =
            STANDARD.decode(text).map_err(|_| KeyFileError::Content("the file is not base64".to_owned()))?;
        let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice());
        let length = bytes.len();
        bytes.zeroize();
        let key = key.map_err(|_| KeyFileError::Content(format!("the file holds {length} bytes")))?;
        if key.iter().all(|byte| *byte == key[0]) {
            return Err(KeyFileError::Content("these bytes are not random".to_owned()));
        }
        Ok(Self::derive(&Secret::new(key)))
    }

    /// A new random key, and the text for its file.
    #[must_use]
    pub fn generate() -> (Self, Secret<String>) {
        let mut bytes = [0; KEY_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system has random numbers");
        let master = Secret::new(bytes);
        bytes.zeroize();
        let text = Secret::new(STANDARD.encode(master.expose()) + "\n");
        (Self::derive(&master), text)
    }

    fn derive(master: &Secret<[u8; KEY_BYTES]>) -> Self {
        let derive = |purpose: &str| Secret::new(blake3::derive_key(purpose, master.expose()));
        let id = derive("tollgate 2026 v1: names the cluster key");
        Self(Arc::new(Derived {
            id: hex::encode(&id.expose()[..6]),
            sealing: derive("tollgate 2026 v1: seals secrets"),
            api_keys: derive("tollgate 2026 v1: hashes API keys"),
            tokens: derive("tollgate 2026 v1: hashes admin tokens"),
            requests: derive("tollgate 2026 v1: hashes requests"),
            statements: derive("tollgate 2026 v1: signs statements"),
        }))
    }

    /// Names the key without telling it: twelve hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The keyed hash of a consumer's API key.
    #[must_use]
    pub fn hash_api_key(&self, api_key: &str) -> [u8; 32] {
        *blake3::keyed_hash(self.0.api_keys.expose(), api_key.as_bytes()).as_bytes()
    }

    /// The keyed hash of an admin token.
    #[must_use]
    pub fn hash_token(&self, token: &str) -> [u8; 32] {
        *blake3::keyed_hash(self.0.tokens.expose(), token.as_bytes()).as_bytes()
    }

    /// The keyed hash of a request, which may hold secrets.
    #[must_use]
    pub fn hash_request(&self, request: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(self.0.requests.expose(), request).as_bytes()
    }

    /// The Ed25519 signature of a statement: the same on every node that has the key, at any time.
    #[must_use]
    pub fn sign_statement(&self, said: &[u8]) -> [u8; 64] {
        let signature = self.statements().sign(said);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// The public key by which statements are checked.
    #[must_use]
    pub fn statement_key(&self) -> [u8; 32] {
        self.statements().public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    fn statements(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(self.0.statements.expose()).expect("any 32 bytes are a seed")
    }

    pub(super) fn sealing(&self) -> &[u8; KEY_BYTES] {
        self.0.sealing.expose()
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_read_back() {
        let (key, text) = ClusterKey::generate();
        let file = tempfile();
        std::fs::write(&file, text.expose()).unwrap();
        let again = ClusterKey::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(again.id(), key.id());
        assert_eq!(again.hash_api_key("sk"), key.hash_api_key("sk"));
        assert_ne!(key.hash_api_key("sk"), key.hash_token("sk"));
        assert_ne!(ClusterKey::generate().0.id(), key.id());
    }

    fn tempfile() -> std::path::PathBuf {
        std::env::temp_dir()
            .join(format!("tollgate-key-{}", hex::encode(blake3::hash(&std::process::id().to_le_bytes()).as_bytes())))
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        let message = |text: &str| ClusterKey::parse(text).unwrap_err().to_string();
        assert!(message("").ends_with("the file is empty"));
        assert!(message("not base64!").ends_with("the file is not base64"));
        assert!(message("c2hvcnQ=").ends_with("the file holds 5 bytes"));
        assert!(message(&STANDARD.encode([0; 32])).ends_with("these bytes are not random"));
        let missing = ClusterKey::read(Path::new("/nonexistent/cluster.key")).unwrap_err();
        assert!(matches!(missing, KeyFileError::Read(_)));
    }

    #[test]
    fn a_statement_is_signed_the_same_by_all_who_have_the_key() {
        use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
        let (key, text) = ClusterKey::generate();
        let again = ClusterKey::parse(text.expose()).unwrap();
        let signature = key.sign_statement(b"said");
        assert_eq!((again.sign_statement(b"said"), again.statement_key()), (signature, key.statement_key()));
        let public = UnparsedPublicKey::new(&ED25519, key.statement_key());
        assert!(public.verify(b"said", &signature).is_ok() && public.verify(b"sad", &signature).is_err());
        assert_ne!(ClusterKey::generate().0.statement_key(), key.statement_key());
    }

    #[test]
    fn a_key_shows_only_its_id() {
        let (key, text) = ClusterKey::generate();
        assert_eq!(format!("{key:?}"), format!("ClusterKey({})", key.id()));
        assert_eq!(format!("{text:?}"), "Secret(…)");
    }
}

//! The certificate that a node has in files: for clients that name no host, or one that no other certificate is for.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tollgate_model::{
    ClientAuth, Name, Secret, Timestamp, TlsVersion,
    tls::{Authorities, Chain, MAX_PEM_BYTES},
};

use super::Served;

/// What stands for it where certificates are told apart: no resource can have this name.
const NAME: &str = "[https]";

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the node's own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Whose certificates every client must show; none is asked for where this is absent.
    pub ca: Option<PathBuf>,
}

/// A file that is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TlsFileError {
    /// Which.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// A certificate in files, as it was when they could last be used.
#[derive(Debug)]
pub struct FileCertificate {
    files: TlsFiles,
    loaded: ArcSwap<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    texts: Texts,
    served: Arc<Served>,
}

#[derive(Debug, PartialEq)]
struct Texts {
    cert: String,
    key: Secret<String>,
    ca: Option<String>,
}

impl FileCertificate {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// The first file that is of no use.
    pub fn load(files: TlsFiles) -> Result<Self, TlsFileError> {
        let loaded = load(&files, texts(&files)?)?;
        Ok(Self { files, loaded: ArcSwap::from_pointee(loaded) })
    }

    /// Reads the files again: new handshakes are by what is in them now. Whether that is something else. Blocks.
    ///
    /// # Errors
    /// The first file that is of no use: what was there before stays in service.
    pub fn reload(&self) -> Result<bool, TlsFileError> {
        let texts = texts(&self.files)?;
        if self.loaded.load().texts == texts {
            return Ok(false); // its tickets stay good
        }
        self.loaded.store(Arc::new(load(&self.files, texts)?));
        Ok(true)
    }

    /// When it ends.
    #[must_use]
    pub fn ends(&self) -> Timestamp {
        self.loaded.load().served.ends
    }

    pub(crate) fn served(&self) -> Arc<Served> {
        Arc::clone(&self.loaded.load().served)
    }
}

fn texts(files: &TlsFiles) -> Result<Texts, TlsFileError> {
    let ca = files.ca.as_deref().map(read).transpose()?;
    Ok(Texts { cert: read(&files.cert)?, key: Secret::new(read(&files.key)?), ca })
}

fn read(path: &Path) -> Result<String, TlsFileError> {
    let mut text = String::new();
    let most = MAX_PEM_BYTES as u64 + 1; // one more, so that it is seen
    let read = File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| wrong(path, &error))
}

fn load(files: &TlsFiles, texts: Texts) -> Result<Loaded, TlsFileError> {
    let chain = Chain::parse(&texts.cert).map_err(|error| wrong(&files.cert, &error))?;
    let key = chain.with_key(&texts.key, None).map_err(|error| wrong(&files.key, &error))?;
    let authorities = texts.ca.as_deref().map(Authorities::parse).transpose();
    let authorities = authorities.map_err(|error| wrong(files.ca.as_deref().unwrap_or(&files.cert), &error))?;
    let client_auth = authorities.map(|authorities| ClientAuth { authorities, required: true });
    let served = Served::new(Name::new(NAME), chain.ends(), key, TlsVersion::Tls12, client_auth);
    let served = Arc::new(served.map_err(|error| wrong(&files.cert, &error))?);
    Ok(Loaded { texts, served })
}

fn wrong(path: &Path, problem: &impl ToString) -> TlsFileError {
    TlsFileError { path: path.to_owned(), problem: problem.to_string() }
}

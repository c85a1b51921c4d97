//! `[https]`: the listener for clients over TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tollgate_gateway::{FileCertificate, TlsFiles};

use super::take::Take;

/// The listener for clients over TLS.
#[derive(Clone, Debug)]
pub(crate) struct Https {
    pub(crate) listen: SocketAddr,
    /// Whether connections of trusted proxies begin with a PROXY header.
    pub(crate) proxy_protocol: bool,
    /// What clients are served that name no host of any certificate of the cluster's; they are refused where this is absent.
    pub(crate) files: Option<TlsFiles>,
}

impl Https {
    pub(super) fn take(take: &mut Take<'_>, trusted_proxies: &[IpNet]) -> Option<Self> {
        let listen = take.optional_address("https.listen");
        let proxy_protocol = take.proxy_protocol("https.proxy_protocol", trusted_proxies);
        let [cert, key, ca] = ["https.cert", "https.key", "https.ca"].map(|key| take.optional_file(key));
        if !take.is_given("https.listen") {
            for key in ["https.cert", "https.key", "https.ca", "https.proxy_protocol"] {
                take.refuse(key, "is given without https.listen: say where clients over TLS are taken");
            }
        }
        let files = files(take, cert, key, ca);
        Some(Self { listen: listen?, proxy_protocol, files })
    }

    /// The key that names `path`.
    pub(super) fn key_of(&self, path: &Path) -> Option<&'static str> {
        key_of(self.files.as_ref()?, path)
    }
}

fn key_of(files: &TlsFiles, path: &Path) -> Option<&'static str> {
    match path {
        path if path == files.cert => Some("https.cert"),
        path if path == files.key => Some("https.key"),
        path if Some(path) == files.ca.as_deref() => Some("https.ca"),
        _ => None,
    }
}

/// All of them, which fit each other.
fn files(take: &mut Take<'_>, cert: Option<PathBuf>, key: Option<PathBuf>, ca: Option<PathBuf>) -> Option<TlsFiles> {
    for (one, other) in [("https.cert", "https.key"), ("https.key", "https.cert"), ("https.ca", "https.cert")] {
        if take.is_given(one) && !take.is_given(other) {
            take.refuse(one, &format!("is given without {other}: a certificate and its key are given together"));
        }
    }
    let files = TlsFiles { cert: cert?, key: key?, ca };
    if let Err(error) = take.looks().then(|| FileCertificate::load(files.clone())).transpose() {
        let key = key_of(&files, &error.path).unwrap_or("https.cert");
        take.refuse(key, &format!("{} can't be used: {}", error.path.display(), error.problem));
    }
    Some(files)
}

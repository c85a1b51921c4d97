//! The cluster CA and the certificates of its nodes, as `demo` makes them.
//!
//! A node proves who it is by a DNS name in its certificate, `node-<id>.tollgate.internal`; see `consensus`, which checks it.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// Signs node certificates. The key stays in memory: who has it can add nodes to the cluster.
pub(crate) struct ClusterCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl ClusterCa {
    /// A new CA with a key of its own.
    pub(crate) fn generate() -> anyhow::Result<ClusterCa> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "tollgate cluster CA");
        let pem = params.self_signed(&key)?.pem();
        Ok(ClusterCa { issuer: Issuer::new(params, key), pem })
    }

    /// Writes `ca.pem`, `node.pem` and `node.key` for node `id` into `dir`.
    pub(crate) fn write_node(&self, id: u64, dir: &Path) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![tollgate_consensus::node_dns_name(id)])?;
        params.distinguished_name.push(DnType::CommonName, format!("tollgate node {id}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(dir.join("ca.pem"), &self.pem)?;
        fs::write(dir.join("node.pem"), certificate.pem())?;
        write_secret(&dir.join("node.key"), &key.serialize_pem())
    }
}

/// Writes a file that nobody but its owner can read.
pub(crate) fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("can't create {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

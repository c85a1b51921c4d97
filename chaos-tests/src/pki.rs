//! Certificate authorities and node certificates: the right ones, and those that must be refused.

use std::{
    fs,
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

/// A cluster's authority, or a foreign one.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// One certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl Ca {
    /// A new authority.
    ///
    /// # Errors
    /// No key could be made.
    pub fn new() -> anyhow::Result<Ca> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "test cluster CA");
        let pem = params.self_signed(&key)?.pem();
        Ok(Ca { issuer: Issuer::new(params, key), pem })
    }

    /// The certificate of node `id`.
    ///
    /// # Errors
    /// No key could be made.
    pub fn node(&self, id: u64) -> anyhow::Result<Identity> {
        self.sign(id, Validity::Years)
    }

    /// A certificate of node `id` that expired years ago.
    ///
    /// # Errors
    /// No key could be made.
    pub fn expired_node(&self, id: u64) -> anyhow::Result<Identity> {
        self.sign(id, Validity::Expired)
    }

    /// A certificate of node `id` that expires soon.
    ///
    /// # Errors
    /// No key could be made.
    pub fn short_lived_node(&self, id: u64, life: Duration) -> anyhow::Result<Identity> {
        self.sign(id, Validity::For(life))
    }

    /// For a server that clients know by this name.
    ///
    /// # Errors
    /// No key could be made.
    pub fn server(&self, name: &str) -> anyhow::Result<Identity> {
        self.server_until(name, 4000)
    }

    /// The same until the first day of that year.
    ///
    /// # Errors
    /// No key could be made.
    pub fn server_until(&self, name: &str, year: i32) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.not_after = date_time_ymd(year, 1, 1);
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert: cert.pem(), key: key.serialize_pem() })
    }

    fn sign(&self, id: u64, validity: Validity) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![format!("node-{id}.tollgate.internal")])?;
        params.distinguished_name.push(DnType::CommonName, format!("test node {id}"));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        match validity {
            Validity::Years => {}
            Validity::Expired => {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2002, 1, 1);
            }
            Validity::For(life) => params.not_after = (UNIX_EPOCH + crate::clock::now() + life).into(),
        }
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert: cert.pem(), key: key.serialize_pem() })
    }
}

/// How long a certificate is good.
enum Validity {
    Years,
    Expired,
    For(Duration),
}

impl Identity {
    /// Writes `ca.pem`, `node.pem` and `node.key`.
    ///
    /// # Errors
    /// The directory can't be written to.
    pub fn write(&self, ca: &Ca, dir: &Path) -> anyhow::Result<()> {
        fs::write(dir.join("ca.pem"), &ca.pem)?;
        fs::write(dir.join("node.pem"), &self.cert)?;
        fs::write(dir.join("node.key"), &self.key)?;
        Ok(())
    }
}

//! Certificates with their keys.

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::sign::CertifiedKey;

use super::{ConfigView, keys::certified_here};
use crate::{Certificate, Kind, Name, Problem, Problems, ProviderKey, Secret, secret::ClusterKey};

/// A certificate with its key.
pub struct Certified {
    /// The resource.
    pub certificate: Arc<Certificate>,
    /// For rustls.
    pub key: CertifiedKey,
    text: Secret<String>,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified").field("name", &self.certificate.name).finish_non_exhaustive()
    }
}

/// By certificate; one whose key cannot be had on this node is not here.
#[derive(Debug, Clone, Default)]
pub(super) struct CertificateKeys(BTreeMap<Name, Arc<Certified>>);

impl CertificateKeys {
    pub(super) fn get(&self, certificate: &str) -> Option<&Arc<Certified>> {
        self.0.get(certificate)
    }

    pub(super) fn resolve(
        certificates: &BTreeMap<Name, Arc<Certificate>>,
        old: &ConfigView,
        key: Option<&ClusterKey>,
        problems: &mut Problems,
    ) -> Self {
        let resolve = |(name, certificate): (&Name, &Arc<Certificate>)| {
            Some((name.clone(), one(certificate, old.certificate_keys.get(name), key, problems)?))
        };
        Self(certificates.iter().filter_map(resolve).collect())
    }
}

/// The very same where nothing has changed: connections under it are not told apart then.
fn one(
    certificate: &Arc<Certificate>,
    known: Option<&Arc<Certified>>,
    key: Option<&ClusterKey>,
    problems: &mut Problems,
) -> Option<Arc<Certified>> {
    let place = certificate.key.as_ref()?;
    let unchanged = known.filter(|known| Arc::ptr_eq(&known.certificate, certificate));
    if let (Some(known), ProviderKey::Sealed(_)) = (unchanged, place) {
        return Some(Arc::clone(known));
    }
    match certified_here(&certificate.chain, certificate.staple.clone(), place, key) {
        Ok((text, _)) if unchanged.is_some_and(|known| known.text == text) => unchanged.map(Arc::clone),
        Ok((text, key)) => Some(Arc::new(Certified { certificate: Arc::clone(certificate), key, text })),
        Err(message) => {
            let field = format!("spec.key.{}", place.field());
            let (kind, name) = (Some(Kind::Certificate), certificate.name.to_string());
            problems.push(Problem { kind, name, field, message, at: None });
            // A key that comes later than its certificate, or is gone for a moment, takes nothing away that is served.
            known.filter(|known| is_as_good(&known.certificate, certificate)).map(Arc::clone)
        }
    }
}

/// Whether the one before can stand in for this one: for the same hosts, with nobody let in who would not be now.
fn is_as_good(before: &Certificate, now: &Certificate) -> bool {
    before.hosts == now.hosts && before.client_auth == now.client_auth && before.min_version == now.min_version
}

//! What upstreams are shown: our certificates with their keys.

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustls::sign::CertifiedKey;

use super::{ConfigView, keys::certified_here};
use crate::{
    Kind, Name, Problem, Problems, Provider, ProviderKey, Secret, Service, UpstreamCertificate, UpstreamTls,
    secret::ClusterKey,
};

/// A certificate that an upstream is shown, with its key.
pub struct Shown {
    /// For rustls.
    pub key: CertifiedKey,
    of: UpstreamCertificate,
    text: Secret<String>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// By upstream; one whose key cannot be had on this node is not here.
#[derive(Debug, Clone, Default)]
pub(super) struct UpstreamKeys(BTreeMap<(Kind, Name), Arc<Shown>>);

impl UpstreamKeys {
    pub(super) fn get(&self, kind: Kind, name: &Name) -> Option<&Arc<Shown>> {
        self.0.get(&(kind, name.clone()))
    }

    pub(super) fn resolve(
        services: &BTreeMap<Name, Arc<Service>>,
        providers: &BTreeMap<Name, Arc<Provider>>,
        old: &ConfigView,
        key: Option<&ClusterKey>,
        problems: &mut Problems,
    ) -> Self {
        let services = services.iter().map(|(name, it)| (Kind::Service, name, it.tls.as_ref()));
        let providers = providers.iter().map(|(name, it)| (Kind::Provider, name, it.tls.as_ref()));
        let one = |(kind, name, tls): (Kind, &Name, Option<&UpstreamTls>)| {
            let of = tls?.certificate.as_ref()?;
            let known = old.upstream_keys.get(kind, name).filter(|known| known.of.chain == of.chain);
            let shown = shown(of, known, key).or_else(|(field, message)| {
                let field = format!("spec.tls.certificate.key.{field}");
                problems.push(Problem { kind: Some(kind), name: name.to_string(), field, message, at: None });
                // A key that is gone for a moment takes nothing away that is shown.
                known.map(Arc::clone).ok_or(())
            });
            Some(((kind, name.clone()), shown.ok()?))
        };
        Self(services.chain(providers).filter_map(one).collect())
    }
}

/// The very same where nothing has changed, so that connections stay.
fn shown(
    of: &UpstreamCertificate,
    known: Option<&Arc<Shown>>,
    key: Option<&ClusterKey>,
) -> Result<Arc<Shown>, (&'static str, String)> {
    let Some(place) = &of.key else { return Err(("value", "is not sealed".to_owned())) };
    if let (Some(known), ProviderKey::Sealed(_)) = (known.filter(|known| known.of == *of), place) {
        return Ok(Arc::clone(known));
    }
    match (certified_here(&of.chain, None, place, key), known) {
        (Ok((text, _)), Some(known)) if known.text == text => Ok(Arc::clone(known)),
        (Ok((text, key)), _) => Ok(Arc::new(Shown { key, of: of.clone(), text })),
        (Err(message), _) => Err((place.field(), message)),
    }
}

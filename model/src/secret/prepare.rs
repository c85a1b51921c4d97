//! What must not be stored as it is, replaced by what may.

use tollgate_proto::v1::{self, resource::Kind as Raw};

use super::{ClusterKey, SecretError};
use crate::{Field, Kind, Problem, Problems, tls::Chain};

const NO_KEY: &str = "needs a cluster key: set `[cluster] key_file` in the configuration of every node";

/// Replaces every plain secret: a key's `value` by `sealed`, a credential's `apiKey` by `hash`. A sealed text
/// of `current` is kept where it opens to the same value, so that nothing changes when nothing changed.
///
/// # Errors
/// A secret without a cluster key; a sealed secret or a hash of another cluster; a plain secret beside another form of
/// it; a certificate's key that is another one's.
pub fn prepare(
    resource: &v1::Resource,
    key: Option<&ClusterKey>,
    current: Option<&v1::Resource>,
) -> Result<v1::Resource, Problems> {
    let mut resource = resource.clone();
    let mut problems = Vec::new();
    let spec = Field::root("spec");
    let (kind, name) = match &mut resource.kind {
        Some(Raw::Provider(provider)) => {
            let keys_now = provider_keys(current);
            let keys = spec.field("keys");
            for (n, entry) in provider.spec.iter_mut().flat_map(|spec| &mut spec.keys).enumerate() {
                provider_key(entry, key, keys_now, &keys.index(n), &mut problems);
            }
            let tls = provider.spec.as_mut().and_then(|spec| spec.tls.as_mut());
            upstream_certificate(tls, key, current, &spec, &mut problems);
            (Kind::Provider, name_of(provider.metadata.as_ref()))
        }
        Some(Raw::Service(service)) => {
            let tls = service.spec.as_mut().and_then(|spec| spec.tls.as_mut());
            upstream_certificate(tls, key, current, &spec, &mut problems);
            (Kind::Service, name_of(service.metadata.as_ref()))
        }
        Some(Raw::Consumer(consumer)) => {
            let credentials = spec.field("credentials");
            for (n, entry) in consumer.spec.iter_mut().flat_map(|spec| &mut spec.credentials).enumerate() {
                credential(entry, key, &credentials.index(n), &mut problems);
            }
            (Kind::Consumer, name_of(consumer.metadata.as_ref()))
        }
        Some(Raw::Tenant(tenant)) => {
            let current: Vec<_> = webhook_secret(current).cloned().into_iter().collect();
            let budget = spec.field("budget");
            let webhook = budget.field("webhook");
            if let Some(entry) = tenant.spec.as_mut().and_then(secret_of) {
                provider_key(entry, key, &current, &webhook.field("secret"), &mut problems);
            }
            (Kind::Tenant, name_of(tenant.metadata.as_ref()))
        }
        Some(Raw::Certificate(certificate)) => {
            let current: Vec<_> = certificate_key(current).cloned().into_iter().collect();
            let at = spec.field("key");
            if let Some(spec) = &mut certificate.spec
                && let Some(entry) = &mut spec.key
            {
                provider_key(entry, key, &current, &at, &mut problems);
                fits(&spec.certificate, entry, key, &at, &mut problems);
            }
            (Kind::Certificate, name_of(certificate.metadata.as_ref()))
        }
        _ => return Ok(resource),
    };
    let problem = |(field, message)| Problem { kind: Some(kind), name: name.clone(), field, message, at: None };
    Problems(problems.into_iter().map(problem).collect()).or(resource)
}

/// Whether it still holds a plain secret: then it must not go into the log.
#[must_use]
pub fn has_plain_secret(resource: &v1::Resource) -> bool {
    match &resource.kind {
        Some(Raw::Provider(it)) => {
            let keys = it.spec.iter().flat_map(|spec| &spec.keys);
            keys.chain(upstream_key(Some(resource))).any(|key| !key.value.is_empty())
        }
        Some(Raw::Service(_)) => upstream_key(Some(resource)).is_some_and(|key| !key.value.is_empty()),
        Some(Raw::Consumer(it)) => it.spec.iter().flat_map(|spec| &spec.credentials).any(|it| !it.api_key.is_empty()),
        Some(Raw::Tenant(_)) => webhook_secret(Some(resource)).is_some_and(|secret| !secret.value.is_empty()),
        Some(Raw::Certificate(_)) => certificate_key(Some(resource)).is_some_and(|key| !key.value.is_empty()),
        _ => false,
    }
}

/// The resource without its plain secrets: to see what else is wrong with it.
#[must_use]
pub fn without_plain(mut resource: v1::Resource) -> v1::Resource {
    match &mut resource.kind {
        Some(Raw::Provider(it)) => {
            it.spec.iter_mut().flat_map(|spec| &mut spec.keys).for_each(|key| key.value.clear());
            it.spec.iter_mut().filter_map(|spec| key_of(spec.tls.as_mut()?)).for_each(|key| key.value.clear());
        }
        Some(Raw::Service(it)) => {
            it.spec.iter_mut().filter_map(|spec| key_of(spec.tls.as_mut()?)).for_each(|key| key.value.clear());
        }
        Some(Raw::Consumer(it)) => {
            it.spec.iter_mut().flat_map(|spec| &mut spec.credentials).for_each(|it| it.api_key.clear());
        }
        Some(Raw::Tenant(it)) => {
            it.spec.iter_mut().filter_map(secret_of).for_each(|secret| secret.value.clear());
        }
        Some(Raw::Certificate(it)) => {
            it.spec.iter_mut().filter_map(|spec| spec.key.as_mut()).for_each(|key| key.value.clear());
        }
        _ => {}
    }
    resource
}

type Found = Vec<(String, String)>;

fn provider_key(
    entry: &mut v1::ProviderKey,
    key: Option<&ClusterKey>,
    current: &[v1::ProviderKey],
    at: &Field<'_>,
    problems: &mut Found,
) {
    let mut wrong = |field: &str, message: String| problems.push((at.field(field).to_string(), message));
    if !entry.value.is_empty() {
        if !(entry.env.is_empty() && entry.file.is_empty() && entry.sealed.is_empty()) {
            return wrong("value", "stands beside `env`, `file` or `sealed`: give exactly one".to_owned());
        }
        let Some(key) = key else { return wrong("value", NO_KEY.to_owned()) };
        let same = |old: &&v1::ProviderKey| key.open(&old.sealed).is_ok_and(|plain| *plain.expose() == entry.value);
        entry.sealed = current.iter().find(same).map_or_else(|| key.seal(&entry.value), |old| old.sealed.clone());
        entry.value.clear();
    } else if !entry.sealed.is_empty() {
        match key.map(|key| key.open(&entry.sealed)) {
            None => wrong("sealed", NO_KEY.to_owned()),
            Some(Err(error)) => wrong("sealed", error.to_string()),
            Some(Ok(_)) => {}
        }
    }
}

fn upstream_certificate(
    tls: Option<&mut v1::UpstreamTls>,
    key: Option<&ClusterKey>,
    current: Option<&v1::Resource>,
    spec: &Field<'_>,
    problems: &mut Found,
) {
    let (tls_at, current) = (spec.field("tls"), upstream_key(current));
    let certificate_at = tls_at.field("certificate");
    let at = certificate_at.field("key");
    if let Some(certificate) = tls.and_then(|tls| tls.certificate.as_mut())
        && let Some(entry) = &mut certificate.key
    {
        provider_key(entry, key, current.map_or(&[], std::slice::from_ref), &at, problems);
        fits(&certificate.chain, entry, key, &at, problems);
    }
}

/// A key that was sealed before may stand beside another certificate now.
fn fits(pem: &str, entry: &v1::ProviderKey, key: Option<&ClusterKey>, at: &Field<'_>, problems: &mut Found) {
    let Some(Ok(plain)) = key.filter(|_| !entry.sealed.is_empty()).map(|key| key.open(&entry.sealed)) else { return };
    // What is wrong with the certificate itself is told by the check.
    if let Ok(chain) = Chain::parse(pem)
        && let Err(error) = chain.with_key(&plain, None)
    {
        problems.push((at.field("value").to_string(), error.to_string()));
    }
}

fn credential(entry: &mut v1::Credential, key: Option<&ClusterKey>, at: &Field<'_>, problems: &mut Found) {
    let mut wrong = |field: &str, message: String| problems.push((at.field(field).to_string(), message));
    if !entry.api_key.is_empty() {
        if !entry.hash.is_empty() {
            return wrong("apiKey", "stands beside `hash`: give exactly one".to_owned());
        }
        let Some(key) = key else { return wrong("apiKey", NO_KEY.to_owned()) };
        entry.hash = key.hash_text(&entry.api_key);
        entry.api_key.clear();
    } else if !entry.hash.is_empty() {
        let checked: Option<Result<(), SecretError>> = key.map(|key| key.check_hash(&entry.hash));
        match checked {
            None => wrong("hash", NO_KEY.to_owned()),
            Some(Err(error)) => wrong("hash", error.to_string()),
            Some(Ok(())) => {}
        }
    }
}

fn provider_keys(resource: Option<&v1::Resource>) -> &[v1::ProviderKey] {
    match resource.and_then(|resource| resource.kind.as_ref()) {
        Some(Raw::Provider(provider)) => provider.spec.as_ref().map_or(&[], |spec| &spec.keys),
        _ => &[],
    }
}

/// What the alerts of a tenant's budget are signed with.
fn webhook_secret(resource: Option<&v1::Resource>) -> Option<&v1::ProviderKey> {
    match resource?.kind.as_ref()? {
        Raw::Tenant(it) => it.spec.as_ref()?.budget.as_ref()?.webhook.as_ref()?.secret.as_ref(),
        _ => None,
    }
}

fn certificate_key(resource: Option<&v1::Resource>) -> Option<&v1::ProviderKey> {
    match resource?.kind.as_ref()? {
        Raw::Certificate(it) => it.spec.as_ref()?.key.as_ref(),
        _ => None,
    }
}

/// What an upstream is shown a certificate by.
fn upstream_key(resource: Option<&v1::Resource>) -> Option<&v1::ProviderKey> {
    let tls = match resource?.kind.as_ref()? {
        Raw::Service(it) => it.spec.as_ref()?.tls.as_ref()?,
        Raw::Provider(it) => it.spec.as_ref()?.tls.as_ref()?,
        _ => return None,
    };
    tls.certificate.as_ref()?.key.as_ref()
}

fn key_of(tls: &mut v1::UpstreamTls) -> Option<&mut v1::ProviderKey> {
    tls.certificate.as_mut()?.key.as_mut()
}

fn secret_of(spec: &mut v1::TenantSpec) -> Option<&mut v1::ProviderKey> {
    spec.budget.as_mut()?.webhook.as_mut()?.secret.as_mut()
}

fn name_of(metadata: Option<&v1::Metadata>) -> String {
    metadata.map(|metadata| metadata.name.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(keys: Vec<v1::ProviderKey>) -> v1::Resource {
        let metadata = Some(v1::Metadata { name: "openai".into(), ..Default::default() });
        let spec = Some(v1::ProviderSpec { keys, ..Default::default() });
        v1::Resource { kind: Some(Raw::Provider(v1::Provider { metadata, spec, ..Default::default() })) }
    }

    fn consumer(credentials: Vec<v1::Credential>) -> v1::Resource {
        let spec = Some(v1::ConsumerSpec { credentials, ..Default::default() });
        v1::Resource { kind: Some(Raw::Consumer(v1::Consumer { spec, ..Default::default() })) }
    }

    fn value(value: &str) -> v1::ProviderKey {
        v1::ProviderKey { value: value.into(), ..Default::default() }
    }

    fn sealed(sealed: String) -> v1::ProviderKey {
        v1::ProviderKey { sealed, ..Default::default() }
    }

    fn api_key(api_key: &str) -> v1::Credential {
        v1::Credential { api_key: api_key.into(), ..Default::default() }
    }

    #[test]
    fn plain_secrets_are_replaced_and_found_again_unchanged() {
        let (key, _) = ClusterKey::generate();
        let raw = provider(vec![value("sk-1"), value("sk-2")]);
        assert!(has_plain_secret(&raw));
        let first = prepare(&raw, Some(&key), None).unwrap();
        assert!(!has_plain_secret(&first) && !has_plain_secret(&without_plain(raw.clone())));
        assert!(!format!("{first:?}").contains("sk-"));
        assert_eq!(prepare(&raw, Some(&key), Some(&first)).unwrap(), first);
        let rotated = prepare(&provider(vec![value("sk-2"), value("sk-3")]), Some(&key), Some(&first)).unwrap();
        assert_eq!(provider_keys(Some(&rotated))[0], provider_keys(Some(&first))[1]);
        assert_eq!(key.open(&provider_keys(Some(&rotated))[1].sealed).unwrap().expose(), "sk-3");
        // What was exported comes back as it was.
        assert_eq!(prepare(&first, Some(&key), None).unwrap(), first);
    }

    #[test]
    fn an_api_key_becomes_its_hash() {
        let (key, _) = ClusterKey::generate();
        assert!(!has_plain_secret(&without_plain(consumer(vec![api_key("sk-alice")]))));
        let prepared = prepare(&consumer(vec![api_key("sk-alice")]), Some(&key), None).unwrap();
        assert!(!format!("{prepared:?}").contains("sk-alice"));
        assert_eq!(prepared, prepare(&prepared, Some(&key), None).unwrap());
    }

    #[test]
    fn a_secret_without_a_cluster_key_is_refused_by_name() {
        let problems = prepare(&provider(vec![value("sk-1")]), None, None).unwrap_err();
        assert_eq!(problems.to_string(), format!("provider openai: spec.keys[0].value: {NO_KEY}"));
        assert!(
            prepare(&consumer(vec![api_key("x")]), None, None).unwrap_err().to_string().contains("[cluster] key_file")
        );
        let (key, _) = ClusterKey::generate();
        assert!(prepare(&provider(vec![sealed(key.seal("x"))]), None, None).is_err());
        let env = v1::ProviderKey { env: "KEY".into(), ..Default::default() };
        assert!(prepare(&provider(vec![env]), None, None).is_ok());
    }

    #[test]
    fn a_webhooks_secret_is_sealed_as_a_providers_key_is() {
        let (key, _) = ClusterKey::generate();
        let webhook = Some(v1::Webhook { secret: Some(value("whsec_1")), ..Default::default() });
        let budget = Some(v1::Budget { webhook, ..Default::default() });
        let spec = Some(v1::TenantSpec { budget, ..Default::default() });
        let raw = v1::Resource { kind: Some(Raw::Tenant(v1::Tenant { spec, ..Default::default() })) };
        assert!(has_plain_secret(&raw) && !has_plain_secret(&without_plain(raw.clone())));
        let first = prepare(&raw, Some(&key), None).unwrap();
        assert!(!has_plain_secret(&first) && !format!("{first:?}").contains("whsec_1"));
        assert_eq!(prepare(&raw, Some(&key), Some(&first)).unwrap(), first);
        assert_eq!(key.open(&webhook_secret(Some(&first)).unwrap().sealed).unwrap().expose(), "whsec_1");
        let problems = prepare(&raw, None, None).unwrap_err();
        assert_eq!(problems.0[0].field, "spec.budget.webhook.secret.value");
    }

    #[test]
    fn another_clusters_secrets_are_refused() {
        let ((ours, _), (theirs, _)) = (ClusterKey::generate(), ClusterKey::generate());
        let problems =
            prepare(&provider(vec![sealed(theirs.seal("x")), sealed("x".into())]), Some(&ours), None).unwrap_err();
        assert_eq!(problems.len(), 2);
        assert!(problems.0[0].message.contains(theirs.id()));
        assert_eq!(problems.0[1].field, "spec.keys[1].sealed");
        let hash = v1::Credential { hash: theirs.hash_text("x"), ..Default::default() };
        assert!(prepare(&consumer(vec![hash]), Some(&ours), None).unwrap_err().to_string().contains(theirs.id()));
    }

    #[test]
    fn a_plain_secret_beside_another_form_is_refused() {
        let (key, _) = ClusterKey::generate();
        let both = v1::ProviderKey { env: "KEY".into(), ..value("sk-1") };
        assert_eq!(prepare(&provider(vec![both]), Some(&key), None).unwrap_err().0[0].field, "spec.keys[0].value");
        let both = v1::Credential { hash: "x".into(), ..api_key("x") };
        assert!(prepare(&consumer(vec![both]), Some(&key), None).is_err());
    }
}

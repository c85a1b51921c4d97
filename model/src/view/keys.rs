//! The providers' keys themselves.

use std::{collections::BTreeMap, env, io::Read, path::Path, sync::Arc};

use rustls::sign::CertifiedKey;
use tollgate_proto::v1::{self, resource::Kind as Raw};

use super::ConfigView;
use crate::{
    Kind, Name, Problem, Problems, Provider, ProviderKey, Secret,
    secret::ClusterKey,
    tls::{Chain, MAX_PEM_BYTES, PemError},
};

/// More than this is no key: it also bounds what a wrong path can do.
const MAX_KEY_BYTES: u64 = 4096;

/// By provider, in the order of its `keys`; `None` where a key cannot be had on this node.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(BTreeMap<Name, Arc<Vec<Option<Secret<String>>>>>);

impl Keys {
    pub(super) fn get(&self, provider: &str, n: usize) -> Option<&Secret<String>> {
        self.0.get(provider)?.get(n)?.as_ref()
    }

    pub(super) fn resolve(
        providers: &BTreeMap<Name, Arc<Provider>>,
        old: &ConfigView,
        key: Option<&ClusterKey>,
        problems: &mut Problems,
    ) -> Self {
        let resolve = |(name, provider): (&Name, &Arc<Provider>)| {
            (name.clone(), unchanged(name, provider, old).unwrap_or_else(|| Arc::new(all(provider, key, problems))))
        };
        Self(providers.iter().map(resolve).collect())
    }
}

/// The keys as before, when nothing but a change of the provider could change them.
fn unchanged(name: &Name, provider: &Arc<Provider>, old: &ConfigView) -> Option<Arc<Vec<Option<Secret<String>>>>> {
    let same = old.providers.get(name).is_some_and(|before| Arc::ptr_eq(before, provider));
    let keys = old.keys.0.get(name).filter(|_| same)?;
    let sealed = provider.keys.iter().all(|key| matches!(key, ProviderKey::Sealed(_)));
    (sealed && keys.iter().all(Option::is_some)).then(|| Arc::clone(keys))
}

fn all(provider: &Provider, key: Option<&ClusterKey>, problems: &mut Problems) -> Vec<Option<Secret<String>>> {
    let one = |(n, from): (usize, &ProviderKey)| {
        let field = match from {
            ProviderKey::Sealed(_) => "sealed",
            ProviderKey::Env(_) => "env",
            ProviderKey::File(_) => "file",
        };
        key_here(from, key).map_err(|message| problems.push(wrong(&provider.name, n, field, message))).ok()
    };
    provider.keys.iter().enumerate().map(one).collect()
}

/// A key as this node has it. Reads files: not for where blocking is harmful.
///
/// # Errors
/// Why it can't be had here, without the key.
pub fn key_here(from: &ProviderKey, key: Option<&ClusterKey>) -> Result<Secret<String>, String> {
    match from {
        ProviderKey::Sealed(sealed) => open(sealed, key),
        ProviderKey::Env(name) => from_env(name),
        ProviderKey::File(path) => from_file(path),
    }
}

fn wrong(provider: &str, n: usize, field: &str, message: String) -> Problem {
    let field = format!("spec.keys[{n}].{field}");
    Problem { kind: Some(Kind::Provider), name: provider.to_owned(), field, message, at: None }
}

/// The keys of a provider, of a tenant's webhook or of a certificate that are to be read on each node and can't be had on this one. Reads files:
/// not for where blocking is harmful.
#[must_use]
pub fn keys_missing_here(resource: &v1::Resource) -> Problems {
    let mut problems = Problems::default();
    match &resource.kind {
        Some(Raw::Provider(provider)) => {
            let name = provider.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
            for (n, key) in provider.spec.iter().flat_map(|spec| &spec.keys).enumerate() {
                if let Some((field, message)) = missing_here(key) {
                    problems.push(wrong(name, n, field, message));
                }
            }
            let tls = provider.spec.as_ref().and_then(|spec| spec.tls.as_ref());
            problems.extend(upstream_key_missing_here(Kind::Provider, name, tls));
        }
        Some(Raw::Service(service)) => {
            let name = service.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
            let tls = service.spec.as_ref().and_then(|spec| spec.tls.as_ref());
            problems.extend(upstream_key_missing_here(Kind::Service, name, tls));
        }
        Some(Raw::Tenant(tenant)) => {
            let name = tenant.metadata.as_ref().map_or("", |metadata| metadata.name.as_str()).to_owned();
            let webhook = tenant.spec.as_ref().and_then(|spec| spec.budget.as_ref()?.webhook.as_ref());
            if let Some((field, message)) = webhook.and_then(|it| missing_here(it.secret.as_ref()?)) {
                let field = format!("spec.budget.webhook.secret.{field}");
                problems.push(Problem { kind: Some(Kind::Tenant), name, field, message, at: None });
            }
        }
        Some(Raw::Certificate(certificate)) => {
            let name = certificate.metadata.as_ref().map_or("", |metadata| metadata.name.as_str()).to_owned();
            if let Some((field, message)) =
                certificate.spec.as_ref().and_then(|it| key_of_chain_missing_here(&it.certificate, it.key.as_ref()))
            {
                let field = format!("spec.key.{field}");
                problems.push(Problem { kind: Some(Kind::Certificate), name, field, message, at: None });
            }
        }
        _ => {}
    }
    problems
}

fn upstream_key_missing_here(kind: Kind, name: &str, tls: Option<&v1::UpstreamTls>) -> Problems {
    let certificate = tls.and_then(|tls| tls.certificate.as_ref());
    let missing = certificate.and_then(|it| key_of_chain_missing_here(&it.chain, it.key.as_ref()));
    let problem = |(field, message)| {
        let field = format!("spec.tls.certificate.key.{field}");
        Problem { kind: Some(kind), name: name.to_owned(), field, message, at: None }
    };
    Problems(missing.map(problem).into_iter().collect())
}

/// One that is here, and is another certificate's, is none.
fn key_of_chain_missing_here(chain: &str, raw: Option<&v1::ProviderKey>) -> Option<(&'static str, String)> {
    let raw = raw?;
    let (field, place) = match (raw.env.as_str(), raw.file.as_str()) {
        ("", "") => return None,
        ("", file) => ("file", ProviderKey::File(file.into())),
        (env, _) => ("env", ProviderKey::Env(env.to_owned())),
    };
    let chain = Chain::parse(chain).ok()?;
    Some((field, certified_here(&chain, None, &place, None).err()?))
}

/// A certificate with its key as this node has it. Reads files: not for where blocking is harmful.
///
/// # Errors
/// Why it can't be had here, without the key.
pub(super) fn certified_here(
    chain: &Chain,
    staple: Option<Vec<u8>>,
    place: &ProviderKey,
    key: Option<&ClusterKey>,
) -> Result<(Secret<String>, CertifiedKey), String> {
    let text = match place {
        ProviderKey::Sealed(sealed) => open(sealed, key),
        ProviderKey::Env(name) => env_text(name),
        ProviderKey::File(path) => file_text(path, MAX_PEM_BYTES as u64),
    }?;
    let certified = chain.with_key(&text, staple);
    let of_node = |error: PemError| match place {
        ProviderKey::Sealed(_) => error.to_string(),
        ProviderKey::Env(name) => format!("the environment variable {name} of this node {error}"),
        ProviderKey::File(path) => format!("the file {} of this node {error}", path.display()),
    };
    Ok((text, certified.map_err(of_node)?))
}

/// By which field, and why.
fn missing_here(key: &v1::ProviderKey) -> Option<(&'static str, String)> {
    let (field, found) = match (key.env.as_str(), key.file.as_str()) {
        ("", "") => return None,
        ("", file) => ("file", from_file(Path::new(file))),
        (env, _) => ("env", from_env(env)),
    };
    Some((field, found.err()?))
}

fn open(sealed: &str, key: Option<&ClusterKey>) -> Result<Secret<String>, String> {
    let key = key.ok_or("cannot be opened: this node has no `[cluster] key_file`")?;
    key.open(sealed).map_err(|error| error.to_string())
}

fn from_env(name: &str) -> Result<Secret<String>, String> {
    plain(&env_text(name)?).map_err(|what| format!("the environment variable {name} of this node {what}"))
}

fn env_text(name: &str) -> Result<Secret<String>, String> {
    match env::var(name) {
        Ok(value) => Ok(Secret::new(value)),
        Err(_) => Err(format!("the environment variable {name} is not set on this node")),
    }
}

fn from_file(path: &Path) -> Result<Secret<String>, String> {
    plain(&file_text(path, MAX_KEY_BYTES)?).map_err(|what| format!("the file {} of this node {what}", path.display()))
}

fn file_text(path: &Path, most: u64) -> Result<Secret<String>, String> {
    // A pipe would be waited for, perhaps for ever.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(format!("{} of this node is no file", path.display()));
    }
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_string(&mut text));
    match read {
        Ok(_) => Ok(Secret::new(text)),
        Err(error) => Err(format!("cannot read {} on this node: {error}", path.display())),
    }
}

/// What can stand in a header, without the line's end that editors leave.
fn plain(text: &Secret<String>) -> Result<Secret<String>, &'static str> {
    let key = text.expose().trim();
    if key.is_empty() {
        return Err("is empty");
    }
    if key.len() as u64 > MAX_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds no key: more than one line, a space, or too much");
    }
    Ok(Secret::new(key.to_owned()))
}

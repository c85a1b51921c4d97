//! Certificates.

use std::sync::Arc;

use tollgate_proto::v1;

use super::{
    context::{Context, Value::Is},
    route_match, upstream,
};
use crate::{
    Certificate, Checked, ClientAuth, Field, HostPattern, Kind, Problems, ProviderKey, Secret, TlsVersion,
    tls::{Authorities, Chain, staple},
};

/// As many as an authority puts into one certificate.
const MAX_HOSTS: usize = 100;
/// Of a certificate's names in a message.
const MAX_NAMED: usize = 5;

pub(super) fn certificate(raw: &v1::Certificate) -> Result<Checked, Problems> {
    let mut context = Context::new(Kind::Certificate, &raw.api_version, &raw.kind, raw.metadata.as_ref());
    let none = v1::CertificateSpec::default();
    let given = raw.spec.as_ref().unwrap_or(&none);
    let spec = Field::root("spec");
    let hosts = hosts(&mut context, &spec.field("hosts"), &given.hosts);
    let chain = chain(&mut context, &spec.field("certificate"), &given.certificate);
    let key = key(&mut context, &spec.field("key"), given.key.as_ref(), chain.as_ref());
    if let Some(chain) = &chain {
        covers(&mut context, &spec.field("hosts"), &hosts, chain);
    }
    let of_staple = spec.field("ocsp");
    let staple = if given.ocsp.is_empty() { None } else { context.keep(&of_staple, staple(&given.ocsp)) };
    let at = spec.field("clientAuth");
    let client_auth = given.client_auth.as_ref().and_then(|given| client_auth(&mut context, &at, given));
    let words = [("1.2", Is(TlsVersion::Tls12)), ("1.3", Is(TlsVersion::Tls13))];
    let min_version = context.word(&spec.field("minVersion"), &given.min_version, &words).unwrap_or_default();
    let Some(chain) = chain else { return context.refuse() };
    let (name, version) = (context.name.clone(), context.version);
    let certificate = Certificate { name, version, hosts, chain, key, staple, client_auth, min_version };
    context.finish(Checked::Certificate(Arc::new(certificate)))
}

fn hosts(context: &mut Context, at: &Field<'_>, given: &[String]) -> Vec<HostPattern> {
    if given.is_empty() {
        context.add(
            at,
            "is missing: name the hosts that the certificate is for, such as `www.example.com` or `*.example.com`",
        );
        return Vec::new();
    }
    if given.len() > MAX_HOSTS {
        context.add(at, format!("has {} hosts, more than {MAX_HOSTS}", given.len()));
    }
    for (n, text) in given.iter().enumerate() {
        // RFC 6066 §3: clients name no addresses.
        if text.starts_with('[') || text.parse::<std::net::Ipv4Addr>().is_ok() {
            context
                .add(&at.index(n), "is an address, which clients don't name: give the node a certificate in `[https]`");
        }
    }
    route_match::hosts(context, at, given)
}

pub(super) fn chain(context: &mut Context, at: &Field<'_>, pem: &str) -> Option<Chain> {
    if pem.is_empty() {
        context.add(at, "is missing: the chain as PEM text, its own certificate first");
        return None;
    }
    context.keep(at, Chain::parse(pem))
}

/// A certificate that is not for a host that it is served to is an outage as of the next handshake.
fn covers(context: &mut Context, at: &Field<'_>, hosts: &[HostPattern], chain: &Chain) {
    for (n, host) in hosts.iter().enumerate() {
        let (HostPattern::Exact(name) | HostPattern::Suffix(name)) = host else { continue };
        if !chain.covers(name) {
            let names =
                chain.first().dns_names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            let names = if names.is_empty() { "none" } else { &names };
            context.add(&at.index(n), format!("is no name of the certificate: its names are {names}"));
        }
    }
}

/// Where the key is. One that is here is tried.
pub(super) fn key(
    context: &mut Context,
    at: &Field<'_>,
    given: Option<&v1::ProviderKey>,
    chain: Option<&Chain>,
) -> Option<ProviderKey> {
    let Some(given) = given else {
        context.add(at, "is missing: the certificate's private key, as `value`, `file` or `env`");
        return None;
    };
    if given.weight.is_some() {
        context.add(&at.field("weight"), "is only for the keys of a provider: there is one key");
    }
    let place = upstream::key_place(context, at, given);
    if let Some(chain) = chain.filter(|_| !given.value.is_empty()) {
        context.keep(&at.field("value"), chain.with_key(&Secret::new(given.value.clone()), None));
    }
    place
}

fn client_auth(context: &mut Context, at: &Field<'_>, given: &v1::ClientAuth) -> Option<ClientAuth> {
    let words = [("required", Is(true)), ("optional", Is(false))];
    let required = context.word(&at.field("mode"), &given.mode, &words).unwrap_or(true);
    if given.ca.is_empty() {
        context.add(&at.field("ca"), "is missing: the authorities of clients' certificates as PEM text");
        return None;
    }
    let authorities = context.keep(&at.field("ca"), Authorities::parse(&given.ca))?;
    Some(ClientAuth { authorities, required })
}

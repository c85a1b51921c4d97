//! How upstreams are met over TLS.

use rustls_pki_types::ServerName;
use tollgate_proto::v1;

use super::{certificate, context::Context, text};
use crate::{
    Field, ProviderKey, UpstreamCertificate, UpstreamTls,
    tls::{Authorities, Chain},
};

/// `has_tls` says whether any endpoint is met over TLS.
pub(super) fn tls(
    context: &mut Context,
    at: &Field<'_>,
    given: Option<&v1::UpstreamTls>,
    has_tls: bool,
) -> Option<UpstreamTls> {
    let given = given?;
    if !has_tls {
        context.add(at, "is given, and no endpoint is met over TLS: use `protocol: https` or `h2`, or URLs with https");
    }
    let of = at.field("ca");
    let authorities = if given.ca.is_empty() { None } else { context.keep(&of, Authorities::parse(&given.ca)) };
    let of = at.field("serverName");
    let server_name = if given.server_name.is_empty() { None } else { context.keep(&of, name(&given.server_name)) };
    let of = at.field("certificate");
    let certificate = given.certificate.as_ref().and_then(|given| self::certificate(context, &of, given));
    Some(UpstreamTls { authorities, server_name, certificate })
}

fn name(text: &str) -> Result<ServerName<'static>, String> {
    let host = text::host(text)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    ServerName::try_from(bare.to_owned()).map_err(|_| format!("`{text}` is no name that a certificate can have"))
}

fn certificate(context: &mut Context, at: &Field<'_>, given: &v1::UpstreamCertificate) -> Option<UpstreamCertificate> {
    let chain: Option<Chain> = certificate::chain(context, &at.field("chain"), &given.chain);
    let key: Option<ProviderKey> = certificate::key(context, &at.field("key"), given.key.as_ref(), chain.as_ref());
    Some(UpstreamCertificate { chain: chain?, key })
}

//! Routes that tell their services another host than the one that was asked for.

use tollgate_proto::v1::{self, resource::Kind as Raw};

/// Says which service of a route with `rewrite.host` can't be told one: over TLS and HTTP/2 a request names the endpoint
/// itself, and a second name in it would be ambiguous.
pub(super) fn untold<'a>(route: &v1::Resource, service: impl Fn(&str) -> Option<&'a v1::Resource>) -> Option<String> {
    let Some(Raw::Route(route)) = &route.kind else { return None };
    let spec = route.spec.as_ref()?;
    if spec.rewrite.as_ref()?.host.is_empty() {
        return None;
    }
    let names = spec.backends.iter().map(|it| &it.service).chain(spec.fallbacks.iter().map(|it| &it.service));
    names.filter(|name| !name.is_empty()).find_map(|name| {
        let protocol = protocol(service(name)?)?;
        let message = "names its own endpoint: leave `host` out, or use a service with `protocol: http`";
        (protocol != "http").then(|| format!("service `{name}` speaks {protocol}, which {message}"))
    })
}

fn protocol(service: &v1::Resource) -> Option<&str> {
    let Some(Raw::Service(service)) = &service.kind else { return None };
    let protocol = service.spec.as_ref()?.protocol.as_str();
    Some(if protocol.is_empty() { "http" } else { protocol })
}

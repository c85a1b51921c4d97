//! Which of a route's backends takes a request, where that is not by turns alone: the first one that is for it, then the
//! one that its caller stays with.

use std::{net::IpAddr, time::Duration};

use http::{HeaderMap, HeaderValue};
use tollgate_model::{Backend, Sticky, UpstreamRef};

use super::{
    conditions::{cookie, meets},
    rendezvous::{Member, hash, select},
};

/// What backends are chosen by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: Option<&'a str>,
    pub(crate) consumer: Option<&'a str>,
    pub(crate) address: IpAddr,
}

/// The choice of one route.
#[derive(Debug)]
pub(super) struct Split {
    members: Vec<Member>,
    sticky: Option<Sticky>,
}

/// A backend by its index, or the one whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one. The caller is to be told the cookie that it stays there by, where it has none.
    Backend(usize, Option<HeaderValue>),
    ByTurns,
}

impl Split {
    /// None where backends take turns, whoever asks.
    pub(super) fn new(backends: &[Backend], sticky: Option<&Sticky>) -> Option<Self> {
        if sticky.is_none() && backends.iter().all(|backend| backend.when.is_none()) {
            return None;
        }
        Some(Self { members: backends.iter().map(member).collect(), sticky: sticky.cloned() })
    }

    /// `fresh` makes what a new cookie says, which nobody can guess.
    pub(super) fn choose(&self, backends: &[Backend], asker: &Asker<'_>, fresh: impl FnOnce() -> u128) -> Choice {
        let meant = |backend: &Backend| backend.when.as_ref().is_some_and(|when| meets(when, asker));
        if let Some(index) = backends.iter().position(meant) {
            return Choice::Backend(index, None);
        }
        let (key, told) = match &self.sticky {
            None => return Choice::ByTurns,
            Some(Sticky::Header(name)) => {
                let value = asker.headers.get(name).map(HeaderValue::as_bytes);
                (value.filter(|value| !value.is_empty()).map(hash), None)
            }
            Some(Sticky::Consumer) => (asker.consumer.map(|consumer| hash(consumer.as_bytes())), None),
            Some(Sticky::Ip) => (Some(address(asker.address)), None),
            Some(Sticky::Cookie { name, max_age }) => match cookie(asker.headers, name).filter(|id| is_ours(id)) {
                Some(id) => (Some(hash(id)), None),
                None => {
                    let id = format!("{:032x}", fresh());
                    (Some(hash(id.as_bytes())), set_cookie(name, &id, *max_age))
                }
            },
        };
        let selected = key.and_then(|key| select(key, &self.members));
        selected.map_or(Choice::ByTurns, |index| Choice::Backend(index, told))
    }
}

/// By what it is, not by its place: callers stay where they are when a backend is added before it, and with the same
/// backends in another route they are at the same one.
fn member(backend: &Backend) -> Member {
    let kind = match &backend.upstream {
        UpstreamRef::Service(_) => "service",
        UpstreamRef::Provider(_) => "provider",
    };
    let model = backend.model.as_deref().unwrap_or_default();
    let mut name = format!("{kind}/{}/{model}", backend.upstream.name());
    // What no name or model has, so that two subsets are not one.
    for (label, value) in backend.subset.iter().flat_map(|subset| &*subset.labels) {
        name += &format!("\n{label}={value}");
    }
    // Whoever is for some requests alone has no share of the others.
    Member { id: hash(name.as_bytes()), weight: if backend.when.is_some() { 0 } else { backend.weight } }
}

fn address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    }
}

/// Of our making: 128 bits in lower case hex. What isn't is replaced.
fn is_ours(id: &[u8]) -> bool {
    id.len() == 32 && id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn set_cookie(name: &str, id: &str, max_age: Option<Duration>) -> Option<HeaderValue> {
    let age = max_age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
    HeaderValue::try_from(format!("{name}={id}; Path=/; HttpOnly; SameSite=Lax{age}")).ok()
}

#[cfg(test)]
mod tests {
    use http::header;
    use tollgate_model::{Checked, Route, RouteAction, check, yaml};

    use super::*;

    fn route(spec: &str) -> Route {
        let yaml = format!("apiVersion: tollgate/v1\nkind: Route\nmetadata: {{name: r}}\nspec: {{{spec}}}\n");
        let (mut parsed, problems) = yaml::parse_and_check("f", &yaml);
        assert!(problems.is_empty(), "{problems}");
        match check(&parsed.remove(0).resource) {
            Ok(Checked::Route(route)) => (*route).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn choose(spec: &str, headers: &[(&'static str, &str)], consumer: Option<&str>, from: &str) -> Choice {
        let route = route(spec);
        let RouteAction::Forward { backends, .. } = &route.action else { panic!("{route:?}") };
        let sticky = route.traffic.as_ref().and_then(|traffic| traffic.sticky.as_ref());
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let asker = Asker { headers: &headers, query: Some("a=1"), consumer, address: from.parse().unwrap() };
        Split::new(backends, sticky).expect("it is a choice").choose(backends, &asker, || 7)
    }

    #[test]
    fn most_routes_have_no_choice() {
        let RouteAction::Forward { backends, .. } = route("backends: [{service: a}, {service: b}]").action else {
            panic!()
        };
        assert!(Split::new(&backends, None).is_none());
    }

    #[test]
    fn the_first_backend_that_is_for_a_request_takes_it() {
        let spec = "backends: [{service: a}, {service: b, when: {headers: {x-canary: {exact: 'yes'}}}}, \
                    {service: c, when: {consumers: [carol]}}, {service: d, when: {query: {a: {exact: '2'}}}}, \
                    {service: e, when: {cookies: {canary: {present: true}}, consumers: [erin]}}]";
        for (headers, consumer, expected) in [
            (&[("x-canary", "yes")][..], Some("carol"), Choice::Backend(1, None)),
            (&[("x-canary", "no")], Some("carol"), Choice::Backend(2, None)),
            (&[("cookie", "canary=")], Some("erin"), Choice::Backend(4, None)),
            (&[("cookie", "canary=")], None, Choice::ByTurns),
            (&[], Some("erin"), Choice::ByTurns),
            (&[], None, Choice::ByTurns),
        ] {
            assert_eq!(choose(spec, headers, consumer, "10.0.0.1"), expected, "{headers:?} {consumer:?}");
        }
    }

    #[test]
    fn whoever_brings_nothing_to_stay_by_takes_turns() {
        let spec = |by: &str| format!("backends: [{{service: a}}, {{service: b}}], sticky: {{{by}}}");
        for (by, headers, consumer, turns) in [
            ("header: x-user", &[][..], None, true),
            ("header: x-user", &[("x-user", "")], None, true),
            ("header: x-user", &[("x-user", "1")], None, false),
            ("consumer: true", &[], None, true),
            ("consumer: true", &[], Some("alice"), false),
            ("ip: true", &[], None, false),
        ] {
            let choice = choose(&spec(by), headers, consumer, "10.0.0.1");
            assert_eq!(choice == Choice::ByTurns, turns, "{by} {headers:?} {consumer:?}");
            assert_eq!(choice, choose(&spec(by), headers, consumer, "10.0.0.1"), "the same again");
        }
    }

    #[test]
    fn a_cookie_is_made_once_and_only_ours_counts() {
        let spec = "backends: [{service: a}, {service: b}], sticky: {cookie: tg, maxAge: 1h}";
        let id = format!("{:032x}", 7);
        let Choice::Backend(first, Some(told)) = choose(spec, &[], None, "10.0.0.1") else { panic!("no cookie") };
        assert_eq!(told, format!("tg={id}; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"));
        let with = |cookie: &str| choose(spec, &[(header::COOKIE.as_str(), cookie)], None, "10.0.0.2");
        assert_eq!(with(&format!("a=b; tg={id}")), Choice::Backend(first, None), "it stays");
        for forged in
            ["tg=", "tg=1", &format!("tg={}", "G".repeat(32)), &format!("tg={}", "A".repeat(32)), &format!("x={id}")]
        {
            assert!(matches!(with(forged), Choice::Backend(_, Some(_))), "{forged}");
        }
    }
}

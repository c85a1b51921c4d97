//! Which certificate is for which host, and which connections a host's requests may come by.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
};

use tollgate_model::{Certificate, Certified, ClientAuth, ConfigView, HostPattern, Name};
use tracing::error;

use super::{Secured, Served};

/// What a host is served.
#[derive(Debug, Clone)]
pub(crate) enum Host {
    Served(Arc<Served>),
    /// It asks for clients' certificates, and its own can't be served here: nobody could be let in by its rules, and nobody is let
    /// in by others.
    Closed {
        asks: ClientAuth,
    },
}

impl Host {
    /// Whether it is served by the very rules of one that is closed.
    fn opens(&self, closed: &Self) -> bool {
        matches!((self, closed), (Self::Served(served), Self::Closed { asks }) if served.client_auth.as_ref() == Some(asks))
    }
}

/// The certificates of one configuration. Of two for one host the first by name is served.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    exact: HashMap<String, Host>,
    /// By suffix: `.example.com`.
    suffixes: HashMap<String, Host>,
    all: BTreeMap<Name, (Arc<Certified>, Arc<Served>)>,
}

impl Hosts {
    /// What has not changed since the one before is shared with it, so that its sessions go on.
    pub(crate) fn new(view: &ConfigView, previous: Option<&Self>) -> Self {
        let mut hosts = Self::default();
        for (name, certificate) in &view.certificates {
            let Some(certified) = view.certified(name) else {
                hosts.close(certificate);
                continue;
            };
            let known = previous.and_then(|previous| previous.all.get(name));
            let known =
                known.filter(|(before, _)| Arc::ptr_eq(before, certified)).map(|(_, served)| Arc::clone(served));
            match known.map_or_else(|| serve(certified), Ok) {
                Ok(served) => hosts.add(certified, &served),
                Err(error) => {
                    error!(certificate = %name, %error, "a certificate can't be served");
                    hosts.close(certificate);
                }
            }
        }
        hosts
    }

    fn close(&mut self, certificate: &Certificate) {
        if let Some(asks) = &certificate.client_auth {
            self.enter(&certificate.hosts, &Host::Closed { asks: asks.clone() });
        }
    }

    fn enter(&mut self, hosts: &[HostPattern], what: &Host) {
        for host in hosts {
            let (table, key) = match host {
                HostPattern::Exact(name) => (&mut self.exact, name),
                HostPattern::Suffix(suffix) => (&mut self.suffixes, suffix),
                HostPattern::Any => continue, // not of certificates
            };
            match table.entry(key.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(what.clone())),
                Entry::Occupied(mut entry) if what.opens(entry.get()) => drop(entry.insert(what.clone())),
                Entry::Occupied(_) => {}
            }
        }
    }

    fn add(&mut self, certified: &Arc<Certified>, served: &Arc<Served>) {
        self.enter(&certified.certificate.hosts, &Host::Served(Arc::clone(served)));
        self.all.insert(served.name.clone(), (Arc::clone(certified), Arc::clone(served)));
    }

    /// The one for a host in lower case: that names it, or else the longest suffix of it.
    pub(crate) fn find(&self, host: &str) -> Option<&Host> {
        if self.exact.is_empty() && self.suffixes.is_empty() {
            return None;
        }
        let suffixes = || host.match_indices('.').filter(|(at, _)| *at > 0).map(|(at, _)| &host[at..]);
        self.exact.get(host).or_else(|| suffixes().find_map(|suffix| self.suffixes.get(suffix)))
    }

    /// All that are served, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Served>> {
        self.all.values().map(|(_, served)| served)
    }
}

fn serve(certified: &Certified) -> Result<Arc<Served>, rustls::Error> {
    let certificate = &certified.certificate;
    let (name, ends) = (certificate.name.clone(), certificate.chain.ends());
    let (from, client_auth) = (certificate.min_version, certificate.client_auth.clone());
    Ok(Arc::new(Served::new(name, ends, certified.key.clone(), from, client_auth)?))
}

/// Whether a request for a host may come by a connection, `of_host` being what the host is served today. Whoever was let in
/// under one host's rules is nobody to another host that asks for certificates, whatever it writes into `host`; and a host
/// that does not go without them is not had in clear text (RFC 9110 §7.4).
pub(crate) fn admits(of_host: Option<&Host>, connection: Option<&Secured>) -> bool {
    let of_host = match of_host {
        Some(Host::Closed { asks }) => return connection.is_none() && !asks.required,
        Some(Host::Served(served)) => Some(served),
        None => None,
    };
    let asked = of_host.and_then(|served| served.client_auth.as_ref());
    let Some(connection) = connection else { return asked.is_none_or(|auth| !auth.required) };
    let was_asked = connection.served.client_auth.as_ref();
    let same = of_host.is_some_and(|served| served.name == connection.served.name);
    match (asked, was_asked) {
        (None, None) => true,
        (asked, was_asked) => same && asked == was_asked,
    }
}

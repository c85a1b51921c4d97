use tollgate_proto::state::v1::{DeleteResource, PutResource};

use super::*;
use crate::check::tests::resource;

fn tenant(name: &str) -> v1::Resource {
    resource(&format!("kind: Tenant\nmetadata: {{name: {name}}}\n"))
}

fn provider(name: &str) -> v1::Resource {
    resource(&format!("kind: Provider\nmetadata: {{name: {name}, labels: {{team: a}}}}\nspec: {{type: openai}}\n"))
}

fn route(name: &str, provider: &str) -> v1::Resource {
    let spec = format!("{{backends: [{{provider: {provider}}}]}}");
    resource(&format!("kind: Route\nmetadata: {{name: {name}, labels: {{team: a}}}}\nspec: {spec}\n"))
}

fn consumer(name: &str, hash: &str) -> v1::Resource {
    let spec = format!("{{tenant: acme, credentials: [{{hash: '{hash}'}}]}}");
    resource(&format!("kind: Consumer\nmetadata: {{name: {name}}}\nspec: {spec}\n"))
}

fn put(resources: impl IntoIterator<Item = v1::Resource>) -> ConfigChange {
    let put = |resource| PutResource { resource: Some(resource), expected_version: None };
    ConfigChange { puts: resources.into_iter().map(put).collect(), ..Default::default() }
}

fn delete(kind: &str, name: &str) -> ConfigChange {
    let delete = DeleteResource { kind: kind.into(), name: name.into(), expected_version: None };
    ConfigChange { deletes: vec![delete], ..Default::default() }
}

fn actions(decision: &Decision) -> Vec<String> {
    let action = |it: &tollgate_proto::state::v1::ConfigAction| {
        format!("{} {} {} {}", it.action, it.kind, it.name, it.resource_version)
    };
    decision.outcome.actions.iter().map(action).collect()
}

fn problems(decision: &Decision) -> Vec<String> {
    assert!(decision.changes.is_empty() && decision.outcome.actions.is_empty());
    decision.outcome.problems.iter().map(|it| format!("{} {} {}: {}", it.kind, it.name, it.field, it.message)).collect()
}

/// A tenant, a provider and a route to it, as entry 1.
fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    let decision = catalog.apply(LogIndex(1), &put([route("chat", "openai"), provider("openai"), tenant("acme")]));
    assert_eq!(decision.outcome.problems, []);
    catalog
}

#[test]
fn created_updated_and_unchanged_are_told_apart() {
    let mut catalog = catalog();
    let change = put([route("chat", "openai"), route("new", "openai"), provider("openai")]);
    let decision = catalog.apply(LogIndex(2), &change);
    assert_eq!(actions(&decision), ["unchanged Route chat 1", "created Route new 2", "unchanged Provider openai 1"]);
    assert_eq!(decision.changes.len(), 1);
    let mut changed = provider("openai");
    let Some(v1::resource::Kind::Provider(it)) = &mut changed.kind else { panic!() };
    it.spec.as_mut().unwrap().models.insert("a".into(), "b".into());
    let decision = catalog.apply(LogIndex(3), &put([changed]));
    assert_eq!(actions(&decision), ["updated Provider openai 3"]);
    assert_eq!(catalog.get(Kind::Provider, "openai").unwrap().version, LogIndex(3));
    let decision = catalog.apply(LogIndex(4), &put([tenant("acme")]));
    assert_eq!((decision.version, catalog.version()), (LogIndex(3), LogIndex(3)));
    assert_eq!(decision.rows().count(), 0);
}

#[test]
fn a_change_is_made_as_a_whole_or_not_at_all() {
    let mut catalog = catalog();
    let before = catalog.clone();
    let decision = catalog.apply(LogIndex(2), &put([tenant("globex"), route("bad", "opena")]));
    assert_eq!(
        problems(&decision),
        ["Route bad spec.backends[0].provider: there is no provider `opena` (did you mean `openai`?)"]
    );
    assert_eq!(catalog, before);
    assert_eq!(decision.rows().count(), 0);
}

#[test]
fn every_reference_must_be_there() {
    let mut catalog = Catalog::default();
    let text = "kind: Route\nmetadata: {name: r}\nspec:\n  backends: [{service: a, when: {consumers: [k]}}]\n  \
                fallbacks: [{provider: b, on: [reset]}]\n  mirror: {service: m}\n  auth: {allow: {tenants: [c], consumers: [d]}}\n";
    let limit = "kind: Limit\nmetadata: {name: l}\nspec: {match: {tenants: [e], consumers: [f], routes: [g]}}\n";
    let price = "kind: Price\nmetadata: {name: p}\nspec: {match: {tenants: [h], providers: [i]}}\n";
    let change = put([resource(text), resource(limit), resource(price), consumer("j", "x")]);
    let found = problems(&catalog.apply(LogIndex(1), &change));
    let fields: Vec<_> = found.iter().map(|it| it.split(": ").next().unwrap()).collect();
    assert_eq!(
        fields,
        [
            "Route r spec.backends[0].service",
            "Route r spec.backends[0].when.consumers[0]",
            "Route r spec.fallbacks[0].provider",
            "Route r spec.mirror.service",
            "Route r spec.auth.allow.tenants[0]",
            "Route r spec.auth.allow.consumers[0]",
            "Consumer j spec.tenant",
            "Limit l spec.match.tenants[0]",
            "Limit l spec.match.consumers[0]",
            "Limit l spec.match.routes[0]",
            "Price p spec.match.providers[0]",
            "Price p spec.match.tenants[0]",
        ]
    );
}

#[test]
fn a_route_tells_no_host_to_a_service_that_names_its_own() {
    let service = |protocol: &str| {
        resource(&format!(
            "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: {protocol}, endpoints: [{{address: 'a:1'}}]}}\n"
        ))
    };
    let route = |rewrite: &str| {
        resource(&format!(
            "kind: Route\nmetadata: {{name: r}}\nspec: {{backends: [{{service: s}}], rewrite: {{{rewrite}}}}}\n"
        ))
    };
    let told = "Route r spec.rewrite.host: service `s` speaks https, which names its own endpoint";
    let mut catalog = Catalog::default();
    let found = problems(&catalog.apply(LogIndex(1), &put([service("https"), route("host: a")])));
    assert!(found.len() == 1 && found[0].starts_with(told), "{found:?}");
    assert!(catalog.apply(LogIndex(2), &put([service("http"), route("host: a")])).outcome.problems.is_empty());
    let found = problems(&catalog.apply(LogIndex(3), &put([service("https")])));
    assert!(found.len() == 1 && found[0].starts_with(told), "{found:?}");
    assert!(catalog.apply(LogIndex(4), &put([service("https"), route("path: /a")])).outcome.problems.is_empty());
    let found = problems(&catalog.apply(LogIndex(5), &put([route("host: a")])));
    assert!(found.len() == 1 && found[0].starts_with(told), "{found:?}");
}

#[test]
fn what_is_referred_to_cannot_be_deleted() {
    let mut catalog = catalog();
    let found = problems(&catalog.apply(LogIndex(2), &delete("provider", "openai")));
    assert_eq!(
        found,
        ["Provider openai : cannot be deleted: it is referred to by route chat (spec.backends[0].provider)"]
    );
    let mut both = delete("Provider", "openai");
    both.deletes.extend(delete("routes", "chat").deletes);
    let decision = catalog.apply(LogIndex(2), &both);
    assert_eq!(actions(&decision), ["deleted Provider openai 2", "deleted Route chat 2"]);
    assert_eq!(catalog.len(), 1);
    let found = problems(&catalog.apply(LogIndex(3), &delete("tenant", "acm")));
    assert_eq!(found, ["Tenant acm : there is none of that name (did you mean `acme`?)"]);
    let found = problems(&catalog.apply(LogIndex(3), &delete("tenat", "acme")));
    assert!(found[0].contains("did you mean `Tenant`?"), "{found:?}");
}

#[test]
fn a_change_that_takes_away_what_it_needs_is_refused() {
    let mut catalog = catalog();
    let mut change = put([route("other", "openai")]);
    change.deletes = [delete("Provider", "openai").deletes, delete("Route", "chat").deletes].concat();
    let found = problems(&catalog.apply(LogIndex(2), &change));
    assert_eq!(found, ["Route other spec.backends[0].provider: provider `openai` is deleted by the same change"]);
}

#[test]
fn an_older_version_is_a_conflict() {
    let mut catalog = catalog();
    let with = |version| {
        let mut route = route("chat", "openai");
        metadata_mut(&mut route).unwrap().resource_version = Some(version);
        route
    };
    assert_eq!(actions(&catalog.apply(LogIndex(2), &put([with(1)]))), ["unchanged Route chat 1"]);
    for (version, message) in [
        (7, "version 7 is later than its last, 1: was it read from another cluster?"),
        (0, "is there already, with version 1"),
    ] {
        let decision = catalog.apply(LogIndex(2), &put([with(version)]));
        assert!(decision.outcome.conflict);
        assert_eq!(problems(&decision), [format!("Route chat metadata.resourceVersion: {message}")]);
    }
    let mut gone = delete("Route", "chat");
    gone.deletes[0].expected_version = Some(9);
    assert!(catalog.apply(LogIndex(2), &gone).outcome.conflict);
    catalog.apply(LogIndex(2), &delete("Route", "chat"));
    let decision = catalog.apply(LogIndex(3), &put([with(1)]));
    assert!(decision.outcome.conflict && problems(&decision)[0].contains("not there any more"));
    let mut new = put([route("chat", "openai")]);
    new.puts[0].expected_version = Some(0);
    assert_eq!(actions(&catalog.apply(LogIndex(4), &new)), ["created Route chat 4"]);
}

#[test]
fn prune_takes_only_what_the_same_set_brought() {
    let mut catalog = catalog();
    let set =
        |resources: Vec<v1::Resource>, set: &str| ConfigChange { apply_set: set.into(), prune: true, ..put(resources) };
    catalog.apply(LogIndex(2), &set(vec![route("a", "openai"), route("b", "openai")], "one"));
    catalog.apply(LogIndex(3), &set(vec![route("c", "openai")], "two"));
    let decision = catalog.apply(LogIndex(4), &set(vec![route("a", "openai")], "one"));
    assert_eq!(actions(&decision), ["unchanged Route a 2", "deleted Route b 4"]);
    // By hand it stays in its set; another set takes it over.
    catalog.apply(LogIndex(5), &put([route("a", "openai")]));
    assert_eq!(catalog.get(Kind::Route, "a").unwrap().apply_set, "one");
    let decision = catalog.apply(LogIndex(6), &set(vec![route("a", "openai"), route("c", "openai")], "two"));
    assert_eq!(actions(&decision), ["unchanged Route a 2", "unchanged Route c 3"]);
    assert_eq!(decision.changes.len(), 1);
    assert_eq!(decision.rows().count(), 2);
    assert_eq!(actions(&catalog.apply(LogIndex(7), &set(vec![], "one"))), [""; 0]);
    assert_eq!(catalog.kind(Kind::Route).len(), 3);
}

#[test]
fn prune_reaches_as_far_as_the_selector_and_not_beyond() {
    let mut catalog = catalog();
    catalog.apply(LogIndex(2), &put([tenant("other"), route("extra", "openai")]));
    let prune = |resources: Vec<v1::Resource>| ConfigChange { prune: true, ..put(resources) };
    let found = problems(&catalog.apply(LogIndex(3), &prune(vec![])));
    assert!(found[0].contains("prune needs a set or a selector"));
    let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    let change = ConfigChange { selector: labels.clone(), ..prune(vec![route("chat", "openai"), provider("openai")]) };
    assert_eq!(actions(&catalog.apply(LogIndex(3), &change))[2..], ["deleted Route extra 3"]);
    // Both: only what is in both.
    let change = ConfigChange { selector: labels.clone(), apply_set: "s".into(), ..prune(vec![]) };
    assert!(catalog.apply(LogIndex(4), &change).changes.is_empty());
    let change = ConfigChange { selector: labels, ..prune(vec![]) };
    assert_eq!(actions(&catalog.apply(LogIndex(4), &change)), ["deleted Route chat 4", "deleted Provider openai 4"]);
    assert_eq!(catalog.len(), 2);
    let gone = ConfigChange { selector: BTreeMap::from([("x".into(), "y".into())]), ..prune(vec![]) };
    assert!(catalog.apply(LogIndex(5), &gone).outcome.problems.is_empty());
}

#[test]
fn two_consumers_never_share_a_key() {
    let mut catalog = catalog();
    catalog.apply(LogIndex(2), &put([consumer("alice", "h1"), consumer("bob", "h2")]));
    let found = problems(&catalog.apply(LogIndex(3), &put([consumer("carol", "h1")])));
    assert_eq!(found, ["Consumer carol spec.credentials[0]: has an API key that consumer `alice` has"]);
    let found = problems(&catalog.apply(LogIndex(3), &put([consumer("x", "h3"), consumer("y", "h3")])));
    assert_eq!(found, ["Consumer y spec.credentials[0]: has an API key that consumer `x` has"]);
    // They may exchange their keys in one change, and a key is free once its owner is gone.
    let decision = catalog.apply(LogIndex(3), &put([consumer("alice", "h2"), consumer("bob", "h1")]));
    assert_eq!(decision.outcome.problems, []);
    let mut change = put([consumer("carol", "h1")]);
    change.deletes = delete("Consumer", "bob").deletes;
    assert_eq!(catalog.apply(LogIndex(4), &change).outcome.problems, []);
    assert!(!problems(&catalog.apply(LogIndex(5), &put([consumer("dave", "h1")]))).is_empty());
    assert!(!problems(&catalog.apply(LogIndex(5), &put([consumer("dave", "h2")]))).is_empty());
}

#[test]
fn what_is_malformed_is_refused_and_nothing_panics() {
    let mut catalog = catalog();
    let nothing = ConfigChange { puts: vec![PutResource::default()], ..Default::default() };
    assert!(problems(&catalog.apply(LogIndex(2), &nothing))[0].contains("is no resource"));
    assert!(problems(&catalog.apply(LogIndex(2), &put([v1::Resource::default()])))[0].contains("has no kind"));
    let nameless = v1::Resource { kind: Some(v1::resource::Kind::Tenant(v1::Tenant::default())) };
    assert!(problems(&catalog.apply(LogIndex(2), &put([nameless])))[0].contains("metadata.name"));
    let twice = problems(&catalog.apply(LogIndex(2), &put([tenant("a"), tenant("a")])));
    assert_eq!(twice, ["Tenant a : is there twice in one change"]);
    let plain = resource("kind: Provider\nmetadata: {name: p}\nspec: {keys: [{value: sk-secret}]}\n");
    let found = problems(&catalog.apply(LogIndex(2), &put([plain])));
    assert!(found[0].contains("plain secret") && !found[0].contains("sk-secret"));
}

#[test]
fn a_plan_says_what_apply_does_and_does_nothing() {
    let catalog = catalog();
    for change in [put([tenant("acme"), tenant("new")]), delete("Provider", "openai"), delete("Route", "chat")] {
        let (plan, mut applied) = (catalog.plan(LogIndex(2), &change), catalog.clone());
        assert_eq!(plan.outcome, applied.apply(LogIndex(2), &change).outcome);
    }
    assert_eq!(catalog, self::catalog());
}

#[test]
fn rows_hold_everything_and_come_back() {
    let mut catalog = Catalog::default();
    let mut store = BTreeMap::new();
    let set =
        ConfigChange { apply_set: "s".into(), ..put([provider("openai"), route("chat", "openai"), tenant("acme")]) };
    for (at, change) in
        [set, put([consumer("alice", "h1"), route("b", "openai")]), delete("Route", "b"), put([tenant("acme")])]
            .iter()
            .enumerate()
    {
        for (key, value) in catalog.apply(LogIndex(at as u64 + 1), change).rows() {
            match value {
                Some(value) => store.insert(key, value),
                None => store.remove(&key),
            };
        }
    }
    let rows: Vec<_> = catalog.rows().collect();
    assert!(rows.is_sorted() && rows.iter().all(|(key, _)| key[0] == ROW_PREFIX));
    assert_eq!(rows, store.into_iter().collect::<Vec<_>>());
    let restored = Catalog::restore(rows.iter().rev().cloned()).unwrap();
    assert_eq!(restored, catalog);
    assert_eq!(restored.version(), LogIndex(3));
    for (key, value) in [
        (b"c\x03x".to_vec(), b"garbage".to_vec()),
        (b"c\x03x".to_vec(), Vec::new()),
        (b"c\x03other".to_vec(), rows[2].1.clone()),
        (b"c\x03".to_vec(), rows[0].1.clone()),
    ] {
        assert_eq!(Catalog::restore([(key, value)]).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    }
}

#[test]
fn an_export_applies_cleanly_to_an_empty_catalog() {
    let mut catalog = catalog();
    catalog.apply(LogIndex(9), &put([consumer("alice", "h1")]));
    let export = catalog.export();
    let kinds: Vec<_> = export.iter().map(|it| crate::kind_and_name(it).unwrap().0).collect();
    assert_eq!(kinds, [Kind::Tenant, Kind::Consumer, Kind::Provider, Kind::Route]);
    let mut other = Catalog::default();
    assert_eq!(other.apply(LogIndex(1), &put(export.clone())).outcome.problems, []);
    assert_eq!(other.export(), export);
    let one = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    assert_eq!(catalog.list(None, &one).count(), 2);
    assert_eq!(catalog.list(Some(Kind::Route), &one).count(), 1);
    assert_eq!(catalog.list(Some(Kind::Tenant), &one).count(), 0);
}

#[test]
fn references_to_nothing_are_told_beside_everything_else() {
    let catalog = catalog();
    let mut nameless = route("x", "nowhere");
    metadata_mut(&mut nameless).unwrap().name.clear();
    let change = put([route("chat", "openia"), route("chat", "nobody"), nameless, consumer("alice", "x")]);
    let found = problems(&catalog.plan(LogIndex(2), &change));
    for part in [
        "Route chat : is there twice",
        "Route chat spec.backends[0].provider: there is no provider `openia` (did you mean `openai`?)",
        "Route chat spec.backends[0].provider: there is no provider `nobody`",
        "Route  spec.backends[0].provider: there is no provider `nowhere`",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(part)), "{part}: {found:#?}");
    }
    assert!(!found.iter().any(|problem| problem.contains("alice")), "{found:#?}");
}

#[test]
fn a_version_that_never_was_is_told_from_one_that_was_overtaken() {
    let mut catalog = catalog();
    catalog.apply(LogIndex(5), &put([route("chat", "openai"), route("other", "openai")]));
    let with = |version| {
        let mut resource = route("other", "openai");
        metadata_mut(&mut resource).unwrap().resource_version = Some(version);
        problems(&catalog.plan(LogIndex(6), &put([resource]))).remove(0)
    };
    assert!(with(3).ends_with("was changed since version 3: it has version 5 now"), "{}", with(3));
    assert!(with(9).ends_with("version 9 is later than its last, 5: was it read from another cluster?"), "{}", with(9));
}

#[test]
fn every_reference_names_its_field() {
    let all = references_of(&consumer("alice", "x"));
    assert_eq!(all, [Reference { field: "spec.tenant".into(), kind: Kind::Tenant, name: "acme".into() }]);
    assert_eq!(references_of(&route("chat", "openai"))[0].field, "spec.backends[0].provider");
    assert_eq!(references_of(&resource("kind: Consumer\nmetadata: {name: x}\nspec: {}\n")), []);
}

fn price_for(tenant: &str, currency: &str) -> v1::Resource {
    let spec = format!("{{currency: {currency}, table: contract, match: {{tenants: [{tenant}]}}, input: 1}}");
    resource(&format!("kind: Price\nmetadata: {{name: special}}\nspec: {spec}\n"))
}

fn paying(tenant: &str, currency: &str) -> v1::Resource {
    let spec = format!("{{billing: {{mode: postpaid, currency: {currency}}}}}");
    resource(&format!("kind: Tenant\nmetadata: {{name: {tenant}}}\nspec: {spec}\n"))
}

#[test]
fn a_contract_is_in_the_currency_of_its_tenants_whichever_is_changed() {
    let wrong = "Price special spec.match.tenants[0]: tenant `acme` pays in EUR, and this price is in USD";
    let mut catalog = catalog();
    assert_eq!(problems(&catalog.plan(LogIndex(2), &put([paying("acme", "EUR"), price_for("acme", "USD")]))), [wrong]);
    // What a tenant does not pay in yet it may have a price in.
    assert_eq!(catalog.apply(LogIndex(2), &put([price_for("acme", "USD")])).outcome.problems, []);
    assert_eq!(problems(&catalog.plan(LogIndex(3), &put([paying("acme", "EUR")]))), [wrong]);
    let both = put([paying("acme", "EUR"), price_for("acme", "EUR")]);
    assert_eq!(catalog.apply(LogIndex(3), &both).outcome.problems, []);
    assert_eq!(problems(&catalog.plan(LogIndex(4), &put([price_for("acme", "USD")]))), [wrong]);
}

fn budget(spec: &str) -> v1::Resource {
    let spec = format!("{{unit: cost, limit: 5, window: 1d{spec}}}");
    resource(&format!("kind: Limit\nmetadata: {{name: budget}}\nspec: {spec}\n"))
}

fn counts_in(catalog: &Catalog) -> String {
    match &catalog.get(Kind::Limit, "budget").unwrap().resource.kind {
        Some(v1::resource::Kind::Limit(limit)) => limit.spec.as_ref().unwrap().currency.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_on_cost_counts_in_what_its_tenants_pay_in() {
    let mut catalog = catalog();
    let nobody = "Limit budget spec.currency: is missing: nobody whom the limit is about is billed yet";
    assert!(problems(&catalog.plan(LogIndex(2), &put([budget("")])))[0].starts_with(nobody));
    // Whichever comes first in the change.
    let change = put([budget(""), paying("acme", "USD")]);
    assert_eq!(catalog.apply(LogIndex(2), &change).outcome.problems, []);
    assert_eq!(counts_in(&catalog), "USD");
    assert_eq!(actions(&catalog.plan(LogIndex(3), &put([budget("")]))), ["unchanged Limit budget 2"]);

    // What is in force stays in its currency, whoever comes; whoever writes it again has to say which.
    assert_eq!(catalog.apply(LogIndex(3), &put([paying("globex", "EUR"), consumer("bob", "h")])).outcome.problems, []);
    assert_eq!(counts_in(&catalog), "USD");
    let both = "Limit budget spec.currency: is missing: those whom the limit is about pay in EUR and USD; make a limit for \
                each, with `currency: EUR` and `currency: USD`";
    assert_eq!(problems(&catalog.plan(LogIndex(4), &put([budget("")]))), [both]);
    for (more, code) in [
        (", currency: EUR", "EUR"),
        (", match: {tenants: [acme]}", "USD"),
        (", match: {tenants: [globex]}", "EUR"),
        (", match: {consumers: [bob]}", "USD"),
    ] {
        let mut catalog = catalog.clone();
        assert_eq!(catalog.apply(LogIndex(4), &put([budget(more)])).outcome.problems, [], "{more}");
        assert_eq!(counts_in(&catalog), code, "{more}");
    }

    // Nobody pays whose tenant is not billed, or is gone.
    let free = resource("kind: Tenant\nmetadata: {name: globex}\nspec: {billing: {mode: none, currency: EUR}}\n");
    let mut other = catalog.clone();
    assert_eq!(other.apply(LogIndex(4), &put([budget(""), free])).outcome.problems, []);
    assert_eq!(counts_in(&other), "USD");
    let gone = ConfigChange { puts: put([budget("")]).puts, ..delete("Tenant", "globex") };
    assert_eq!(catalog.apply(LogIndex(4), &gone).outcome.problems, []);
    assert_eq!(counts_in(&catalog), "USD");
}

use tollgate_proto::{
    state::v1::{ConfigChange, PutResource},
    v1,
};

use super::*;
use crate::{Kind, check::tests::resource, secret};

fn apply(catalog: &mut Catalog, at: u64, key: &ClusterKey, texts: &[&str]) {
    let put = |text: &&str| {
        let prepared = secret::prepare(&resource(text), Some(key), None).unwrap();
        PutResource { resource: Some(prepared), expected_version: None }
    };
    let change = ConfigChange { puts: texts.iter().map(put).collect(), ..Default::default() };
    let decision = catalog.apply(LogIndex(at), &change);
    assert_eq!(decision.outcome.problems, []);
}

const ACME: &str = "kind: Tenant\nmetadata: {name: acme}\n";
const ALICE: &str = "kind: Consumer\nmetadata: {name: alice}\nspec: {tenant: acme, credentials: [{apiKey: sk-alice}, {apiKey: sk-oldie, expiresAt: '2026-01-01T00:00:00Z'}]}\n";
const OPENAI: &str = "kind: Provider\nmetadata: {name: openai}\nspec: {type: openai, endpoints: [{url: 'http://a/v1'}], keys: [{value: sk-one}, {env: TOLLGATE_TEST_NO_SUCH_KEY}, {value: sk-two}]}\n";
const CHAT: &str = "kind: Route\nmetadata: {name: chat}\nspec: {backends: [{provider: openai}]}\n";

fn sample() -> (Catalog, ClusterKey) {
    let (key, _) = ClusterKey::generate();
    let mut catalog = Catalog::default();
    apply(&mut catalog, 1, &key, &[ACME, ALICE, OPENAI, CHAT]);
    (catalog, key)
}

#[test]
fn a_key_is_good_until_it_expires_and_no_other_is() {
    let (catalog, key) = sample();
    let (view, _) = ConfigView::compile(LogIndex(1), &catalog, None, Some(&key));
    let now = Timestamp::parse("2025-12-31T23:59:59Z").unwrap();
    let caller = view.authenticate("sk-alice", now).unwrap();
    assert_eq!((&*caller.consumer.name, &*caller.tenant.name), ("alice", "acme"));
    assert!(view.authenticate("sk-oldie", now).is_some());
    let later = Timestamp::parse("2026-01-01T00:00:00Z").unwrap();
    assert!(view.authenticate("sk-oldie", later).is_none() && view.authenticate("sk-alice", later).is_some());
    for wrong in ["", "sk-alic", "sk-alice ", "SK-ALICE", "sk-bob"] {
        assert!(view.authenticate(wrong, now).is_none(), "{wrong}");
    }
}

#[test]
fn without_the_right_cluster_key_nobody_is_known_and_it_is_told() {
    let (catalog, key) = sample();
    for other in [None, Some(ClusterKey::generate().0)] {
        let (view, problems) = ConfigView::compile(LogIndex(1), &catalog, None, other.as_ref());
        assert!(view.authenticate("sk-alice", Timestamp(0)).is_none());
        assert!(view.provider_key("openai", 0).is_none());
        assert_eq!(problems.len(), 5, "{problems}");
        assert_eq!(view.other_cluster_key(), Some(key.id()));
        // The right key comes: what was derived from the wrong one is not kept.
        let (view, problems) = ConfigView::compile(LogIndex(1), &catalog, Some(&view), Some(&key));
        assert!(view.authenticate("sk-alice", Timestamp(0)).is_some());
        assert_eq!(view.provider_key("openai", 2).unwrap().expose(), "sk-two");
        assert_eq!(problems.len(), 1, "{problems}");
        assert_eq!(view.other_cluster_key(), None);
    }
}

#[test]
fn one_hash_under_another_key_does_not_outweigh_the_others() {
    let (mut catalog, key) = sample();
    let (other, _) = ClusterKey::generate();
    apply(
        &mut catalog,
        90,
        &other,
        &["kind: Consumer\nmetadata: {name: misled}\nspec: {tenant: acme, credentials: [{apiKey: sk-misled}]}"],
    );
    let theirs =
        |key| ConfigView::compile(LogIndex(90), &catalog, None, Some(key)).0.other_cluster_key().map(str::to_owned);
    assert_eq!(theirs(&key), None);
    assert_eq!(theirs(&other), Some(key.id().to_owned()));
    let nothing = ConfigView::compile(LogIndex(1), &Catalog::default(), None, None).0;
    assert_eq!(nothing.other_cluster_key(), None, "without secrets any key fits, and none");
}

#[test]
fn keys_are_opened_in_their_order_and_never_shown() {
    let (catalog, key) = sample();
    let (view, problems) = ConfigView::compile(LogIndex(1), &catalog, None, Some(&key));
    assert_eq!(view.provider_key("openai", 0).unwrap().expose(), "sk-one");
    assert!(view.provider_key("openai", 1).is_none());
    assert_eq!(view.provider_key("openai", 2).unwrap().expose(), "sk-two");
    assert!(view.provider_key("openai", 3).is_none() && view.provider_key("x", 0).is_none());
    let expected =
        "provider openai: spec.keys[1].env: the environment variable TOLLGATE_TEST_NO_SUCH_KEY is not set on this node";
    assert_eq!(problems.to_string(), expected);
    let shown = format!("{view:?} {catalog:?}");
    assert!(!shown.contains("sk-"), "{shown}");
}

#[test]
fn a_key_file_is_read_each_time() {
    let (mut catalog, key) = sample();
    let file = std::env::temp_dir().join(format!("tollgate-view-key-{}", std::process::id()));
    let text = OPENAI.replace("env: TOLLGATE_TEST_NO_SUCH_KEY", &format!("file: {}", file.display()));
    apply(&mut catalog, 2, &key, &[&text]);
    let mut view = None;
    for (content, expected) in
        [("sk-file\n", Some("sk-file")), ("sk-new", Some("sk-new")), (" \n", None), ("two words", None)]
    {
        std::fs::write(&file, content).unwrap();
        let (next, problems) = ConfigView::compile(LogIndex(2), &catalog, view.as_ref(), Some(&key));
        assert_eq!(next.provider_key("openai", 1).map(|key| key.expose().as_str()), expected);
        assert_eq!(problems.is_empty(), expected.is_some(), "{problems}");
        view = Some(next);
    }
    std::fs::remove_file(&file).unwrap();
    let (_, problems) = ConfigView::compile(LogIndex(2), &catalog, view.as_ref(), Some(&key));
    assert!(problems.to_string().contains("cannot read"), "{problems}");
}

#[test]
fn what_did_not_change_is_shared() {
    let (mut catalog, key) = sample();
    let (one, _) = ConfigView::compile(LogIndex(1), &catalog, None, Some(&key));
    apply(&mut catalog, 2, &key, &[&CHAT.replace("openai}", "openai, weight: 2}"), &CHAT.replace("chat", "new")]);
    let (two, _) = ConfigView::compile(LogIndex(2), &catalog, Some(&one), Some(&key));
    assert_eq!((two.index, two.routes.len()), (LogIndex(2), 2));
    assert!(!Arc::ptr_eq(&one.routes["chat"], &two.routes["chat"]));
    assert_eq!(two.routes["chat"].version, LogIndex(2));
    assert!(Arc::ptr_eq(&one.providers["openai"], &two.providers["openai"]));
    assert!(Arc::ptr_eq(&one.callers, &two.callers) && Arc::ptr_eq(&one.limit_index, &two.limit_index));
    let gone = tollgate_proto::state::v1::DeleteResource {
        kind: "Consumer".into(),
        name: "alice".into(),
        expected_version: None,
    };
    catalog.apply(LogIndex(3), &ConfigChange { deletes: vec![gone], ..Default::default() });
    let (three, _) = ConfigView::compile(LogIndex(3), &catalog, Some(&two), Some(&key));
    assert!(three.consumers.is_empty() && three.authenticate("sk-alice", Timestamp(0)).is_none());
    assert!(two.authenticate("sk-alice", Timestamp(0)).is_some());
}

#[test]
fn what_no_longer_checks_is_left_out_and_told() {
    let (mut catalog, key) = sample();
    let spec = v1::TenantSpec { time_zone: "Mars/Olympus".into(), ..Default::default() };
    let mut raw = resource(ACME);
    let Some(v1::resource::Kind::Tenant(tenant)) = &mut raw.kind else { panic!() };
    tenant.spec = Some(spec);
    let change =
        ConfigChange { puts: vec![PutResource { resource: Some(raw), expected_version: None }], ..Default::default() };
    assert_eq!(catalog.apply(LogIndex(2), &change).outcome.problems, []);
    let (view, problems) = ConfigView::compile(LogIndex(2), &catalog, None, Some(&key));
    assert!(view.tenants.is_empty() && view.routes.len() == 1);
    assert!(view.authenticate("sk-alice", Timestamp(0)).is_none());
    let fields: Vec<_> = problems.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(fields, ["spec.timeZone", "spec.tenant", "spec.keys[1].env"]);
}

#[test]
fn a_request_meets_exactly_the_limits_that_concern_it() {
    let (mut catalog, key) = sample();
    let limit = |name: &str, matched: &str| {
        format!(
            "kind: Limit\nmetadata: {{name: {name}}}\nspec: {{match: {{{matched}}}, unit: tokens, limit: 1, window: 1m}}\n"
        )
    };
    let texts = [
        limit("all", ""),
        limit("model", "models: ['gpt-*']"),
        limit("route", "routes: [chat]"),
        limit("tenant", "tenants: [acme]"),
        limit("consumer", "consumers: [alice], tenants: [acme], routes: [chat]"),
    ];
    apply(&mut catalog, 2, &key, &texts.each_ref().map(String::as_str));
    let (view, _) = ConfigView::compile(LogIndex(2), &catalog, None, Some(&key));
    let met = |subject: Subject<'_>| {
        let mut names: Vec<_> = view.limits_for(subject).map(|limit| limit.name.to_string()).collect();
        names.sort();
        names.join(" ")
    };
    let alice =
        Subject { tenant: Some("acme"), consumer: Some("alice"), model: Some("gpt-4o"), ..Subject::of_route("chat") };
    assert_eq!(met(alice), "all consumer model route tenant");
    assert_eq!(met(Subject { consumer: Some("bob"), ..alice }), "all model route tenant");
    assert_eq!(met(Subject { route: "other", model: None, ..alice }), "all tenant");
    assert_eq!(met(Subject { model: Some("claude"), ..Subject::of_route("other") }), "all");
    for subject in [alice, Subject { tenant: None, ..alice }] {
        let slow: Vec<_> =
            view.limits.values().filter(|limit| limit.concerns(&subject)).map(|it| it.name.to_string()).collect();
        assert_eq!(met(subject), slow.join(" "));
    }
}

#[test]
fn one_change_among_ten_thousand_routes_compiles_one() {
    let (mut catalog, key) = sample();
    let raw = resource(CHAT);
    let named = |n: usize| {
        let mut resource = raw.clone();
        crate::check::metadata_mut(&mut resource).unwrap().name = format!("r{n}");
        PutResource { resource: Some(resource), expected_version: None }
    };
    let change = ConfigChange { puts: (0..10_000).map(named).collect(), ..Default::default() };
    assert_eq!(catalog.apply(LogIndex(2), &change).outcome.problems, []);
    let (one, _) = ConfigView::compile(LogIndex(2), &catalog, None, Some(&key));
    apply(&mut catalog, 3, &key, &[&CHAT.replace("chat", "r5000").replace("openai}", "openai, weight: 3}")]);
    let (two, _) = ConfigView::compile(LogIndex(3), &catalog, Some(&one), Some(&key));
    let compiled = two.routes.iter().filter(|(name, route)| !Arc::ptr_eq(route, &one.routes[&***name])).count();
    assert_eq!((two.routes.len(), compiled), (10_001, 1));
}

#[test]
fn keys_that_are_not_on_this_node_are_named() {
    let folder = std::env::temp_dir();
    let keys = format!(
        "[{{value: sk}}, {{env: TOLLGATE_TEST_NO_SUCH_KEY}}, {{file: /no/such/key}}, {{file: {}}}]",
        folder.display()
    );
    let text = OPENAI.replace("[{value: sk-one}, {env: TOLLGATE_TEST_NO_SUCH_KEY}, {value: sk-two}]", &keys);
    let found: Vec<_> = keys_missing_here(&resource(&text)).iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(
        found[0],
        "provider openai: spec.keys[1].env: the environment variable TOLLGATE_TEST_NO_SUCH_KEY is not set on this node"
    );
    assert!(found[1].starts_with("provider openai: spec.keys[2].file: cannot read /no/such/key on this node"));
    assert!(
        found[2].starts_with("provider openai: spec.keys[3].file: ") && found[2].ends_with("is no file"),
        "{found:?}"
    );
    let hook = "{url: 'https://example.com', secret: {env: TOLLGATE_TEST_NO_SUCH_HOOK}}";
    let tenant = format!("kind: Tenant\nmetadata: {{name: a}}\nspec: {{budget: {{monthly: '1', webhook: {hook}}}}}\n");
    let found: Vec<_> = keys_missing_here(&resource(&tenant)).iter().map(ToString::to_string).collect();
    assert!(found.len() == 1 && found[0].starts_with("tenant a: spec.budget.webhook.secret.env: "), "{found:?}");
    assert!(keys_missing_here(&resource("kind: Tenant\nmetadata: {name: a}\n")).is_empty());
}

#[test]
fn a_certificate_is_the_same_until_it_changes_and_stays_while_a_new_key_is_not_there() {
    let (mut catalog, key) = sample();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let made = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let pair = rcgen::KeyPair::generate().unwrap();
        (rcgen::CertificateParams::new(names).unwrap().self_signed(&pair).unwrap().pem(), pair.serialize_pem())
    };
    let text = |pem: &str, place: &str| {
        let pem = serde_json::to_string(pem).unwrap();
        format!(
            "kind: Certificate\nmetadata: {{name: a}}\nspec: {{hosts: [a.test], certificate: {pem}, key: {place}}}\n"
        )
    };
    let (pem, plain) = made(&["a.test"]);
    let value = format!("{{value: {}}}", serde_json::to_string(&plain).unwrap());
    apply(&mut catalog, 2, &key, &[&text(&pem, &value)]);
    let (first, problems) = ConfigView::compile(LogIndex(2), &catalog, None, Some(&key));
    assert!(!problems.iter().any(|it| it.kind == Some(Kind::Certificate)), "{problems}");
    let (second, _) = ConfigView::compile(LogIndex(3), &catalog, Some(&first), Some(&key));
    assert!(Arc::ptr_eq(first.certified("a").unwrap(), second.certified("a").unwrap()));
    assert!(ConfigView::compile(LogIndex(3), &catalog, None, None).0.certified("a").is_none(), "without a cluster key");

    let (renewed, renewed_key) = made(&["a.test"]);
    apply(&mut catalog, 4, &key, &[&text(&renewed, &format!("{{file: '{}'}}", path.display()))]);
    for (content, says) in [(None, "cannot read"), (Some(&plain), "is not the key of the certificate")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let (view, problems) = ConfigView::compile(LogIndex(4), &catalog, Some(&second), Some(&key));
        let told = problems.iter().find(|it| it.kind == Some(Kind::Certificate)).unwrap();
        assert!(told.field == "spec.key.file" && told.message.contains(says), "{told}");
        assert!(Arc::ptr_eq(second.certified("a").unwrap(), view.certified("a").unwrap()), "the one before is served");
        let stored = &catalog.get(Kind::Certificate, "a").unwrap().resource;
        assert!(keys_missing_here(stored).to_string().contains(says));
    }
    std::fs::write(&path, &renewed_key).unwrap();
    let (view, _) = ConfigView::compile(LogIndex(4), &catalog, Some(&second), Some(&key));
    assert!(!Arc::ptr_eq(second.certified("a").unwrap(), view.certified("a").unwrap()));
    let (again, _) = ConfigView::compile(LogIndex(5), &catalog, Some(&view), Some(&key));
    assert!(Arc::ptr_eq(again.certified("a").unwrap(), view.certified("a").unwrap()), "read anew, and the same");
}

#[test]
fn what_an_upstream_is_shown_stays_while_its_key_can_not_be_opened() {
    let (mut catalog, key) = sample();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let made = || {
        let pair = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        (params.self_signed(&pair).unwrap().pem(), pair.serialize_pem())
    };
    let tls = |pem: &str| {
        let pem = serde_json::to_string(pem).unwrap();
        format!("tls: {{certificate: {{chain: {pem}, key: {{file: '{}'}}}}}}", path.display())
    };
    let texts = |pem: &str| {
        let tls = tls(pem);
        let service = format!(
            "kind: Service\nmetadata: {{name: s}}\nspec: {{protocol: https, endpoints: [{{address: 'a:443'}}], {tls}}}\n"
        );
        let provider = format!(
            "kind: Provider\nmetadata: {{name: p}}\nspec: {{type: openai, endpoints: [{{url: 'https://a/v1'}}], {tls}}}\n"
        );
        [service, provider]
    };
    let upstreams = [(Kind::Service, Name::new("s")), (Kind::Provider, Name::new("p"))];
    let all = |view: &ConfigView| upstreams.clone().map(|(kind, name)| view.shown_to(kind, &name).map(Arc::clone));
    let fields = |problems: &Problems| problems.iter().filter(|it| it.field == "spec.tls.certificate.key.file").count();

    let (pem, plain) = made();
    std::fs::write(&path, &plain).unwrap();
    apply(&mut catalog, 2, &key, &texts(&pem).each_ref().map(String::as_str));
    let (first, problems) = ConfigView::compile(LogIndex(2), &catalog, None, Some(&key));
    assert_eq!(fields(&problems), 0, "{problems}");
    let shown = all(&first).map(Option::unwrap);

    let (other, other_key) = made();
    for unreadable in [None, Some(""), Some(&*other_key)] {
        match unreadable {
            None => std::fs::remove_file(&path).unwrap(),
            Some(text) => std::fs::write(&path, text).unwrap(),
        }
        let (view, problems) = ConfigView::compile(LogIndex(3), &catalog, Some(&first), Some(&key));
        assert_eq!(fields(&problems), 2, "{problems}");
        for (before, now) in shown.iter().zip(all(&view)) {
            assert!(Arc::ptr_eq(before, &now.unwrap()), "{unreadable:?}");
        }
        let (anew, _) = ConfigView::compile(LogIndex(3), &catalog, None, Some(&key));
        assert!(all(&anew).iter().all(Option::is_none), "there is none to be kept");
    }
    std::fs::write(&path, &plain).unwrap();
    let (view, problems) = ConfigView::compile(LogIndex(4), &catalog, Some(&first), Some(&key));
    assert_eq!(fields(&problems), 0, "{problems}");
    assert!(shown.iter().zip(all(&view)).all(|(before, now)| Arc::ptr_eq(before, &now.unwrap())), "it is the same");

    // Of another certificate the key before is none.
    apply(&mut catalog, 5, &key, &texts(&other).each_ref().map(String::as_str));
    let (view, problems) = ConfigView::compile(LogIndex(5), &catalog, Some(&first), Some(&key));
    assert_eq!(fields(&problems), 2, "{problems}");
    assert!(all(&view).iter().all(Option::is_none));
}

#[test]
fn a_view_knows_whether_any_call_can_be_critical_or_other_than_standard() {
    let (mut catalog, key) = sample();
    let view = |catalog: &Catalog, old| ConfigView::compile(LogIndex(1), catalog, old, Some(&key)).0;
    let told = |view: &ConfigView| (view.has_critical(), view.has_priorities());
    let first = view(&catalog, None);
    assert_eq!(told(&first), (false, false));
    apply(&mut catalog, 2, &key, &[&CHAT.replace("{backends", "{priority: sheddable, backends")]);
    let second = view(&catalog, Some(&first));
    assert_eq!(told(&second), (false, true));
    apply(&mut catalog, 3, &key, &[&ALICE.replace("{tenant", "{priority: critical, tenant")]);
    assert_eq!(told(&view(&catalog, Some(&second))), (true, true));
}

//! Whatever is written comes back, and no text panics.

use proptest::prelude::*;

use super::*;

fn resource() -> impl Strategy<Value = v1::Resource> {
    let word =
        || "\\PC{0,12}|[ \\t\\n:#\\-\"'\\\\{}\\[\\],&*!|>%@`~]{0,6}|true|null|~|1|0x1f|1e3|\u{85}|\u{2028}|\u{7f}";
    let metadata = (word(), prop::collection::btree_map(word(), word(), 0..3), any::<Option<u64>>()).prop_map(
        |(name, labels, resource_version)| v1::Metadata { name: format!("x{name}"), labels, resource_version },
    );
    let value = (any::<bool>(), word(), any::<Option<bool>>()).prop_map(|(exact, text, present)| v1::ValueMatch {
        exact: exact.then(|| text.clone()),
        regex: (!exact).then_some(text),
        present,
        ..Default::default()
    });
    let matches = (prop::collection::btree_map(word(), value, 0..3), prop::collection::vec(word(), 0..3))
        .prop_map(|(headers, methods)| v1::RouteMatch { headers, methods, ..Default::default() });
    let backend = (word(), prop::option::of(0..=crate::resource::MAX_WEIGHT))
        .prop_map(|(provider, weight)| v1::Backend { provider, weight, ..Default::default() });
    let tokens =
        (any::<Option<u64>>(), any::<Option<u64>>()).prop_map(|(default, max)| v1::TokenPolicy { default, max });
    let auth = any::<Option<bool>>().prop_map(|required| v1::Auth { required, allow: None });
    let spec = (
        prop::collection::vec(word(), 0..3),
        prop::collection::vec(matches, 0..3),
        prop::collection::vec(backend, 0..3),
        prop::option::of(tokens),
        prop::option::of(auth),
    );
    (metadata, spec).prop_map(|(metadata, (hosts, r#match, backends, tokens, auth))| {
        let spec = v1::RouteSpec { hosts, r#match, backends, tokens, auth, ..Default::default() };
        let (api_version, kind) = ("tollgate/v1".to_owned(), "Route".to_owned());
        let route = v1::Route { api_version, kind, metadata: Some(metadata), spec: Some(spec) };
        v1::Resource { kind: Some(v1::resource::Kind::Route(route)) }
    })
}

proptest! {
    #[test]
    fn every_resource_comes_back_from_yaml_and_json(resources in prop::collection::vec(resource(), 1..3)) {
        let text = to_yaml(&resources);
        let (parsed, problems) = parse("f", &text);
        prop_assert!(problems.is_empty(), "{}\n{}", problems, text);
        let again: Vec<_> = parsed.into_iter().map(|parsed| parsed.resource).collect();
        prop_assert_eq!(&again, &resources);
        for resource in &resources {
            // JSON lets control characters from U+007F on stand as they are, YAML does not.
            let escaped = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
            let json: String = to_json(resource).to_string().chars().map(escaped).collect();
            let (parsed, problems) = parse("f", &json);
            prop_assert!(problems.is_empty(), "{}", problems);
            prop_assert_eq!(&parsed[0].resource, resource);
        }
    }

    #[test]
    fn no_text_panics(text in "(apiVersion: tollgate/v1\nkind: Route\n)?[a-z0-9 :\\-{}\\[\\]&*!\"'\n]{0,80}|\\PC{0,60}") {
        let _ = parse_and_check("f", &text);
    }
}

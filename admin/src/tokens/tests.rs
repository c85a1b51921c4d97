use super::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn record(id: &str, role: Role, expires_us: u64) -> TokenRecord {
    let mut hash = [0; HASH_BYTES];
    hash[..id.len()].copy_from_slice(id.as_bytes());
    TokenRecord { id: id.into(), role: role.to_string(), hash: hash.to_vec(), expires_us, ..TokenRecord::default() }
}

fn create(record: TokenRecord) -> TokenChange {
    TokenChange { kind: Some(token_change::Kind::Create(record)) }
}

fn initial(record: TokenRecord) -> TokenChange {
    TokenChange { kind: Some(token_change::Kind::Initial(record)) }
}

fn revoke(id: &str) -> TokenChange {
    TokenChange { kind: Some(token_change::Kind::Revoke(id.into())) }
}

fn hash(id: &str) -> [u8; HASH_BYTES] {
    hash_of(&record(id, Role::Viewer, 0)).unwrap()
}

#[test]
fn a_token_is_found_by_its_hash_until_it_expires_or_is_revoked() {
    let (mut table, mut changes) = (TokenTable::default(), Changes::new());
    assert!(table.apply(NOW, &create(record("a", Role::Admin, 0)), &mut changes).done);
    assert!(table.apply(NOW, &create(record("b", Role::Viewer, NOW.0 + 10)), &mut changes).done);
    assert_eq!(table.find(&hash("b"), NOW).unwrap().created_us, NOW.0);
    assert!(table.find(&hash("b"), Timestamp(NOW.0 + 10)).is_none());
    assert!(table.find(&hash("c"), NOW).is_none());
    assert!(table.apply(NOW, &revoke("b"), &mut changes).done);
    assert!(table.find(&hash("b"), NOW).is_none());
    assert_eq!(table.apply(NOW, &revoke("b"), &mut changes).problem, "there is no token b");
}

#[test]
fn the_initial_token_is_made_only_while_there_is_none() {
    let (mut table, mut changes) = (TokenTable::default(), Changes::new());
    assert!(table.apply(NOW, &initial(record("a", Role::Admin, NOW.0 + 5)), &mut changes).done);
    assert!(!table.apply(NOW, &initial(record("b", Role::Admin, 0)), &mut changes).done);
    let later = Timestamp(NOW.0 + 5);
    assert!(table.apply(later, &initial(record("b", Role::Admin, 0)), &mut changes).done, "the first one has expired");
    assert_eq!(table.list(later).map(|token| token.id.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn nobody_can_lock_everyone_out() {
    let (mut table, mut changes) = (TokenTable::default(), Changes::new());
    table.apply(NOW, &create(record("a", Role::Admin, 0)), &mut changes);
    table.apply(NOW, &create(record("o", Role::Operator, 0)), &mut changes);
    assert!(table.apply(NOW, &revoke("a"), &mut changes).problem.contains("last admin token"));
    table.apply(NOW, &create(record("b", Role::Admin, 0)), &mut changes);
    assert!(table.apply(NOW, &revoke("a"), &mut changes).done);
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let (mut table, mut changes) = (TokenTable::default(), Changes::new());
    table.apply(NOW, &create(record("a", Role::Admin, 0)), &mut changes);
    changes.clear();
    let short = TokenRecord { hash: vec![1; 31], ..record("b", Role::Viewer, 0) };
    let role = TokenRecord { role: "root".into(), ..record("b", Role::Viewer, 0) };
    for bad in [
        create(short),
        create(role),
        create(record("a", Role::Admin, 0)),
        create(record("", Role::Admin, 0)),
        TokenChange::default(),
    ] {
        assert!(!table.apply(NOW, &bad, &mut changes).done, "{bad:?}");
    }
    assert!(changes.is_empty());
}

#[test]
fn rows_and_changes_restore_the_same_table() {
    let (mut table, mut changes) = (TokenTable::default(), Changes::new());
    for id in ["a", "b", "c"] {
        table.apply(NOW, &create(record(id, Role::Admin, 0)), &mut changes);
    }
    table.apply(NOW, &revoke("b"), &mut changes);
    let mut stored = BTreeMap::new();
    for (key, value) in changes {
        match value {
            Some(value) => stored.insert(key, value),
            None => stored.remove(&key),
        };
    }
    assert_eq!(stored.clone().into_iter().collect::<Vec<_>>(), table.rows().collect::<Vec<_>>());
    let restored = TokenTable::restore(stored).unwrap();
    assert_eq!(restored.rows().collect::<Vec<_>>(), table.rows().collect::<Vec<_>>());
    assert!(restored.find(&hash("c"), NOW).is_some());
    assert!(TokenTable::restore([(b"x".to_vec(), vec![0xff])]).is_err());
}

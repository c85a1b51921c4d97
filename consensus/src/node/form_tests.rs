use super::*;

fn identity(node: u64, birth: u8) -> Identity {
    Identity { node, birth: [birth; 16], member: None }
}

fn empty(node: u64, birth: u8) -> (String, Option<IdentifyResponse>) {
    (format!("{node}"), Some(IdentifyResponse { node, birth: vec![birth; 16].into(), ..IdentifyResponse::default() }))
}

fn three() -> Formation {
    Formation::Bootstrap((1..=3).map(|node| FirstMember { node, peer: format!("h:{node}") }).collect())
}

fn in_cluster(founders: &[(u64, u8)]) -> IdentifyResponse {
    let founder =
        |&(node, birth): &(u64, u8)| tollgate_proto::peer::v1::Founder { node, birth: vec![birth; 16].into() };
    IdentifyResponse {
        cluster: vec![9; 16].into(),
        founders: founders.iter().map(founder).collect(),
        ..IdentifyResponse::default()
    }
}

#[test]
fn the_smallest_founds_when_all_answer() {
    let membership = found(&identity(1, 1), &three(), &[empty(2, 2), empty(3, 3)]).unwrap();
    assert_eq!(membership.founders.len(), 3);
    assert_eq!(membership.incarnation, 1);
}

#[test]
fn nobody_founds_while_one_is_missing() {
    assert!(found(&identity(1, 1), &three(), &[empty(2, 2), ("3".into(), None)]).is_none());
}

#[test]
fn the_others_never_found() {
    assert!(found(&identity(2, 2), &three(), &[empty(1, 1), empty(3, 3)]).is_none());
}

#[test]
fn a_late_first_member_takes_its_place() {
    let membership = take_place(&identity(2, 2), &in_cluster(&[(1, 1), (2, 2), (3, 3)])).unwrap();
    assert_eq!((membership.cluster, membership.incarnation), ([9; 16], 1));
}

#[test]
fn a_wiped_first_member_does_not() {
    assert!(take_place(&identity(2, 7), &in_cluster(&[(1, 1), (2, 2), (3, 3)])).is_none());
    assert!(take_place(&identity(2, 2), &in_cluster(&[])).is_none());
}

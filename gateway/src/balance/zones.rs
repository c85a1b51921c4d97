//! How far zones are from each other.

use tollgate_model::Balancing;

/// Which tier an endpoint in `zone` is in, for a node in the zone `own`: 0 is near, then the zones that come after it, each by
/// itself and in their order, then all others. What has no zone is near everywhere.
pub(crate) fn tier(balancing: &Balancing, own: &str, zone: Option<&str>) -> usize {
    match zone {
        Some(zone) if balancing.prefer_local && zone != own => {
            let after = balancing.zones_after(own).iter().filter(|it| ***it != *own);
            let count = after.clone().count();
            1 + after.into_iter().position(|it| **it == *zone).unwrap_or(count)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use tollgate_model::{Name, ZoneFailover};

    use super::*;

    #[test]
    fn zones_that_are_named_come_in_their_order_and_all_others_after_them() {
        let names = |names: &[&str]| names.iter().copied().map(Name::new).collect();
        let failover = vec![
            ZoneFailover { from: None, to: names(&["a", "b", "c"]) },
            ZoneFailover { from: Some(Name::new("c")), to: names(&["b"]) },
        ];
        let ordered = Balancing { failover, ..Balancing::default() };
        let tiers = |own| ["a", "b", "c", "d", "e"].map(|zone| tier(&ordered, own, Some(zone)));
        assert_eq!(tiers("a"), [0, 1, 2, 3, 3]);
        assert_eq!(tiers("b"), [1, 0, 2, 3, 3]);
        assert_eq!(tiers("c"), [2, 1, 0, 2, 2]);
        assert_eq!(tiers("e"), [1, 2, 3, 4, 0]);
        assert_eq!(tier(&ordered, "a", None), 0);
        let any = Balancing { prefer_local: false, ..ordered };
        assert_eq!(tier(&any, "a", Some("e")), 0);
        assert_eq!(["a", "b"].map(|zone| tier(&Balancing::default(), "a", Some(zone))), [0, 1]);
    }
}

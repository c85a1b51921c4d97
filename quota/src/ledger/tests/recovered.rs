//! What the journal of a dead process tells of its sliding leases: all that counts, and little else.

use proptest::{collection::vec, prelude::*};
use prost::Message;
use tollgate_proto::state::v1::{JournalEntry, journal_entry};

use super::{
    retry::{Cluster, limit},
    *,
};
use crate::{Agent, Durability, journal::Replay, ledger::AccountView};

/// The disk of the first node.
#[derive(Default)]
struct Disk(Vec<JournalEntry>);

impl Disk {
    fn write(&mut self, cluster: &mut Cluster) {
        self.0.extend(cluster.agents[0].take_entries());
    }

    /// The process of the first node is dead; the next one says what its journal tells.
    fn restart(mut self, cluster: &mut Cluster) {
        self.write(cluster);
        let open = NodeOpen { node: 1, incarnation: 2, predecessor_is_dead: true, ..NodeOpen::default() };
        cluster.ledger.open(LogIndex(9), Timestamp(NOON + cluster.now), &open, &mut Changes::new());
        let mut replay = Replay::default();
        replay.entry(&JournalEntry { kind: Some(journal_entry::Kind::Start(1)) }.encode_to_vec()).unwrap();
        self.0.iter().for_each(|entry| replay.entry(&entry.encode_to_vec()).unwrap());
        let (remains, earlier) = (replay.finish().remove(0), cluster.ledger.earlier(1)[0]);
        let held = cluster.ledger.orphans_of(1, 1);
        cluster.agents[0] = Agent::new(1, 2);
        cluster.agents[0].recover(remains.with_held(held).recover(earlier.last_terminal).unwrap());
        cluster.exchange(None);
        cluster.ledger.audit().unwrap();
    }
}

fn view(cluster: &Cluster) -> AccountView {
    let view = cluster.ledger.account(Timestamp(NOON + cluster.now), "tpm", Some(&["alice".to_owned()])).unwrap();
    let out = view.used + view.held + view.leased + view.suspense;
    assert_eq!(i128::from(view.capacity), i128::from(out) + view.free, "{view:?}");
    view
}

/// Calls of the first node that use 10 each.
fn calls(cluster: &mut Cluster, disk: &mut Disk, count: usize) {
    for _ in 0..count {
        cluster.ask(0, 10).unwrap();
        cluster.pass(SECOND);
        disk.write(cluster);
    }
}

#[test]
fn what_was_used_is_known_to_the_unit_and_what_had_aged_by_the_last_call_is_not_counted() {
    for image in [false, true] {
        let (mut cluster, mut disk) =
            (Cluster::new(limit(Window::Hour, 100_000), vec![1_000; 3], 1_000), Disk::default());
        calls(&mut cluster, &mut disk, 20);
        cluster.pass(30 * MINUTE);
        calls(&mut cluster, &mut disk, 20);
        if image {
            cluster.agents[0].restate();
        }
        cluster.pass(34 * MINUTE);
        calls(&mut cluster, &mut disk, 3);
        disk.restart(&mut cluster);
        let AccountView { used, suspense, leased, .. } = view(&cluster);
        assert_eq!((used, suspense, leased), (230, 0, 0), "image: {image}");
        cluster.pass(63 * MINUTE);
        assert_eq!(cluster.ask(1, 100_000), Ok(()), "all of it has aged");
    }
}

#[test]
fn of_what_no_journal_has_call_by_call_the_ceiling_counts_and_the_rest_is_free() {
    let (mut cluster, mut disk) = (Cluster::new(limit(Window::Hour, 100_000), vec![1_000; 3], 1_000), Disk::default());
    cluster.durability = Durability::Memory;
    calls(&mut cluster, &mut disk, 40);
    let leased = view(&cluster).leased;
    disk.restart(&mut cluster);
    let AccountView { used, suspense, free, .. } = view(&cluster);
    assert!((400..1_000).contains(&used), "{used} of {leased} that were leased");
    assert_eq!((suspense, free), (0, i128::from(100_000 - used)));
}

#[test]
fn a_stop_leaves_what_was_used_and_nothing_else() {
    let (mut cluster, mut disk) = (Cluster::new(limit(Window::Hour, 100_000), vec![1_000; 3], 1_000), Disk::default());
    calls(&mut cluster, &mut disk, 20);
    cluster.agents[0].close();
    cluster.exchange(None);
    let stopped = view(&cluster);
    assert_eq!((stopped.used, stopped.leased, stopped.suspense), (200, 0, 0));
    disk.restart(&mut cluster);
    assert_eq!((view(&cluster).used, view(&cluster).suspense), (200, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn all_that_counts_is_told_and_little_else(
        window in prop_oneof![Just(Window::Second), Just(Window::Minute), Just(Window::Hour)],
        clocks in vec(990..1_011_u64, 4),
        capacity in prop_oneof![200..1_000_u64, 2_000..20_000_u64],
        calls in vec((0..3_usize, 1..40_u64, prop_oneof![3 => Just(0), 1 => 0..200_u64], any::<bool>(), 0..20_u8), 1..80),
        unjournaled in any::<bool>(),
    ) {
        let length = window.longest_us();
        let (mut cluster, mut disk) = (Cluster::new(limit(window, capacity), clocks[..3].to_vec(), clocks[3]), Disk::default());
        let mut taken: Vec<(u64, usize, u64)> = Vec::new();
        for (node, amount, gap, memory, image) in calls {
            cluster.pass(gap * length / 1_000);
            cluster.durability = if memory && unjournaled { Durability::Memory } else { Durability::Journal };
            if cluster.ask(node, amount).is_ok() {
                taken.push((cluster.now, node, amount));
            }
            if image == 0 {
                cluster.agents[0].restate();
            }
            disk.write(&mut cluster);
        }
        cluster.exchange(None);
        disk.restart(&mut cluster);
        let since = |node: Option<usize>, now: u64, length: u64| {
            let some = taken.iter().filter(|(at, by, _)| at + length > now && node.is_none_or(|node| node == *by));
            some.map(|(.., amount)| amount).sum::<u64>()
        };
        let now = cluster.now;
        let AccountView { used, suspense, .. } = view(&cluster);
        prop_assert_eq!(suspense, 0);
        let live = since(None, now, length);
        prop_assert!(used >= live, "{live} count, and {used} are in the books");
        if !unjournaled {
            // As of the last call of each, by clocks that are wrong; and an image puts some slots together.
            let last = |node: usize| taken.iter().rfind(|(_, by, _)| *by == node).map_or(0, |(at, ..)| *at);
            let most: u64 = (0..3).map(|node| since(Some(node), last(node), length * 13 / 10)).sum();
            prop_assert!(used <= most, "{used} in the books of {most}");
        }
        // And nothing is given to others before it has aged.
        while cluster.ask(1, 7).is_ok() {
            taken.push((cluster.now, 1, 7));
            let within = taken.iter().filter(|(at, ..)| at + length > cluster.now).map(|(.., amount)| amount);
            prop_assert!(within.sum::<u64>() <= capacity);
            cluster.pass(length / 100);
            if cluster.now > now + 2 * length {
                break;
            }
        }
    }
}

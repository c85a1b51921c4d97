//! Wall clocks that step, and the age that does not follow them.

use std::time::Instant;

use crate::cluster::{Cluster, until};

const HOUR_US: i64 = 3_600_000_000;
const MINUTE_US: u64 = 60_000_000;

/// The log time and the age of a write on `on`.
async fn times(cluster: &Cluster, on: u64) -> (u64, u64) {
    let (_, outcome) = cluster.write(on, "k=v").await;
    let figures: Vec<u64> = outcome.split(' ').map(|figure| figure.parse().unwrap()).collect();
    (figures[0], figures[2])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_steps_hands_over_and_takes_no_window_with_it() {
    let mut cluster = Cluster::start(3).await;
    for by in [HOUR_US, -HOUR_US] {
        let leader = cluster.leader().await;
        until("the clocks were compared", || {
            let node = cluster.nodes.iter().find(|node| node.id == leader).unwrap();
            node.get().status().leader != Some(leader) || node.get().clock_offset_us().is_some()
        })
        .await;
        let begun = Instant::now();
        let (time, age) = times(&cluster, leader).await;
        cluster.node(leader).clock.step(by);
        until("another node leads", || {
            cluster.running().all(|node| node.get().status().leader.is_some_and(|now| now != leader))
        })
        .await;
        let (later, older) = times(&cluster, leader).await;
        assert!((time..time + MINUTE_US).contains(&later), "{time} to {later}");
        let elapsed = u64::try_from(begun.elapsed().as_micros()).unwrap();
        assert!(older >= age && older - age <= elapsed + elapsed / 100, "{age} to {older} in {elapsed} µs");
        cluster.node(leader).clock.step(0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_says_how_far_its_clock_is_off() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.node(leader).clock.step(-400_000);
    let offset = |cluster: &Cluster| {
        let leads = cluster.running().find(|node| node.get().status().leader == Some(node.id));
        leads.and_then(|node| Some((node.id, node.get().clock_offset_us()?)))
    };
    // Whoever leads: on a busy machine that may change, but never for this, as it is not too far off.
    until("it says so", || match offset(&cluster) {
        Some((id, us)) if id == leader => (-500_000..-300_000).contains(&us),
        Some((_, us)) => us.abs() < 100_000,
        None => false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn age_goes_on_after_a_restart_of_all_and_moves_while_somebody_leads() {
    let mut cluster = Cluster::start(3).await;
    let begun = Instant::now();
    let (_, first) = times(&cluster, 1).await;
    let mut last = first;
    while last - first < 200_000 {
        let (_, age) = times(&cluster, 1).await;
        assert!(age >= last);
        last = age;
    }
    cluster.stop_all().await;
    for node in &mut cluster.nodes {
        node.clock.step(HOUR_US);
    }
    cluster.start_all().await;
    let (_, later) = times(&cluster, 1).await;
    let elapsed = u64::try_from(begun.elapsed().as_micros()).unwrap();
    assert!(later >= last, "it was kept");
    assert!(later - first <= elapsed + elapsed / 100, "{first} to {later} in {elapsed} µs");
}

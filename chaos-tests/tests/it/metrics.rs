//! What `/metrics` tells of quota: every figure that the protocol asks for is there, and moves.

use tollgate_chaos_tests::{
    Cluster, Outcome,
    calls::Call,
    client::{EventStream, LIMIT},
    day_with_room, eventually,
    resources::api_key,
};

/// Of each figure that the protocol names, what it is called here. A figure for each request is one counter over another.
const FIGURES: [(&str, &[&str]); 23] = [
    (
        "quota_admit_total{path}",
        &[
            "tollgate_quota_admissions_total{path=\"local\"}",
            "tollgate_quota_admissions_total{path=\"central\"}",
            "tollgate_quota_admissions_total{path=\"parked\"}",
        ],
    ),
    ("quota_wait_seconds", &["tollgate_quota_wait_seconds_bucket"]),
    ("lease_units{node}", &["tollgate_quota_lease_units{limit=\"roomy-tokens\",node=\""]),
    ("suspense_units", &["tollgate_quota_units{limit=\"roomy-tokens\",state=\"suspense\"}"]),
    ("lost_units", &["tollgate_quota_units{limit=\"roomy-tokens\",state=\"lost\"}"]),
    ("overrun_units", &["tollgate_quota_units{limit=\"roomy-tokens\",state=\"overrun\"}"]),
    (
        "deny_total{by}",
        &[
            "tollgate_quota_refusals_total{by=\"log\"}",
            "tollgate_quota_refusals_total{by=\"undecided\"}",
            "tollgate_quota_refusals_total{by=\"iso\"}",
        ],
    ),
    ("false_deny_estimate", &["tollgate_quota_false_refusals_estimate_total{limit=\"tight-tokens\"}"]),
    ("holds_open", &["tollgate_quota_holds_open"]),
    ("hold_age_max", &[HOLD_AGE]),
    ("settle_lag_seconds", &["tollgate_quota_settle_lag_seconds"]),
    ("journal_unacked", &["tollgate_quota_journal_unacked_entries"]),
    ("frames_per_request", &["tollgate_quota_frames_total"]),
    ("entries_per_request", &["tollgate_quota_entries_total"]),
    ("the requests of both", &["tollgate_quota_reservations_total{outcome=\"granted\"}"]),
    ("estimate_ratio{model}", &["tollgate_ai_estimate_ratio_bucket"]),
    (
        "stream_cut_total",
        &[
            "tollgate_quota_streams_cut_total{by=\"limit\"}",
            "tollgate_quota_streams_cut_total{by=\"caller\"}",
            "tollgate_quota_streams_cut_total{by=\"timeout\"}",
            "tollgate_quota_streams_cut_total{by=\"iso\"}",
        ],
    ),
    ("usage_missing_total", &["tollgate_quota_usage_missing_total{provider=\"mock\"}"]),
    ("invariant_checks_total", &["tollgate_quota_invariant_checks_total"]),
    ("invariant_violation_total", &["tollgate_quota_invariant_violations_total"]),
    ("clock_offset_ms", &["tollgate_clock_offset_ms"]),
    ("snapshot_seconds", &["tollgate_raft_snapshot_duration_seconds"]),
    ("recover_seconds", &["tollgate_quota_recover_seconds"]),
];
const HOLD_AGE: &str = "tollgate_quota_hold_age_max_seconds";

/// The metrics of one node.
struct Scrape(String);

impl Scrape {
    async fn of(cluster: &Cluster, admin: &str) -> anyhow::Result<Self> {
        Ok(Self(cluster.client.get(&format!("{admin}/metrics"), &[]).await?.text()))
    }

    fn has(&self, name: &str) -> bool {
        self.0.lines().any(|line| line.starts_with(name))
    }

    /// The sum of all that begins so.
    fn value(&self, name: &str) -> anyhow::Result<f64> {
        let lines = self.0.lines().filter(|line| line.starts_with(name));
        lines.map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?)).sum()
    }
}

/// One word every fifth of a second, for far longer than the test.
async fn slow_stream(cluster: &Cluster, origin: &str, consumer: &str) -> anyhow::Result<EventStream> {
    let call = Call::chat(&api_key(consumer), "mock-1").stream().max_tokens(800);
    let call = call.header("x-mock-output", "800").header("x-mock-pace", "200ms");
    let mut stream = cluster.client.open(call.request(origin), LIMIT).await?;
    anyhow::ensure!(stream.status == 200, "{}", stream.status);
    stream.next().await.map_err(|end| anyhow::anyhow!("{end:?}"))?;
    Ok(stream)
}

#[tokio::test]
async fn every_figure_of_the_protocol_is_there_and_those_that_calls_move_do() -> Outcome {
    day_with_room(std::time::Duration::from_secs(180)).await;
    let mut cluster = Cluster::start().await?;
    let provider = cluster.with_standard(&[("roomy", Some(1_000_000)), ("tight", Some(1_000))]).await?;
    let leader = cluster.leader().await?;
    let (origin, admin) = (cluster.node(leader).http_url(), cluster.node(leader).admin_url());

    let silent = Call::chat(&api_key("roomy"), "mock-1").header("x-mock-usage", "missing");
    assert_eq!(cluster.client.send(silent.request(&origin), LIMIT).await?.status, 200);
    let streams = [slow_stream(&cluster, &origin, "roomy").await?, slow_stream(&cluster, &origin, "tight").await?];
    let refused = Call::chat(&api_key("tight"), "mock-1").max_tokens(800);
    assert_eq!(cluster.client.send(refused.request(&origin), LIMIT).await?.status, 429);
    eventually("what is in flight gets older, and leases are audited", || async {
        let scrape = Scrape::of(&cluster, &admin).await?;
        anyhow::ensure!(scrape.value(HOLD_AGE)? > 1.0, "{}", scrape.value(HOLD_AGE)?);
        anyhow::ensure!(scrape.value("tollgate_quota_lease_units{limit=\"roomy-tokens\"")? > 0.0, "{}", scrape.0);
        Ok(())
    })
    .await?;
    let scrape = Scrape::of(&cluster, &admin).await?;
    let missing: Vec<_> = FIGURES
        .iter()
        .flat_map(|(figure, ours)| ours.iter().map(move |name| (figure, name)))
        .filter(|(_, name)| !scrape.has(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?} missing in\n{}", scrape.0);
    for (name, value) in [
        ("tollgate_quota_usage_missing_total{provider=\"mock\"}", 1.0),
        ("tollgate_quota_refusals_total{by=\"log\"}", 1.0),
        // Another call holds what it asks for, and has not used it.
        ("tollgate_quota_false_refusals_estimate_total{limit=\"tight-tokens\"}", 1.0),
        ("tollgate_quota_streams_cut_total", 0.0),
        ("tollgate_quota_recover_seconds", 0.0),
    ] {
        assert!((scrape.value(name)? - value).abs() < f64::EPSILON, "{name} is {}", scrape.value(name)?);
    }

    drop(streams);
    eventually("their callers have left, and nothing is open", || async {
        let scrape = Scrape::of(&cluster, &admin).await?;
        let left = scrape.value("tollgate_quota_streams_cut_total{by=\"caller\"}")?;
        anyhow::ensure!((left - 2.0).abs() < f64::EPSILON, "{left} have left");
        anyhow::ensure!(scrape.value(HOLD_AGE)? < 1e-9, "{} s old", scrape.value(HOLD_AGE)?);
        Ok(())
    })
    .await?;

    let stream = slow_stream(&cluster, &origin, "roomy").await?;
    cluster.node(leader).kill()?;
    drop(stream);
    cluster.node(leader).start()?;
    cluster.ready().await?;
    let admin = cluster.node(leader).admin_url();
    eventually("what the process before has left is said, which took its time", || async {
        let first = Scrape::of(&cluster, &admin).await?.value("tollgate_quota_recover_seconds")?;
        let then = Scrape::of(&cluster, &admin).await?.value("tollgate_quota_recover_seconds")?;
        anyhow::ensure!(first > 0.0 && (then - first).abs() < f64::EPSILON, "{first} s, then {then} s");
        Ok(())
    })
    .await?;
    drop(provider);
    Ok(())
}

//! Who is left alone for what requests met, with time handed in.

use tollgate_model::{ErrorRate, SlowAnswers};

use super::*;

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn two_in_a_row(max_ejected_percent: u32) -> OutlierDetection {
    let (error_rate, latency) = (None, None);
    OutlierDetection { consecutive_errors: Some(2), error_rate, latency, eject_for: secs(30), max_ejected_percent }
}

fn three(percent: u32) -> Endpoints {
    endpoints(two_in_a_row(percent), None)
}

fn endpoints(outliers: OutlierDetection, before: Option<&Endpoints>) -> Endpoints {
    let url = |n: u32| format!("http://192.0.2.{n}").parse().expect("a URL");
    let endpoints: Vec<_> =
        (1..=3).map(|n| model::Endpoint { url: url(n), zone: None, weight: 1, labels: Labels::default() }).collect();
    let spread = Spread { outliers: Some(outliers), ..Spread::default() };
    let place = Place { zone: "here", drained: &BTreeSet::new() };
    Endpoints::new(Name::parse("s").expect("a name"), &endpoints, spread, place, before)
}

fn fail(endpoints: &Endpoints, index: usize, times: usize) {
    (0..times).for_each(|_| endpoints.has_failed(index, || None));
}

fn ejections(endpoints: &Endpoints) -> u64 {
    endpoints.counts().ejections.of(By::Errors)
}

#[tokio::test(start_paused = true)]
async fn what_was_in_flight_to_an_endpoint_that_is_left_alone_is_forgotten_when_it_is_back() {
    let endpoints = three(50);
    fail(&endpoints, 0, 10);
    assert_eq!(ejections(&endpoints), 1);
    tokio::time::advance(Duration::from_secs(31)).await;
    fail(&endpoints, 0, 1);
    assert_eq!(ejections(&endpoints), 1, "one error is not two in a row");
    fail(&endpoints, 0, 1);
    assert_eq!(ejections(&endpoints), 2);
}

#[tokio::test(start_paused = true)]
async fn while_too_many_are_left_alone_that_is_not_looked_up_each_time_but_found_out_soon() {
    let endpoints = three(34);
    fail(&endpoints, 0, 2);
    fail(&endpoints, 1, 2);
    assert!(endpoints.totals.is_full() && ejections(&endpoints) == 1);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(!endpoints.totals.is_full());
    fail(&endpoints, 1, 1);
    assert_eq!(ejections(&endpoints), 2, "its errors were counted meanwhile");
}

/// Every second request fails, and never two in a row.
fn alternate(endpoints: &Endpoints, times: usize) {
    for _ in 0..times {
        endpoints.is_fine(0, || None);
        endpoints.has_failed(0, || None);
    }
}

fn by(endpoints: &Endpoints, by: By) -> u64 {
    endpoints.counts().ejections.of(by)
}

fn half_of_ten() -> OutlierDetection {
    let error_rate = Some(ErrorRate { percent: 50, interval: secs(10), min_requests: 10 });
    OutlierDetection { error_rate, ..two_in_a_row(100) }
}

#[tokio::test(start_paused = true)]
async fn who_fails_half_of_the_time_is_left_alone_and_what_was_on_its_way_there_is_forgotten() {
    let endpoints = endpoints(half_of_ten(), None);
    alternate(&endpoints, 4);
    assert_eq!((by(&endpoints, By::ErrorRate), by(&endpoints, By::Errors)), (0, 0), "eight are too few");
    alternate(&endpoints, 1);
    assert_eq!((by(&endpoints, By::ErrorRate), by(&endpoints, By::Errors)), (1, 0));
    // Whatever comes back while it is left alone, up to the last moment.
    tokio::time::advance(secs(29)).await;
    alternate(&endpoints, 20);
    tokio::time::advance(secs(2)).await;
    alternate(&endpoints, 4);
    assert_eq!(by(&endpoints, By::ErrorRate), 1, "again eight are too few");
    alternate(&endpoints, 2);
    assert_eq!(by(&endpoints, By::ErrorRate), 2);
}

#[tokio::test(start_paused = true)]
async fn an_edit_forgets_nothing_of_the_same_interval_and_an_older_request_still_counts() {
    let first = endpoints(half_of_ten(), None);
    alternate(&first, 4);
    let other = endpoints(OutlierDetection { max_ejected_percent: 90, ..half_of_ten() }, Some(&first));
    other.is_fine(0, || None);
    assert_eq!(by(&other, By::ErrorRate), 0);
    first.has_failed(0, || None);
    assert_eq!(by(&other, By::ErrorRate), 1);
    tokio::time::advance(secs(40)).await;
    alternate(&other, 4);
    let longer = ErrorRate { interval: secs(60), ..half_of_ten().error_rate.expect("a rate") };
    let longer = endpoints(OutlierDetection { error_rate: Some(longer), ..half_of_ten() }, Some(&other));
    alternate(&longer, 4);
    assert_eq!(by(&longer, By::ErrorRate), 1, "of another interval nothing is known yet");
}

#[tokio::test(start_paused = true)]
async fn who_is_slower_than_its_peers_is_left_alone_and_starts_anew_when_it_is_back() {
    let latency = SlowAnswers {
        factor_percent: 300,
        percentile: 50,
        interval: secs(10),
        min_requests: 5,
        min_peers: 2,
        min_latency: Duration::from_millis(10),
    };
    let terms = OutlierDetection { latency: Some(latency), consecutive_errors: None, ..two_in_a_row(50) };
    let endpoints = endpoints(terms, None);
    let answers = |times: usize, slow_ms: u64| {
        for _ in 0..times {
            for (index, ms) in [(0, 20), (1, slow_ms), (2, 25)] {
                endpoints.is_fine(index, || Some(Duration::from_millis(ms)));
            }
        }
    };
    answers(10, 50);
    tokio::time::advance(secs(1)).await;
    answers(10, 50);
    assert_eq!(by(&endpoints, By::Latency), 0, "twice as slow is not three times");
    tokio::time::advance(secs(11)).await;
    answers(4, 500);
    tokio::time::advance(secs(1)).await;
    endpoints.is_fine(0, || None);
    assert_eq!(by(&endpoints, By::Latency), 0, "four are too few");
    answers(4, 500);
    tokio::time::advance(secs(1)).await;
    answers(1, 500);
    assert_eq!(by(&endpoints, By::Latency), 1);
    let standing = endpoints.standing();
    assert_eq!((standing.fit, standing.ejected), (2, 1));
    tokio::time::advance(secs(31)).await;
    for _ in 0..12 {
        answers(1, 20);
        tokio::time::advance(secs(1)).await;
    }
    assert_eq!((by(&endpoints, By::Latency), endpoints.standing().fit), (1, 3));
}

//! Whether this node is in touch.

use tokio::time::{sleep, timeout};

use super::{leases::*, *};

/// Attempts that fail for longer than any test lasts.
const AWAY: [Fault; 1_000] = [Fault::Unreachable; 1_000];
/// Long enough for anybody with nothing to say to be out of touch.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_node_with_nothing_to_say_stays_in_touch_as_long_as_it_matters_and_somebody_answers() {
    let log = Log::with_limit(1_000);
    let (desk, tracker) = leasing(&log, 1);
    let touch = desk.touch(None);
    assert!(timeout(LONG, touch.lost()).await.is_err(), "it is proven all the time");
    log.fail(&AWAY);
    let begun = Instant::now();
    touch.lost().await;
    let took = begun.elapsed().as_secs();
    assert!((18..=29).contains(&took), "a second before it is isolated: {took} s");
    until(|| desk.stats().isolated).await;
    log.faults.lock().clear();
    until(|| !desk.stats().isolated).await;
    assert!(timeout(LONG, touch.lost()).await.is_err(), "somebody is there again");
    drop(touch);
    sleep(LONG).await;
    assert!(desk.stats().isolated, "nothing is said where nobody wants to know");
    assert_eq!(stopped(&desk, &tracker).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_log_has_just_granted_proves_that_somebody_was_there() {
    let log = Log::with_limit(1_000);
    let (desk, tracker) = leasing(&log, 1);
    sleep(LONG).await;
    log.fail(&AWAY);
    let (granted, drawn) = (desk.touch(Some(Instant::now())), desk.touch(None));
    assert!(timeout(Duration::ZERO, drawn.lost()).await.is_ok(), "nobody was heard for long");
    let begun = Instant::now();
    granted.lost().await;
    assert_eq!(begun.elapsed().as_secs(), 29);
    log.faults.lock().clear();
    drop((granted, drawn));
    assert_eq!(stopped(&desk, &tracker).await, 0);
}

//! Who gets leave to connect, and who waits, without a socket.

use proptest::prelude::*;

use super::*;

fn within(max_connections: u32, max_pending: u32) -> Arc<Breaker> {
    Breaker::within(terms(max_connections, max_pending))
}

fn terms(max_connections: u32, max_pending: u32) -> CircuitBreaker {
    CircuitBreaker { max_requests: None, max_connections: Some(max_connections), max_pending: Some(max_pending) }
}

/// Whether leave has come.
fn has_come(pending: &mut Pending) -> Option<Permit> {
    let permit = pending.told.as_mut()?.try_recv().ok();
    pending.told = pending.told.take().filter(|_| permit.is_none());
    permit
}

#[test]
fn who_waits_longest_is_next_and_who_has_gone_is_passed_over() {
    let breaker = within(1, 3);
    let permit = breaker.permit().expect("there is room");
    assert!(breaker.permit().is_none());
    let [mut first, second, mut third] =
        [1, 2, 3].map(|lane| breaker.stand_in_line(lane, false).expect("room in line"));
    assert_eq!(breaker.stand_in_line(4, false).err(), Some(SendError::Full));
    assert!(has_come(&mut first).is_none() && breaker.wants_room());
    drop(permit);
    let permit = has_come(&mut first).expect("the first");
    drop((first, second, permit));
    let permit = has_come(&mut third).expect("the one that is left");
    drop(third);
    assert_eq!(breaker.standing(), Standing { open: 1, pending: 0, refused: 1, late: 0 });
    assert!(!breaker.wants_room() && breaker.permit().is_none());
    drop(permit);
    assert_eq!(breaker.standing().open, 0);
}

#[test]
fn leave_that_comes_to_who_has_gone_just_now_is_for_the_next_one() {
    let breaker = within(1, 2);
    let permit = breaker.permit();
    let (gone, mut next) = (breaker.stand_in_line(1, false).unwrap(), breaker.stand_in_line(2, false).unwrap());
    drop(permit);
    drop(gone); // with its leave
    assert!(has_come(&mut next).is_some());
}

#[test]
fn a_bound_that_is_moved_holds_at_once() {
    let breaker = within(1, 2);
    let first = breaker.permit();
    let (mut one, mut other) = (breaker.stand_in_line(1, false).unwrap(), breaker.stand_in_line(1, false).unwrap());
    breaker.follow(terms(2, 2));
    let second = has_come(&mut one);
    assert!(second.is_some() && has_come(&mut other).is_none());
    breaker.follow(terms(1, 2));
    drop(first);
    assert!(has_come(&mut other).is_none() && breaker.wants_room(), "there was one too many");
    drop(second);
    assert!(has_come(&mut other).is_some());
}

#[test]
fn nobody_waits_where_nobody_may_unless_a_connection_is_being_closed() {
    let breaker = within(1, 0);
    let _permit = breaker.permit();
    assert_eq!(breaker.stand_in_line(1, false).err(), Some(SendError::Full));
    assert_eq!(breaker.wait().err(), Some(SendError::Full));
    assert!(breaker.stand_in_line(1, true).is_ok());
    assert_eq!(breaker.standing().refused, 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_long_goes_before_those_of_another_endpoint() {
    let breaker = within(1, 2);
    let _permit = breaker.permit();
    let _waits = breaker.stand_in_line(1, false).unwrap();
    assert!(!breaker.is_overdue(2));
    tokio::time::advance(PATIENCE + Duration::from_millis(1)).await;
    assert!(breaker.is_overdue(2) && !breaker.is_overdue(1));
}

proptest! {
    /// Whatever comes and goes: never more than may be, none that is lost, and nobody waits while there is room.
    #[test]
    fn the_bound_holds_and_no_leave_is_lost(max in 1_u32..4, steps in proptest::collection::vec((0_u8..4, 0_usize..8), 1..80)) {
        let breaker = within(max, 4);
        let (mut permits, mut line): (Vec<Permit>, Vec<Pending>) = Default::default();
        for (step, at) in steps {
            match step {
                0 => permits.extend(breaker.permit()),
                1 => line.extend(breaker.stand_in_line(at, false)),
                2 if !permits.is_empty() => drop(permits.remove(at % permits.len())),
                3 if !line.is_empty() => drop(line.remove(at % line.len())),
                _ => {}
            }
            for pending in &mut line {
                permits.extend(has_come(pending));
            }
            line.retain(|pending| pending.told.is_some());
            let (max, standing) = (usize::try_from(max).unwrap(), breaker.standing());
            prop_assert_eq!((standing.open, standing.pending), (permits.len(), line.len()));
            prop_assert!(permits.len() <= max && line.len() <= 4);
            prop_assert!(line.is_empty() || permits.len() == max);
        }
    }
}

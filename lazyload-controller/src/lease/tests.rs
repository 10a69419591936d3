use super::*;

fn said(holder: &str, version: u32) -> Said {
    Said {
        holder: holder.to_owned(),
        duration: DURATION,
        transitions: 0,
        version: version.to_string(),
    }
}

#[test]
fn what_is_ours_is_renewed_and_what_is_nobody_s_is_taken() {
    let (mut seen, now) = (Seen::default(), Instant::now());
    assert_eq!(seen.decide(&said("me", 1), "me", now), Step::Renew);
    assert_eq!(seen.decide(&said("", 2), "me", now), Step::Take);
}

#[test]
fn another_s_is_waited_for_as_long_as_it_changes() {
    let (mut seen, start) = (Seen::default(), Instant::now());
    for turn in 0..20 {
        let now = start + RETRY * turn;
        assert_eq!(seen.decide(&said("other", turn), "me", now), Step::Wait);
    }
}

#[test]
fn another_s_is_taken_once_it_has_not_changed_for_as_long_as_it_holds() {
    let (mut seen, start) = (Seen::default(), Instant::now());
    let at = |seen: &mut Seen, after| seen.decide(&said("other", 1), "me", start + after);
    assert_eq!(at(&mut seen, Duration::ZERO), Step::Wait);
    assert_eq!(at(&mut seen, DURATION), Step::Wait);
    assert_eq!(at(&mut seen, DURATION + RETRY), Step::Take);
    // A replica that came later waits on its own clock.
    let mut late = Seen::default();
    assert_eq!(at(&mut late, DURATION + RETRY), Step::Wait);
}

#[test]
fn a_lease_that_says_no_duration_is_another_s_for_as_long_as_it_is_new() {
    let (mut seen, start) = (Seen::default(), Instant::now());
    let none = Said {
        duration: Duration::ZERO,
        ..said("other", 1)
    };
    assert_eq!(seen.decide(&none, "me", start), Step::Wait);
    assert_eq!(seen.decide(&none, "me", start + RETRY), Step::Take);
}

// What is counted on ends before anybody else may take it, whatever a call takes.
const _: () = assert!(DEADLINE.as_secs() + 4 < DURATION.as_secs());

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_leading_by_itself() {
    let leading = Leading::default();
    assert!(!leading.now());
    leading.until(Some(Instant::now() + DEADLINE));
    assert!(leading.now());
    tokio::time::advance(DEADLINE).await;
    assert!(!leading.now());
    assert!(Leading::alone().now());
}

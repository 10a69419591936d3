//! How long to wait before the next redirect of a request, and when to give redirects up.
//!
//! Pure. The caller's Envoy follows a redirect of ours at once; whether it has the service by then depends on istiod's
//! debounce and push, so each try waits longer than the last.

use std::time::Duration;

use dependency_graph::fallback::MAX_REDIRECTS;

/// The wait before each redirect: the first counted from when the Sidecar was written, later ones from when the
/// request came back.
const WAITS: [Duration; 6] = [
    Duration::from_millis(120),
    Duration::from_millis(60),
    Duration::from_millis(60),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];

/// The most redirects of one request. The caller's Envoy follows [`MAX_REDIRECTS`]; the last is never spent, since one that is not
/// followed reaches the application.
pub const MOST: u8 = 6;
const _: () = assert!((MOST as u32) < MAX_REDIRECTS);

/// What is left to wait before the redirect that follows `tries` earlier ones. `None`: there is none any more.
///
/// `written`: since the Sidecar was written. `waited`: since this request came.
#[must_use]
pub fn pause(tries: u8, written: Duration, waited: Duration, most: u8) -> Option<Duration> {
    if tries >= most.min(MOST) {
        return None;
    }
    let wait = WAITS.get(usize::from(tries))?;
    let since = if tries == 0 {
        written
    } else {
        // Written only after the request came back: no older than that.
        waited.min(written)
    };
    Some(wait.saturating_sub(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_counts_from_the_write() {
        assert_eq!(pause(0, ms(0), ms(0), 6), Some(ms(120)));
        assert_eq!(pause(0, ms(50), ms(10), 6), Some(ms(70)));
        assert_eq!(pause(0, ms(9999), ms(0), 6), Some(ms(0)));
    }

    #[test]
    fn later_ones_count_from_the_return() {
        assert_eq!(pause(1, ms(9999), ms(0), 6), Some(ms(60)));
        assert_eq!(pause(1, ms(9999), ms(60), 6), Some(ms(0)));
        assert_eq!(pause(5, ms(5), ms(9999), 6), Some(ms(395)));
    }

    #[test]
    fn the_last_is_never_spent() {
        for tries in MOST..=u8::MAX {
            assert_eq!(pause(tries, ms(0), ms(0), u8::MAX), None);
        }
        assert_eq!(pause(2, ms(0), ms(0), 2), None);
    }

    #[test]
    fn all_waits_together_are_below_the_longest_hold() {
        assert!(WAITS.iter().sum::<Duration>() < Duration::from_secs(2));
        assert_eq!(WAITS.len(), usize::from(MOST));
    }
}

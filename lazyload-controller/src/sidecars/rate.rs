//! How many writes there may be: a few at once, then so many a second.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub(super) struct Rate {
    every: Duration,
    burst: u32,
    /// When the allowance would be full again.
    full_at: Option<Instant>,
}

impl Rate {
    /// `per_second` writes a second, half as many at once.
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        Self {
            every: Duration::from_secs(1) / per_second,
            burst: (per_second / 2).max(1),
            full_at: None,
        }
    }

    /// Takes one; or says when there will be one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let next = full_at + self.every;
        let ahead = self.every * self.burst;
        if next > now + ahead {
            return Err(next.checked_sub(ahead).unwrap_or(next));
        }
        self.full_at = Some(next);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_so_many_a_second() {
        let (mut rate, start) = (Rate::new(10), Instant::now());
        let at_once = (0..100).take_while(|_| rate.take(start).is_ok()).count();
        assert_eq!(at_once, 5);
        let (mut now, mut taken) = (start, 0);
        while now < start + Duration::from_secs(10) {
            match rate.take(now) {
                Ok(()) => taken += 1,
                Err(next) => {
                    assert!(next > now);
                    now = next;
                }
            }
        }
        assert!((98..=101).contains(&taken), "{taken}");
    }
}

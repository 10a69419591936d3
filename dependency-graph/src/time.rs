//! Moments, to the second: the resolution that records are written with, so that writing one loses nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The last second of the year 9999, the last that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799);

    /// The moment so many seconds after 1970 began, [`Timestamp::MAX`] at most.
    #[must_use]
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds).min(Self::MAX)
    }

    /// Seconds since 1970 began.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// How much later it is than `earlier`; nothing if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// What is before 1970 becomes 1970.
    fn from(time: SystemTime) -> Self {
        Self::from_seconds(
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_in_range() {
        assert_eq!(
            Timestamp::from(UNIX_EPOCH + Duration::from_millis(1999)).seconds(),
            1
        );
        assert_eq!(
            Timestamp::from(UNIX_EPOCH - Duration::from_secs(9)).seconds(),
            0
        );
        assert_eq!(Timestamp::from_seconds(u64::MAX), Timestamp::MAX);
        let (early, late) = (Timestamp::from_seconds(5), Timestamp::from_seconds(8));
        assert_eq!(late.since(early), Duration::from_secs(3));
        assert_eq!(early.since(late), Duration::ZERO);
    }
}

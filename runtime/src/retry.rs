//! How long to wait before the next attempt: longer and longer, up to a bound.

use std::time::Duration;

/// See the module.
#[derive(Clone, Debug)]
pub struct Retry {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Retry {
    /// Waits from `shortest`, doubled each time, up to `longest`.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            next: shortest,
        }
    }

    /// An attempt succeeded: the next wait is the shortest again.
    pub fn succeeded(&mut self) {
        self.next = self.shortest;
    }

    /// An attempt failed: how long to wait now.
    pub fn failed(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew() {
        let ms = Duration::from_millis;
        let mut retry = Retry::new(ms(50), ms(300));
        let waits: Vec<_> = (0..5).map(|_| retry.failed()).collect();
        assert_eq!(waits, [ms(50), ms(100), ms(200), ms(300), ms(300)]);
        retry.succeeded();
        assert_eq!(retry.failed(), ms(50));
    }
}

//! When which namespaces are planned: in rounds, and a round in slices, so that what was just learned has its turn
//! between two of them. Pure: the moment is passed in.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::agenda::{earlier, take_due};

/// Namespaces that are planned, and then taken in, in one go.
const SLICE: usize = 8;
/// Planning takes at most a fifth of the time.
const REST: u32 = 4;
/// After how long plans are made again when one ended badly.
const AGAIN: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plans {
    due: BTreeMap<String, Instant>,
    under_way: bool,
    /// What of a round is not planned yet.
    round: Vec<String>,
    /// How long the plans of the round took until now.
    took: Duration,
    not_before: Option<Instant>,
}

impl Plans {
    /// A namespace is to be planned at this moment, or is already at an earlier one.
    pub(super) fn at(&mut self, namespace: &str, at: Instant) {
        earlier(&mut self.due, namespace.to_owned(), at);
    }

    /// When a namespace is planned next, if that is known.
    pub(super) fn due(&self, namespace: &str) -> Option<&Instant> {
        self.due.get(namespace)
    }

    /// The namespaces to plan now; none while others are.
    pub(super) fn take(&mut self, now: Instant) -> Vec<String> {
        if self.under_way {
            return Vec::new();
        }
        if self.round.is_empty() {
            if self.not_before.is_some_and(|at| now < at) {
                return Vec::new();
            }
            self.round = take_due(&mut self.due, now);
            self.took = Duration::ZERO;
        }
        let rest = self.round.split_off(SLICE.min(self.round.len()));
        let slice = std::mem::replace(&mut self.round, rest);
        for namespace in &slice {
            // What has changed since the round began is in this plan.
            if self.due.get(namespace).is_some_and(|at| *at <= now) {
                self.due.remove(namespace);
            }
        }
        self.under_way = !slice.is_empty();
        slice
    }

    /// What was taken is planned.
    pub(super) fn done(&mut self, took: Duration, now: Instant) {
        self.under_way = false;
        self.took += took;
        if self.round.is_empty() {
            self.not_before = Some(now + self.took * REST);
        }
    }

    /// A plan came to nothing.
    pub(super) fn failed(&mut self, now: Instant) {
        self.under_way = false;
        self.round.clear();
        self.not_before = Some(now + AGAIN);
    }

    /// Whether namespaces that were taken are not planned yet.
    pub(super) fn under_way(&self) -> bool {
        self.under_way
    }

    /// Whether a round goes on.
    pub(super) fn busy(&self) -> bool {
        self.under_way || !self.round.is_empty()
    }

    /// When there is something to plan if nothing happens before. While a round goes on, that what was taken is done
    /// is what wakes.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        let first = self.due.values().min().copied();
        let first = first.map(|at| self.not_before.map_or(at, |not| at.max(not)));
        first.filter(|_| !self.busy())
    }

    #[cfg(test)]
    pub(super) fn clear(&mut self) {
        self.due.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("n{number:02}")).collect()
    }

    fn due(count: usize, at: Instant) -> Plans {
        let mut plans = Plans::default();
        for name in names(count) {
            plans.at(&name, at);
        }
        plans
    }

    #[test]
    fn a_round_goes_on_in_slices_and_rests_when_it_is_over() {
        let start = Instant::now();
        let (mut plans, all, took) = (due(20, start), names(20), Duration::from_millis(10));
        assert_eq!(plans.wakes_at(), Some(start));
        for slice in all.chunks(SLICE) {
            assert_eq!(plans.take(start), slice);
            assert!(plans.take(start).is_empty());
            assert_eq!(plans.wakes_at(), None);
            plans.done(took, start);
        }
        assert!(!plans.busy());
        plans.at("n00", after(start, 1));
        assert!(plans.take(after(start, 119)).is_empty());
        assert_eq!(plans.wakes_at(), Some(after(start, 120)));
        assert_eq!(plans.take(after(start, 120)), ["n00"]);
    }

    #[test]
    fn what_changes_before_its_slice_is_planned_once_and_what_changes_after_it_again() {
        let start = Instant::now();
        let mut plans = due(SLICE + 1, start);
        assert_eq!(plans.take(start).len(), SLICE);
        plans.at("n00", start);
        plans.at("n08", start);
        plans.done(Duration::ZERO, start);
        assert_eq!(plans.take(start), ["n08"]);
        plans.done(Duration::ZERO, start);
        assert_eq!(plans.take(start), ["n00"]);
        plans.done(Duration::ZERO, start);
        assert!(plans.take(start).is_empty());
        assert_eq!(plans.wakes_at(), None);
    }

    #[test]
    fn after_a_plan_that_failed_a_round_begins_anew() {
        let start = Instant::now();
        let mut plans = due(SLICE + 1, start);
        assert_eq!(plans.take(start).len(), SLICE);
        plans.failed(start);
        for name in names(SLICE + 1) {
            plans.at(&name, start);
        }
        assert!(plans.take(start).is_empty());
        assert_eq!(plans.take(start + AGAIN).len(), SLICE);
    }
}

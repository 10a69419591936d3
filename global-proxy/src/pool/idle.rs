//! Things that wait to be used again, by destination, the last used first.
//!
//! Pure: it knows neither what it keeps nor the time.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Whether something kept can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fit {
    /// Now.
    Now,
    /// Not yet.
    Later,
    /// Not any more.
    Never,
}

#[derive(Debug)]
pub(super) struct Idle<T> {
    by_key: HashMap<SocketAddr, VecDeque<(T, Instant)>>,
    count: usize,
    per_key: usize,
    total: usize,
}

impl<T> Idle<T> {
    pub(super) fn new(per_key: usize, total: usize) -> Self {
        Self {
            by_key: HashMap::new(),
            count: 0,
            per_key,
            total,
        }
    }

    /// Keeps one; the longest idle of the same destination gives way, and without one it is not kept.
    pub(super) fn put(&mut self, key: SocketAddr, kept: T, now: Instant) {
        let full = self.count >= self.total;
        if full && !self.by_key.contains_key(&key) {
            return;
        }
        let all = self.by_key.entry(key).or_default();
        if full || all.len() >= self.per_key {
            all.pop_front();
        } else {
            self.count += 1;
        }
        all.push_back((kept, now));
    }

    /// Takes the last used that is fit; what will never be again goes.
    pub(super) fn take(&mut self, key: SocketAddr, fit: impl Fn(&T) -> Fit) -> Option<T> {
        let all = self.by_key.get_mut(&key)?;
        let before = all.len();
        let mut found = None;
        let mut at = all.len();
        while at > 0 && found.is_none() {
            at -= 1;
            match all.get(at).map(|(kept, _)| fit(kept)) {
                Some(Fit::Now) => found = all.remove(at),
                Some(Fit::Never) => drop(all.remove(at)),
                Some(Fit::Later) | None => {}
            }
        }
        self.count -= before - all.len();
        if all.is_empty() {
            self.by_key.remove(&key);
        }
        found.map(|(kept, _)| kept)
    }

    /// Keeps what is younger than `age` and still good.
    pub(super) fn sweep(&mut self, now: Instant, age: Duration, good: impl Fn(&T) -> bool) {
        self.by_key.retain(|_, all| {
            all.retain(|(kept, since)| now.saturating_duration_since(*since) < age && good(kept));
            !all.is_empty()
        });
        self.count = self.by_key.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn any(_: &u32) -> Fit {
        Fit::Now
    }

    #[test]
    fn the_last_used_comes_first_and_keys_do_not_mix() {
        let (mut idle, now) = (Idle::new(9, 9), Instant::now());
        for (port, kept) in [(1, 10), (1, 11), (2, 20)] {
            idle.put(key(port), kept, now);
        }
        assert_eq!(idle.take(key(1), any), Some(11));
        assert_eq!(idle.take(key(1), any), Some(10));
        assert_eq!(idle.take(key(1), any), None);
        assert_eq!(idle.take(key(2), any), Some(20));
        assert!(idle.by_key.is_empty());
        assert_eq!(idle.count, 0);
    }

    #[test]
    fn what_is_unfit_is_passed_by_or_dropped() {
        let (mut idle, now) = (Idle::new(9, 9), Instant::now());
        for kept in 1..=4 {
            idle.put(key(1), kept, now);
        }
        let fit = |kept: &u32| match kept {
            4 => Fit::Never,
            3 => Fit::Later,
            _ => Fit::Now,
        };
        assert_eq!(idle.take(key(1), fit), Some(2));
        assert_eq!(idle.count, 2);
        assert_eq!(idle.take(key(1), any), Some(3));
        assert_eq!(idle.take(key(1), any), Some(1));
    }

    #[test]
    fn it_is_bounded() {
        let (mut idle, now) = (Idle::new(2, 3), Instant::now());
        for kept in 0..5 {
            idle.put(key(1), kept, now);
        }
        assert_eq!(idle.count, 2);
        idle.put(key(2), 20, now);
        idle.put(key(3), 30, now);
        assert_eq!(idle.count, 3, "full: a new destination waits for the sweep");
        idle.put(key(2), 21, now);
        assert_eq!((idle.count, idle.take(key(2), any)), (3, Some(21)));
        assert_eq!(idle.take(key(1), any), Some(4));
        assert_eq!(idle.take(key(1), any), Some(3));
    }

    #[test]
    fn old_and_dead_ones_are_swept() {
        let (mut idle, now) = (Idle::new(9, 9), Instant::now());
        let second = Duration::from_secs(1);
        idle.put(key(1), 1, now);
        idle.put(key(2), 2, now + second);
        idle.put(key(2), 3, now + second);
        idle.sweep(now + second, second, |kept| *kept != 3);
        assert_eq!(idle.count, 1);
        assert_eq!(idle.take(key(2), any), Some(2));
    }
}

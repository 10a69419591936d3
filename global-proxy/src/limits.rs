//! How much is taken on at once: connections and streams in all, and streams per caller once it is getting full.
//!
//! Pure but for the shared count that a [`Permit`] gives back when it is dropped. It never waits: what is over a limit
//! is refused at once. Each worker thread has a count and a part of the limits of its own, so nothing is locked.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::refuse::Refusal;

/// The limits of one worker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Connections of callers open at once.
    pub connections: usize,
    /// Requests under way at once, upgraded connections among them.
    pub streams: usize,
    /// The part of `streams` one caller may have, from 0 to 1, once over half of them are taken.
    pub share: f64,
}

impl Limits {
    /// What each of `workers` may take on, so that all together keep these limits.
    #[must_use]
    pub fn split(self, workers: usize) -> Self {
        let workers = workers.max(1);
        Self {
            connections: self.connections.div_ceil(workers),
            streams: self.streams.div_ceil(workers),
            share: self.share,
        }
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss
    )]
    fn per_caller(&self) -> usize {
        ((self.streams as f64 * self.share) as usize).max(1)
    }
}

/// What is under way.
#[derive(Debug, Default)]
pub struct Load {
    connections: usize,
    streams: usize,
    by_caller: HashMap<Rc<str>, usize>,
}

impl Load {
    fn admit_stream(&mut self, limits: &Limits, caller: &str) -> Result<Rc<str>, Refusal> {
        if self.streams >= limits.streams {
            return Err(Refusal::Overloaded("too many requests under way"));
        }
        let (key, count) = match self.by_caller.get_key_value(caller) {
            Some((key, count)) => (key.clone(), *count),
            None => (Rc::from(caller), 0),
        };
        if self.streams * 2 >= limits.streams && count >= limits.per_caller() {
            return Err(Refusal::Overloaded(
                "this caller has its share of the requests under way",
            ));
        }
        self.streams += 1;
        self.by_caller.insert(key.clone(), count + 1);
        Ok(key)
    }

    fn release_stream(&mut self, caller: &str) {
        self.streams = self.streams.saturating_sub(1);
        if let Some(count) = self.by_caller.get_mut(caller) {
            *count -= 1;
            if *count == 0 {
                self.by_caller.remove(caller);
            }
        }
    }
}

/// Gives out permits. Clones share the count.
#[derive(Clone, Debug)]
pub struct Limiter {
    limits: Limits,
    load: Rc<RefCell<Load>>,
}

/// What was admitted. Dropping it makes room.
#[derive(Debug)]
pub struct Permit {
    load: Rc<RefCell<Load>>,
    /// The caller of a stream; none of a connection.
    caller: Option<Rc<str>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut load = self.load.borrow_mut();
        match &self.caller {
            Some(caller) => load.release_stream(caller),
            None => load.connections = load.connections.saturating_sub(1),
        }
    }
}

impl Limiter {
    /// Nothing is under way.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            load: Rc::default(),
        }
    }

    /// Takes on a connection.
    ///
    /// # Errors
    /// When there are too many.
    pub fn connection(&self) -> Result<Permit, Refusal> {
        let mut load = self.load.borrow_mut();
        if load.connections >= self.limits.connections {
            return Err(Refusal::Overloaded("too many connections"));
        }
        load.connections += 1;
        Ok(self.permit(None))
    }

    /// Takes on a request of `caller`.
    ///
    /// # Errors
    /// When there are too many, or too many of this caller.
    pub fn stream(&self, caller: &str) -> Result<Permit, Refusal> {
        let key = self.load.borrow_mut().admit_stream(&self.limits, caller)?;
        Ok(self.permit(Some(key)))
    }

    fn permit(&self, caller: Option<Rc<str>>) -> Permit {
        Permit {
            load: self.load.clone(),
            caller,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(connections: usize, streams: usize, share: f64) -> Limiter {
        Limiter::new(Limits {
            connections,
            streams,
            share,
        })
    }

    #[test]
    fn connections_are_counted_and_given_back() {
        let limiter = limiter(2, 1, 1.0);
        let one = limiter.connection().unwrap();
        let _two = limiter.connection().unwrap();
        assert!(limiter.connection().is_err());
        drop(one);
        assert!(limiter.connection().is_ok());
    }

    #[test]
    fn a_caller_alone_may_have_half_and_its_share() {
        let limiter = limiter(1, 10, 0.6);
        let mine: Vec<_> = std::iter::from_fn(|| limiter.stream("a").ok()).collect();
        assert_eq!(mine.len(), 6);
        let theirs: Vec<_> = std::iter::from_fn(|| limiter.stream("b").ok()).collect();
        assert_eq!(theirs.len(), 4, "what one caller leaves is for others");
        assert!(limiter.stream("c").is_err());
    }

    #[test]
    fn below_half_nobody_is_held_to_a_share() {
        let limiter = limiter(1, 10, 0.1);
        let mine: Vec<_> = std::iter::from_fn(|| limiter.stream("a").ok()).collect();
        assert_eq!(mine.len(), 5);
        assert!(limiter.stream("b").is_ok());
    }

    #[test]
    fn nothing_is_remembered_of_who_left() {
        let limiter = limiter(1, 1, 1.0);
        for caller in 0..1000 {
            limiter.stream(&caller.to_string()).unwrap();
        }
        assert!(limiter.load.borrow().by_caller.is_empty());
        assert_eq!(limiter.load.borrow().streams, 0);
    }

    #[test]
    fn workers_have_parts_of_the_limits() {
        let limits = Limits {
            connections: 10,
            streams: 7,
            share: 0.5,
        };
        let part = limits.split(4);
        assert_eq!((part.connections, part.streams), (3, 2));
        assert_eq!(limits.split(0).streams, 7);
    }
}

//! How many calls one workload may tell of: what a call costs is paid before it is known whether anyone waits for it.

use std::collections::HashMap;
use std::time::Duration;

use dependency_graph::Workload;
use tokio::time::Instant;

/// Time a call takes up: 500 a second.
const EACH: Duration = Duration::from_millis(2);
/// Time that may be taken up ahead: 1000 calls at once, as when many pods of a workload start.
const AHEAD: Duration = Duration::from_secs(2);
/// Workloads that are remembered. One is forgotten two seconds after its last call at the most.
const KEPT: usize = 10_000;

/// What every workload has taken up.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// Until when. Whoever is at a time that is past has all there is.
    taken: HashMap<Workload, Instant>,
}

impl Rates {
    /// Whether a workload may tell of one more call.
    pub(super) fn admit(&mut self, workload: &Workload, now: Instant) -> bool {
        if let Some(taken) = self.taken.get_mut(workload) {
            let from = (*taken).max(now);
            if from.saturating_duration_since(now) >= AHEAD {
                return false;
            }
            *taken = from + EACH;
            return true;
        }
        if self.taken.len() >= KEPT {
            self.taken.retain(|_, taken| *taken > now);
        }
        if self.taken.len() >= KEPT {
            return false;
        }
        self.taken.insert(workload.clone(), now + EACH);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> Workload {
        Workload::new("shop", "Deployment", name).unwrap()
    }

    #[test]
    fn a_burst_is_taken_and_then_a_steady_rate() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        let (cart, web) = (workload("cart"), workload("web"));
        let at = |rates: &mut Rates, of: &Workload, now| {
            (0..2000).filter(|_| rates.admit(of, now)).count()
        };
        assert_eq!(at(&mut rates, &cart, start), 1000);
        assert_eq!(at(&mut rates, &web, start), 1000, "each has its own");
        let later = start + Duration::from_millis(100);
        assert_eq!(at(&mut rates, &cart, later), 50);
        let much_later = start + Duration::from_secs(60);
        assert_eq!(at(&mut rates, &cart, much_later), 1000);
    }

    #[test]
    fn few_are_remembered() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for index in 0..KEPT {
            assert!(rates.admit(&workload(&format!("w{index}")), start));
        }
        assert!(!rates.admit(&workload("more"), start));
        assert!(rates.admit(&workload("w7"), start), "those that are stay");
        let later = start + AHEAD;
        assert!(rates.admit(&workload("more"), later));
        assert_eq!(rates.taken.len(), 1);
    }
}

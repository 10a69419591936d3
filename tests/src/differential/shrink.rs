//! Which part of a scenario to try next, to find a small one that shows the same difference.

use std::collections::BTreeSet;

use super::scenario::Scenario;

/// A part of a scenario, by indices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subset {
    /// Of its resources.
    pub resources: BTreeSet<usize>,
    /// Of its changes.
    pub changes: BTreeSet<usize>,
    /// Of its probes.
    pub probes: BTreeSet<usize>,
}

impl Subset {
    fn len(&self) -> usize {
        self.resources.len() + self.changes.len() + self.probes.len()
    }

    /// A scenario of this part only. Its probes keep their order.
    pub fn of(&self, scenario: &Scenario) -> Scenario {
        fn some<T: Clone>(all: &[T], of: &BTreeSet<usize>) -> Vec<T> {
            of.iter()
                .filter_map(|&index| all.get(index))
                .cloned()
                .collect()
        }
        Scenario {
            seed: scenario.seed,
            resources: some(&scenario.resources, &self.resources),
            changes: some(&scenario.changes, &self.changes),
            probes: some(&scenario.probes, &self.probes),
            features: scenario.features.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Item {
    Resource(usize),
    Change(usize),
    Probe(usize),
}

/// The search: `next_try` says what to try, `told` takes what came of it. First the one probe alone, then without the
/// changes, then ever smaller pieces are left out.
#[derive(Clone, Debug)]
pub struct Shrink {
    kept: Subset,
    /// What is left out in the try under way.
    trying: Option<Subset>,
    /// Pieces to leave out still, the next one last.
    pieces: Vec<Vec<Item>>,
    /// How many items the pieces have now.
    size: usize,
    left: usize,
    /// Whether any try showed the difference.
    again: bool,
    /// The one that shows it; none where it is not a probe that does.
    probe: Option<usize>,
}

impl Shrink {
    /// Of a scenario whose probe number `probe` shows a difference, or, without one, a client that stays behind; at most
    /// `tries` times.
    pub fn new(scenario: &Scenario, probe: Option<usize>, tries: usize) -> Self {
        // Those behind it had no part in it.
        let before = probe.unwrap_or(scenario.probes.len());
        let kept = Subset {
            resources: (0..scenario.resources.len()).collect(),
            changes: (0..scenario.changes.len()).collect(),
            probes: (0..before).chain(probe).collect(),
        };
        let changes = kept.changes.iter().copied().map(Item::Change).collect();
        let others = (0..before).map(Item::Probe).collect();
        Self {
            pieces: vec![changes, others],
            size: kept.len(),
            kept,
            trying: None,
            left: tries,
            again: false,
            probe,
        }
    }

    /// What to try next; none when there is nothing more to leave out, or no try left.
    pub fn next_try(&mut self) -> Option<Subset> {
        while self.left > 0 {
            let Some(piece) = self.pieces.pop() else {
                if self.size <= 1 {
                    return None;
                }
                self.size = (self.size / 2).min(self.items().len().div_ceil(2)).max(1);
                self.pieces = self
                    .items()
                    .chunks(self.size)
                    .map(<[Item]>::to_vec)
                    .collect();
                if self.pieces.is_empty() {
                    return None;
                }
                continue;
            };
            let without = self.without(&piece);
            if without == self.kept && self.again {
                continue;
            }
            self.left -= 1;
            self.trying = Some(without.clone());
            return Some(without);
        }
        None
    }

    /// Whether the try showed the difference.
    pub fn told(&mut self, stays: bool) {
        if let Some(tried) = self.trying.take()
            && stays
        {
            self.again = true;
            self.kept = tried;
        }
    }

    /// The smallest part that showed it so far.
    pub fn kept(&self) -> &Subset {
        &self.kept
    }

    /// Whether any try showed it: else it did not come again.
    pub fn came_again(&self) -> bool {
        self.again
    }

    /// All that may be left out.
    fn items(&self) -> Vec<Item> {
        let Subset {
            resources,
            changes,
            probes,
        } = &self.kept;
        let probes = probes
            .iter()
            .copied()
            .filter(|&probe| Some(probe) != self.probe);
        let changes = changes.iter().copied().map(Item::Change);
        let resources = resources.iter().copied().map(Item::Resource);
        resources
            .chain(changes)
            .chain(probes.map(Item::Probe))
            .collect()
    }

    fn without(&self, piece: &[Item]) -> Subset {
        let mut rest = self.kept.clone();
        for item in piece {
            match item {
                Item::Resource(index) => rest.resources.remove(index),
                Item::Change(index) => rest.changes.remove(index),
                Item::Probe(index) => rest.probes.remove(index),
            };
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::scenario;

    /// Shrinks with a difference that needs these resources, changes and probes beside its own.
    fn shrunk(
        needs: &Subset,
        probe: impl Into<Option<usize>>,
        tries: usize,
    ) -> (Subset, bool, usize) {
        let (scenario, probe) = (scenario(1), probe.into());
        let (mut shrink, mut tried) = (Shrink::new(&scenario, probe, tries), 0);
        while let Some(subset) = shrink.next_try() {
            tried += 1;
            assert!(
                probe.is_none_or(|probe| subset.probes.contains(&probe)),
                "its own probe was left out"
            );
            shrink.told(
                needs.resources.is_subset(&subset.resources)
                    && needs.changes.is_subset(&subset.changes)
                    && needs.probes.is_subset(&subset.probes),
            );
        }
        (shrink.kept().clone(), shrink.came_again(), tried)
    }

    #[test]
    fn what_is_not_needed_goes() {
        let needs = Subset {
            resources: BTreeSet::from([1, 6]),
            changes: BTreeSet::new(),
            probes: BTreeSet::from([20]),
        };
        let (kept, again, tried) = shrunk(&needs, 20, 100);
        assert_eq!((kept, again), (needs, true));
        assert!(tried < 40, "{tried} tries");
    }

    #[test]
    fn another_probe_may_be_needed() {
        let needs = Subset {
            resources: BTreeSet::from([0]),
            changes: BTreeSet::from([0]),
            probes: BTreeSet::from([3, 20]),
        };
        assert_eq!(shrunk(&needs, 20, 200).0, needs);
    }

    #[test]
    fn a_client_that_stays_behind_needs_no_probe() {
        let needs = Subset {
            resources: BTreeSet::from([2]),
            changes: BTreeSet::from([1]),
            probes: BTreeSet::new(),
        };
        assert_eq!(shrunk(&needs, None, 200).0, needs);
        let a_probe_too = Subset {
            probes: BTreeSet::from([30]),
            ..needs
        };
        assert_eq!(shrunk(&a_probe_too, None, 200).0, a_probe_too);
    }

    #[test]
    fn the_tries_are_bounded_and_what_does_not_come_again_is_said() {
        let never = Subset {
            resources: BTreeSet::from([usize::MAX]),
            ..Subset::default()
        };
        let (_, again, tried) = shrunk(&never, 5, 7);
        assert_eq!((again, tried), (false, 7));
    }
}

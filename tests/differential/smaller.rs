//! Makes the mesh of a difference small, by running the seed again with less of it.

use std::time::{Duration, Instant};

use mesh_tests::differential::{Difference, Scenario, Shrink};

use crate::lab::Lab;
use crate::run;
use crate::settings::Settings;

/// Of one seed so many differences are made small: more of them are mostly the same one.
const OF_ONE_SEED: usize = 2;
/// How long that takes for one of them.
const LIMIT: Duration = Duration::from_secs(180);
/// And for all of a run. A difference is not lost when this is over: it is given with its whole mesh.
const LIMIT_OF_ALL: Duration = Duration::from_secs(15 * 60);
/// With less time than this no try is begun.
const LEAST: Duration = Duration::from_secs(10);

/// What is left to make differences small with.
#[derive(Debug)]
pub(crate) struct Smaller {
    tries: usize,
    left: Duration,
}

impl Smaller {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            tries: settings.tries,
            left: LIMIT_OF_ALL,
        }
    }

    pub(crate) async fn all(
        &mut self,
        lab: &Lab,
        scenario: &Scenario,
        found: Vec<(Option<usize>, Difference)>,
    ) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (number, (probe, difference)) in found.into_iter().enumerate() {
            differences.push(if number < OF_ONE_SEED {
                self.one(lab, scenario, probe, difference).await
            } else {
                difference
            });
        }
        differences
    }

    async fn one(
        &mut self,
        lab: &Lab,
        scenario: &Scenario,
        probe: Option<usize>,
        mut difference: Difference,
    ) -> Difference {
        let (begin, limit) = (Instant::now(), LIMIT.min(self.left));
        let mut shrink = Shrink::new(scenario, probe, self.tries);
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            if left < LEAST {
                break;
            }
            let Some(subset) = shrink.next_try() else {
                break;
            };
            let less = subset.of(scenario);
            let again = match run::run(lab, &less, left).await {
                // In either phase: without the changes there is only one.
                Ok(run) => run
                    .differences(&less)
                    .into_iter()
                    .find(|(_, found)| found.probe == difference.probe),
                Err(error) => {
                    println!("seed {}, made smaller: {error:#}", scenario.seed);
                    None
                }
            };
            shrink.told(again.is_some());
            difference.came_again = Some(shrink.came_again());
            if let Some((_, found)) = again {
                difference = Difference {
                    smallest: less,
                    came_again: Some(true),
                    ..found
                };
            }
        }
        self.left = self.left.saturating_sub(begin.elapsed());
        difference
    }
}

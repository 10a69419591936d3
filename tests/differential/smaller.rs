//! Makes the mesh of a difference small, by running the seed again with less of it.

use anyhow::Result;
use mesh_tests::differential::{Difference, Scenario, Shrink};

use crate::lab::Lab;
use crate::run;
use crate::settings::Settings;

/// Of one seed so many differences are made small: more of them are mostly the same one.
const OF_ONE_SEED: usize = 2;

pub(crate) async fn smaller(
    lab: &Lab,
    scenario: &Scenario,
    found: Vec<(usize, Difference)>,
    settings: &Settings,
) -> Result<Vec<Difference>> {
    let mut differences = Vec::new();
    for (number, (probe, difference)) in found.into_iter().enumerate() {
        differences.push(if number < OF_ONE_SEED && settings.tries > 0 {
            one(lab, scenario, probe, difference, settings.tries).await?
        } else {
            difference
        });
    }
    Ok(differences)
}

async fn one(
    lab: &Lab,
    scenario: &Scenario,
    probe: usize,
    mut difference: Difference,
    tries: usize,
) -> Result<Difference> {
    let mut shrink = Shrink::new(scenario, probe, tries);
    while let Some(subset) = shrink.next_try() {
        let less = subset.of(scenario);
        // In either phase: without the changes there is only one.
        let found = run::run(lab, &less).await?.differences(&less);
        let again = found
            .into_iter()
            .find(|(_, found)| found.probe == difference.probe);
        shrink.told(again.is_some());
        if let Some((_, found)) = again {
            difference = Difference {
                smallest: less,
                ..found
            };
        }
    }
    difference.came_again = Some(shrink.came_again());
    Ok(difference)
}

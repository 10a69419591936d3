//! The page `/debug/sidecars`.

use std::time::Instant;

use serde_json::{Value, json};

use super::agenda::Agenda;
use crate::mesh::World;

impl Agenda {
    /// What each namespace waits for, for people.
    pub(super) fn page(&self, world: &World, now: Instant) -> Value {
        let millis = |at: &Instant| at.saturating_duration_since(now).as_millis();
        let places = self.places.iter().map(|(namespace, place)| {
            let ours = world
                .sidecars(namespace)
                .filter(|(_, one)| one.ours.is_some());
            let filters = world
                .filters(namespace)
                .filter(|(_, one)| one.ours.is_some());
            let steps = self.step_due.iter();
            let steps = steps
                .filter(|(name, _)| name.namespace == *namespace)
                .map(|(name, at)| format!("Sidecar {name}: its next step in {} ms", millis(at)));
            let mut waits: Vec<String> = self.queue.about(namespace);
            waits.extend(steps);
            if let Some(at) = self.plans.due(namespace) {
                waits.push(format!("a plan in {} ms", millis(at)));
            }
            if let Some(at) = self.look_due.get(namespace) {
                waits.push(format!("a look in {} ms", millis(at)));
            }
            let said = place.desired.conditions.iter().map(|(workload, said)| {
                let said = said.iter().map(ToString::to_string).collect::<Vec<_>>();
                (workload.record_name(), json!(said))
            });
            let page = json!({
                "sidecars": {"wanted": place.desired.sidecars.len(), "there": ours.count()},
                "envoy_filters": {"wanted": place.desired.filters.len(), "there": filters.count()},
                "in_every_sidecar": place.desired.always.iter()
                    .map(|(why, count)| (format!("{why:?}"), json!(count)))
                    .collect::<serde_json::Map<_, _>>(),
                "settled": place.desired.settled.len(),
                "waits_for": waits,
                "conditions": said.collect::<serde_json::Map<_, _>>(),
            });
            (namespace.clone(), page)
        });
        let places: serde_json::Map<String, Value> = places.collect();
        json!({"leads": self.leads, "planning": self.plans.busy(), "namespaces": places})
    }
}

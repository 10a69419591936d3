//! The session between models of istiod and Envoy, messages being delivered in any order the streams
//! allow: whatever happens, calls end where istiod's whole config leads them, and none waits for ever.
//!
//! `PROPTEST_CASES=20000 cargo test --release -p xds-shim --lib model` tries more.

use super::*;
use mesh::{SLOTS, Service};
use proptest::prelude::*;
use world::World;

mod envoy;
mod find;
mod found;
pub(super) mod mesh;
mod world;

#[derive(Debug, Clone)]
enum Step {
    Becomes(u8, Service),
    ClusterChanges(u8),
    EndpointsChange(u8),
    /// istiod pushes what changed, or everything.
    Push(bool),
    IstiodIsHeard(u8),
    IstiodHears(u8),
    ProxyHears(u8),
    ProxyIsHeard(u8),
    /// All that is on its way arrives.
    Settle,
    Request(u8, u8),
    Connect(u8, u16),
    /// Others of the workload use a service.
    Admit(u8),
    /// The workload settles, a step on or back; the controller waits before each until all have the one before.
    Settles(bool),
    /// Its Sidecar grows with what was learned.
    Grows,
    Tidy(u8),
    /// The proxy refuses the next response of a type.
    Refuse(&'static str),
    /// The stream ends, and there is another: at the same shim or not, which knows what was learned or not.
    Reconnect {
        same: bool,
        knows: bool,
    },
    /// The proxy begins anew.
    Restart,
}

fn service() -> impl Strategy<Value = Service> {
    use Service::*;
    prop::sample::select(vec![
        Absent, Absent, Http, Http, Mirrored, Subset, Tcp, Tcp, Auto, AutoOn80,
    ])
}

fn step() -> impl Strategy<Value = Step> {
    let slot = || 0..SLOTS;
    prop_oneof![
        3 => (slot(), service()).prop_map(|(s, k)| Step::Becomes(s, k)),
        1 => slot().prop_map(Step::ClusterChanges),
        1 => slot().prop_map(Step::EndpointsChange),
        3 => any::<bool>().prop_map(Step::Push),
        3 => (1..4_u8).prop_map(Step::IstiodIsHeard),
        3 => (1..4_u8).prop_map(Step::IstiodHears),
        3 => (1..4_u8).prop_map(Step::ProxyHears),
        3 => (1..4_u8).prop_map(Step::ProxyIsHeard),
        3 => Just(Step::Settle),
        4 => (0..=SLOTS, 0..4_u8).prop_map(|(s, f)| Step::Request(s, f)),
        3 => (0..=SLOTS, prop::sample::select(vec![80, 3306])).prop_map(|(s, p)| Step::Connect(s, p)),
        1 => slot().prop_map(Step::Admit),
        2 => prop::sample::select(vec![true, true, false]).prop_map(Step::Settles),
        1 => Just(Step::Grows),
        1 => (0..40_u8).prop_map(Step::Tidy),
        1 => prop::sample::select(vec![ads::CDS, ads::EDS, ads::LDS]).prop_map(Step::Refuse),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(same, knows)| Step::Reconnect { same, knows }),
        1 => Just(Step::Restart),
    ]
}

fn run(services: [Service; SLOTS as usize], steps: &[Step]) {
    let mut world = World::new(services);
    for step in steps {
        world.takes_step(step);
    }
    world.comes_to_an_end();
}

/// A failure is made small within a minute.
fn config() -> ProptestConfig {
    ProptestConfig {
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn calls_end_where_istiod_leads_them(
        services in prop::array::uniform4(service()),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        run(services, &steps);
    }
}

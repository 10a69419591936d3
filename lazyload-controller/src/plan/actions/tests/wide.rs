//! The first Sidecar of a workload that has settled.

use super::*;
use crate::plan::tests::workload;
use crate::settle::Wish;

const FILTER: &str = "apply EnvoyFilter lazymesh-fallback-deployment-cart";

/// `cart` has settled, in a namespace of mode `on-demand`.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.opt("on-demand");
    let wish = Wish {
        after: Some(Ok(Duration::from_secs(60))),
        begun: false,
    };
    cluster.settling.wishes.insert(workload("cart"), wish);
    cluster.settling.now = cluster.now;
    cluster
}

fn stage(cluster: &Cluster) -> Stage {
    let name = name("shop/lazymesh-deployment-cart");
    Stage::of(
        &cluster
            .world
            .sidecar(&name)
            .unwrap()
            .ours
            .as_ref()
            .unwrap()
            .spec,
    )
}

fn wide() -> BTreeSet<String> {
    BTreeSet::from([EVERYTHING.to_owned()])
}

#[test]
fn routes_go_first_and_clusters_when_every_proxy_has_those() {
    let mut cluster = cluster();
    assert_eq!(cluster.step(), [FILTER]);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(3);
    assert_eq!(cluster.step(), [CART]);
    let first = stage(&cluster);
    assert_eq!(first.announced, wide());
    assert!(first.given.iter().any(|host| host.contains("pay.bank")));
    assert_eq!(cluster.todo().again, Some(SETTLED));
    cluster.pass(2);
    assert_eq!(cluster.todo().again, Some(Duration::from_secs(1)));
    cluster.pass(1);
    assert_eq!(cluster.step(), [CART]);
    let last = Stage {
        announced: BTreeSet::new(),
        ..first
    };
    assert_eq!(stage(&cluster), last);
    assert_eq!(cluster.step(), [""; 0]);
    assert_eq!(cluster.todo(), Todo::default());
}

#[test]
fn what_is_learned_meanwhile_is_given_within_a_step() {
    let mut cluster = cluster();
    cluster.step();
    cluster.pass(3);
    cluster.step();
    cluster.graph = learned("cart", &["pay.bank", "rates.bank"]);
    assert_eq!(cluster.todo().again, Some(STEP));
    cluster.tick += STEP;
    assert_eq!(cluster.step(), [CART]);
    let is = stage(&cluster);
    assert!(is.given.iter().any(|host| host.contains("rates.bank")));
    assert_eq!(is.announced, wide());
    // What goes is announced while it is taken, as ever.
    cluster.graph = learned("cart", &["rates.bank"]);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(3);
    assert_eq!(cluster.step(), [CART]);
    let is = stage(&cluster);
    assert!(is.announced.iter().all(|host| host.contains("pay.bank")));
    assert!(!is.given.iter().any(|host| host.contains("pay.bank")));
    cluster.pass(1);
    assert_eq!(cluster.step(), [CART]);
    assert!(stage(&cluster).announced.is_empty());
}

#[test]
fn back_in_mode_on_demand_the_sidecar_goes_first_and_the_fallback_lingers() {
    let mut cluster = cluster();
    for _ in 0..3 {
        cluster.step();
        cluster.pass(3);
    }
    cluster.settling.wishes.clear();
    assert_eq!(cluster.step(), ["delete Sidecar lazymesh-deployment-cart"]);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(9);
    assert_eq!(cluster.step(), [""; 0]);
    cluster.pass(1);
    let gone = "delete EnvoyFilter lazymesh-fallback-deployment-cart";
    assert_eq!(cluster.step(), [gone]);
    assert_eq!(cluster.step(), [""; 0]);
}

#[test]
fn a_restart_at_any_moment_goes_on_from_what_is_there() {
    let mut cluster = cluster();
    for _ in 0..40 {
        cluster.memory = Memory::default();
        cluster
            .settling
            .wishes
            .values_mut()
            .for_each(|wish| wish.begun = true);
        cluster.step();
        cluster.pass(1);
        // Nobody remembers for how long a Sidecar has said what it says: that counts anew, and no step is left out.
        cluster.step();
        cluster.pass(3);
        cluster.step();
    }
    assert!(stage(&cluster).announced.is_empty());
    assert_eq!(cluster.world.ours(), (1, 1));
}

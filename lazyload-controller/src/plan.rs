//! What the mode `sidecar` wants of a namespace: its Sidecars, its fallback, and what people should know about it. Workloads
//! of mode `on-demand` that have settled are planned with those of mode `sidecar`.
//!
//! A function of what is known of the mesh and of the graph, nothing else: how that came to be does not matter, and
//! where nothing has changed nothing else is wanted. Only of what is to settle the moment matters. When it is written is the business of [`actions`].

pub mod actions;
mod begin;
pub mod condition;
mod fallback;
mod growth;
mod modes;
pub mod user;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dependency_graph::cover::Cover;
use dependency_graph::fallback::{POLICY_ANNOTATION, Policy, annotated};
use dependency_graph::{Graph, Mode, Timestamp, Workload};
use ipnet::IpNet;
use serde_json::Value;

use begin::Begin;
pub use condition::Condition;
pub use growth::grow_by;
pub use modes::{mode_of, modes};

use crate::closure::{Closures, EgressHost};
use crate::eligible::{Reach, Why, always};
use crate::mesh::object::{Labels, selects};
use crate::mesh::service::Form;
use crate::mesh::sidecar::PREFIX;
use crate::mesh::{Name, Pod, World};
use crate::selector::{Group, groups};
use crate::settle::{Lack, Settling, Verdict};
use fallback::Fallback;
use growth::Grown;

/// What the operator chooses.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// The Service of the global proxy.
    pub global_proxy: Name,
    /// The port of that Service which takes tunnels.
    pub tunnel_port: u16,
    /// Ranges of services' addresses, where Kubernetes has no ServiceCIDR resources.
    pub service_cidrs: Vec<IpNet>,
    /// Hosts that every sidecar has; a wildcard stands for all below it.
    pub always: BTreeSet<String>,
    /// How many hosts a Sidecar may have beside those that all have, before what is learned goes on by the fallback.
    pub max_hosts: usize,
    /// After which time without anything new workloads of mode `on-demand` settle whose records say none; absent: never.
    pub settle_after: Option<Duration>,
}

/// What is wanted of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// Sidecars, by their names.
    pub sidecars: BTreeMap<Name, SidecarSpec>,
    /// Those whose Sidecar waits for what will come by itself, with the EnvoyFilter that it needs.
    pub waiting: BTreeMap<Workload, Name>,
    /// EnvoyFilters, by their names.
    pub filters: BTreeMap<Name, FilterSpec>,
    /// What holds for workloads in mode `sidecar`, and for those that have settled.
    pub conditions: BTreeMap<Workload, BTreeSet<Condition>>,
    /// How many hosts every sidecar of the namespace has, by reason.
    pub always: BTreeMap<Why, usize>,
    /// Whether nothing is wanted only because there is nothing to fall back to: what is there may stay for a while.
    pub without_fallback: bool,
    /// Workloads of mode `on-demand` that have settled.
    pub settled: BTreeSet<Workload>,
    /// Those that are to settle and never do, and why.
    pub unsettled: BTreeMap<Workload, Lack>,
    /// When the next one settles, if nothing happens before.
    pub settles_at: Option<Timestamp>,
}

/// A Sidecar of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct SidecarSpec {
    /// Whose it is.
    pub workloads: BTreeSet<Workload>,
    /// The labels of their pods.
    pub selector: Labels,
    /// Everything they are given.
    pub hosts: BTreeSet<EgressHost>,
    /// How many hosts were learned, are pinned, and are in every Sidecar.
    pub counts: (usize, usize, usize),
    /// From the user's Sidecar of the namespace.
    pub outbound_traffic_policy: Option<Value>,
    /// From the user's Sidecar of the namespace.
    pub inbound_connection_pool: Option<Value>,
    /// The EnvoyFilter by which calls to everything else fall back: it must be there first.
    pub filter: Name,
    /// Whether it begins with the clusters of the whole mesh beside what it gives: shims answer by these what is being asked
    /// for at that moment.
    pub begins_wide: bool,
}

/// An EnvoyFilter of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterSpec {
    /// The labels of the pods it is for; without, it is for all of the namespace.
    pub selector: Option<Labels>,
    /// The addresses that are tunnelled to the global proxy.
    pub prefixes: Vec<IpNet>,
    /// The authorities that are sent to it.
    pub cover: Cover,
    /// Its host, its port for HTTP and its port for tunnels.
    pub global_proxy: (String, u16, u16),
}

/// The policy that a namespace's annotation says.
#[must_use]
pub fn policy(world: &World, namespace: &str) -> Policy {
    let annotations = world.namespace(namespace).map(|found| &found.annotations);
    let said = annotations.and_then(|all| all.get(POLICY_ANNOTATION));
    annotated(said.map(String::as_str)).0
}

/// What is wanted of a namespace.
#[must_use]
pub fn plan_namespace(
    world: &World,
    graph: &Graph,
    namespace: &str,
    settings: &Settings,
    settling: &Settling,
) -> Desired {
    let mut desired = Desired::default();
    // The global proxy must see the whole mesh: what is lazy falls back to it.
    if namespace == settings.global_proxy.namespace {
        return desired;
    }
    let Some(found) = world
        .namespace(namespace)
        .filter(|found| !found.terminating)
    else {
        return desired;
    };
    let wanted = desired.want(world, graph, namespace, settings, settling);
    let say_to_all = |mut desired: Desired, condition: Condition| {
        for workload in &wanted {
            desired.say(workload, condition.clone());
        }
        desired
    };
    if wanted.is_empty() {
        return desired;
    }
    // What is there is for the whole mesh.
    if namespace == world.config().root_namespace {
        let root = Condition::RootNamespace(namespace.to_owned());
        return say_to_all(desired, root);
    }
    if !world.config().discovers(&found.labels) {
        return say_to_all(desired, Condition::NotDiscovered);
    }
    let Some(fallback) = Fallback::of(world, settings) else {
        desired.without_fallback = true;
        let missing = Condition::NoGlobalProxy(settings.global_proxy.clone());
        return say_to_all(desired, missing);
    };
    let mut groups = groups(world, namespace, &wanted);
    for workload in &groups.without {
        desired.say(workload, Condition::NoSelector);
    }
    groups.selected.extend(asleep(world, namespace, &wanted));
    let kept: Vec<Kept<'_>> = groups
        .selected
        .into_iter()
        .filter_map(|group| desired.keep(world, namespace, group))
        .collect();
    desired.write(world, graph, namespace, settings, &fallback, kept);
    desired
}

/// A group that gets a Sidecar, and what the user's Sidecar of the namespace says about it.
struct Kept<'a> {
    group: Group,
    name: Name,
    user: Option<user::Merged<'a>>,
    /// Whether any of it is in mode `on-demand` and has settled.
    settled: bool,
}

impl Desired {
    /// The same without a Sidecar that is not there yet: only the fallback, so that it is as old as the namespace's time
    /// in the mode.
    pub fn hold(&mut self) {
        for spec in std::mem::take(&mut self.sidecars).into_values() {
            let filter = spec.filter;
            let held = spec.workloads.into_iter().map(|of| (of, filter.clone()));
            self.waiting.extend(held);
        }
        self.conditions.retain(|_, said| {
            said.retain(|one| !matches!(one, Condition::NotLearned(_)));
            !said.is_empty()
        });
    }

    fn say(&mut self, workload: &Workload, condition: Condition) {
        let said = self.conditions.entry(workload.clone()).or_default();
        said.insert(condition);
    }

    /// The workloads of a namespace that are in mode `sidecar`, or have settled: of injected pods, and those known that have
    /// no pods now.
    fn want(
        &mut self,
        world: &World,
        graph: &Graph,
        namespace: &str,
        settings: &Settings,
        settling: &Settling,
    ) -> BTreeSet<Workload> {
        let mut wanted = BTreeSet::new();
        for (workload, mode) in modes(world, graph, namespace) {
            if mode == Mode::OnDemand {
                let record = graph.workload(&workload).map(AsRef::as_ref);
                match settling.of(&workload, record, settings.settle_after) {
                    Verdict::NotAsked => continue,
                    Verdict::Lacks(lack) => {
                        // Without a record nobody asks for this very one.
                        if record.is_some() {
                            self.unsettled.insert(workload, lack);
                        }
                        continue;
                    }
                    Verdict::Waits(at) => {
                        self.settles_at = Some(self.settles_at.map_or(at, |before| before.min(at)));
                        continue;
                    }
                    Verdict::Settled => _ = self.settled.insert(workload.clone()),
                }
            } else if mode != Mode::Sidecar {
                continue;
            }
            wanted.insert(workload);
        }
        wanted
    }

    /// Whether a group is to have a Sidecar of ours.
    fn keep<'a>(&mut self, world: &'a World, namespace: &str, group: Group) -> Option<Kept<'a>> {
        if group.workloads.len() > 1 {
            for workload in &group.workloads {
                let shared = Condition::SharedSelector(group.workloads.clone());
                self.say(workload, shared);
            }
        }
        let name = sidecar_name(namespace, group.workloads.first()?);
        let verdict = match user::of(world, namespace, &group) {
            user::User::None => Ok(None),
            user::User::Merged(merged) => Ok(Some(merged)),
            user::User::Wins(theirs) => Err(Condition::UserSidecar(theirs.clone())),
            user::User::NotUnderstood(theirs) => {
                Err(Condition::UserSidecarNotUnderstood(theirs.clone()))
            }
        };
        let taken = [
            world
                .sidecars(namespace)
                .any(|(at, sidecar)| *at == name && sidecar.ours.is_none()),
            world.filters(namespace).any(|(at, filter)| {
                filter.ours.is_none()
                    && (*at == filter_name(namespace, None)
                        || *at == filter_name(namespace, Some(&name)))
            }),
        ];
        let verdict = match verdict {
            Ok(_) if taken.contains(&true) => Err(Condition::NameTaken(name.clone())),
            verdict => verdict,
        };
        match verdict {
            Ok(user) => Some(Kept {
                settled: !self.settled.is_disjoint(&group.workloads),
                group,
                name,
                user,
            }),
            Err(condition) => {
                for workload in &group.workloads {
                    self.say(workload, condition.clone());
                }
                None
            }
        }
    }

    /// Whether a group has its Sidecar now; if not, says why.
    fn begins(
        &mut self,
        world: &World,
        graph: &Graph,
        settings: &Settings,
        fallback: &Fallback,
        kept: &Kept<'_>,
        filter: &Name,
    ) -> bool {
        let workloads = &kept.group.workloads;
        if !fallback.is_up && !begin::has_sidecar(world, &kept.name) {
            for workload in workloads {
                let down = Condition::FallbackDown(settings.global_proxy.clone());
                self.say(workload, down);
            }
            return false;
        }
        match begin::begin(world, graph, &kept.group, &kept.name, filter) {
            Begin::Now => return true,
            Begin::Later => {
                let waiting = workloads.iter().map(|of| (of.clone(), filter.clone()));
                self.waiting.extend(waiting);
            }
            Begin::NotLearned(running) => {
                for workload in workloads {
                    self.say(workload, Condition::NotLearned(running.clone()));
                }
            }
        }
        false
    }

    fn write(
        &mut self,
        world: &World,
        graph: &Graph,
        namespace: &str,
        settings: &Settings,
        fallback: &Fallback,
        kept: Vec<Kept<'_>>,
    ) {
        if kept.is_empty() {
            return;
        }
        let reach = Reach {
            namespace: &settings.global_proxy.namespace,
            host: &fallback.host,
            http_ports: &fallback.http_ports,
            cidrs: &fallback.cidrs,
        };
        let always = always(world, namespace, policy(world, namespace), &reach);
        for why in always.values() {
            *self.always.entry(*why).or_default() += 1;
        }
        let mut closures = Closures::new(world, namespace);
        let mut base: BTreeSet<EgressHost> = BTreeSet::new();
        let given = settings.always.iter().chain(&world.config().providers);
        for host in always.keys().chain(given) {
            // A provider may be named with its namespace.
            let host = host
                .rsplit_once('/')
                .map_or(host.as_str(), |(_, host)| host);
            base.extend(closures.of(host).iter().cloned());
        }
        let covered = |pod: &Pod| {
            let mut kept = kept.iter().filter(|kept| !kept.settled);
            kept.any(|kept| selects(&kept.group.selector, &pod.labels))
        };
        let whole = world
            .pods(namespace)
            .all(|(_, pod)| pod.ended || !pod.injected || covered(pod));
        let cover = cover(world, namespace, &fallback.cidrs);
        for kept in kept {
            // Workloads settle one by one: what one has must not change with another.
            let one = (kept.settled || !whole).then_some(&kept.name);
            let filter = filter_name(namespace, one);
            let spec = FilterSpec {
                selector: one.map(|_| kept.group.selector.clone()),
                prefixes: if one.is_none() {
                    fallback.cidrs.clone()
                } else {
                    halves(&fallback.cidrs)
                },
                cover: cover.clone(),
                global_proxy: (
                    fallback.host.clone(),
                    fallback.http_port,
                    fallback.tunnel_port,
                ),
            };
            self.filters.insert(filter.clone(), spec);
            if !self.begins(world, graph, settings, fallback, &kept, &filter) {
                continue;
            }
            let with = (settings, fallback);
            let grown = Grown::of(graph, namespace, &kept, &base, &mut closures, with);
            if grown.capped > 0 {
                for workload in &kept.group.workloads {
                    self.say(workload, Condition::Capped(grown.capped));
                }
            }
            let name = kept.name.clone();
            let sidecar = grown.into_sidecar(kept, filter);
            self.sidecars.insert(name, sidecar);
        }
    }
}

/// Workloads without pods whose Sidecar is there: it stays as it selects, so that their next pods start with it.
fn asleep(world: &World, namespace: &str, wanted: &BTreeSet<Workload>) -> Vec<Group> {
    let live = |pod: &&Pod| !pod.ended;
    let has_pods: BTreeSet<&Workload> = world
        .pods(namespace)
        .filter_map(|(_, pod)| Some(pod).filter(live)?.workload.as_ref())
        .collect();
    let without = wanted.iter().filter(|one| !has_pods.contains(one));
    without
        .filter_map(|workload| {
            let name = sidecar_name(namespace, workload);
            let (_, sidecar) = world.sidecars(namespace).find(|(at, _)| **at == name)?;
            sidecar.ours.as_ref()?;
            let selector = sidecar.selector.clone().filter(|all| !all.is_empty())?;
            let mut pods = world.pods(namespace).map(|(_, pod)| pod).filter(live);
            let free = !pods.any(|pod| selects(&selector, &pod.labels));
            free.then(|| Group {
                workloads: BTreeSet::from([workload.clone()]),
                selector,
            })
        })
        .collect()
}

fn cover(world: &World, namespace: &str, cidrs: &[IpNet]) -> Cover {
    let suffix = format!(".{namespace}.svc.{}", world.cluster_domain());
    let headless: Vec<&str> = world
        .services_in(namespace)
        .filter(|service| service.form == Form::Headless)
        .filter_map(|service| service.host.strip_suffix(&suffix))
        .collect();
    Cover::of(world.namespaces(), headless, world.cluster_domain(), cidrs)
}

/// The same addresses in other words: two EnvoyFilters that hold for one pod for a while must not add the same chain.
fn halves(cidrs: &[IpNet]) -> Vec<IpNet> {
    let halved = cidrs.iter().flat_map(|cidr| {
        let halves = cidr.subnets(cidr.prefix_len() + 1);
        halves.map_or_else(|_| vec![*cidr], Iterator::collect)
    });
    halved.collect()
}

/// A long record's name is cut and ends with its hash, so that the longer name of the EnvoyFilter fits as well.
fn sidecar_name(namespace: &str, workload: &Workload) -> Name {
    const ROOM: usize = 253 - "lazymesh-fallback-".len();
    let record = workload.record_name();
    if record.len() <= ROOM {
        return Name::new(namespace, &format!("{PREFIX}{record}"));
    }
    let hash = workload.record_hash();
    let head = record.get(..ROOM - hash.len() - 1).unwrap_or_default();
    let head = head.trim_end_matches(['.', '-']);
    Name::new(namespace, &format!("{PREFIX}{head}-{hash}"))
}

fn filter_name(namespace: &str, sidecar: Option<&Name>) -> Name {
    let Some(sidecar) = sidecar else {
        return Name::new(namespace, "lazymesh-fallback");
    };
    let of = sidecar.name.strip_prefix(PREFIX).unwrap_or(&sidecar.name);
    Name::new(namespace, &format!("lazymesh-fallback-{of}"))
}

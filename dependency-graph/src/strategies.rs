//! Values for tests: short ways to write them, and arbitrary ones from a small world, so that they meet.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::fallback::Policy;
use crate::graph::Namespace;
use crate::{Dependency, Graph, Learned, Mode, Pin, Port, Protocol, Record, Source, Timestamp};
use crate::{Host, Workload};

/// `host:port`, or `host:port/TCP`.
pub(crate) fn dependency(text: &str) -> Dependency {
    let (text, protocol) = text.split_once('/').unwrap_or((text, "HTTP"));
    let (host, port) = text.split_once(':').unwrap();
    Dependency {
        host: host.parse().unwrap(),
        port: Port::try_from(port.parse::<u32>().unwrap()).unwrap(),
        protocol: protocol.parse().unwrap(),
    }
}

/// `namespace/name`, a Deployment.
pub(crate) fn workload(text: &str) -> Workload {
    let (namespace, name) = text.split_once('/').unwrap();
    Workload::new(namespace, "Deployment", name).unwrap()
}

pub(crate) fn any_workload() -> impl Strategy<Value = Workload> {
    let label = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
    let name = vec("[a-z0-9]([-a-z0-9]{0,82}[a-z0-9])?", 1..4).prop_map(|l| l.join("."));
    let name = name.prop_filter("too long", |name| name.len() <= 253);
    (label, "[A-Z][A-Za-z0-9]{0,62}", name)
        .prop_map(|(namespace, kind, name)| Workload::new(&namespace, &kind, &name).unwrap())
}

fn any_host() -> impl Strategy<Value = Host> {
    "[a-d]\\.example".prop_map(|host| host.parse().unwrap())
}

fn any_port() -> impl Strategy<Value = Port> {
    (1_u32..4).prop_map(|port| Port::try_from(port).unwrap())
}

pub(crate) fn any_dependency() -> impl Strategy<Value = Dependency> {
    let protocol = prop_oneof![Just(Protocol::Http), Just(Protocol::Tcp)];
    (any_host(), any_port(), protocol).prop_map(|(host, port, protocol)| Dependency {
        host,
        port,
        protocol,
    })
}

pub(crate) fn any_learned() -> impl Strategy<Value = Learned> {
    vec((any_dependency(), 0_u64..1000), 0..12).prop_map(|calls| {
        let mut learned = Learned::new();
        for (dependency, seen) in calls {
            learned.see(&dependency, Timestamp::from_seconds(seen), Source::OnDemand);
        }
        learned
    })
}

pub(crate) fn any_mode() -> impl Strategy<Value = Mode> {
    proptest::sample::select(Mode::ALL.to_vec())
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    let pin = (any_host(), vec(any_port(), 0..3)).prop_map(|(host, ports)| Pin {
        host,
        ports: ports.into_iter().collect(),
    });
    (option::of(any_mode()), vec(pin, 0..3), any_learned()).prop_map(|(mode, pinned, learned)| {
        Record {
            mode,
            pinned: pinned.into_iter().collect(),
            learned,
        }
    })
}

pub(crate) fn any_graph() -> impl Strategy<Value = Graph> {
    let policy = proptest::sample::select(Policy::ALL.to_vec());
    let says = (option::of(any_mode()), policy).prop_map(|(mode, fallback)| Namespace {
        mode,
        fallback,
        ..Namespace::default()
    });
    let namespaces = btree_map("[a-c]", says, 0..3);
    let workloads = btree_map("[a-c]/[a-c]", any_record(), 0..5);
    (namespaces, workloads).prop_map(|(namespaces, workloads)| {
        let mut graph = Graph::new();
        for (name, says) in namespaces {
            graph.set_namespace(&name, says);
        }
        for (text, record) in workloads {
            graph.set_workload(&workload(&text), Some(record));
        }
        graph
    })
}

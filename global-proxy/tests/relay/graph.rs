//! What the global proxy and a controller tell each other, over loopback.

use std::time::Duration;

use dependency_graph::Protocol;
use dependency_graph::api::FallbackPolicy::{self, PreferRedirect, RedirectOnly, RelayOnly};
use dependency_graph::api::call_answer::State;
use dependency_graph::fallback::Policy;
use global_proxy::decide::Answer;
use global_proxy::graph::{Call, Graph};
use global_proxy::metrics::Metrics;
use prometheus::Registry;
use tokio::task::JoinSet;

use crate::controller::{Controller, answer, shop};
use crate::support::{soon, until};

fn call(number: usize) -> Call {
    Call {
        spiffe_id: "spiffe://td/ns/shop/sa/cart".into(),
        pod: Some("cart-1".into()),
        authority: format!("h{number}:80"),
        destination: "10.96.0.7:80".parse().unwrap(),
        protocol: Protocol::Http,
    }
}

struct Running {
    graph: Graph,
    metrics: Metrics,
    _tasks: JoinSet<()>,
}

fn run(controller: &Controller) -> Running {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let graph = Graph::new(metrics.clone());
    let to = graph_client::Controller::new(&controller.url(), None, None).unwrap();
    let mut tasks = JoinSet::new();
    let (watching, watched) = (graph.clone(), to.clone());
    tasks.spawn(async move { watching.watch(&watched).await });
    let sending = graph.clone();
    tasks.spawn(async move { sending.send(&to).await });
    Running {
        graph,
        metrics,
        _tasks: tasks,
    }
}

#[tokio::test]
async fn a_call_is_told_at_once_and_only_once_and_its_answer_is_kept() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let Running { graph, _tasks, .. } = run(&controller);
    let mut first = graph.report(call(1));
    soon(first.written()).await;
    // From any thread, and with the age that it has.
    let other = graph.clone();
    let answered = std::thread::spawn(move || other.report(call(1)).answer());
    for answer in [first.answer(), answered.join().unwrap()] {
        match answer {
            Answer::Written { age } => assert!(age >= Duration::from_secs(10), "{age:?}"),
            other => panic!("{other:?}"),
        }
    }
    soon(graph.report(call(2)).written()).await;
    let told: Vec<_> = controller
        .calls()
        .into_iter()
        .map(|c| c.authority)
        .collect();
    assert_eq!(told, ["h1:80", "h2:80"]);
}

#[tokio::test]
async fn many_calls_go_in_batches_of_what_the_controller_takes() {
    let controller = Controller::saying(PreferRedirect, State::UnknownName).await;
    let Running {
        graph,
        metrics,
        _tasks,
    } = run(&controller);
    until("it is up", async || graph.is_up()).await;
    let tickets: Vec<_> = (0..3500).map(|number| graph.report(call(number))).collect();
    // Again, before anything is answered.
    let again: Vec<_> = (0..3500).map(|number| graph.report(call(number))).collect();
    for mut ticket in tickets.into_iter().chain(again) {
        while ticket.answer() != Answer::UnknownName {
            soon(ticket.changed()).await;
        }
    }
    let batches: Vec<_> = controller.batches().iter().map(Vec::len).collect();
    assert!(batches.iter().all(|batch| *batch <= 1000), "{batches:?}");
    assert_eq!(batches.iter().sum::<usize>(), 3500);
    // Not one by one.
    assert!(batches.len() < 20, "{batches:?}");
    assert_eq!(metrics.reports_pending.get(), 0);
}

#[tokio::test]
async fn a_host_that_is_too_long_for_any_service_is_not_told() {
    let controller = Controller::saying(PreferRedirect, State::Written).await;
    let Running { graph, _tasks, .. } = run(&controller);
    let long = |length| Call {
        authority: "h".repeat(length),
        ..call(1)
    };
    let mut too_long = graph.report(long(301));
    assert_eq!(too_long.answer(), Answer::UnknownName);
    soon(graph.report(long(300)).written()).await;
    assert_eq!(controller.calls().len(), 1);
}

#[tokio::test]
async fn where_services_are_is_followed() {
    let controller = Controller::silent(PreferRedirect).await;
    let Running { graph, _tasks, .. } = run(&controller);
    let serves = |ip: &str| graph.serves(ip.parse().unwrap());
    assert!(!serves("127.0.0.1"));
    soon(graph.known()).await;
    assert!(serves("127.0.0.1") && !serves("10.96.0.1"));
    controller.ranges(&["10.96.0.0/16", "fd00::/112"]).await;
    until("it is heard", async || serves("fd00::1")).await;
    assert!(serves("10.96.0.1") && !serves("127.0.0.1"));
}

#[tokio::test]
async fn what_is_not_settled_is_sent_again_when_the_stream_breaks() {
    let controller = Controller::silent(PreferRedirect).await;
    let Running { graph, _tasks, .. } = run(&controller);
    let mut tickets: Vec<_> = (0..3).map(|number| graph.report(call(number))).collect();
    let mut calls = controller.heard(3).await;
    calls.sort_by_key(|call| call.id);
    // Of the first all is known; the second is stored, but its Sidecar is to come.
    let stored = answer(&calls[1], State::Pending);
    controller
        .say(vec![answer(&calls[0], State::Refused), stored])
        .await;
    while tickets[1].answer() != Answer::Pending {
        soon(tickets[1].changed()).await;
    }
    controller.cut();
    let again = controller.heard(5).await.split_off(3);
    assert_eq!(again, calls[1..]);
    let written = again.iter().map(|call| answer(call, State::Written));
    controller.say(written.collect()).await;
    for ticket in &mut tickets[1..] {
        soon(ticket.written()).await;
    }
    assert_eq!(tickets[0].answer(), Answer::Refused { service: true });
}

#[tokio::test]
async fn what_came_while_the_controller_was_away_is_told_when_it_is_back() {
    let controller = Controller::saying(RedirectOnly, State::Written).await;
    let Running { graph, _tasks, .. } = run(&controller);
    soon(graph.known()).await;
    until("it is up", async || graph.is_up()).await;
    controller.stop().await;
    until("it is down", async || !graph.is_up()).await;
    let mut ticket = graph.report(call(1));
    assert_eq!(ticket.look(), (Answer::Unheard, false));
    // What was known is known still.
    assert_eq!(graph.policy("shop"), Some(Policy::RedirectOnly));
    let controller = controller.again().await;
    soon(ticket.changed()).await;
    soon(ticket.written()).await;
    assert_eq!(controller.calls().len(), 1);
}

#[tokio::test]
async fn policies_are_followed() {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    assert_eq!(Graph::new(metrics).policy("shop"), None);
    let controller = Controller::silent(RelayOnly).await;
    let Running { graph, _tasks, .. } = run(&controller);
    soon(graph.known()).await;
    assert_eq!(graph.policy("shop"), Some(Policy::RelayOnly));
    let changes = [
        (RedirectOnly, Policy::RedirectOnly),
        (FallbackPolicy::Unspecified, Policy::PreferRedirect),
    ];
    for (said, policy) in changes {
        controller.change(shop(said)).await;
        let heard = async || graph.policy("shop") == Some(policy);
        until("it is heard", heard).await;
    }
}

#[tokio::test]
async fn what_there_is_no_room_for_is_counted_and_stays_unheard() {
    let metrics = Metrics::new(&Registry::new()).unwrap();
    let graph = Graph::new(metrics.clone());
    let mut number = 0;
    while metrics.reports_dropped.get() == 0 {
        number += 1;
        assert_eq!(graph.report(call(number)).answer(), Answer::Unheard);
    }
    let kept = u64::try_from(metrics.reports_pending.get()).unwrap();
    assert_eq!(kept, number as u64 - 1);
    assert_eq!(graph.report(call(number)).answer(), Answer::Unheard);
    assert_eq!(metrics.reports_dropped.get(), 2);
}

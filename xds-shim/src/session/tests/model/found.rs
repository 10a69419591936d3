//! What random steps have found, so that it is tried each time.

use super::*;

/// Routes that came before the copy of the listener that uses them were lost: the first request failed.
#[test]
fn routes_are_given_behind_the_copy_that_uses_them() {
    use Service::{Absent, Auto};
    run([Absent, Absent, Absent, Auto], &[]);
}

/// A proxy in which a copy warms says late what it asked for: a copy led to for good was never renewed.
#[test]
fn a_name_that_is_told_late_has_its_place_all_the_same() {
    use Service::{Absent, Http};
    let steps = [
        Step::Becomes(1, Http),
        Step::Settle,
        Step::Request(1, 0),
        Step::Admit(1),
        Step::ClusterChanges(1),
        Step::ProxyHears(1),
        Step::ProxyIsHeard(1),
        Step::ProxyHears(2),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Absent, Absent, Absent, Http], &steps);
}

/// A request whose route configuration went with its last listener, told late, was never answered.
#[test]
fn a_request_by_a_listener_that_is_gone_does_not_wait() {
    use Service::{Absent, Http, Tcp};
    let steps = [
        Step::Settle,
        Step::Request(0, 0),
        Step::Becomes(0, Tcp),
        Step::Request(1, 0),
        Step::ProxyIsHeard(1),
        Step::ProxyHears(1),
        Step::Becomes(1, Absent),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Http, Http, Tcp, Tcp], &steps);
}

/// A listener that went before its copy was made left its service due for ever, and others behind it.
#[test]
fn what_is_due_does_not_wait_for_what_nobody_asked_for() {
    use Service::{Absent, AutoOn80, Http, Mirrored, Subset};
    let steps = [
        Step::Settle,
        Step::Becomes(2, Subset),
        Step::Becomes(1, Mirrored),
        Step::Request(1, 0),
        Step::Request(0, 0),
    ];
    run([Http, AutoOn80, Http, Absent], &steps);
}

/// What answered a request whose routes are gone stayed for good in a proxy that never asked for routes again.
#[test]
fn what_answered_for_routes_that_are_gone_goes_too() {
    use Service::{Absent, Http, Tcp};
    let steps = [
        Step::Settle,
        Step::Becomes(1, Tcp),
        Step::Becomes(2, Absent),
        Step::Request(0, 0),
        Step::Push(false),
        Step::Tidy(5),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Absent, Http, Http, Absent], &steps);
}

/// The routes by which a request was held were given up before anybody knew them.
#[test]
fn a_request_whose_routes_are_gone_is_answered() {
    use Service::{Absent, Http, Tcp};
    let steps = [
        Step::Settle,
        Step::Becomes(0, Tcp),
        Step::Reconnect {
            same: false,
            knows: false,
        },
        Step::Becomes(3, Tcp),
        Step::Request(0, 0),
        Step::ProxyIsHeard(1),
        Step::ProxyIsHeard(3),
        Step::Connect(0, 80),
    ];
    run([Http, Absent, Absent, Http], &steps);
}

/// The listener of the port was not there yet, and the range of the fallback was.
#[test]
fn what_is_nobodys_may_fall_back_while_listeners_come() {
    use Service::{Absent, Tcp};
    let steps = [
        Step::Settles(true),
        Step::Push(false),
        Step::Becomes(0, Absent),
        Step::IstiodIsHeard(1),
        Step::ProxyHears(2),
        Step::Connect(0, 80),
        Step::Becomes(0, Absent),
    ];
    run([Tcp, Absent, Tcp, Tcp], &steps);
}

/// A proxy in which a cluster warmed told of its routes before its clusters: what it had already was held in them.
#[test]
fn what_a_proxy_has_is_not_held_though_it_says_so_late() {
    use Service::{Absent, Http, Mirrored};
    let steps = [
        Step::Settles(true),
        Step::Becomes(0, Absent),
        Step::Settles(true),
        Step::Becomes(0, Http),
        Step::Tidy(5),
        Step::Request(3, 0),
        Step::Settles(false),
        Step::ProxyHears(1),
        Step::Reconnect {
            same: false,
            knows: false,
        },
    ];
    run([Absent, Mirrored, Absent, Http], &steps);
}

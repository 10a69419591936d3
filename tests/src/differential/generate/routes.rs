//! VirtualServices.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{Service, World, any, networking, one_of, percent};

/// Makes the VirtualServices of a seed.
pub(super) fn make(world: &mut World, rng: &mut Rng) {
    let mut services = world.services.clone();
    rng.shuffle(&mut services);
    for service in services.into_iter().take(rng.usize(2..6)) {
        if let Some(object) = route(world, rng, &service) {
            world.add(object);
        }
    }
    if percent(rng, 35) {
        of_no_service(world, rng);
    }
    if percent(rng, 30) {
        delegated(world, rng);
    }
}

/// A VirtualService for one service, by what its first port speaks.
pub(super) fn route(world: &mut World, rng: &mut Rng, service: &Service) -> Option<Value> {
    let namespace = if percent(rng, 75) {
        service.namespace
    } else {
        "$A"
    };
    let mut hosts = vec![service.written(rng, namespace)];
    if service.is_kubernetes && percent(rng, 12) {
        world.tries("route/wildcard-host");
        hosts = vec![format!("*.{}.svc.cluster.local", service.namespace)];
    }
    let mut spec = json!({"hosts": hosts});
    let mut routed = false;
    if service.http_port().is_some() {
        spec["http"] = http_routes(world, rng, service, namespace);
        routed = true;
    }
    if let Some(port) = service.tcp_port().filter(|_| percent(rng, 80))
        && let Some(to) = destination(world, rng, namespace, |to| {
            to.tcp_port().map(|port| port.number)
        })
    {
        world.tries("route/tcp");
        let mut tcp = json!({"route": [{"destination": to}]});
        // A client that waits for a greeting would wait for ever for one of a server that does not greet.
        if rng.bool() || service.greets() {
            tcp["match"] = json!([{"port": port.number}]);
        }
        spec["tcp"] = json!([tcp]);
        routed = true;
    }
    if let Some(port) = service.tls_port()
        && let Some(to) = destination(world, rng, namespace, |to| {
            to.tls_port().map(|port| port.number)
        })
    {
        world.tries("route/tls");
        spec["tls"] = json!([{"match": [{"port": port.number, "sniHosts": [service.host]}],
                              "route": [{"destination": to}]}]);
        routed = true;
    }
    scope(world, rng, &mut spec);
    let name = service.rule("route");
    routed.then(|| networking("VirtualService", namespace, &name, &spec))
}

/// Who sees it, and which proxies it is for.
fn scope(world: &mut World, rng: &mut Rng, spec: &mut Value) {
    if percent(rng, 15) {
        let to = any(rng, [".", "*", "$A", "$B"]);
        spec["exportTo"] = json!([to]);
        world.tries("route/export-to");
    }
    if percent(rng, 20) {
        let gateways = match rng.u32(..3) {
            0 => json!(["mesh"]),
            1 => json!(["$A/some-gateway"]),
            _ => json!(["mesh", "$A/some-gateway"]),
        };
        spec["gateways"] = gateways;
        world.tries("route/gateways");
    }
}

/// Somewhere to go to, as a rule in `namespace` writes it.
fn destination(
    world: &World,
    rng: &mut Rng,
    namespace: &str,
    port: impl Fn(&Service) -> Option<u16>,
) -> Option<Value> {
    let able: Vec<&Service> = world
        .services
        .iter()
        .filter(|service| port(service).is_some() && !service.host.starts_with('*'))
        .collect();
    let to = one_of(rng, &able)?;
    let mut destination = json!({"host": to.written(rng, namespace)});
    if to.ports.len() > 1 || rng.bool() {
        destination["port"] = json!({"number": port(to)?});
    }
    Some(destination)
}

fn http_routes(world: &mut World, rng: &mut Rng, service: &Service, namespace: &str) -> Value {
    let mut routes = Vec::new();
    for number in 0..rng.usize(0..3) {
        let mut route = http_route(world, rng, service, namespace);
        route["name"] = format!("rule-{number}").into();
        route["match"] = json!([matching(world, rng, service)]);
        routes.push(route);
    }
    if routes.is_empty() || percent(rng, 80) {
        routes.push(http_route(world, rng, service, namespace));
    }
    routes.into()
}

fn matching(world: &mut World, rng: &mut Rng, service: &Service) -> Value {
    let kinds = [
        "header",
        "prefix",
        "exact",
        "regex",
        "method",
        "labels",
        "port",
        "query",
        "namespace",
        "authority",
        "without",
    ];
    let kind = any(rng, kinds);
    world.tries(format!("match/{kind}"));
    match kind {
        "header" => json!({"headers": {"x-version": {"exact": "v2"}}}),
        "prefix" => json!({"uri": {"prefix": "/old"}}),
        "exact" => json!({"uri": {"exact": "/"}}),
        "regex" => json!({"uri": {"regex": "/api/v[0-9]+(/.*)?"}}),
        "method" => json!({"method": {"exact": "POST"}}),
        "labels" => json!({"sourceLabels": {"app": any(rng, ["client", "nobody"])}}),
        "port" => json!({"port": one_of(rng, &service.ports).map_or(80, |port| port.number)}),
        "query" => json!({"queryParams": {"user": {"exact": "jo"}}}),
        "namespace" => json!({"sourceNamespace": any(rng, ["$A", "$B"])}),
        "authority" => json!({"authority": {"prefix": service.name}}),
        _ => json!({"withoutHeaders": {"x-version": {}}}),
    }
}

/// What becomes of what matches.
fn http_route(world: &mut World, rng: &mut Rng, service: &Service, namespace: &str) -> Value {
    let kinds = [
        "plain",
        "subset",
        "elsewhere",
        "rewrite",
        "rewrite-host",
        "redirect",
        "redirect-host",
        "answer",
        "fault",
        "mirror",
        "mirror",
        "mirror",
        "headers",
        "retries",
        "timeout",
        "all-to-one",
        "halves",
        "no-service",
        "no-subset",
        "cors",
    ];
    let kind = any(rng, kinds);
    world.tries(format!("route/{kind}"));
    let own_port = service.http_port().map_or(80, |port| port.number);
    let own = json!({"host": service.host, "port": {"number": own_port}});
    let own = if service.host.starts_with('*') {
        json!({"host": "entry0.diff.test"})
    } else {
        own
    };
    let subset = |name: &str| {
        let mut subset = own.clone();
        subset["subset"] = name.into();
        subset
    };
    let other = destination(world, rng, namespace, |to| {
        to.http_port().map(|port| port.number)
    });
    let other = other.unwrap_or_else(|| own.clone());
    let to_own = json!([{"destination": own}]);
    match kind {
        "subset" => json!({"route": [{"destination": subset(any(rng, ["v1", "v2"]))}]}),
        "elsewhere" => json!({"route": [{"destination": other}]}),
        "rewrite" => json!({"rewrite": {"uri": "/new"}, "route": to_own}),
        "rewrite-host" => json!({"rewrite": {"authority": "rewritten.diff.test"}, "route": to_own}),
        "redirect" => {
            json!({"redirect": {"uri": "/moved", "redirectCode": any(rng, [301, 302, 307])}})
        }
        "redirect-host" => json!({"redirect": {"authority": "moved.diff.test", "scheme": "https"}}),
        "answer" => {
            json!({"directResponse": {"status": any(rng, [200, 418, 503]), "body": {"string": "by the route"}}})
        }
        "fault" => {
            json!({"fault": {"abort": {"httpStatus": any(rng, [418, 503]), "percentage": {"value": 100}}}, "route": to_own})
        }
        "mirror" => json!({"mirror": other, "mirrorPercentage": {"value": 100}, "route": to_own}),
        "headers" => {
            json!({"route": [{"destination": own, "headers": {"response": {"set": {"x-of-destination": "1"}}}}], "headers": {
            "request": {"set": {"x-set": "by-route"}, "add": {"x-user": "added"}, "remove": ["x-version"]},
            "response": {"set": {"x-answered": "by-route"}, "remove": ["content-type"]}}})
        }
        "retries" => {
            json!({"retries": {"attempts": 3, "retryOn": "5xx", "perTryTimeout": "10s"}, "route": to_own})
        }
        "timeout" => json!({"timeout": "20s", "route": to_own}),
        "all-to-one" => {
            json!({"route": [{"destination": other, "weight": 100}, {"destination": own, "weight": 0}]})
        }
        "halves" => {
            json!({"route": [{"destination": other, "weight": 50}, {"destination": own, "weight": 50}]})
        }
        "no-service" => {
            json!({"route": [{"destination": {"host": "missing.$A.svc.cluster.local", "port": {"number": 80}}}]})
        }
        "no-subset" => json!({"route": [{"destination": subset("v9")}]}),
        "cors" => {
            json!({"corsPolicy": {"allowOrigins": [{"exact": "http://origin.diff.test"}], "allowMethods": ["GET"], "maxAge": "24h"}, "route": to_own})
        }
        _ => json!({"route": to_own}),
    }
}

/// A host that only a VirtualService knows.
fn of_no_service(world: &mut World, rng: &mut Rng) {
    world.tries("route/of-no-service");
    let Some(to) = destination(world, rng, "$A", |to| {
        to.http_port().map(|port| port.number)
    }) else {
        return;
    };
    let host = any(
        rng,
        ["virtual.diff.test", "virtual.$A", "*.virtual.diff.test"],
    );
    let spec = json!({"hosts": [host], "http": [{"route": [{"destination": to}]}]});
    world.add(networking("VirtualService", "$A", "virtual", &spec));
}

/// A VirtualService that leaves a part to another one.
fn delegated(world: &mut World, rng: &mut Rng) {
    let with_http: Vec<Service> = world
        .services
        .iter()
        .filter(|service| service.http_port().is_some() && !service.host.starts_with('*'))
        .cloned()
        .collect();
    let Some(service) = one_of(rng, &with_http) else {
        return;
    };
    let name = service.rule("route");
    if world.has_route(&service) {
        return;
    }
    world.tries("route/delegate");
    let inner = any(rng, ["$A", "$B"]);
    let to = destination(world, rng, inner, |to| {
        to.http_port().map(|port| port.number)
    });
    let port = service.http_port().map_or(80, |port| port.number);
    let own = json!({"host": service.host, "port": {"number": port}});
    let root = json!({"hosts": [service.host], "http": [
        {"match": [{"uri": {"prefix": "/old"}}], "delegate": {"name": "part", "namespace": inner}},
        {"route": [{"destination": own}]}]});
    let part = json!({"http": [
        {"match": [{"headers": {"x-version": {"exact": "v2"}}}], "directResponse": {"status": 202}},
        {"route": [{"destination": to.unwrap_or(own)}], "headers": {"request": {"set": {"x-set": "by-part"}}}}]});
    world.add(networking(
        "VirtualService",
        service.namespace,
        &name,
        &root,
    ));
    world.add(networking("VirtualService", inner, "part", &part));
}

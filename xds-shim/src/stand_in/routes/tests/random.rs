//! What holds for any virtual hosts and names.

use super::*;
use proptest::prelude::*;

/// A service: its name, its namespace, its form (0 and 1 are plain), whether it is given.
type Service = (u8, bool, u8, bool);

fn virtual_host((number, other, form, _): Service) -> rds::VirtualHost {
    let namespace = if other { "store" } else { "shop" };
    let address = format!("10.{}.0.{number}", 96 + u8::from(other));
    let mut host = service(&format!("s{number}.{namespace}"), 80, &address);
    match form {
        0 => {}
        1 => {
            action(&mut host.routes[0]).timeout = Some(Duration {
                seconds: 7,
                nanos: 0,
            })
        }
        2 => host
            .routes
            .insert(0, to("outbound|80|v1|x.shop.svc.cluster.local")),
        _ => host.domains.push(format!("*.s{number}.{namespace}")),
    }
    host
}

fn authority() -> impl Strategy<Value = String> {
    let suffix = prop::sample::select(vec![
        "",
        ".",
        ":80",
        ".svc",
        ".svc.cluster.local",
        ".svc.cluster.local.:80",
    ]);
    let name = prop_oneof![
        (0..8_u8, "shop|store|bank").prop_map(|(n, ns)| format!("s{n}.{ns}")),
        (0..8_u8, 95..99_u8).prop_map(|(n, of)| format!("10.{of}.0.{n}")),
        "[a-zS*]{1,6}([.][a-z0-9]{1,4}){0,3}",
    ];
    (name, suffix).prop_map(|(name, suffix)| format!("{name}{suffix}"))
}

proptest! {
    /// Whatever is held: Envoy takes the configuration, what is given goes where it went, and what a
    /// stand-in takes is what it may take.
    #[test]
    fn each_host_goes_where_it_went(
        services in prop::collection::btree_map((0..8_u8, any::<bool>()), (0..4_u8, any::<bool>()), 0..10),
        lookups in prop::collection::vec(authority(), 1..20),
        nobody in prop::collection::btree_set(authority(), 0..4),
        exact: bool,
    ) {
        let services: Vec<Service> = services.into_iter().map(|((n, o), (f, g))| (n, o, f, g)).collect();
        let mut hosts: Vec<_> = services.iter().map(|s| virtual_host(*s)).collect();
        hosts.push(rest("PassthroughCluster"));
        let resource = config(hosts);
        let whole = decode(&resource);
        let given: Vec<String> = services.iter().filter(|s| s.3)
            .map(|(n, o, ..)| format!("outbound|80||s{n}.{}.svc.cluster.local", if *o { "store" } else { "shop" }))
            .collect();
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let nobody: Vec<String> = nobody.iter().map(|n| host_of(n, true)).collect();
        let nobody: Vec<&str> = nobody.iter().map(String::as_str).collect();
        let composed = composed(&resource, &given, &nobody, exact);
        assert_valid(&composed);
        let routes = Routes::parse(&Bytes::copy_from_slice(&resource)).unwrap().unwrap();
        for authority in lookups.iter().map(String::as_str).chain(nobody.iter().copied()) {
            let before = taken_by(&whole, authority);
            let after = taken_by(&composed, authority);
            if !after.starts_with("lazy|") {
                prop_assert_eq!(after, before, "{}", authority);
                continue;
            }
            match routes.meaning(authority) {
                Meaning::Service { cluster, .. } => prop_assert!(!given.contains(&cluster), "{authority} is held"),
                Meaning::Nobody(_) => {
                    prop_assert_eq!(before, "allow_any");
                    let host = routes.host(authority);
                    let told = nobody.contains(&host.as_str()) && crate::stand_in::domains::is_plain(&host);
                    prop_assert!(!exact && !told, "{authority} is known to be nobody's");
                }
                Meaning::Other => prop_assert!(false, "{authority} has a virtual host"),
            }
        }
    }
}

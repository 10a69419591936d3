use super::*;
use crate::embedded::shape::numbered_service;

const SIDECAR: &str =
    include_str!("../../../../lazyload-controller/src/render/golden/sidecar.yaml");
const FALLBACKS: [&str; 2] = [
    include_str!("../../../../lazyload-controller/src/render/golden/fallback.yaml"),
    include_str!("../../../../lazyload-controller/src/render/golden/fallback-selected.yaml"),
];

fn proxy(namespace: &str, app: &str) -> Proxy {
    Proxy {
        labels: [("app".to_owned(), app.to_owned())].into(),
        ..Proxy::in_namespace(namespace)
    }
}

fn sidecar(name: &str, created: &str, app: Option<&str>, host: &str) -> String {
    let selector = app.map(|app| format!("workloadSelector: {{labels: {{app: {app}}}}}, "));
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: '{created}'}}\n\
         spec: {{{}egress: [{{hosts: ['{host}']}}]}}\n",
        selector.unwrap_or_default()
    )
}

#[test]
fn all_that_the_controller_writes_is_understood() {
    let all = Documents::read([SIDECAR, FALLBACKS[0], FALLBACKS[1]]).unwrap();
    assert!(all.sidecar(&proxy("shop", "cart")).is_some());
    assert!(all.sidecar(&proxy("shop", "other")).is_none());
    let filters = all.filters(&proxy("shop", "cart"));
    assert_eq!(filters.len(), 2);
    let count = |what: fn(&Patch) -> bool| {
        let patches = filters.iter().flat_map(|filter| &filter.patches);
        patches.filter(|patch| what(patch)).count()
    };
    assert_eq!(count(|patch| matches!(patch, Patch::FirstRoute(..))), 6);
    assert_eq!(count(|patch| matches!(patch, Patch::OutboundChain(_))), 1);
    assert_eq!(
        count(|patch| matches!(patch, Patch::RouteConfiguration(_))),
        2
    );
}

#[test]
fn what_is_not_acted_on_is_refused() {
    let merged =
        include_str!("../../../../lazyload-controller/src/render/golden/sidecar-merged.yaml");
    let error = Documents::read([merged]).unwrap_err().to_string();
    assert!(
        error.contains("Sidecar shop/lazymesh-deployment-cart"),
        "{error}"
    );
    let unknown = FALLBACKS[0].replace("timeout: 0s", "idle_timeout: 0s");
    let error = Documents::read([unknown.as_str()]).unwrap_err().to_string();
    assert!(error.contains("idle_timeout"), "{error}");
    let other = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n";
    assert!(Documents::read([other]).is_err());
}

#[test]
fn what_is_not_istio_s_is_left_alone() {
    let others = "# nothing\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {x: 1}\n---\nnull\n";
    assert_eq!(Documents::read([others]), Ok(Documents::default()));
}

#[test]
fn the_oldest_sidecar_that_selects_a_proxy_holds() {
    let read = |texts: &[String]| Documents::read(texts.iter().map(String::as_str)).unwrap();
    let all = read(&[
        sidecar("a", "2026-01-03T00:00:00Z", Some("cart"), "n/younger.n"),
        sidecar("b", "2026-01-02T00:00:00Z", Some("cart"), "n/older.n"),
        sidecar("c", "2026-01-01T00:00:00Z", None, "n/all.n"),
    ]);
    let given = |app: &str| all.sidecar(&proxy("shop", app)).unwrap().given.clone();
    let of = |host: &str| {
        let one = read(&[sidecar("x", "", None, host)]);
        one.sidecar(&proxy("shop", "x")).unwrap().given.clone()
    };
    assert_eq!(given("cart"), of("n/older.n"));
    assert_eq!(given("other"), of("n/all.n"));
    assert_eq!(all.sidecar(&proxy("other", "cart")), None);
}

#[test]
fn hosts_are_exact_or_wildcards() {
    let service = numbered_service(12);
    let has = |host: &str| {
        let text = sidecar("x", "", None, host);
        let all = Documents::read([text.as_str()])?;
        Ok::<_, Error>(
            all.sidecar(&proxy("shop", "x"))
                .unwrap()
                .given
                .has(&service),
        )
    };
    for host in [
        "ns-1/svc-12.ns-1.svc.cluster.local",
        "*/*",
        "ns-1/*",
        "*/*.svc.cluster.local",
    ] {
        assert_eq!(has(host), Ok(true), "{host}");
    }
    for host in ["ns-2/svc-12.ns-1.svc.cluster.local", "~/*", "ns-2/*"] {
        assert_eq!(has(host), Ok(false), "{host}");
    }
    assert!(has("./*").is_err() && has("svc-12").is_err());
}

#[test]
fn a_change_concerns_the_namespaces_it_is_in() {
    let read = |text: &str| Documents::read([text]).unwrap();
    let one = read(SIDECAR);
    let grown = read(&SIDECAR.replace("reviews", "ratings"));
    assert_eq!(grown.changed(&one), BTreeSet::from(["shop".to_owned()]));
    assert_eq!(one.changed(&Documents::default()).len(), 1);
    assert!(one.changed(&one).is_empty() && one.same_rules(&grown));
}

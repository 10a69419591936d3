//! A shim in pass-through mode: nobody can tell it from istiod. Two pods of one workload, one straight at istiod and one
//! behind a shim, hold the same config, through changes, refusals, reconnects and restarts.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::testbed::{Call, Case, Namespace, Pod, Replica, Test, until};

use crate::proxy_status::{
    BROKEN_CLUSTER, CLUSTER_REFUSAL, USUAL_TYPES, until_refused, until_synced,
};
use crate::same_config::{GivenConfig, ensure_same_identity, until_same};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("pass_through::the_same_config", the_same_config),
        Test::new("pass_through::changes_arrive_alike", changes_arrive_alike),
        Test::new(
            "pass_through::a_refused_cluster_is_told",
            a_refused_cluster_is_told,
        )
        // istiod forgets a refusal with the next push that is taken, and other tests cause pushes.
        .exclusive(),
        Test::new(
            "pass_through::a_refused_listener_is_told",
            a_refused_listener_is_told,
        )
        .exclusive(),
        Test::new("pass_through::a_restarted_shim", |case| {
            a_shim_that_goes(case, Going::Restart)
        }),
        Test::new("pass_through::a_crashed_shim", |case| {
            a_shim_that_goes(case, Going::Crash)
        }),
        Test::new("pass_through::a_restarted_istiod", a_restarted_istiod).exclusive(),
    ]
}

/// Two pods of one workload, and a mesh around them that has some of everything.
pub(crate) struct Twins {
    pub(crate) ns: Namespace,
    pub(crate) shim: Replica,
    /// Straight at istiod.
    pub(crate) direct: Pod,
    /// Behind the shim.
    pub(crate) relayed: Pod,
}

/// Something of each kind that istiod makes config of.
const SURROUNDINGS: &str = "
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: server}, spec: {host: server,
   trafficPolicy: {connectionPool: {http: {http2MaxRequests: 77}}, outlierDetection: {consecutive5xxErrors: 7}},
   subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}, trafficPolicy: {loadBalancer: {simple: RANDOM}}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: server}, spec: {hosts: [server], http: [
   {match: [{headers: {to: {exact: v2}}}], route: [{destination: {host: server, subset: v2}}], mirror: {host: other}},
   {route: [{destination: {host: server}, weight: 90}, {destination: {host: other}, weight: 10}], retries: {attempts: 3}}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: outside}, spec: {hosts: [outside.example.com],
   location: MESH_EXTERNAL, resolution: STATIC, ports: [{number: 443, name: tls, protocol: TLS}], endpoints: [{address: 192.0.2.1}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: twin}, spec: {selector: {matchLabels: {app: twin}},
   rules: [{to: [{operation: {methods: [GET]}}]}, {to: [{operation: {ports: ['9000', '9001']}}]}]}}
---
{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: extension}, spec: {workloadSelector: {labels: {app: twin}},
   configPatches: [
     {applyTo: HTTP_FILTER, match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}},
      patch: {operation: INSERT_FIRST, value: {name: small-bodies, config_discovery: {
        config_source: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3},
        type_urls: [type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer]}}}},
     {applyTo: EXTENSION_CONFIG, match: {context: SIDECAR_INBOUND}, patch: {operation: ADD, value: {name: small-bodies, typed_config: {
        '@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1234567}}}}]}}";

impl Twins {
    pub(crate) async fn start(case: &Case, mode: &str) -> Result<Self> {
        let ns = case.namespace(&[]).await?;
        ns.strict_mtls().await?;
        let shims = ns.shims().await?;
        let shim = shims.start(&[&format!("--default-mode={mode}")]).await?;
        ns.apply(SURROUNDINGS).await?;
        ns.service("headless")
            .usual_ports()
            .selector(&[("app", "server")])
            .headless()
            .create()
            .await?;
        ns.service("twin").usual_ports().create().await?;
        for service in ["server", "other"] {
            ns.service(service).usual_ports().create().await?;
        }
        ns.workload("server").label("version", "v1").start().await?;
        let other = ns.workload("other").no_sidecar();
        let twin = ns.workload("twin").all_stats();
        let behind_shim = twin.clone().via(&shims);
        let (_, direct, relayed) =
            tokio::try_join!(other.start(), twin.start(), behind_shim.start())?;
        Ok(Self {
            ns,
            shim,
            direct,
            relayed,
        })
    }

    /// Waits until both hold the same, and that is as wanted.
    pub(crate) async fn until_same(
        &self,
        what: &str,
        as_wanted: impl Fn(&GivenConfig) -> Result<()>,
    ) -> Result<GivenConfig> {
        until_same(what, (&self.direct, &self.relayed), as_wanted).await
    }

    /// Waits until both hold the same, with `text` in it or not.
    async fn until_mentioned(&self, text: &str, there: bool) -> Result<GivenConfig> {
        let what = format!(
            "both to hold the same config with{} {text}",
            if there { "" } else { "out" }
        );
        self.until_same(&what, |config| {
            ensure!(
                config.mentions(text) == there,
                "{text:?} in both: {}",
                !there
            );
            config.ensure_complete()
        })
        .await
    }

    /// A counter of both Envoys: of the direct one, and of the relayed one.
    async fn stat(&self, name: &str) -> Result<(u64, u64)> {
        let (direct, relayed) = (self.direct.envoy().await?, self.relayed.envoy().await?);
        Ok((direct.stat(name).await?, relayed.stat(name).await?))
    }

    async fn until_both_synced(&self) -> Result<()> {
        let types = [&USUAL_TYPES[..], &["TypedExtensionConfig"]].concat();
        tokio::try_join!(
            until_synced(&self.direct, &types),
            until_synced(&self.relayed, &types)
        )?;
        Ok(())
    }
}

async fn the_same_config(case: Case) -> Result<()> {
    let twins = Twins::start(&case, "off").await?;
    let config = twins.until_mentioned("1234567", true).await?;
    for text in ["outside.example.com", "|v2|server.", "headless."] {
        ensure!(config.mentions(text), "{text} is not in the config");
    }
    ensure_same_identity(&twins.direct, &twins.relayed).await?;
    twins.until_both_synced().await?;
    let streams = twins
        .shim
        .metric("lazymesh_shim_streams", "treatment=\"off\"")
        .await?;
    ensure!(streams >= 1.0, "the shim relays nothing");
    Ok(())
}

/// A route of the other service's that adds this header. Its value must be of this namespace alone: every sidecar of the
/// mesh is given the routes of all namespaces, those of tests that run meanwhile too.
fn adds_header(value: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: late}}, spec: {{hosts: [other],
           http: [{{route: [{{destination: {{host: other}}}}], headers: {{request: {{set: {{x-late: {value}}}}}}}}}]}}}}"
    )
}

async fn changes_arrive_alike(case: Case) -> Result<()> {
    let twins = Twins::start(&case, "off").await?;
    let Twins { ns, .. } = &twins;
    let late_route = format!("route-of-{}", ns.name());
    let late_service = format!("late-service.{}.", ns.name());
    for text in [&*late_route, "4321", &late_service] {
        twins.until_mentioned(text, false).await?;
    }

    // Each kind of change alone, and then the way back.
    ns.apply(&adds_header(&late_route)).await?;
    twins.until_mentioned(&late_route, true).await?;
    let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: late}, spec: {host: other,
        trafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 4321}}}}}";
    ns.apply(rule).await?;
    twins.until_mentioned("4321", true).await?;
    ns.service("late-service")
        .port("tcp", 9100, 9000)
        .create()
        .await?;
    twins.until_mentioned(&late_service, true).await?;
    let pod = ns.workload("late-service").no_sidecar().start().await?;
    let address = format!("\"{}\"", pod.address());
    twins.until_mentioned(&address, true).await?;

    pod.delete().await?;
    twins.until_mentioned(&address, false).await?;
    ns.delete(&adds_header(&late_route)).await?;
    ns.delete(rule).await?;
    ns.delete("{apiVersion: v1, kind: Service, metadata: {name: late-service}}")
        .await?;
    twins
        .until_same("all of it to be gone", |config| {
            for text in [&*late_route, "4321", &late_service] {
                ensure!(!config.mentions(text), "{text} is there still");
            }
            config.ensure_complete()
        })
        .await?;
    twins.until_both_synced().await
}

/// A listener that istiod takes and Envoy refuses.
const BROKEN_LISTENER: &str = "{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: broken-listener}, spec: {
       configPatches: [{applyTo: HTTP_FILTER,
         match: {context: SIDECAR_OUTBOUND, listener: {portNumber: 7070, filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}},
         patch: {operation: INSERT_FIRST, value: {name: broken, typed_config: {
           '@type': type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit,
           stat_prefix: broken, token_bucket: {max_tokens: 1, fill_interval: 0.001s}}}}}]}}";

async fn a_refused_cluster_is_told(case: Case) -> Result<()> {
    refused(
        case,
        BROKEN_CLUSTER,
        ("Cluster", CLUSTER_REFUSAL),
        "cluster_manager.cds.update_rejected",
    )
    .await
}

async fn a_refused_listener_is_told(case: Case) -> Result<()> {
    refused(
        case,
        BROKEN_LISTENER,
        ("Listener", "fill"),
        "listener_manager.lds.update_rejected",
    )
    .await
}

/// Both refuse `filter`, istiod learns of both, both keep what they had, and both recover when it goes.
async fn refused(
    case: Case,
    filter: &str,
    (name, words): (&str, &str),
    counter: &str,
) -> Result<()> {
    let twins = Twins::start(&case, "off").await?;
    twins.until_both_synced().await?;
    let (direct, relayed) = twins.stat(counter).await?;
    ensure!(
        (direct, relayed) == (0, 0),
        "refused before: {direct} and {relayed}"
    );
    twins.ns.apply(filter).await?;
    tokio::try_join!(
        until_refused(&twins.direct, name, words),
        until_refused(&twins.relayed, name, words)
    )?;
    twins
        .until_same("both to have refused the same", |_| Ok(()))
        .await?;
    let (direct, relayed) = twins.stat(counter).await?;
    ensure!(direct > 0 && relayed > 0, "refused: {direct} and {relayed}");
    for pod in [&twins.direct, &twins.relayed] {
        pod.get("http1://other/").await?;
    }

    twins.ns.delete(filter).await?;
    twins.until_both_synced().await?;
    twins.until_mentioned("1234567", true).await?;
    Ok(())
}

/// How a shim goes.
#[derive(Clone, Copy)]
enum Going {
    Restart,
    Crash,
}

async fn a_shim_that_goes(case: Case, going: Going) -> Result<()> {
    let twins = Twins::start(&case, "off").await?;
    let suffix = format!(".{}.svc.cluster.local", twins.ns.name());
    let meanwhile = format!("meanwhile-in-{}", twins.ns.name());
    let afterwards = format!("afterwards-in-{}", twins.ns.name());
    let before = twins
        .until_mentioned("1234567", true)
        .await?
        .names_with(&suffix);
    until_connected(&twins.relayed, true).await?;
    let traffic = twins
        .relayed
        .traffic(&Call::new("http1://other/").rate(50.0))
        .await?;
    match going {
        Going::Restart => twins.shim.stop().await?,
        Going::Crash => twins.shim.kill().await?,
    }
    until_connected(&twins.relayed, false).await?;
    // What it had it keeps, and what changes meanwhile it learns afterwards.
    let alone = GivenConfig::of(&twins.relayed).await?;
    ensure!(
        alone.names_with(&suffix) == before,
        "it lost config with the shim"
    );
    twins.ns.apply(&adds_header(&meanwhile)).await?;
    until(
        "the twin to have the route",
        Duration::from_secs(20),
        || async {
            ensure!(GivenConfig::of(&twins.direct).await?.mentions(&meanwhile));
            Ok(())
        },
    )
    .await?;
    let still_alone = GivenConfig::of(&twins.relayed).await?;
    ensure!(
        still_alone.names_with(&suffix) == before && !still_alone.mentions(&meanwhile),
        "its config changed without a shim"
    );

    twins.shim.start().await?;
    twins.until_mentioned(&meanwhile, true).await?;
    until_connected(&twins.relayed, true).await?;
    twins.ns.apply(&adds_header(&afterwards)).await?;
    twins.until_mentioned(&afterwards, true).await?;
    twins.until_both_synced().await?;
    traffic.stop().await?.expect_no_failure()
}

async fn until_connected(pod: &Pod, connected: bool) -> Result<()> {
    until("Envoy's xDS stream", Duration::from_secs(60), || async {
        let state = pod
            .envoy()
            .await?
            .stat("control_plane.connected_state")
            .await?;
        ensure!(state == u64::from(connected), "connected_state is {state}");
        Ok(())
    })
    .await
}

async fn a_restarted_istiod(case: Case) -> Result<()> {
    let twins = Twins::start(&case, "off").await?;
    twins.until_mentioned("1234567", true).await?;
    let afterwards = format!("afterwards-in-{}", twins.ns.name());
    let traffic = twins
        .relayed
        .traffic(&Call::new("http1://other/").rate(50.0))
        .await?;
    twins.ns.mesh().restart_istiod().await?;
    twins.until_both_synced().await?;
    twins.ns.apply(&adds_header(&afterwards)).await?;
    twins.until_mentioned(&afterwards, true).await?;
    twins.until_both_synced().await?;
    // The shim itself was not touched by it.
    let ended = twins
        .shim
        .metric("lazymesh_shim_streams_ended_total", "by=\"istiod\"")
        .await?;
    ensure!(ended >= 1.0, "no stream ended with istiod");
    traffic.stop().await?.expect_no_failure()
}

//! Workloads of mode `on-demand` that settle: behind a real shim, with a Sidecar of the controller's, and what strays goes to
//! a real global proxy. STRICT mTLS everywhere.

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::testbed::{
    Call, Case, Controllers, GlobalProxies, GlobalProxy, Namespace, Pod, Replica, Shims, Test,
    until,
};
use serde_json::Value;

use crate::sidecar::{
    LIMIT, PACE, STRANGER, caller, ensure_clean, knows, label, objects, ours, status_of,
    wait_direct, wait_no_trace, wait_plain,
};
use crate::steps::{Steady, stream_of};

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        Test::new("settled::under_traffic_there_and_back", there_and_back),
        Test::new("settled::opting_out_removes_all", opting_out_removes_all),
        Test::new(
            "settled::without_a_global_proxy_it_says_so",
            without_a_global_proxy,
        ),
    ];
    // A controller acts on every namespace that opted in.
    tests.into_iter().map(Test::exclusive).collect()
}

/// Short for a test, and longer than what it learns at its beginning takes.
const AFTER: &str = "4s";
/// Services that nobody calls.
const STRANGERS: usize = 40;
/// What the client has learned before it settles.
const LEARNED: [&str; 2] = ["http1://server/", "tcp://server:9000"];
/// Of these a first call is made while config changes, one after the other.
const STRAYS: usize = 24;
const RECORD: &str = "deployment-client";

/// A namespace in mode `on-demand`, with shims, a controller and a global proxy in another one.
struct Place {
    ns: Namespace,
    system: Namespace,
    _controllers: Controllers,
    controller: Replica,
    _global_proxies: GlobalProxies,
    global_proxy: GlobalProxy,
    shims: Shims,
    shim: Replica,
}

impl Place {
    async fn open(case: &Case) -> Result<Self> {
        let system = case.namespace(&[]).await?;
        let ns = case.namespace(&[]).await?;
        label(&ns, Some("on-demand"), "prefer-redirect").await?;
        ns.strict_mtls().await?;
        ns.server("server").await?;
        let controllers = system.controllers().await?;
        let global_proxies = system.global_proxies(&controllers).await?;
        let controller = controllers.start_for(&ns, &global_proxies, &PACE).await?;
        let global_proxy = global_proxies.start(&[]).await?;
        let mut shims = system.shims().await?;
        shims.use_controllers(&controllers).await?;
        let shim = shims.start(&[]).await?;
        let place = Self {
            ns,
            system,
            _controllers: controllers,
            controller,
            _global_proxies: global_proxies,
            global_proxy,
            shims,
            shim,
        };
        place.services(STRANGER, 1).await?;
        place.services("nobody", STRANGERS).await?;
        Ok(place)
    }

    /// Services with a port for HTTP and one for TCP, and the server's pods behind them; one has no number.
    async fn services(&self, name: &str, count: usize) -> Result<()> {
        for number in 0..count {
            let name = match count {
                1 => name.to_owned(),
                _ => format!("{name}{number}"),
            };
            let service = self.ns.service(&name).port("http", 80, 8080);
            let service = service
                .port("tcp", 9000, 9000)
                .selector(&[("app", "server")]);
            service.create().await?;
        }
        Ok(())
    }

    async fn client(&self) -> Result<Pod> {
        let client = self.ns.workload("client").no_app().all_stats();
        client.via(&self.shims).start().await
    }

    /// A client that has learned, and another pod of its workload, with what istiod sent for that one's start.
    async fn clients(&self) -> Result<(Pod, f64)> {
        let client = self.client().await?;
        for url in LEARNED {
            client.get(url).await?;
        }
        until("it to be in the record", LIMIT, || async {
            let status = self.status().await?;
            ensure!(status["dependencyCount"] == 2, "{status}");
            Ok(())
        })
        .await?;
        let sent = self.sent_for_one_more().await?;
        Ok((client, sent))
    }

    /// How many bytes istiod sends for the start of one more pod: the least of some tries, since what it sends to other pods
    /// meanwhile counts as well.
    async fn sent_for_one_more(&self) -> Result<f64> {
        let sent = || {
            let name = "lazymesh_shim_istiod_response_bytes_total";
            self.shim.metric(name, "")
        };
        let mut least = f64::INFINITY;
        for _ in 0..4 {
            let before = sent().await?;
            let pod = self.client().await?;
            least = least.min(sent().await? - before);
            pod.delete().await?;
        }
        Ok(least)
    }

    /// Says after which time the client's workload settles, or says nothing.
    async fn settles(&self, after: Option<&str>) -> Result<()> {
        let after = after.map_or(String::new(), |after| format!(", settleAfter: {after}"));
        self.ns
            .apply(&format!(
                "{{apiVersion: lazymesh.dev/v1alpha1, kind: WorkloadDependencies, metadata: {{name: {RECORD}}}, spec: {{
                   workloadRef: {{kind: Deployment, name: client}}{after}}}}}"
            ))
            .await
    }

    async fn status(&self) -> Result<Value> {
        status_of(&self.ns, "client").await
    }

    async fn wait_phase(&self, phases: &[&str]) -> Result<()> {
        until("the phase", LIMIT, || async {
            let status = self.status().await?;
            let phase = status["phase"].as_str().unwrap_or_default();
            ensure!(phases.contains(&phase), "{status}");
            Ok(())
        })
        .await
    }

    /// Waits until the workload has settled, its record says so, and a pod has only what its Sidecar says.
    async fn wait_settled(&self, pod: &Pod) -> Result<()> {
        self.wait_phase(&["Settled"]).await?;
        ensure!(self.said("Settled").await? == (true, "Quiet".to_owned()));
        until("istiod to send the rest no more", LIMIT, || async {
            let dump = pod.envoy().await?.config_dump().await?.to_string();
            for word in ["\"lazymesh\"", "\"lazymesh-tcp\""] {
                ensure!(dump.contains(word), "no {word} in the config");
            }
            let stranger = format!("{STRANGER}.{}", self.ns.name());
            ensure!(!dump.contains(&stranger), "it is told of {stranger}");
            let held = self.held(pod).await?;
            // The control plane's own services, the global proxy's, and other ports of what it uses.
            ensure!(held < STRANGERS as u64, "{held} clusters are held");
            Ok(())
        })
        .await?;
        let settled = "lazymesh_controller_settled_workloads";
        let settled = self.controller.metric(settled, "").await?;
        ensure!(settled == 1.0, "{settled} workloads have settled");
        Ok(())
    }

    /// Waits until the mode is what it was: nothing of ours, and what is not known is held.
    async fn wait_on_demand(&self, pod: &Pod) -> Result<()> {
        wait_no_trace(&self.ns).await?;
        self.wait_phase(&["Learning"]).await?;
        until("the whole mesh to be held again", LIMIT, || async {
            let dump = pod.envoy().await?.config_dump().await?.to_string();
            ensure!(!dump.contains("\"lazymesh-tcp\""), "its fallback is there");
            let held = self.held(pod).await?;
            ensure!(held > STRANGERS as u64, "{held} clusters are held");
            Ok(())
        })
        .await
    }

    /// A condition of the record.
    async fn said(&self, kind: &str) -> Result<(bool, String)> {
        let status = self.status().await?;
        let conditions = status["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let found = conditions.find(|one| one["type"] == kind);
        let found = found.with_context(|| format!("no {kind} in {status}"))?;
        let reason = found["reason"].as_str().unwrap_or_default();
        Ok((found["status"] == "True", reason.to_owned()))
    }

    /// How many clusters the shim holds of a pod's.
    async fn held(&self, pod: &Pod) -> Result<u64> {
        let stream = stream_of(&self.shim, pod).await?;
        let clusters = &stream["clusters"];
        clusters["held"]
            .as_u64()
            .with_context(|| stream.to_string())
    }

    async fn arrived(&self) -> Result<f64> {
        self.global_proxy.arrived().await
    }

    async fn asks(&self) -> Result<f64> {
        self.shim.metric("lazymesh_shim_asks_total", "").await
    }

    /// What the client's Sidecar and EnvoyFilter are, which each write changes.
    async fn versions(&self) -> Result<Vec<(Option<String>, Option<String>)>> {
        let mut all = objects(&self.ns, "Sidecar").await?;
        all.extend(objects(&self.ns, "EnvoyFilter").await?);
        let of = |object: kube::api::DynamicObject| {
            (object.metadata.name, object.metadata.resource_version)
        };
        Ok(all.into_iter().map(of).collect())
    }

    /// First calls to services of their own, one after the other, until there are no more.
    async fn stray(&self, pod: &Pod, name: &str) -> Result<()> {
        for number in 0..STRAYS {
            let host = format!("{name}{number}");
            let url = match number % 2 {
                0 => format!("http1://{host}/"),
                _ => format!("tcp://{host}:9000"),
            };
            let outcome = pod.call(&Call::new(&url)).await?;
            outcome
                .answer()
                .with_context(|| format!("the first call to {url}"))?;
            ensure_clean(&outcome)?;
        }
        Ok(())
    }
}

/// It settles, grows, outlives a restart of the controller and goes back, and no call that is learned fails or waits. Nor does
/// a first call fail, whenever it is made.
async fn there_and_back(case: Case) -> Result<()> {
    let place = Place::open(&case).await?;
    place.services("on-the-way", STRAYS).await?;
    place.services("on-the-way-back", STRAYS).await?;
    for service in ["web", "queue", "late", "late-queue"] {
        place.services(service, 1).await?;
    }
    let (client, sent) = place.clients().await?;
    let steady = Steady::start(&client, &LEARNED).await?;
    place.settles(Some(AFTER)).await?;
    place.wait_phase(&["Settling", "Settled"]).await?;
    place
        .stray(&client, "on-the-way")
        .await
        .context("while it settles")?;
    place.wait_settled(&client).await?;
    steady.goes_on().await?;
    let less = until("istiod to send less for a new pod", LIMIT, || async {
        let less = place.sent_for_one_more().await?;
        ensure!(less < sent * 0.6, "{less} bytes, and {sent} before");
        Ok(less)
    })
    .await?;
    eprintln!("settled: istiod sends {less} bytes for a new pod after {sent}");

    strays(&place, &client).await?;
    steady.goes_on().await?;

    let before = place.versions().await?;
    place.controller.kill().await?;
    place.controller.start().await?;
    until("the controller to lead again", 2 * LIMIT, || async {
        let leads = place.controller.metric("lazymesh_controller_leader", "");
        let settled = "lazymesh_controller_settled_workloads";
        let settled = place.controller.metric(settled, "").await?;
        ensure!(leads.await? == 1.0 && settled == 1.0);
        Ok(())
    })
    .await?;
    place.wait_settled(&client).await?;
    ensure!(
        place.versions().await? == before,
        "a restart wrote something"
    );

    place.settles(None).await?;
    until("it to settle no more", LIMIT, || async {
        ensure!(objects(&place.ns, "Sidecar").await?.is_empty());
        Ok(())
    })
    .await?;
    place
        .stray(&client, "on-the-way-back")
        .await
        .context("on the way back")?;
    place.wait_on_demand(&client).await?;
    let (asks, arrived) = (place.asks().await?, place.arrived().await?);
    for url in ["http1://late/", "tcp://late-queue:9000"] {
        client
            .get(url)
            .await
            .with_context(|| format!("{url}, held"))?;
    }
    let asked = place.asks().await? - asks;
    ensure!(asked == 2.0, "{asked} of 2 calls were held");
    ensure!(place.arrived().await? == arrived, "they fell back");
    wait_direct(&client, &Call::new("http1://late/")).await?;
    steady.goes_on().await?;
    steady.stop().await
}

/// What a settled workload calls for the first time.
async fn strays(place: &Place, client: &Pod) -> Result<()> {
    let arrived = place.arrived().await?;
    let outcome = client.call(&Call::new("http1://web/")).await?;
    let seen = caller(&outcome).context("a stray over HTTP")?;
    ensure_clean(&outcome)?;
    ensure!(seen == client.spiffe_id(), "the server saw {seen}");
    client
        .get("tcp://queue:9000")
        .await
        .context("a stray over TCP")?;
    until("both to have fallen back", LIMIT, || async {
        ensure!(place.arrived().await? >= arrived + 2.0);
        Ok(())
    })
    .await?;
    until("both to be in the Sidecar", LIMIT, || async {
        let sidecars = objects(&place.ns, "Sidecar").await?;
        let hosts = sidecars
            .iter()
            .map(|one| one.data["spec"]["egress"].to_string());
        let hosts: String = hosts.collect();
        for service in ["web", "queue"] {
            let host = format!("{service}.{}.svc", place.ns.name());
            ensure!(hosts.contains(&host), "no {host} in {hosts}");
            ensure!(knows(client, service).await?, "{service} is not known");
        }
        Ok(())
    })
    .await?;
    wait_direct(client, &Call::new("http1://web/")).await?;
    until("both to go direct", LIMIT, || async {
        let before = place.arrived().await?;
        for url in ["http1://web/", "tcp://queue:9000"] {
            client.get(url).await?;
        }
        ensure!(place.arrived().await? == before, "they fall back");
        Ok(())
    })
    .await?;
    // It has learned something, and stays what it is.
    ensure!(place.said("Settled").await?.0, "it has not");
    let status = place.status().await?.to_string();
    ensure!(
        !status.contains("global-proxy"),
        "what it falls back to is in its record: {status}"
    );
    Ok(())
}

async fn opting_out_removes_all(case: Case) -> Result<()> {
    let place = Place::open(&case).await?;
    let (client, _) = place.clients().await?;
    let steady = Steady::start(&client, &LEARNED).await?;
    place.settles(Some(AFTER)).await?;
    place.wait_settled(&client).await?;
    label(&place.ns, None, "prefer-redirect").await?;
    wait_no_trace(&place.ns).await?;
    wait_plain(&client).await?;
    steady.goes_on().await?;
    steady.stop().await
}

/// It goes on as it is, held and direct, until there is something to fall back to.
async fn without_a_global_proxy(case: Case) -> Result<()> {
    let place = Place::open(&case).await?;
    place.services("web", 1).await?;
    let service = "{apiVersion: v1, kind: Service, metadata: {name: global-proxy}}";
    let kept = match service_of(&place.system).await? {
        Some(kept) => kept,
        None => bail!("no Service of the global proxy"),
    };
    place.system.delete(service).await?;
    let (client, _) = place.clients().await?;
    place.settles(Some(AFTER)).await?;
    until("its record to say why", LIMIT, || async {
        let said = place.said("Settled").await?;
        ensure!(said == (false, "NoGlobalProxy".to_owned()), "{said:?}");
        ensure!(place.said("NoGlobalProxy").await?.0);
        Ok(())
    })
    .await?;
    ensure!(ours(&place.ns).await?.is_empty(), "something was written");
    let before = place.asks().await?;
    client.get("http1://web/").await?;
    ensure!(place.asks().await? > before, "it was not held");
    place.system.apply(&kept).await?;
    place.wait_settled(&client).await
}

/// The Service of the global proxy, as it can be made again.
async fn service_of(system: &Namespace) -> Result<Option<String>> {
    use k8s_openapi::api::core::v1::Service;
    let client = system.mesh().resources().client().clone();
    let api: kube::Api<Service> = kube::Api::namespaced(client, system.name());
    let Some(service) = api.get_opt("global-proxy").await? else {
        return Ok(None);
    };
    let spec = service.spec.context("a Service without a spec")?;
    let again = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "global-proxy", "labels": service.metadata.labels},
        "spec": {"selector": spec.selector, "ports": spec.ports},
    });
    Ok(Some(again.to_string()))
}

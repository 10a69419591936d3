//! What a workload has learned: kept in its record, given to its other pods, outliving every part.

use anyhow::{Context, Result, ensure};
use kube::api::{Api, ApiResource, DynamicObject};
use mesh_tests::testbed::{Case, Controllers, Namespace, Pod, Replica, Shims, Test, until};
use serde_json::json;

use crate::steps::{SOON, Steady, answers_at_once, has_streams};

mod command;

const RECORD: &str = "deployment-client";

pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new(
            "learning::first_calls_are_in_the_record",
            first_calls_are_in_the_record,
        ),
        Test::new(
            "learning::other_pods_start_with_what_one_learned",
            other_pods_start_with_what_one_learned,
        ),
        Test::new(
            "learning::nothing_is_lost_when_all_parts_restart",
            nothing_is_lost_when_all_parts_restart,
        ),
        Test::new(
            "learning::a_pod_at_another_replica_hears_of_it",
            a_pod_at_another_replica_hears_of_it,
        ),
        Test::new(
            "learning::with_the_controller_down",
            with_the_controller_down,
        ),
        Test::new(
            "learning::a_pinned_host_is_there_from_the_start",
            a_pinned_host_is_there_from_the_start,
        ),
        Test::new(
            "learning::only_labelled_namespaces_are_lazy",
            only_labelled_namespaces_are_lazy,
        ),
        Test::new(
            "learning::the_label_comes_off_under_traffic",
            the_label_comes_off_under_traffic,
        ),
        Test::new(
            "learning::the_command_sees_it_and_says_it",
            command::it_sees_and_says,
        ),
        Test::new("learning::a_pause_gives_everything", command::a_pause),
    ]
}

/// A namespace that its label makes lazy, with a controller, a shim and a server.
struct Labelled {
    ns: Namespace,
    controllers: Controllers,
    controller: Replica,
    shims: Shims,
    shim: Replica,
    server: Pod,
}

impl Labelled {
    async fn open(case: &Case) -> Result<Self> {
        let ns = case
            .namespace(&[("lazymesh.dev/mode", "on-demand")])
            .await?;
        ns.strict_mtls().await?;
        let server = ns.server("server").await?;
        let controllers = ns.controllers().await?;
        let own_namespace = format!("--namespace={}", ns.name());
        let controller = controllers.start(&[&own_namespace]).await?;
        let mut shims = ns.shims().await?;
        shims.use_controllers(&controllers).await?;
        let shim = shims.start(&[]).await?;
        Ok(Self {
            ns,
            controllers,
            controller,
            shims,
            shim,
            server,
        })
    }

    async fn client(&self) -> Result<Pod> {
        self.ns
            .workload("client")
            .no_app()
            .via(&self.shims)
            .start()
            .await
    }

    fn cluster(&self, port: u16) -> String {
        format!(
            "outbound|{port}||server.{}.svc.cluster.local",
            self.ns.name()
        )
    }

    fn edge(&self, port: u16, protocol: &str) -> String {
        format!(
            "server.{}.svc.cluster.local:{port} {protocol}",
            self.ns.name()
        )
    }

    /// What the record of the client's workload says, as `HOST:PORT PROTOCOL`.
    async fn learned(&self) -> Result<Vec<String>> {
        let record = self.record().await?;
        let dependencies = record.data["status"]["dependencies"].as_array();
        let mut edges = Vec::new();
        for dependency in dependencies.into_iter().flatten() {
            let (host, protocol) = (dependency["host"].as_str(), dependency["protocol"].as_str());
            let (host, protocol) = host.zip(protocol).context("a dependency without a host")?;
            for port in dependency["ports"].as_array().into_iter().flatten() {
                edges.push(format!("{host}:{port} {protocol}"));
            }
        }
        Ok(edges)
    }

    async fn record(&self) -> Result<DynamicObject> {
        let resource = ApiResource {
            group: "lazymesh.dev".into(),
            version: "v1alpha1".into(),
            api_version: "lazymesh.dev/v1alpha1".into(),
            kind: "WorkloadDependencies".into(),
            plural: "workloaddependencies".into(),
        };
        let client = self.ns.mesh().resources().client().clone();
        let api: Api<DynamicObject> = Api::namespaced_with(client, self.ns.name(), &resource);
        Ok(api.get(RECORD).await?)
    }

    async fn is_recorded(&self, edges: &[String]) -> Result<()> {
        until("it to be in the record", SOON, || async {
            let learned = self.learned().await?;
            for edge in edges {
                ensure!(learned.contains(edge), "{edge} is not among {learned:?}");
            }
            Ok(())
        })
        .await
    }

    /// The pod has the clusters of these ports of the server, and of no other.
    async fn holds_exactly(&self, pod: &Pod, ports: &[u16]) -> Result<()> {
        let mut wanted: Vec<_> = ports.iter().map(|port| self.cluster(*port)).collect();
        wanted.sort();
        let mut clusters = pod.envoy().await?.dynamic_clusters().await?;
        let host = format!("||server.{}.", self.ns.name());
        clusters.retain(|name| name.contains(&host));
        ensure!(clusters == wanted, "{} has {clusters:?}", pod.name());
        Ok(())
    }
}

async fn first_calls_are_in_the_record(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let client = mesh.client().await?;
    mesh.holds_exactly(&client, &[]).await?;
    let answer = client.get("http1://server/").await?;
    ensure!(answer.who.pod == mesh.server.name() && answer.saw.caller == Some(client.spiffe_id()));
    client.get("grpc://server:7070").await?;
    client.get("tcp-server-first://server:9001").await?;
    let edges = [
        mesh.edge(80, "HTTP"),
        mesh.edge(7070, "HTTP"),
        mesh.edge(9001, "TCP"),
    ];
    mesh.is_recorded(&edges).await?;
    ensure!(
        mesh.learned().await?.len() == edges.len(),
        "{:?}",
        mesh.learned().await?
    );
    let status = mesh.record().await?.data["status"].clone();
    ensure!(
        status["dependencyCount"] == 3 && status["phase"] == "Learning",
        "{status}"
    );
    ensure!(status["lastLearned"].is_string(), "{status}");
    ensure!(
        status["dependencies"][0]["source"] == "OnDemand",
        "{status}"
    );
    Ok(())
}

async fn other_pods_start_with_what_one_learned(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let running = mesh.client().await?;
    let first = mesh.client().await?;
    first.get("http1://server/").await?;
    first.get("tcp://server:9000").await?;
    // A pod that runs already, one that comes, and one that comes back.
    until("the running pod to have it", SOON, || {
        mesh.holds_exactly(&running, &[80, 9000])
    })
    .await?;
    let second = mesh.client().await?;
    mesh.holds_exactly(&second, &[80, 9000]).await?;
    first.restart_sidecar().await?;
    mesh.holds_exactly(&first, &[80, 9000]).await?;
    let asks = mesh.shim.metric("lazymesh_shim_asks_total", "").await?;
    for pod in [&running, &second, &first] {
        for url in ["http1://server/", "tcp://server:9000"] {
            answers_at_once(pod, url)
                .await
                .with_context(|| pod.name().to_owned())?;
        }
    }
    let later = mesh.shim.metric("lazymesh_shim_asks_total", "").await?;
    ensure!(asks >= 2.0 && later <= asks, "{asks} asks, then {later}");
    // Another workload has learned nothing by it.
    let other = mesh
        .ns
        .workload("other")
        .no_app()
        .via(&mesh.shims)
        .start()
        .await?;
    mesh.holds_exactly(&other, &[]).await
}

async fn nothing_is_lost_when_all_parts_restart(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let client = mesh.client().await?;
    client.get("http1://server/").await?;
    client.get("tcp://server:9000").await?;
    let edges = [mesh.edge(80, "HTTP"), mesh.edge(9000, "TCP")];
    mesh.is_recorded(&edges).await?;
    client.delete().await?;
    // No proxy is left that could say again what it asked for.
    mesh.shim.stop().await?;
    mesh.shim.start().await?;
    let client = mesh.client().await?;
    mesh.holds_exactly(&client, &[80, 9000]).await?;
    client.delete().await?;
    mesh.shim.kill().await?;
    mesh.controller.kill().await?;
    mesh.controller.start().await?;
    mesh.shim.start().await?;
    let client = mesh.client().await?;
    mesh.holds_exactly(&client, &[80, 9000]).await?;
    answers_at_once(&client, "http1://server/").await?;
    mesh.is_recorded(&edges).await
}

async fn a_pod_at_another_replica_hears_of_it(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    // Two controllers as well: a report goes to one, the news may come from the other.
    mesh.controllers.start(&[]).await?;
    let one = mesh.client().await?;
    let other_shim = mesh.shims.start(&[]).await?;
    mesh.shims.lead_to(&[&other_shim]).await?;
    let other = mesh.client().await?;
    has_streams(&other_shim, 1.0).await?;
    mesh.holds_exactly(&other, &[]).await?;
    one.get("http1://server/").await?;
    until("the other pod to have it", SOON, || {
        mesh.holds_exactly(&other, &[80])
    })
    .await?;
    other.get("tcp://server:9000").await?;
    until("the first pod to have it", SOON, || {
        mesh.holds_exactly(&one, &[80, 9000])
    })
    .await?;
    answers_at_once(&one, "tcp://server:9000").await?;
    answers_at_once(&other, "http1://server/").await?;
    Ok(())
}

async fn with_the_controller_down(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let client = mesh.client().await?;
    client.get("http1://server/").await?;
    mesh.is_recorded(&[mesh.edge(80, "HTTP")]).await?;
    mesh.controller.kill().await?;
    let answer = client.get("tcp://server:9000").await?;
    ensure!(answer.who.pod == mesh.server.name());
    // A new pod has what was known, and what this shim has learned since.
    let second = mesh.client().await?;
    mesh.holds_exactly(&second, &[80, 9000]).await?;
    second.get("grpc://server:7070").await?;
    ensure!(
        mesh.learned().await? == [mesh.edge(80, "HTTP")],
        "nobody was there to write"
    );
    mesh.controller.start().await?;
    mesh.is_recorded(&[
        mesh.edge(80, "HTTP"),
        mesh.edge(9000, "TCP"),
        mesh.edge(7070, "HTTP"),
    ])
    .await?;
    until("all to be stored", SOON, || async {
        let pending = mesh
            .shim
            .metric("lazymesh_shim_reports_pending", "")
            .await?;
        ensure!(pending < 1.0, "{pending} reports wait");
        Ok(())
    })
    .await
}

async fn a_pinned_host_is_there_from_the_start(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let running = mesh.client().await?;
    mesh.holds_exactly(&running, &[]).await?;
    let host = format!("server.{}.svc.cluster.local", mesh.ns.name());
    let record = json!({
        "apiVersion": "lazymesh.dev/v1alpha1", "kind": "WorkloadDependencies", "metadata": {"name": RECORD},
        "spec": {"workloadRef": {"kind": "Deployment", "name": "client"}, "pinned": [{"host": host, "ports": [80, 9001]}]},
    });
    mesh.ns.apply(&record.to_string()).await?;
    until("the running pod to have it", SOON, || {
        mesh.holds_exactly(&running, &[80, 9001])
    })
    .await?;
    let fresh = mesh.client().await?;
    mesh.holds_exactly(&fresh, &[80, 9001]).await?;
    // What is called beside it is learned into the same record.
    fresh.get("tcp://server:9000").await?;
    mesh.is_recorded(&[mesh.edge(9000, "TCP")]).await?;
    ensure!(mesh.record().await?.data["spec"]["pinned"][0]["host"] == host);
    Ok(())
}

async fn only_labelled_namespaces_are_lazy(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let plain = case.namespace(&[]).await?;
    let lazy = mesh.client().await?;
    mesh.holds_exactly(&lazy, &[]).await?;
    let whole = plain
        .workload("client")
        .no_app()
        .via(&mesh.shims)
        .start()
        .await?;
    mesh.holds_exactly(&whole, &[80, 7070, 8082, 9000, 9001])
        .await?;
    let streams = |treatment| mesh.shim.metric("lazymesh_shim_streams", treatment);
    ensure!(streams("on_demand").await? >= 1.0 && streams("off").await? >= 1.0);
    // A label on the pod template overrides the namespace's, either way.
    let out = mesh
        .ns
        .workload("out")
        .label("lazymesh.dev/mode", "off")
        .no_app();
    let out = out.via(&mesh.shims).start().await?;
    mesh.holds_exactly(&out, &[80, 7070, 8082, 9000, 9001])
        .await?;
    let joins = plain
        .workload("joins")
        .label("lazymesh.dev/mode", "on-demand")
        .no_app();
    let joins = joins.via(&mesh.shims).start().await?;
    mesh.holds_exactly(&joins, &[]).await
}

async fn the_label_comes_off_under_traffic(case: Case) -> Result<()> {
    let mesh = Labelled::open(&case).await?;
    let client = mesh.client().await?;
    let traffic = Steady::start(&client, &["http1://server/", "tcp://server:9000"]).await?;
    label(&mesh.ns, None).await?;
    let all = [80, 7070, 8082, 9000, 9001];
    let limit = 2 * SOON;
    until("the proxy to have everything", limit, || {
        mesh.holds_exactly(&client, &all)
    })
    .await?;
    traffic.goes_on().await?;
    traffic.stop().await?;
    let fresh = mesh.client().await?;
    mesh.holds_exactly(&fresh, &all).await?;
    answers_at_once(&client, "grpc://server:7070").await?;
    // And on again: new pods are lean, and still know what the workload has learned.
    label(&mesh.ns, Some("on-demand")).await?;
    until("the shim to know", SOON, || async {
        let fresh = mesh.client().await?;
        mesh.holds_exactly(&fresh, &[80, 9000]).await
    })
    .await
}

async fn label(ns: &Namespace, mode: Option<&str>) -> Result<()> {
    let labels = mode.map_or_else(|| json!({}), |mode| json!({"lazymesh.dev/mode": mode}));
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns.name(), "labels": labels}});
    ns.mesh().resources().apply("", &object.to_string()).await?;
    Ok(())
}

//! What the mode `sidecar` builds on: how the real istiod and the real Envoy behave with a Sidecar that grows and an
//! EnvoyFilter that sends the rest to the global proxy. The resources are written by hand and the global proxy is a
//! stand-in, so that a failure here is a change in Istio or Envoy and not in ours; but for `program`, which has the real one.

mod growth;
mod http;
mod program;
mod scope;
mod stub;
pub(crate) mod tcp;
mod wiring;

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::testbed::{Case, Namespace, Pod, Test, until};

use self::stub::{Answer, Arrived, GlobalProxy};
use self::wiring::{Growing, Tunnel};

pub(crate) fn tests() -> Vec<Test> {
    let tests = [
        http::tests(),
        tcp::tests(),
        growth::tests(),
        scope::tests(),
        program::tests(),
    ]
    .concat();
    // A Sidecar grows here by two writes some time apart, as the controller is to do it: time enough
    // for istiod and Envoy on a machine that does nothing else, not beside other tests.
    tests.into_iter().map(Test::exclusive).collect()
}

const LIMIT: Duration = Duration::from_secs(10);

/// A namespace under STRICT mTLS with a global proxy, and the Sidecar of its clients.
struct Shop {
    ns: Namespace,
    global_proxy: GlobalProxy,
    sidecar: Growing,
}

impl Shop {
    /// Opens one whose global proxy adds what it is asked for to the Sidecar, and redirects.
    async fn growing(case: &Case) -> Result<Self> {
        Self::open(case, "", Tunnel::Http2, |sidecar, arrived| async move {
            sidecar.add(&arrived.service()).await?;
            redirect_after_a_pause(&arrived).await
        })
        .await
    }

    /// Opens one; `more` goes into the Sidecar's spec.
    async fn open<F>(
        case: &Case,
        more: &str,
        tunnel: Tunnel,
        answering: impl Fn(Growing, Arrived) -> F + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<Answer>> + Send + 'static,
    {
        let ns = case.namespace(&[]).await?;
        ns.strict_mtls().await?;
        let sidecar = Growing::new(&ns, "client", more);
        let grows = sidecar.clone();
        let answering = move |arrived| answering(grows.clone(), arrived);
        let global_proxy = GlobalProxy::start(&ns, tunnel, answering).await?;
        Ok(Self {
            ns,
            global_proxy,
            sidecar,
        })
    }

    /// Starts a client whose Sidecar has the global proxy alone, and waits until its config says so.
    async fn client(&self) -> Result<Pod> {
        self.sidecar.write().await?;
        let filter = wiring::fallback(self.ns.name(), "client");
        self.ns.apply(&filter).await?;
        let client = self
            .ns
            .workload("client")
            .no_app()
            .all_stats()
            .start()
            .await?;
        wait_fallback(&client).await?;
        Ok(client)
    }
}

/// Waits until the pod has the fallback's route and filter chain.
async fn wait_fallback(client: &Pod) -> Result<()> {
    until("the fallback", LIMIT, || async {
        let dump = client.envoy().await?.config_dump().await?.to_string();
        for word in ["\"lazymesh\"", "\"lazymesh-tcp\""] {
            ensure!(dump.contains(word), "no {word} in the config");
        }
        Ok(())
    })
    .await
}

/// How long a redirect waits, by the number of tries before it.
const PAUSES_MS: [u64; 6] = [20, 60, 60, 100, 200, 400];

/// The redirect, given istiod and the caller's Envoy a little time; 503 when the tries are spent.
async fn redirect_after_a_pause(arrived: &Arrived) -> Result<Answer> {
    let pause = PAUSES_MS.get(arrived.tries() as usize);
    let pause = pause.ok_or_else(|| anyhow::anyhow!("redirected {} times", arrived.tries()))?;
    tokio::time::sleep(Duration::from_millis(*pause)).await;
    arrived.redirect(&[])
}

/// Fails when the pod knows a cluster of `service`.
async fn ensure_unknown(pod: &Pod, service: &str) -> Result<()> {
    let clusters = pod.envoy().await?.dynamic_clusters().await?;
    let word = format!("||{service}.");
    ensure!(
        !clusters.iter().any(|cluster| cluster.contains(&word)),
        "the pod knows {service}: {clusters:?}"
    );
    Ok(())
}

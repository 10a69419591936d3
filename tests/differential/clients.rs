//! The two clients of a seed, and the calls they make.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::app::{Outcome, Saw};
use mesh_tests::differential::{Calls, Names, Observation, Probe};
use mesh_tests::testbed::{Call, Namespace, Pod};

use crate::lab::Lab;

/// How long a call may take. Nothing that a scenario has takes a tenth of it.
const CALL_LIMIT: Duration = Duration::from_secs(8);
/// After so long a client begins no further one of the calls it was told to make, which take one or two seconds together:
/// a fault that lets many of them wait shows in the first ones.
const CALLS_LIMIT: Duration = Duration::from_secs(30);
/// What took so long is not made a dozen times more.
const LATE_MS: f64 = 2000.0;
/// How long a greeting may take: where the client must speak first, none comes, and that is a result.
const GREETING_LIMIT: Duration = Duration::from_secs(1);
/// How long mirrored requests may take.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(2);
/// How many further calls each client makes where two differed, and how often: what is spread shows soon.
const MORE: usize = 12;
const ROUNDS: usize = 5;
/// What is worth a line when one looks why a seed takes long.
const SLOW_MS: f64 = 500.0;
/// By this header a server's view of a call is told from others.
const ID: &str = "x-probe";

#[derive(Clone, Copy, Debug)]
enum Side {
    Plain,
    Lazy,
}

#[derive(Debug)]
pub(crate) struct Clients {
    plain: Pod,
    lazy: Pod,
    names: Names,
}

/// What came of one call, under its id.
type Made = (String, Outcome);

/// The calls of one probe.
#[derive(Debug, Default)]
struct Both {
    plain: Vec<Made>,
    lazy: Vec<Made>,
}

impl Both {
    /// Whether the lazy client waited and the plain one did not.
    fn is_late_if_lazy(&self) -> bool {
        let late = |made: &[Made]| made.iter().any(|(_, outcome)| outcome.latency_ms > LATE_MS);
        late(&self.lazy) && !late(&self.plain)
    }
}

impl Clients {
    /// Starts both: workloads of one namespace that differ in their name and service account, and in that one's sidecar is
    /// behind the shim.
    pub(crate) async fn start(lab: &Lab, ns: &Namespace, names: &Names) -> Result<Self> {
        let client = |name: &str| {
            ns.workload(name)
                .label("app", "client")
                .label("service.istio.io/canonical-name", "client")
                .no_app()
                .all_stats()
        };
        let (plain, lazy) = (client("plain"), client("lazy").via(&lab.shims));
        let (plain, lazy) = tokio::try_join!(plain.start(), lazy.start())?;
        Ok(Self {
            plain,
            lazy,
            names: names.clone(),
        })
    }

    /// Waits until both have the mark. If the lazy one alone does not get it: what it shows instead.
    pub(crate) async fn wait(&self, lab: &Lab, mark: u32) -> Result<Option<Observation>> {
        let (plain, lazy) = tokio::join!(
            lab.marks.wait(&self.plain, mark),
            lab.marks.wait(&self.lazy, mark)
        );
        // Without it there is nothing to compare with.
        plain?;
        Ok(lazy.err().map(|error| Observation {
            error: Some(self.names.take_back(&format!("{error:#}"))),
            ..Observation::default()
        }))
    }

    /// Keeps what both have, beside the logs of the run: for who looks into a difference.
    pub(crate) async fn keep(&self) -> Result<()> {
        for pod in [&self.plain, &self.lazy] {
            let envoy = pod.envoy().await?;
            for (what, path) in [
                ("stats", "/stats?usedonly"),
                ("clusters", "/clusters"),
                ("config", "/config_dump?include_eds"),
            ] {
                let name = format!("{}.{}-{what}", pod.name(), pod.spec().namespace);
                std::fs::write(pod.mesh().places().log(&name), envoy.get(path).await?)?;
            }
        }
        Ok(())
    }

    /// Makes all probes with both clients, and those again in which anything differed. Those behind what takes too long
    /// are not made.
    pub(crate) async fn probe(&self, lab: &Lab, probes: &[Probe]) -> Result<Vec<Calls>> {
        lab.forget_seen().await?;
        let mut made: Vec<Both> = probes.iter().map(|_| Both::default()).collect();
        let all: Vec<usize> = (0..probes.len()).collect();
        // The plain one before and after, so that what changes meanwhile for itself is seen.
        for side in [Side::Plain, Side::Lazy, Side::Lazy, Side::Plain] {
            self.make(side, &all, probes, &mut made).await?;
        }
        for round in 0..ROUNDS {
            let calls = self.observe(lab, &made).await?;
            let wants = |&index: &usize| {
                // One further round of the plain one shows whether it is answered at all in one way.
                calls[index].want_more() && (round == 0 || !made[index].is_late_if_lazy())
            };
            let doubtful: Vec<usize> = all.iter().copied().filter(wants).collect();
            if doubtful.is_empty() {
                return Ok(calls);
            }
            let doubtful: Vec<usize> = doubtful.into_iter().flat_map(|i| [i; MORE]).collect();
            self.make(Side::Plain, &doubtful, probes, &mut made).await?;
            // Further calls of the lazy one show whether it spreads as the plain one does, which is answered at once.
            let mut at_once = doubtful;
            at_once.retain(|&index| !made[index].is_late_if_lazy());
            self.make(Side::Lazy, &at_once, probes, &mut made).await?;
        }
        self.observe(lab, &made).await
    }

    /// One client makes the probes of these numbers, one after the other.
    async fn make(
        &self,
        side: Side,
        numbers: &[usize],
        probes: &[Probe],
        made: &mut [Both],
    ) -> Result<()> {
        let mut ids = Vec::new();
        let mut calls = Vec::new();
        for &number in numbers {
            let probe = &probes[number];
            let so_far = &made[number];
            // The numbers of calls under way are in it too: the same probe may be in the list several times.
            let id = format!(
                "call-{side:?}-{number}-{}-{}",
                so_far.plain.len() + so_far.lazy.len(),
                ids.len()
            );
            calls.push(self.call(probe, &id)?);
            ids.push(id);
        }
        let pod = match side {
            Side::Plain => &self.plain,
            Side::Lazy => &self.lazy,
        };
        let outcomes = pod.call_each(&calls, CALLS_LIMIT).await?;
        for ((id, outcome), &number) in ids.into_iter().zip(outcomes).zip(numbers) {
            if outcome.latency_ms > SLOW_MS {
                let (probe, ms) = (&probes[number], outcome.latency_ms);
                tracing::debug!("{side:?}: {ms:.0} ms, {:?}: {probe}", outcome.error);
            }
            let both = &mut made[number];
            match side {
                Side::Plain => both.plain.push((id, outcome)),
                Side::Lazy => both.lazy.push((id, outcome)),
            }
        }
        Ok(())
    }

    fn call(&self, probe: &Probe, id: &str) -> Result<Call> {
        let text = |text: &str| self.names.apply(text).replace("$CALL", id);
        let address = text(&probe.address);
        let to = address
            .parse()
            .with_context(|| format!("{probe}: {address}"))?;
        let url = format!(
            "{}://{}{}",
            probe.protocol,
            text(&probe.host),
            text(&probe.path)
        );
        let limit = match probe.protocol {
            "tcp-server-first" => GREETING_LIMIT,
            _ => CALL_LIMIT,
        };
        let mut call = Call::new(url)
            .to(to)
            .to_port(probe.port)
            .method(probe.method)
            .timeout(limit)
            .header(ID, id);
        for (name, value) in &probe.headers {
            call = call.header(name, value);
        }
        if probe.body > 0 {
            call = call.body_bytes(probe.body);
        }
        Ok(call)
    }

    /// What the calls showed, once as much of each of a probe's calls has arrived as of the others, or does not come.
    async fn observe(&self, lab: &Lab, made: &[Both]) -> Result<Vec<Calls>> {
        let begin = Instant::now();
        loop {
            let seen = by_id(lab.seen().await?);
            let calls: Vec<_> = made.iter().map(|both| self.read(both, &seen)).collect();
            // Not to be equal is no error: it is what is looked for.
            if calls.iter().all(Calls::all_arrived) || begin.elapsed() > ARRIVAL_LIMIT {
                return Ok(calls);
            }
        }
    }

    fn read(&self, both: &Both, seen: &HashMap<String, Vec<(String, Saw)>>) -> Calls {
        let side = |made: &[Made], pod: &Pod| {
            let read = |(id, outcome): &Made| {
                let arrived = seen.get(id).map_or(&[][..], Vec::as_slice);
                let own = [
                    (pod.spiffe_id(), "$SELF".to_owned()),
                    (pod.address().to_string(), "$CLIENT".to_owned()),
                    (pod.name().to_owned(), "$POD".to_owned()),
                    (id.clone(), "$CALL".to_owned()),
                ];
                Observation::read(outcome, arrived, &self.names.with(own))
            };
            made.iter().map(read).collect()
        };
        Calls {
            plain: side(&both.plain, &self.plain),
            lazy: side(&both.lazy, &self.lazy),
        }
    }
}

fn by_id(seen: Vec<(String, Saw)>) -> HashMap<String, Vec<(String, Saw)>> {
    let mut by_id = HashMap::<_, Vec<_>>::new();
    for (server, saw) in seen {
        if let Some(id) = saw.headers.get(ID) {
            by_id.entry(id.clone()).or_default().push((server, saw));
        }
    }
    by_id
}

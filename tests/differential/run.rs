//! One scenario on the mesh: applied, probed, changed, probed again, removed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::differential::{
    Calls, Change, Difference, Lead, Names, Observation, Phase, Resource, Scenario, Tally, Verdict,
    judge,
};
use mesh_tests::testbed::{Namespace, PodEndpoint};
use tokio::time::timeout;

use crate::clients::Clients;
use crate::lab::Lab;
use crate::marks::Marks;

/// What became of a probe in a phase.
#[derive(Debug)]
struct Judged {
    phase: Phase,
    probe: usize,
    calls: Calls,
    verdict: Verdict,
}

/// What a scenario showed.
#[derive(Debug, Default)]
pub(crate) struct Run {
    judged: Vec<Judged>,
    /// That the lazy client, and it alone, did not get what the mesh became: when, and what it shows instead.
    behind: Option<(Phase, Observation)>,
}

impl Run {
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for judged in &self.judged {
            tally.probes += 1;
            let answers = judged
                .calls
                .plain
                .first()
                .map(|call| call.answers.as_slice());
            if let Some(answer) = answers.and_then(<[_]>::first) {
                tally.answered += 1;
                tally.identified += u64::from(answer.caller.as_deref() == Some("$SELF"));
            }
            let plain = &judged.calls.plain;
            let some = |error| plain.iter().any(|call| call.leads_nowhere(error));
            tally.plain_stalls += u64::from(some("ended") && some("timeout"));
            match judged.verdict {
                Verdict::Known(reason) => *tally.known.entry(reason).or_default() += 1,
                Verdict::Unstable => tally.unstable += 1,
                Verdict::NotMade => tally.not_made += 1,
                Verdict::Same | Verdict::Differs { .. } => {}
            }
        }
        tally
    }

    /// What is not known, with the number of its probe. That a client stays behind has none.
    pub(crate) fn differences(&self, scenario: &Scenario) -> Vec<(Option<usize>, Difference)> {
        let behind = self.behind.iter().map(|(phase, lazy)| {
            let plain = Observation {
                status: Some(200),
                body: Some("the mark".to_owned()),
                ..Observation::default()
            };
            let difference = Difference {
                seed: scenario.seed,
                phase: *phase,
                call: 0,
                probe: Marks::probe(),
                what: vec!["the mark"],
                plain,
                lazy: lazy.clone(),
                came_again: None,
                smallest: scenario.clone(),
            };
            (None, difference)
        });
        let found = self.judged.iter().filter_map(|judged| {
            let Verdict::Differs { call, what } = &judged.verdict else {
                return None;
            };
            let difference = Difference {
                seed: scenario.seed,
                phase: judged.phase,
                call: *call,
                probe: scenario.probes.get(judged.probe)?.clone(),
                what: what.clone(),
                plain: judged.calls.plain.first()?.clone(),
                lazy: judged.calls.lazy.get(*call)?.clone(),
                came_again: None,
                smallest: scenario.clone(),
            };
            Some((Some(judged.probe), difference))
        });
        behind.chain(found).collect()
    }
}

/// Runs it, for so long at the most. Its namespaces are removed, whatever comes of it.
pub(crate) async fn run(lab: &Lab, scenario: &Scenario, limit: Duration) -> Result<Run> {
    let (a, b) = (
        lab.case.namespace(&[]).await?,
        lab.case.namespace(&[]).await?,
    );
    let world = World {
        lab,
        names: names(lab, &a, &b),
        ns: a.clone(),
    };
    let result = timeout(limit, world.run(scenario)).await;
    tokio::join!(lab.case.remove(&a), lab.case.remove(&b));
    result.with_context(|| format!("not done after {limit:?}"))?
}

fn names(lab: &Lab, a: &Namespace, b: &Namespace) -> Names {
    let namespaces = [
        (a.name(), "$A"),
        (b.name(), "$B"),
        (lab.marks.namespace(), "$M"),
    ];
    let namespaces = namespaces.map(|(own, name)| (own.to_owned(), name.to_owned()));
    Names::new(namespaces.into_iter().chain(lab.addresses()))
}

struct World<'a> {
    lab: &'a Lab,
    names: Names,
    /// What is applied goes with it.
    ns: Namespace,
}

impl World<'_> {
    async fn run(&self, scenario: &Scenario) -> Result<Run> {
        let lab = self.lab;
        let begin = Instant::now();
        let step = |done| tracing::debug!(scenario.seed, after = ?begin.elapsed(), "{done}");
        self.apply(scenario.resources.iter()).await?;
        step("applied");
        let mark = lab.marks.set().await?;
        step("taken in by istiod");
        let clients = Clients::start(lab, &self.ns, &self.names).await?;
        step("clients started");
        let mut run = Run::default();
        if let Some(shown) = clients.wait(lab, mark).await? {
            run.behind = Some((Phase::Before, shown));
            return Ok(run);
        }
        step("clients ready");
        self.probe(&clients, scenario, Phase::Before, &mut run)
            .await?;
        step("probed");
        if scenario.changes.is_empty() {
            return Ok(run);
        }
        self.change(&scenario.changes).await?;
        step("changed");
        if let Some(shown) = clients.wait(lab, lab.marks.set().await?).await? {
            run.behind = Some((Phase::After, shown));
            return Ok(run);
        }
        step("clients have the changes");
        self.probe(&clients, scenario, Phase::After, &mut run)
            .await?;
        step("probed again");
        Ok(run)
    }

    async fn probe(
        &self,
        clients: &Clients,
        scenario: &Scenario,
        phase: Phase,
        run: &mut Run,
    ) -> Result<()> {
        let all = clients.probe(self.lab, &scenario.probes).await?;
        let judged = all.into_iter().enumerate().map(|(probe, calls)| Judged {
            phase,
            probe,
            verdict: judge(&calls),
            calls,
        });
        let judged: Vec<_> = judged.collect();
        for one in judged.iter().filter(|one| one.verdict == Verdict::Unstable) {
            let plain: BTreeSet<_> = one.calls.plain.iter().collect();
            let probe = &scenario.probes[one.probe];
            tracing::debug!("not compared: {probe}: a plain client has {plain:?}");
        }
        if judged
            .iter()
            .any(|one| matches!(one.verdict, Verdict::Differs { .. }))
        {
            clients.keep().await?;
        }
        run.judged.extend(judged);
        Ok(())
    }

    /// Applies resources in their order; what is behind services is known beforehand.
    async fn apply<'a>(&self, resources: impl Iterator<Item = &'a Resource> + Clone) -> Result<()> {
        let leads = resources
            .clone()
            .filter_map(|resource| resource.lead.as_ref());
        let leads = leads.map(|lead| self.lead(lead)).collect();
        let mesh = self.ns.mesh();
        mesh.cluster().set_pods(mesh.resources(), leads).await?;
        let texts: Vec<_> = resources.map(|resource| self.text(resource)).collect();
        self.ns.apply(&texts.join("\n---\n")).await
    }

    async fn change(&self, changes: &[Change]) -> Result<()> {
        let comes = changes.iter().filter_map(|change| match change {
            Change::Apply(resource) => Some(resource),
            Change::Delete(_) => None,
        });
        self.apply(comes).await?;
        for change in changes {
            if let Change::Delete(resource) = change {
                // Past the testbed's kube-proxy: connections that pass Envoy by go on, and so do new ones, else it
                // would depend on which of Envoy's workers has one.
                let resources = self.ns.mesh().resources();
                resources
                    .delete(self.ns.name(), &self.text(resource))
                    .await?;
            }
        }
        Ok(())
    }

    fn lead(&self, lead: &Lead) -> ((String, String), Vec<PodEndpoint>) {
        let servers = lead.servers.iter();
        let key = (
            self.names.apply(&lead.namespace),
            self.names.apply(&lead.name),
        );
        (
            key,
            servers
                .filter_map(|&server| self.lab.endpoint(server))
                .collect(),
        )
    }

    /// JSON is YAML.
    fn text(&self, resource: &Resource) -> String {
        self.names.apply(&resource.object.to_string())
    }
}

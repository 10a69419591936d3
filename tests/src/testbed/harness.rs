//! Runs the tests of a binary against one mesh: enters the sandbox, starts the mesh, runs the tests a few at a time.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::RwLock;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

use super::mesh::{Mesh, MeshOptions};
use super::namespace::Namespace;
use super::tools::{Tools, build_dir};
use crate::sandbox::{self, Entered, Rights, Sandbox};

/// How long one test may take, unless it says otherwise.
const TEST_LIMIT: Duration = Duration::from_secs(180);
/// After so long, no run is under way any more.
const RUN_LIMIT: Duration = Duration::from_secs(2 * 3600);
/// How many runs' logs are kept.
const KEPT_RUNS: usize = 5;

type Body = Arc<dyn Fn(Case) -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + Sync>;

/// A test to be run against the mesh.
#[derive(Clone)]
pub struct Test {
    name: String,
    exclusive: bool,
    limit: Duration,
    body: Body,
}

impl std::fmt::Debug for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Test")
            .field("name", &self.name)
            .field("exclusive", &self.exclusive)
            .finish_non_exhaustive()
    }
}

impl Test {
    /// A test that shares the mesh with others at the same time.
    pub fn new<F>(name: &str, body: impl Fn(Case) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        Self {
            name: name.to_owned(),
            exclusive: false,
            limit: TEST_LIMIT,
            body: Arc::new(move |case| Box::pin(body(case))),
        }
    }

    /// Has the mesh for itself: for tests that restart istiod, or measure.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// May take so long.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// What a test gets: the mesh, and namespaces that go when it ends.
#[derive(Clone, Debug)]
pub struct Case {
    /// The mesh, shared with other tests.
    pub mesh: Mesh,
    name: String,
    namespaces: Arc<Mutex<Vec<Namespace>>>,
}

impl Case {
    /// A namespace of its own.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn namespace(&self, labels: &[(&str, &str)]) -> Result<Namespace> {
        let topic = self.name.rsplit("::").next().unwrap_or("test");
        let prefix: String = topic
            .chars()
            .take(30)
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let namespace = self.mesh.namespace(&prefix, labels).await?;
        self.namespaces.lock().push(namespace.clone());
        Ok(namespace)
    }

    /// Istio's own namespace, the mesh's root namespace. What the test makes there goes when it ends, labels included: for
    /// exclusive tests.
    #[must_use]
    pub fn root_namespace(&self) -> Namespace {
        let namespace = self.mesh.istio_namespace();
        self.namespaces.lock().push(namespace.clone());
        namespace
    }

    /// Removes a namespace, and all in it, before the test ends.
    pub async fn remove(&self, namespace: &Namespace) {
        self.namespaces
            .lock()
            .retain(|other| other.name() != namespace.name());
        namespace.remove().await;
    }

    async fn clean_up(&self) {
        let namespaces = std::mem::take(&mut *self.namespaces.lock());
        for namespace in namespaces {
            namespace.remove().await;
        }
    }
}

/// The whole `main` of a test binary.
pub fn run(tests: Vec<Test>, options: MeshOptions) -> ExitCode {
    let args = Arguments::from_args();
    if args.list {
        let trials = tests
            .into_iter()
            .map(|test| Trial::test(test.name, || Ok(())))
            .collect();
        return libtest_mimic::run(&args, trials).exit_code();
    }
    match run_all(&args, tests, options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(args: &Arguments, tests: Vec<Test>, options: MeshOptions) -> Result<ExitCode> {
    sandbox::check(Rights::Root)?;
    // Before the sandbox, in which there is no network to fetch anything from.
    let tools = Tools::locate()?;
    let sandbox = match sandbox::enter(Rights::Root)? {
        Entered::Inside(sandbox) => sandbox,
        Entered::Ended(code) => return Ok(code),
    };
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    let runtime = Arc::new(Builder::new_multi_thread().enable_all().build()?);
    let logs = run_folder()?;
    let mesh = start(&runtime, &sandbox, &tools, &logs, options)?;
    let alone = Arc::new(RwLock::new(()));
    let trials = tests
        .into_iter()
        .map(|test| trial(test, &runtime, &mesh, &alone))
        .collect();
    let conclusion = libtest_mimic::run(args, trials);
    if conclusion.has_failed() {
        eprintln!("logs of the run: {}", logs.display());
    } else if std::env::var_os("LAZYMESH_KEEP_LOGS").is_none() {
        std::fs::remove_dir_all(&logs)?;
    }
    Ok(conclusion.exit_code())
}

fn start(
    runtime: &Runtime,
    sandbox: &Sandbox,
    tools: &Tools,
    logs: &Path,
    options: MeshOptions,
) -> Result<Mesh> {
    let mesh = runtime.block_on(Mesh::start(sandbox, tools, logs.to_owned(), options));
    mesh.with_context(|| {
        format!(
            "the mesh does not start, see the logs in {}",
            logs.display()
        )
    })
}

fn trial(test: Test, runtime: &Arc<Runtime>, mesh: &Mesh, alone: &Arc<RwLock<()>>) -> Trial {
    let (runtime, mesh, alone) = (Arc::clone(runtime), mesh.clone(), Arc::clone(alone));
    Trial::test(test.name.clone(), move || {
        let case = Case {
            mesh,
            name: test.name.clone(),
            namespaces: Arc::default(),
        };
        runtime.block_on(async {
            let (_shared, _exclusive) = if test.exclusive {
                (None, Some(alone.write().await))
            } else {
                (Some(alone.read().await), None)
            };
            let limit = test.limit;
            let result = match timeout(limit, (test.body)(case.clone())).await {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("not done after {limit:?}")),
            };
            case.clean_up().await;
            result.map_err(|error| {
                Failed::from(format!(
                    "{error:#}\nlogs: {}",
                    case.mesh.places().logs.display()
                ))
            })
        })
    })
}

/// Makes `target/testbed/SECONDS-NANOSECONDS`, and removes what earlier runs left there, but for the latest ones and
/// those that may be running still.
fn run_folder() -> Result<PathBuf> {
    let target = build_dir()?
        .parent()
        .context("target/debug without a parent")?
        .join("testbed");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let earlier = std::fs::read_dir(&target).into_iter().flatten();
    let names = earlier.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for old in superseded(names.collect(), now.as_secs()) {
        // Another run may be removing it just now.
        let _ = std::fs::remove_dir_all(target.join(old));
    }
    // The process id is 1 in every sandbox: the nanoseconds keep two runs of one second apart.
    let folder = target.join(format!("{}-{:09}", now.as_secs(), now.subsec_nanos()));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Which of the folders `names` can go at the time `now` (seconds).
fn superseded(mut names: Vec<String>, now: u64) -> Vec<String> {
    let is_over = |name: &str| {
        let begun = name
            .split_once('-')
            .and_then(|(seconds, _)| seconds.parse::<u64>().ok());
        begun.is_some_and(|begun| begun + RUN_LIMIT.as_secs() < now)
    };
    names.sort();
    names.truncate(names.len().saturating_sub(KEPT_RUNS - 1));
    names.retain(|name| is_over(name));
    names
}

#[cfg(test)]
mod tests {
    use super::{KEPT_RUNS, superseded};

    #[test]
    fn the_latest_runs_and_those_that_may_be_running_stay() {
        let names = |seconds: &[u64]| -> Vec<String> {
            seconds.iter().map(|s| format!("{s}-000000001")).collect()
        };
        let now = 1_000_100_000;
        let all: Vec<u64> = (0..10).map(|index| 1_000_000_000 + index).collect();
        assert_eq!(
            superseded(names(&all), now),
            names(&all[..10 - (KEPT_RUNS - 1)])
        );
        let young: Vec<u64> = (0..10).map(|index| now - 60 + index).collect();
        assert!(superseded(names(&young), now).is_empty());
        assert!(superseded(vec!["not-ours".to_owned(); 10], now).is_empty());
    }
}

//! A look into a pod's Envoy, through its admin port on the pod's own loopback.

use std::net::Ipv4Addr;

use ::http::Method;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::http;
use super::network::PodNetwork;
use crate::running::Running;

const ADMIN_PORT: u16 = 15000;

/// A pod's Envoy.
#[derive(Clone, Debug)]
pub struct Envoy {
    network: PodNetwork,
    agent: i32,
}

/// What `/memory` says, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// In use by Envoy's own objects: what config costs.
    pub allocated: u64,
    /// Reserved by its allocator.
    pub heap_size: u64,
}

#[derive(Deserialize)]
struct MemoryText {
    allocated: String,
    heap_size: String,
}

impl Envoy {
    /// The Envoy that the agent with process id `agent` started.
    pub(super) fn new(network: PodNetwork, agent: i32) -> Self {
        Self { network, agent }
    }

    /// GETs a path of the admin port.
    ///
    /// # Errors
    /// When Envoy does not answer with 200.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.request(Method::GET, path).await
    }

    /// POSTs to a path of the admin port (`/drain_listeners`, `/quitquitquit`, ...).
    ///
    /// # Errors
    /// When Envoy does not answer with 200.
    pub async fn post(&self, path: &str) -> Result<String> {
        self.request(Method::POST, path).await
    }

    /// The whole `/config_dump`, endpoints included.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn config_dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.get("/config_dump?include_eds").await?,
        )?)
    }

    /// The names of the clusters that came over xDS and are in use, sorted.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn dynamic_clusters(&self) -> Result<Vec<String>> {
        self.dumped("dynamic_active_clusters", "/cluster/name")
            .await
    }

    /// The names of the listeners that came over xDS and are in use, sorted.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn dynamic_listeners(&self) -> Result<Vec<String>> {
        self.dumped("dynamic_listeners", "/name").await
    }

    async fn dumped(&self, resource: &str, name: &str) -> Result<Vec<String>> {
        let dump: Value = serde_json::from_str(
            &self
                .get(&format!("/config_dump?resource={resource}"))
                .await?,
        )?;
        let configs = dump["configs"].as_array().into_iter().flatten();
        let mut names: Vec<_> = configs
            .filter_map(|config| config.pointer(name)?.as_str())
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    /// `/clusters`: every cluster and host with its state.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn clusters(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.get("/clusters?format=json").await?,
        )?)
    }

    /// The counters and gauges whose names match the regular expression `filter`.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn stats(&self, filter: &str) -> Result<Vec<(String, u64)>> {
        let filter: String = form_encode(filter);
        let text = self.get(&format!("/stats?filter={filter}")).await?;
        let stat = |line: &str| -> Option<(String, u64)> {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(text.lines().filter_map(stat).collect())
    }

    /// One counter or gauge; 0 when Envoy does not have it (yet).
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        let escape = |c: char| {
            (!c.is_alphanumeric())
                .then_some('\\')
                .into_iter()
                .chain([c])
        };
        let filter = format!("^{}$", name.chars().flat_map(escape).collect::<String>());
        Ok(self
            .stats(&filter)
            .await?
            .first()
            .map_or(0, |(_, value)| *value))
    }

    /// From its start to its workers running, in milliseconds, as Envoy counts it (two digits of it are true). There some
    /// seconds later: Envoy gathers its histograms now and then.
    ///
    /// # Errors
    /// When Envoy does not answer, or does not know yet.
    pub async fn initialization_ms(&self) -> Result<f64> {
        let text = self
            .get("/stats?filter=%5Eserver%5C.initialization_time_ms%24")
            .await?;
        // `...: P0(nan,190) P25(nan,192.5) P50(nan,195) ...`: of the latest interval, and of all time.
        let all_time = text
            .split_once("P50(")
            .and_then(|(_, rest)| rest.split_once(')'))
            .and_then(|(pair, _)| pair.split_once(','))
            .with_context(|| format!("no time of initialization: {}", text.trim()))?;
        Ok(all_time.1.parse()?)
    }

    /// What its config costs.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn memory(&self) -> Result<Memory> {
        let text: MemoryText = serde_json::from_str(&self.get("/memory").await?)?;
        Ok(Memory {
            allocated: text.allocated.parse()?,
            heap_size: text.heap_size.parse()?,
        })
    }

    /// Its process.
    ///
    /// # Errors
    /// When the agent has no Envoy (any more).
    pub fn running(&self) -> Result<Running> {
        Ok(Running::new(self.pid()?.unsigned_abs()))
    }

    /// Envoy's process id.
    ///
    /// # Errors
    /// When the agent has no Envoy (any more).
    pub fn pid(&self) -> Result<i32> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.agent))? {
            let children = std::fs::read_to_string(task?.path().join("children"))?;
            if let Some(child) = children.split_whitespace().next() {
                return Ok(child.parse()?);
            }
        }
        bail!("the agent has not started Envoy")
    }

    async fn request(&self, method: Method, path: &str) -> Result<String> {
        let stream = self
            .network
            .connect(Ipv4Addr::LOCALHOST, ADMIN_PORT)
            .await
            .context("Envoy's admin port")?;
        let answer = http::over(stream, method, path).await?;
        if answer.status != 200 {
            bail!(
                "Envoy's admin port: {path}: {}: {}",
                answer.status,
                answer.body.trim()
            );
        }
        Ok(answer.body)
    }
}

/// Percent-encodes everything that is not a letter or a digit.
fn form_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

//! What is done to the controller, one thing after the other.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mesh_tests::stats::median;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep};

use super::edges::Size;
use super::found::{CatchUp, Counted, Found, Knows, Restart, Sustained, Taken};
use super::shims::{Shim, Shims};
use crate::process::Process;

/// What anything may take before it is given up.
const LIMIT: Duration = Duration::from_secs(600);
/// Of so many reports one is of an edge that is not known.
const ONE_NEW_IN: usize = 50;
/// Reports of a burst, at most: each edge once.
const BURST: usize = 200_000;
/// Reports of what is known, and nothing else, at most.
const KNOWN: usize = 50_000;
/// Between two lots of the sustained reports.
const LOT: Duration = Duration::from_millis(5);
/// How long it is looked at at rest.
const REST: Duration = Duration::from_secs(3);

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) program: PathBuf,
    /// For logs, and the store.
    pub(crate) folder: PathBuf,
    pub(crate) size: Size,
    pub(crate) shims: usize,
    pub(crate) reports_per_s: f64,
    pub(crate) seconds: f64,
    /// New shims, one after the other.
    pub(crate) catch_ups: usize,
}

/// What shims are to report next: mostly what is known.
#[derive(Debug)]
struct Traffic {
    size: Size,
    reported: usize,
    new: usize,
}

impl Traffic {
    fn next(&mut self) -> (usize, usize) {
        self.reported += 1;
        if self.reported.is_multiple_of(ONE_NEW_IN) {
            self.new += 1;
            self.size.new_one(self.new - 1)
        } else {
            self.size.known(self.reported)
        }
    }
}

/// A controller that runs, and its shims.
pub(crate) struct Run<'a> {
    settings: &'a Settings,
    store: Store,
    process: Process,
    shims: Shims,
    traffic: Traffic,
}

/// Where something began.
struct Mark {
    began: Instant,
    cpu_s: f64,
    batches: u64,
    writes: u64,
    told_bytes: u64,
    new: usize,
}

impl<'a> Run<'a> {
    /// All of it.
    ///
    /// # Errors
    /// When the controller ends, or something takes for ever.
    pub(crate) async fn all(settings: &'a Settings) -> Result<Found> {
        let store = Store::new(&settings.folder)?;
        let process = start(settings, &store).await?;
        let shims = Shims::start(settings.shims, &graph_api(&process)?, LIMIT).await?;
        let mut run = Self {
            settings,
            store,
            process,
            shims,
            traffic: Traffic {
                size: settings.size,
                reported: 0,
                new: 0,
            },
        };
        run.measure().await
    }

    async fn measure(&mut self) -> Result<Found> {
        let load = self.load().await.context("the load")?;
        let counted = self.counted().await?;
        let stored_bytes = self.store.bytes()?;
        let rss_bytes = self.process.running().rss()?;
        let idle_cores = self.idle_cores().await?;
        let known = self.known().await.context("reports of what is known")?;
        let sustained = self.sustained().await.context("sustained reports")?;
        let burst = self.burst().await.context("a burst")?;
        let catch_up = self.catch_up().await.context("a new shim")?;
        let peak_rss_bytes = self.process.running().peak_rss()?;
        let restart = self.restart().await.context("a restart")?;
        let size = self.settings.size;
        Ok(Found {
            store: "file",
            workloads: size.workloads,
            edges: size.edges(),
            shims: self.settings.shims,
            load,
            rss_bytes,
            stored_bytes,
            idle_cores,
            counted,
            known,
            sustained,
            burst,
            catch_up,
            peak_rss_bytes,
            restart,
        })
    }

    /// Every workload after the other: with all its edges together it is written but a few times. How it comes to be
    /// there is not what is measured.
    async fn load(&mut self) -> Result<Taken> {
        let size = self.settings.size;
        let began = self.mark().await?;
        for workload in 0..size.workloads {
            while self.shims.pending() + size.each > self.shims.room() / 2 {
                sleep(LOT).await;
                self.process.check()?;
            }
            for nth in 0..size.each {
                self.shims.learn((workload, nth))?;
            }
        }
        let mut load = self.taken(began, size.edges()).await?;
        load.new = size.edges();
        Ok(load)
    }

    async fn known(&mut self) -> Result<Taken> {
        let reports = self.settings.size.edges().min(KNOWN);
        let began = self.mark().await?;
        for number in 0..reports {
            self.shims.learn(self.settings.size.known(number))?;
        }
        self.taken(began, reports).await
    }

    /// As much in each moment as the clock says, whatever was acknowledged.
    async fn sustained(&mut self) -> Result<Sustained> {
        let Settings {
            reports_per_s,
            seconds,
            ..
        } = *self.settings;
        let began = self.mark().await?;
        let (mut offered, mut most_pending) = (0, 0);
        let mut lots = interval(LOT);
        let elapsed = loop {
            lots.tick().await;
            let elapsed = began.began.elapsed().as_secs_f64();
            if elapsed >= seconds {
                break elapsed;
            }
            while (offered as f64) < elapsed * reports_per_s {
                self.shims.learn(self.traffic.next())?;
                offered += 1;
            }
            most_pending = most_pending.max(self.shims.pending());
            self.process.check()?;
        };
        let acknowledged = offered - self.shims.pending();
        Ok(Sustained {
            offered_per_s: offered as f64 / elapsed,
            acknowledged_per_s: acknowledged as f64 / elapsed,
            most_pending,
            taken: self.taken(began, offered).await?,
        })
    }

    async fn burst(&mut self) -> Result<Taken> {
        let room = self.shims.room() / 2;
        let reports = self.settings.size.edges().min(BURST).min(room);
        let began = self.mark().await?;
        for _ in 0..reports {
            self.shims.learn(self.traffic.next())?;
        }
        self.taken(began, reports).await
    }

    async fn catch_up(&mut self) -> Result<CatchUp> {
        let address = graph_api(&self.process)?;
        let (mut took, mut last) = (Vec::new(), None);
        for _ in 0..self.settings.catch_ups {
            drop(last.take());
            self.process.rests().await?;
            let began = Instant::now();
            let shim = Shim::start(&address)?;
            shim.heard(LIMIT).await?;
            took.push(began.elapsed().as_secs_f64());
            last = Some(shim);
        }
        let shim = last.context("no new shim")?;
        let knows = least_of([&shim].into_iter().chain(&self.shims.0))?;
        Ok(CatchUp {
            bytes: shim.bytes(),
            max_s: took.iter().copied().fold(0.0, f64::max),
            times: took.len(),
            median_s: median(took).context("no new shim")?,
            knows,
            edges: self.edges(),
        })
    }

    async fn restart(&mut self) -> Result<Restart> {
        self.shims.0.clear();
        let began = Instant::now();
        self.process.stop().await?;
        let ends_after_s = began.elapsed().as_secs_f64();
        let began = Instant::now();
        self.process = start(self.settings, &self.store).await?;
        let listens_after_s = began.elapsed().as_secs_f64();
        let address = graph_api(&self.process)?;
        self.shims = Shims::start(self.settings.shims, &address, LIMIT).await?;
        let all_caught_up_after_s = began.elapsed().as_secs_f64();
        self.process.rests().await?;
        Ok(Restart {
            ends_after_s,
            listens_after_s,
            all_caught_up_after_s,
            knows: least_of(self.shims.0.iter())?,
            rss_bytes: self.process.running().rss()?,
            peak_rss_bytes: self.process.running().peak_rss()?,
        })
    }

    /// What was reported so far.
    fn edges(&self) -> usize {
        self.settings.size.edges() + self.traffic.new
    }

    async fn counted(&self) -> Result<Counted> {
        let metrics = self.metrics().await?;
        let refused = ["malformed", "capped", "batch_too_large", "unwritable"].map(|why| {
            let name = format!("observations_total{{result=\"{why}\"}}");
            metrics.get(&name)
        });
        Ok(Counted {
            records: metrics.get("records")?,
            edges: metrics.get("dependencies")?,
            refused: refused.into_iter().sum::<Result<u64>>()?,
        })
    }

    async fn idle_cores(&self) -> Result<f64> {
        let (began, before) = (Instant::now(), self.process.cpu()?.total());
        sleep(REST).await;
        Ok((self.process.cpu()?.total() - before) / began.elapsed().as_secs_f64())
    }

    async fn mark(&self) -> Result<Mark> {
        let cpu = self.process.rests().await?;
        self.process.running().forget_peak()?;
        let metrics = self.metrics().await?;
        Ok(Mark {
            cpu_s: cpu.total(),
            batches: metrics.get("reports_total")?,
            writes: metrics.get("writes_total")?,
            told_bytes: self.shims.bytes(),
            new: self.traffic.new,
            began: Instant::now(),
        })
    }

    /// What was spent until all is acknowledged, and all are told of it.
    async fn taken(&mut self, began: Mark, reports: usize) -> Result<Taken> {
        let acknowledged = self.shims.acknowledged(LIMIT).await;
        self.process.check()?;
        acknowledged?;
        let seconds = began.began.elapsed().as_secs_f64();
        let cpu = self.process.rests().await?;
        // What is still to be told would count as told because of what comes next.
        self.shims.know(self.edges(), LIMIT).await?;
        let metrics = self.metrics().await?;
        Ok(Taken {
            reports,
            new: self.traffic.new - began.new,
            seconds,
            cpu_s: cpu.total() - began.cpu_s,
            batches: metrics.get("reports_total")? - began.batches,
            writes: metrics.get("writes_total")? - began.writes,
            told_bytes: self.shims.bytes() - began.told_bytes,
            peak_rss_bytes: self.process.running().peak_rss()?,
        })
    }

    async fn metrics(&self) -> Result<Metrics> {
        Metrics::of(self.process.address("admin")?).await
    }
}

async fn start(settings: &Settings, store: &Store) -> Result<Process> {
    let store = format!("file:{}", store.0.display());
    let flags = [
        "--listen=127.0.0.1:0",
        "--plaintext",
        "--auth=none",
        "--admin-listen=127.0.0.1:0",
        "--store",
        &store,
    ];
    let name = "lazyload-controller";
    Process::start(name, &settings.program, &flags, &settings.folder).await
}

fn graph_api(process: &Process) -> Result<String> {
    Ok(format!("http://{}", process.address("grpc")?))
}

fn least_of<'a>(shims: impl Iterator<Item = &'a Shim>) -> Result<Knows> {
    let all = shims.map(Shim::knows);
    let (workloads, edges) = all.min_by_key(|knows| knows.1).context("no shims")?;
    Ok(Knows { workloads, edges })
}

/// A folder for the graph; gone when dropped.
struct Store(PathBuf);

impl Store {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("lazyload-controller-store");
        // Of an earlier run that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    fn bytes(&self) -> Result<u64> {
        let files = fs::read_dir(&self.0)?;
        files.map(|file| Ok(file?.metadata()?.len())).sum()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the controller counts.
struct Metrics(String);

impl Metrics {
    async fn of(admin: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(admin).await?;
        let request = b"GET /metrics HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(Self(answer))
    }

    fn get(&self, name: &str) -> Result<u64> {
        let start = format!("lazymesh_controller_{name} ");
        let mut values = self.0.lines().filter_map(|line| line.strip_prefix(&start));
        let value = values.next().with_context(|| format!("no metric {name}"))?;
        value.trim().parse().with_context(|| value.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn one_report_in_fifty_is_new_and_none_comes_twice() {
        let size = Size::new(100, 30);
        let mut traffic = Traffic {
            size,
            reported: 0,
            new: 0,
        };
        let all: Vec<_> = (0..size.edges()).map(|_| traffic.next()).collect();
        let distinct: HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        let new = all.iter().filter(|(_, nth)| *nth >= size.each).count();
        assert_eq!((new, traffic.new), (60, 60));
    }

    #[test]
    fn metrics_are_told_by_their_whole_name() {
        let text = "lazymesh_controller_writes_total_more 1\nlazymesh_controller_writes_total 7\n";
        let metrics = Metrics(text.into());
        assert_eq!(metrics.get("writes_total").unwrap(), 7);
        assert!(metrics.get("writes").is_err());
    }
}

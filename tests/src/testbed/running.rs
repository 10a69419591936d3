//! What a program uses, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// A running program.
#[derive(Clone, Copy, Debug)]
pub struct Running(i32);

impl Running {
    /// The program with this process id.
    pub(super) fn new(pid: i32) -> Self {
        Self(pid)
    }

    /// The time that its threads have run on a CPU, of those that still exist.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(self) -> Result<Duration> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            // A thread may end meanwhile.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            let ns = text.split_whitespace().next().unwrap_or_default();
            sum += ns.parse::<u64>().with_context(|| text.clone())?;
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Its resident set, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss(self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("a process without VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_has_used_something() {
        let own = Running::new(i32::try_from(std::process::id()).unwrap());
        let before = own.cpu().unwrap();
        let mut sum = 0_u64;
        while own.cpu().unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(own.rss().unwrap() > 1 << 20);
    }
}

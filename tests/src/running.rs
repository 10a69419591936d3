//! What a program uses, as the kernel counts it: for the testbed, the demo and the benches.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// A running program.
#[derive(Clone, Copy, Debug)]
pub struct Running(u32);

impl Running {
    /// The program with this process id.
    #[must_use]
    pub fn new(pid: u32) -> Self {
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
        self.memory("VmRSS:")
    }

    /// The largest that was, in bytes: since it began, or since the kernel was told to forget it (`clear_refs`).
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_rss(self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    /// Has [`Running::peak_rss`] begin anew from here.
    ///
    /// # Errors
    /// When it is gone.
    pub fn forget_peak(self) -> Result<()> {
        let file = format!("/proc/{}/clear_refs", self.0);
        fs::write(&file, "5").with_context(|| file.clone())
    }

    fn memory(self, field: &str) -> Result<u64> {
        let file = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&file).with_context(|| file.clone())?;
        bytes_of(&status, field).with_context(|| format!("{file} without {field}"))
    }
}

fn bytes_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_has_used_something() {
        let own = Running::new(std::process::id());
        let before = own.cpu().unwrap();
        let mut sum = 0_u64;
        while own.cpu().unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(own.rss().unwrap() > 1 << 20);
        assert!(own.peak_rss().unwrap() >= own.rss().unwrap());
    }

    #[test]
    fn memory_is_told_in_kib() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(bytes_of(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(bytes_of(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(bytes_of(status, "VmSwap:"), None);
    }
}

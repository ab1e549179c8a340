//! Processor time, memory and disk writes of a process and all of its descendants, from `/proc`.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// A process with its descendants.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor seconds, of all threads and descendants, in user and system mode.
    pub cpu_secs: f64,
    /// Resident memory in bytes.
    pub resident: u64,
    /// Bytes that were written to storage.
    pub written: u64,
}

/// Clock ticks in a second: 100 on every Linux that is not older than this program.
const TICKS_PER_SEC: f64 = 100.0;

impl Process {
    /// What it has used so far. Fails if the process is gone.
    pub fn usage(self) -> Result<Usage> {
        let mut usage = Usage::default();
        self.add(&mut usage)
            .with_context(|| format!("process {} is gone", self.0))?;
        Ok(usage)
    }

    fn add(self, usage: &mut Usage) -> Result<()> {
        let folder = format!("/proc/{}", self.0);
        let folder = Path::new(&folder);
        let stat = fs::read_to_string(folder.join("stat"))?;
        usage.cpu_secs += cpu_secs(&stat).context("stat")?;
        let status = fs::read_to_string(folder.join("status"))?;
        usage.resident += field(&status, "VmRSS:").unwrap_or(0) * 1024;
        // Unreadable for other users' processes, and then 0.
        let io = fs::read_to_string(folder.join("io")).unwrap_or_default();
        usage.written += field(&io, "write_bytes:").unwrap_or(0);
        for thread in fs::read_dir(folder.join("task"))? {
            let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
            {
                // One that ends meanwhile is in its parent's count of waited-for children.
                let _ = Self(child).add(usage);
            }
        }
        Ok(())
    }
}

/// This program's own processor seconds.
pub fn own_cpu_secs() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    own_ticks(&stat).unwrap_or(0.0)
}

fn own_ticks(stat: &str) -> Option<f64> {
    let fields = after_name(stat)?;
    Some((number(&fields, 11)? + number(&fields, 12)?) / TICKS_PER_SEC)
}

/// User and system time with that of waited-for children (fields 14 to 17 of proc(5)).
fn cpu_secs(stat: &str) -> Option<f64> {
    let fields = after_name(stat)?;
    let ticks: f64 = (11..=14).filter_map(|index| number(&fields, index)).sum();
    Some(ticks / TICKS_PER_SEC)
}

/// The fields behind the name, which may itself contain spaces and parentheses.
fn after_name(stat: &str) -> Option<Vec<&str>> {
    Some(stat[stat.rfind(')')? + 1..].split_whitespace().collect())
}

fn number(fields: &[&str], index: usize) -> Option<f64> {
    fields.get(index)?.parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_a_strange_name() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194304 100 0 0 0 150 50 20 30 20 0 1 0 5 0 0";
        assert_eq!(cpu_secs(stat), Some(2.5));
        assert_eq!(own_ticks(stat), Some(2.0));
        assert_eq!(cpu_secs("nonsense"), None);
    }

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(field("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234));
        assert_eq!(field("", "VmRSS:"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Process(std::process::id()).usage().unwrap();
        assert!(usage.resident > 1 << 20);
        assert!(Process(u32::MAX).usage().is_err());
    }
}

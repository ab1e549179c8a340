//! Looks how much memory is in use, now and then, and raises the alarm.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use protocols::model::Timestamp;

use crate::guard::Scarcity;
use crate::net::Net;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// Has no timer of its own: the loop that meets all deadlines asks it when it is due. It rests while
/// there is enough and nothing comes in, so that an idle broker is not woken.
#[derive(Debug, Default)]
pub(super) struct MemoryWatch {
    looked_at: Timestamp,
}

impl MemoryWatch {
    /// Looks, if it is time to.
    pub(super) fn turn(&mut self, net: &Net) {
        let now = net.clock.now();
        if now.since(self.looked_at) < EVERY {
            return;
        }
        self.looked_at = now;
        net.hub.guard.memory.rest();
        let bounds = net.live.load().memory;
        let used = used_bytes();
        let Some(scarcity) = net.hub.guard.memory.observe(used, bounds) else {
            return;
        };
        net.hub
            .metrics
            .memory_alarm
            .set(usize::from(scarcity as u8));
        match scarcity {
            Scarcity::None => tracing::info!(used, "there is enough memory again"),
            Scarcity::High => tracing::warn!(
                used,
                high = bounds.high,
                "memory is scarce: publishers are slowed down (limits.memory_high)"
            ),
            Scarcity::Critical => tracing::error!(
                used,
                max = bounds.max,
                "memory is scarce: no clients are let in and acknowledged publishes are refused \
                 (limits.memory_max)"
            ),
        }
    }

    /// How long it is until [`MemoryWatch::turn`] has something to do; `None` until something comes
    /// in.
    pub(super) fn until_due(&self, net: &Net) -> Option<Duration> {
        let memory = &net.hub.guard.memory;
        let rests = memory.rests() && memory.scarcity() == Scarcity::None;
        let passed = net.clock.now().since(self.looked_at);
        (!rests).then(|| EVERY.saturating_sub(passed))
    }
}

/// What a share of the memory is in bytes.
pub(super) fn percent(limit: usize, percent: u32) -> u64 {
    let limit = match u64::try_from(limit) {
        Ok(0) | Err(_) => available_bytes(),
        Ok(limit) => limit,
    };
    limit / 100 * u64::from(percent)
}

/// Memory that the process may use: that of its control group, or of the machine. 0 if the system
/// does not tell.
fn available_bytes() -> u64 {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_groups = group_files(&groups).into_iter().filter_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    });
    let total = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = kib(&total, "MemTotal:");
    of_groups.chain(total).min().unwrap_or(0)
}

/// Memory that is in use; 0 if the system does not tell.
fn used_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib(&status, "VmRSS:").unwrap_or(0)
}

/// Where limits of control groups are, in version 2 and 1, seen from outside a container and from
/// inside.
fn group_files(groups: &str) -> Vec<PathBuf> {
    let mut files = vec![
        PathBuf::from("/sys/fs/cgroup/memory.max"),
        PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ];
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(kinds), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if kinds.is_empty() {
            files.push(
                PathBuf::from("/sys/fs/cgroup")
                    .join(path)
                    .join("memory.max"),
            );
        } else if kinds.split(',').any(|kind| kind == "memory") {
            let folder = PathBuf::from("/sys/fs/cgroup/memory").join(path);
            files.push(folder.join("memory.limit_in_bytes"));
        }
    }
    files
}

fn kib(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name))?;
    let number: u64 = rest.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_control_groups_are_found() {
        let files = group_files("12:memory,x:/a/b\n3:cpu:/c\n0::/d\nbroken\n");
        let files: Vec<_> = files.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(
            files[2..],
            [
                "/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
                "/sys/fs/cgroup/d/memory.max"
            ]
        );
        assert_eq!(kib("MemTotal:   2 kB\n", "MemTotal:"), Some(2048));
        assert_eq!(kib("MemTotal: x kB\n", "MemTotal:"), None);
    }
}

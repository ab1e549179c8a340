//! Figures of the process itself, under the names that Prometheus' own libraries use.
//!
//! Read from `/proc` at a scrape; where there is none, they are left out.

use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Clock ticks per second in `/proc/self/stat`: the same on every Linux (`USER_HZ`).
const TICKS_PER_SEC: f64 = 100.0;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFigures {
    /// Processor time of all threads, in seconds.
    pub cpu_secs: f64,
    /// Memory that is in use, in bytes.
    pub resident_bytes: u64,
    /// The most of it that was in use, in bytes.
    pub resident_max_bytes: u64,
    /// Memory that was asked for, in bytes.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open files and sockets.
    pub open_fds: u64,
    /// How many of these there may be.
    pub max_fds: u64,
}

impl ProcessFigures {
    /// Reads them; `None` where the system does not tell.
    pub fn read() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let mut figures = Self::parse(&status, &stat, &limits);
        figures.open_fds = open_fds();
        Some(figures)
    }

    fn parse(status: &str, stat: &str, limits: &str) -> Self {
        let field = |name: &str| {
            let mut lines = status.lines();
            let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number
                .and_then(|number| number.parse::<u64>().ok())
                .unwrap_or(0)
        };
        // The program's name may hold spaces and parentheses; what follows the last one does not.
        let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut times = after.split_whitespace().skip(11);
        let mut ticks = || {
            times
                .next()
                .and_then(|text| text.parse::<u32>().ok())
                .unwrap_or(0)
        };
        let cpu_secs = (f64::from(ticks()) + f64::from(ticks())) / TICKS_PER_SEC;
        let files = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let soft = files.and_then(|rest| rest.split_whitespace().next());
        Self {
            cpu_secs,
            resident_bytes: field("VmRSS") * 1024,
            resident_max_bytes: field("VmHWM") * 1024,
            virtual_bytes: field("VmSize") * 1024,
            threads: field("Threads"),
            open_fds: 0,
            max_fds: soft.and_then(|soft| soft.parse().ok()).unwrap_or(0),
        }
    }
}

/// Newer systems say the number as the folder's size; others have to be counted.
fn open_fds() -> u64 {
    let size = fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len());
    if size > 0 {
        return size;
    }
    fs::read_dir("/proc/self/fd").map_or(0, |folder| folder.count() as u64)
}

/// Seconds since 1970, for the start of the process.
pub(super) fn wall_clock_secs() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0.0, |now| now.as_secs_f64())
}

/// The figures in Prometheus' text format; empty where the system does not tell.
pub(super) fn render(started_secs: f64) -> String {
    let mut text = String::new();
    let Some(figures) = ProcessFigures::read() else {
        return text;
    };
    let ProcessFigures {
        cpu_secs,
        resident_bytes,
        resident_max_bytes: _,
        virtual_bytes,
        threads,
        open_fds,
        max_fds,
    } = figures;
    let _ = write!(
        text,
        "# HELP process_cpu_seconds_total Processor time.\n\
         # TYPE process_cpu_seconds_total counter\n\
         process_cpu_seconds_total {cpu_secs}\n\
         # HELP process_start_time_seconds When it started, in seconds since 1970.\n\
         # TYPE process_start_time_seconds gauge\n\
         process_start_time_seconds {started_secs}\n"
    );
    for (name, help, value) in [
        ("resident_memory_bytes", "Memory in use.", resident_bytes),
        (
            "virtual_memory_bytes",
            "Memory that was asked for.",
            virtual_bytes,
        ),
        ("threads", "Threads.", threads),
        ("open_fds", "Open files and sockets.", open_fds),
        (
            "max_fds",
            "Most files and sockets that may be open.",
            max_fds,
        ),
    ] {
        let _ = write!(
            text,
            "# HELP process_{name} {help}\n# TYPE process_{name} gauge\nprocess_{name} {value}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_system_writes() {
        let status = "Name:\tpolycast\nVmSize:\t  2048 kB\nVmHWM:\t   20 kB\nVmRSS:\t   10 kB\nThreads:\t7\n";
        let stat = "1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 150 50 0 0 20 0 7 0 1 2 3";
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n";
        let figures = ProcessFigures::parse(status, stat, limits);
        assert!((figures.cpu_secs - 2.0).abs() < f64::EPSILON);
        assert_eq!(
            (
                figures.resident_bytes,
                figures.resident_max_bytes,
                figures.virtual_bytes
            ),
            (10 * 1024, 20 * 1024, 2048 * 1024)
        );
        assert_eq!((figures.threads, figures.max_fds), (7, 1024));
    }

    #[test]
    fn what_cannot_be_read_is_zero() {
        assert_eq!(ProcessFigures::parse("", "", ""), ProcessFigures::default());
    }
}

//! The figures that scenarios report: their names, units, and which way is better.

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More.
    Higher,
    /// Less.
    Lower,
    /// Neither: it says how the measurement went.
    Neither,
}

/// A kind of figure.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its key in the JSON file.
    pub key: &'static str,
    /// What it is, with its unit.
    pub title: &'static str,
    /// Which way is better.
    pub better: Better,
}

const fn figure(key: &'static str, title: &'static str, better: Better) -> Figure {
    Figure { key, title, better }
}

use Better::{Higher, Lower, Neither};

/// All kinds, in the order in which tables show them.
pub const FIGURES: &[Figure] = &[
    figure(
        "deliveries_per_cpu_sec",
        "deliveries per broker-CPU-second",
        Higher,
    ),
    figure("deliveries_per_sec", "deliveries per second", Higher),
    figure("acks_per_sec", "acknowledged publishes per second", Higher),
    figure(
        "acks_per_cpu_sec",
        "acknowledged publishes per broker-CPU-second",
        Higher,
    ),
    figure("requests_per_sec", "HTTP requests per second", Neither),
    figure(
        "connects_per_cpu_sec",
        "connects per broker-CPU-second",
        Higher,
    ),
    figure("connects_per_sec", "connects per second", Higher),
    figure(
        "connect_cpu_ms",
        "broker-CPU milliseconds per connect",
        Lower,
    ),
    figure(
        "round_trips_per_sec",
        "messages one after the other per second",
        Higher,
    ),
    figure("latency_p50_us", "latency p50 (us)", Lower),
    figure("latency_p99_us", "latency p99 (us)", Lower),
    figure("latency_p999_us", "latency p99.9 (us)", Lower),
    figure("latency_max_us", "latency, longest (us)", Lower),
    figure("ack_p50_us", "publish to acknowledgement p50 (us)", Lower),
    figure("ack_p99_us", "publish to acknowledgement p99 (us)", Lower),
    figure(
        "ack_p999_us",
        "publish to acknowledgement p99.9 (us)",
        Lower,
    ),
    figure("fill_per_sec", "queue filled, messages per second", Higher),
    figure(
        "drain_per_sec",
        "queue drained, messages per second",
        Higher,
    ),
    figure(
        "drain_per_cpu_sec",
        "queue drained, messages per broker-CPU-second",
        Higher,
    ),
    figure("sessions", "sessions made", Neither),
    figure("sessions_per_sec", "sessions made per second", Higher),
    figure("start_secs", "start, until it takes logins (s)", Lower),
    figure("start_cpu_secs", "start, CPU (s)", Lower),
    figure(
        "first_start_secs",
        "start with nothing to recover (s)",
        Neither,
    ),
    figure(
        "resumed_percent",
        "sessions kept over the restart (%)",
        Higher,
    ),
    figure("resident_mib", "resident memory (MiB)", Lower),
    figure(
        "resident_growth_mib",
        "resident memory, growth (MiB)",
        Lower,
    ),
    figure(
        "resident_after_start_mib",
        "resident memory after the start (MiB)",
        Lower,
    ),
    figure(
        "bytes_per_connection",
        "resident memory per connection (bytes)",
        Lower,
    ),
    figure(
        "bytes_per_session",
        "resident memory per session (bytes)",
        Lower,
    ),
    figure("idle_cpu_percent", "CPU at rest (% of a core)", Lower),
    figure(
        "disk_bytes_per_message",
        "bytes on disk per queued message",
        Lower,
    ),
    figure("disk_bytes_per_session", "bytes on disk per session", Lower),
    figure(
        "written_bytes_per_message",
        "bytes written per message",
        Lower,
    ),
    figure("disk_full_mib", "on disk, queue full (MiB)", Lower),
    figure(
        "disk_drained_mib",
        "on disk right after the drain (MiB)",
        Lower,
    ),
    figure(
        "disk_settled_mib",
        "on disk some time after the drain (MiB)",
        Lower,
    ),
    figure("cpu_secs", "broker CPU (s)", Neither),
    figure(
        "generator_cpu_percent",
        "generator CPU (% of a core)",
        Neither,
    ),
    figure("secs", "measured (s)", Neither),
];

/// The figure with this key.
pub fn by_key(key: &str) -> Option<&'static Figure> {
    FIGURES.iter().find(|figure| figure.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique() {
        for (index, figure) in FIGURES.iter().enumerate() {
            assert!(
                FIGURES[index + 1..]
                    .iter()
                    .all(|other| other.key != figure.key)
            );
        }
        assert!(by_key("secs").is_some());
    }
}

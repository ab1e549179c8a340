//! Counters and gauges, and their text for Prometheus.
//!
//! Whoever counts holds its struct; nothing is looked up by name while events pass.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::run::now_ms;

/// A number that others read.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Counts up.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// Says what it is now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// What it is now.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the buckets in milliseconds.
const BUCKETS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 30_000];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Number; BUCKETS_MS.len()],
    count: Number,
    sum_us: Number,
}

impl Histogram {
    /// Notes one.
    pub fn note(&self, took: Duration) {
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if let Some(bucket) = BUCKETS_MS.iter().position(|bound| ms < *bound) {
            self.buckets[bucket].add(1);
        }
        self.count.add(1);
        self.sum_us
            .add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

/// The times at which events that are under way were accepted by their source.
#[derive(Debug, Default)]
pub struct Oldest(Mutex<BTreeMap<u64, usize>>);

impl Oldest {
    /// One that was accepted then is under way; milliseconds since 1970.
    pub fn enter(&self, accepted_ms: u64) {
        *self.0.lock().entry(accepted_ms).or_default() += 1;
    }

    /// One is settled.
    pub fn leave(&self, accepted_ms: u64) {
        let mut times = self.0.lock();
        if let Some(count) = times.get_mut(&accepted_ms) {
            *count -= 1;
            if *count == 0 {
                times.remove(&accepted_ms);
            }
        }
    }

    /// How old the oldest is, in milliseconds; 0 if there is none.
    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        let times = self.0.lock();
        let oldest = times.first_key_value();
        oldest.map_or(0, |(accepted, _)| now_ms.saturating_sub(*accepted))
    }
}

/// Of the connection to the broker.
#[derive(Debug, Default)]
pub struct BrokerMetrics {
    /// Whether it is there.
    pub connected: Number,
    /// Connections made.
    pub connects: Number,
    /// Publications without a verdict.
    pub in_flight: Number,
}

/// Of one source or sink.
#[derive(Debug, Default)]
pub struct FlowMetrics {
    /// Events received, repeats included.
    pub received: Number,
    /// Publications that the broker, or a sink's target, has accepted.
    pub published: Number,
    /// Events that the source was told are done.
    pub acknowledged: Number,
    /// Tries after a refusal, and events given back to the source.
    pub retried: Number,
    /// Events that were dead-lettered.
    pub dead_lettered: Number,
    /// Events that were not published because they had been.
    pub duplicates: Number,
    /// Events that a filter or the loop guard held back.
    pub skipped: Number,
    /// Failures of the source itself.
    pub errors: Number,
    /// Answers of a sink's target that asked to be left alone, and were obeyed.
    pub retry_after: Number,
    /// Events received and not settled.
    pub in_flight: Number,
    /// How long the last event had waited in the source, in milliseconds.
    pub lag_ms: Number,
    /// Events that wait in the source, if it says so.
    pub backlog: Number,
    /// How far behind the newest event the source is read, if it says so, in milliseconds.
    pub behind_ms: Number,
    /// When the events in flight were accepted by the source.
    pub oldest: Oldest,
    /// From receiving to the broker's acknowledgement.
    pub time_to_publish: Histogram,
}

/// All numbers of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// The broker's.
    pub broker: Arc<BrokerMetrics>,
    flows: Mutex<Vec<(&'static str, String, Arc<FlowMetrics>)>>,
}

type Read = fn(&FlowMetrics) -> &Number;

const COUNTERS: [(&str, &str, Read); 9] = [
    ("received", "Events received, repeats included.", |m| {
        &m.received
    }),
    ("published", "Events accepted where they went.", |m| {
        &m.published
    }),
    (
        "acknowledged",
        "Events that the source was told are done.",
        |m| &m.acknowledged,
    ),
    (
        "retried",
        "Tries after a refusal, and events given back.",
        |m| &m.retried,
    ),
    ("dead_lettered", "Events that were dead-lettered.", |m| {
        &m.dead_lettered
    }),
    (
        "duplicates",
        "Events not published because they had been.",
        |m| &m.duplicates,
    ),
    (
        "skipped",
        "Events held back by a filter or the loop guard.",
        |m| &m.skipped,
    ),
    (
        "errors",
        "Failures of the source or the sink itself.",
        |m| &m.errors,
    ),
    (
        "retry_after",
        "Answers of a sink's target that asked to be left alone, and were obeyed.",
        |m| &m.retry_after,
    ),
];

const GAUGES: [(&str, &str, Read); 2] = [
    ("in_flight", "Events received and not settled.", |m| {
        &m.in_flight
    }),
    (
        "backlog",
        "Events that wait in the source, where it says so.",
        |m| &m.backlog,
    ),
];

type ReadMs = fn(&FlowMetrics) -> u64;

/// Kept in milliseconds, told in seconds.
const TIMES: [(&str, &str, ReadMs); 3] = [
    (
        "lag_seconds",
        "How long the last event had waited in the source.",
        |m| m.lag_ms.value(),
    ),
    (
        "behind_seconds",
        "How far behind its newest event the source is read, where it says so.",
        |m| m.behind_ms.value(),
    ),
    (
        "oldest_age_seconds",
        "Since when the oldest event in flight is in the source.",
        |m| m.oldest.age_ms(now_ms()),
    ),
];

impl Metrics {
    /// The numbers of a source or sink.
    pub fn flow(&self, direction: &'static str, name: &str) -> Arc<FlowMetrics> {
        let flow = Arc::new(FlowMetrics::default());
        let mut flows = self.flows.lock();
        flows.push((direction, name.to_owned(), Arc::clone(&flow)));
        flow
    }

    /// All of them in Prometheus' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).unwrap_or_default();
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        for (name, kind, help, number) in [
            (
                "connected",
                "gauge",
                "Whether the broker is connected.",
                &self.broker.connected,
            ),
            (
                "connects_total",
                "counter",
                "Connections made to the broker.",
                &self.broker.connects,
            ),
            (
                "unacknowledged",
                "gauge",
                "Publications without an answer.",
                &self.broker.in_flight,
            ),
        ] {
            let name = format!("polycast_bridge_broker_{name}");
            head(out, &name, kind, help)?;
            writeln!(out, "{name} {}", number.value())?;
        }
        let flows = self.flows.lock();
        for (name, help, read) in COUNTERS {
            let name = format!("polycast_bridge_{name}_total");
            head(out, &name, "counter", help)?;
            for (direction, flow, metrics) in flows.iter() {
                writeln!(
                    out,
                    "{name}{{{direction}=\"{flow}\"}} {}",
                    read(metrics).value()
                )?;
            }
        }
        for (name, help, read) in GAUGES {
            let name = format!("polycast_bridge_{name}");
            head(out, &name, "gauge", help)?;
            for (direction, flow, metrics) in flows.iter() {
                writeln!(
                    out,
                    "{name}{{{direction}=\"{flow}\"}} {}",
                    read(metrics).value()
                )?;
            }
        }
        for (name, help, read) in TIMES {
            let name = format!("polycast_bridge_{name}");
            head(out, &name, "gauge", help)?;
            for (direction, flow, metrics) in flows.iter() {
                let ms = read(metrics);
                writeln!(
                    out,
                    "{name}{{{direction}=\"{flow}\"}} {}.{:03}",
                    ms / 1000,
                    ms % 1000
                )?;
            }
        }
        let name = "polycast_bridge_time_to_publish_seconds";
        head(
            out,
            name,
            "histogram",
            "From receiving to the acknowledgement.",
        )?;
        for (direction, flow, metrics) in flows.iter() {
            let labels = format!("{direction}=\"{flow}\"");
            histogram(out, name, &labels, &metrics.time_to_publish)?;
        }
        Ok(())
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

#[allow(
    clippy::cast_precision_loss,
    reason = "a sum of seconds needs no more than 52 bits"
)]
fn histogram(
    out: &mut String,
    name: &str,
    labels: &str,
    histogram: &Histogram,
) -> std::fmt::Result {
    let mut below = 0;
    for (bound, bucket) in BUCKETS_MS.iter().zip(&histogram.buckets) {
        below += bucket.value();
        let bound = *bound as f64 / 1000.0;
        writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}")?;
    }
    let count = histogram.count.value();
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(
        out,
        "{name}_sum{{{labels}}} {}",
        histogram.sum_us.value() as f64 / 1e6
    )?;
    writeln!(out, "{name}_count{{{labels}}} {count}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_the_first_that_is_not_settled() {
        let oldest = Oldest::default();
        assert_eq!(oldest.age_ms(1000), 0);
        for accepted in [300, 200, 200, 500] {
            oldest.enter(accepted);
        }
        assert_eq!(oldest.age_ms(1000), 800);
        oldest.leave(200);
        assert_eq!(oldest.age_ms(1000), 800, "there were two");
        oldest.leave(200);
        assert_eq!(oldest.age_ms(1000), 700);
        oldest.leave(300);
        oldest.leave(500);
        assert_eq!(oldest.age_ms(1000), 0);
        oldest.leave(7);
        oldest.enter(2000);
        assert_eq!(oldest.age_ms(1000), 0, "its clock is ahead of ours");
    }

    #[test]
    fn reads_as_prometheus_expects() {
        let metrics = Metrics::default();
        let flow = metrics.flow("source", "orders");
        flow.received.add(3);
        flow.time_to_publish.note(Duration::from_millis(7));
        flow.time_to_publish.note(Duration::from_mins(1));
        let text = metrics.text();
        for line in [
            "# TYPE polycast_bridge_received_total counter",
            "polycast_bridge_received_total{source=\"orders\"} 3",
            "polycast_bridge_broker_connected 0",
            "polycast_bridge_time_to_publish_seconds_bucket{source=\"orders\",le=\"0.005\"} 0",
            "polycast_bridge_time_to_publish_seconds_bucket{source=\"orders\",le=\"0.01\"} 1",
            "polycast_bridge_time_to_publish_seconds_bucket{source=\"orders\",le=\"+Inf\"} 2",
            "polycast_bridge_time_to_publish_seconds_count{source=\"orders\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}

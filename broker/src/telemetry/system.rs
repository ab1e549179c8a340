//! What the broker says about itself below `$SYS/broker`, under the names of Mosquitto.
//!
//! [`System`] keeps the load averages and makes the values; the hub publishes them to those who
//! have subscribed. Nothing here has a timer: the server's wheel calls [`System::sample`].

use std::time::Duration;

use protocols::model::Timestamp;

use super::{Counter, Metrics, ProcessFigures, ProtocolMetrics};

/// Averages over one, five and fifteen minutes.
const SPANS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// Reads a counter.
type Count = fn(&Metrics) -> u64;

/// What there is a load average of: the rest of the topic, and the counter.
const LOADS: [(&str, Count); 9] = [
    ("messages/received", |metrics| received(metrics)),
    ("messages/sent", |metrics| sent(metrics)),
    ("publish/received", |metrics| received(metrics)),
    ("publish/sent", |metrics| sent(metrics)),
    ("publish/dropped", Metrics::dropped_in_all),
    ("bytes/received", |metrics| {
        sum(metrics, |of| &of.bytes_received)
    }),
    ("bytes/sent", |metrics| sum(metrics, |of| &of.bytes_sent)),
    ("sockets", |metrics| sum(metrics, |of| &of.opened)),
    ("connections", |metrics| sum(metrics, |of| &of.opened)),
];

/// What metrics do not tell.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemState {
    /// Entries in all stored queues.
    pub stored_messages: u64,
    /// Bytes of the journal that are live, about.
    pub stored_bytes: u64,
}

/// Makes the values.
#[derive(Debug)]
pub struct System {
    started: Timestamp,
    sampled: Timestamp,
    loads: [Load; LOADS.len()],
    most_connected: i64,
}

/// A counter's growth per minute, averaged.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    counted: u64,
    averages: [f64; SPANS.len()],
}

impl System {
    /// At the start of the broker.
    pub fn new(now: Timestamp) -> Self {
        Self {
            started: now,
            sampled: now,
            loads: Default::default(),
            most_connected: 0,
        }
    }

    /// When the averages were last brought up to date.
    pub fn sampled(&self) -> Timestamp {
        self.sampled
    }

    /// Brings the averages up to date.
    pub fn sample(&mut self, now: Timestamp, metrics: &Metrics) {
        let passed = now.since(self.sampled);
        self.sampled = now;
        self.most_connected = self.most_connected.max(metrics.sessions_connected.value());
        for (load, (_, count)) in self.loads.iter_mut().zip(LOADS) {
            load.sample(count(metrics), passed);
        }
    }

    /// All topics below `$SYS/broker/`, and what is to be published there.
    pub fn values(&self, metrics: &Metrics, state: SystemState) -> Vec<(String, String)> {
        let mut values = Vec::with_capacity(64);
        let mut add = |topic: &str, value: String| values.push((topic.to_owned(), value));
        add(
            "version",
            concat!("polycast version ", env!("CARGO_PKG_VERSION")).to_owned(),
        );
        let uptime = self.sampled.since(self.started).as_secs();
        add("uptime", format!("{uptime} seconds"));
        let sessions = metrics.sessions.value();
        let connected = metrics.sessions_connected.value();
        let away = (sessions - connected).max(0);
        let (received, sent) = (received(metrics), sent(metrics));
        let dropped = metrics.dropped_in_all();
        for (topic, value) in [
            ("clients/total", sessions),
            ("clients/active", connected),
            ("clients/connected", connected),
            ("clients/inactive", away),
            ("clients/disconnected", away),
            ("clients/maximum", self.most_connected.max(connected)),
            ("connections/socket/count", connections(metrics)),
            ("subscriptions/count", metrics.subscriptions_in_all()),
            ("shared_subscriptions/count", metrics.groups.value()),
            ("retained messages/count", metrics.retained_messages.value()),
        ] {
            add(topic, value.to_string());
        }
        for (topic, value) in [
            ("clients/expired", metrics.sessions_expired.value()),
            ("messages/received", received),
            ("messages/sent", sent),
            ("messages/stored", state.stored_messages),
            ("publish/messages/received", received),
            ("publish/messages/sent", sent),
            ("publish/messages/dropped", dropped),
            ("bytes/received", sum(metrics, |of| &of.bytes_received)),
            ("bytes/sent", sum(metrics, |of| &of.bytes_sent)),
            ("store/messages/count", state.stored_messages),
            ("store/messages/bytes", state.stored_bytes),
        ] {
            add(topic, value.to_string());
        }
        if let Some(figures) = ProcessFigures::read() {
            add("heap/current", figures.resident_bytes.to_string());
            add("heap/maximum", figures.resident_max_bytes.to_string());
        }
        for (load, (topic, _)) in self.loads.iter().zip(LOADS) {
            for (average, (span, _)) in load.averages.iter().zip(SPANS) {
                add(&format!("load/{topic}/{span}"), format!("{average:.2}"));
            }
        }
        values
    }
}

impl Load {
    fn sample(&mut self, count: u64, passed: Duration) {
        let secs = passed.as_secs_f64();
        if secs <= 0.0 {
            return;
        }
        let grown = u32::try_from(count.saturating_sub(self.counted)).unwrap_or(u32::MAX);
        let per_minute = f64::from(grown) * 60.0 / secs;
        self.counted = count;
        for (average, (_, span)) in self.averages.iter_mut().zip(SPANS) {
            let kept = (-secs / span).exp();
            *average = per_minute + kept * (*average - per_minute);
        }
    }
}

fn received(metrics: &Metrics) -> u64 {
    by_level(metrics, ProtocolMetrics::received)
}

fn sent(metrics: &Metrics) -> u64 {
    by_level(metrics, ProtocolMetrics::delivered)
}

fn by_level(
    metrics: &Metrics,
    counter: fn(&ProtocolMetrics, protocols::model::QoS) -> &Counter,
) -> u64 {
    use protocols::model::QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    let levels = [AtMostOnce, AtLeastOnce, ExactlyOnce];
    let each = metrics.protocols().iter();
    each.flat_map(|of| levels.map(|level| counter(of, level).value()))
        .sum()
}

fn sum(metrics: &Metrics, counter: fn(&ProtocolMetrics) -> &Counter) -> u64 {
    metrics
        .protocols()
        .iter()
        .map(|of| counter(of).value())
        .sum()
}

fn connections(metrics: &Metrics) -> i64 {
    let each = metrics.protocols().iter();
    each.map(|of| of.open_connections()).sum()
}

#[cfg(test)]
mod tests {
    use protocols::model::QoS;

    use super::*;

    fn value(values: &[(String, String)], topic: &str) -> String {
        let found = values.iter().find(|(name, _)| name == topic);
        found.unwrap_or_else(|| panic!("no {topic}")).1.clone()
    }

    #[test]
    fn averages_come_near_what_is_steady_and_forget_what_was() {
        let mut load = Load::default();
        let mut count = 0;
        for _ in 0..60 {
            count += 100;
            load.sample(count, Duration::from_secs(10));
        }
        // Ten minutes of 600 a minute.
        assert!((load.averages[0] - 600.0).abs() < 0.1, "{load:?}");
        assert!((load.averages[1] - 518.8).abs() < 0.1, "{load:?}");
        assert!((load.averages[2] - 291.9).abs() < 0.1, "{load:?}");
        load.sample(count, Duration::from_mins(1));
        assert!((load.averages[0] - 220.7).abs() < 0.1, "{load:?}");
    }

    #[test]
    fn values_are_those_of_the_metrics() {
        let metrics = Metrics::new(&["mqtt", "stomp"]);
        metrics.protocol("mqtt").received(QoS::AtLeastOnce).add(3);
        metrics.protocol("stomp").received(QoS::AtMostOnce).add(4);
        metrics.protocol("stomp").delivered(QoS::AtMostOnce).add(5);
        metrics.sessions.set(9);
        metrics.sessions_connected.set(6);
        let mut system = System::new(Timestamp(1000));
        system.sample(Timestamp(61_500), &metrics);
        let state = SystemState {
            stored_messages: 11,
            stored_bytes: 12,
        };
        let values = system.values(&metrics, state);
        for (topic, expected) in [
            ("uptime", "60 seconds"),
            ("publish/messages/received", "7"),
            ("publish/messages/sent", "5"),
            ("clients/connected", "6"),
            ("clients/disconnected", "3"),
            ("clients/total", "9"),
            ("clients/maximum", "6"),
            ("store/messages/count", "11"),
            ("store/messages/bytes", "12"),
        ] {
            assert_eq!(value(&values, topic), expected, "{topic}");
        }
        assert!(value(&values, "version").starts_with("polycast version "));
        assert_eq!(value(&values, "load/publish/received/1min"), "4.41");
    }
}

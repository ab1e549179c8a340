//! Writes all that is counted, in a fixed order: what each protocol has, how things stand, and what
//! was counted by labels. Only here are the names and the help of the broker's metrics.

use super::{Drop, Metrics, ProtocolMetrics, Text, Transport};
use crate::store::JournalStats;
use crate::telemetry::{Counter, store};

impl Metrics {
    /// All metrics in Prometheus' text format 0.0.4
    /// (`Content-Type: text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        self.render_with(None)
    }

    /// The same with the store's figures.
    pub fn render_with(&self, store: Option<&JournalStats>) -> String {
        let mut text = Text::with_capacity(8 * 1024);
        text.family("build_info", "gauge", "The version that runs.");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.sample("build_info", &version, 1);
        self.render_protocols(&mut text);
        self.render_state(&mut text);
        self.render_families(&mut text);
        self.tls.render(&mut text);
        self.protection.render(&mut text);
        store::render(&mut text, store);
        text.into_string()
    }

    fn render_protocols(&self, text: &mut Text) {
        text.family("connections", "gauge", "Open connections.");
        for protocol in &self.protocols {
            for transport in Transport::ALL {
                let labels = [
                    ("protocol", protocol.name),
                    ("transport", transport.as_str()),
                ];
                let value = protocol.connections(transport).value();
                text.sample("connections", &labels, value);
            }
        }
        let name = "connections_opened_total";
        self.by_protocol(text, name, "Connections that were opened.", |protocol| {
            &protocol.opened
        });
        let name = "bytes_received_total";
        self.by_protocol(text, name, "Bytes from clients.", |protocol| {
            &protocol.bytes_received
        });
        let name = "bytes_sent_total";
        self.by_protocol(text, name, "Bytes to clients.", |protocol| {
            &protocol.bytes_sent
        });
        let name = "messages_received_total";
        self.by_qos(text, name, "Messages that clients published.", |protocol| {
            &protocol.received
        });
        let name = "messages_delivered_total";
        self.by_qos(text, name, "Messages written for clients.", |protocol| {
            &protocol.delivered
        });
        let name = "messages_acknowledged_total";
        let help = "Messages that clients acknowledged.";
        self.by_protocol(text, name, help, |protocol| &protocol.acknowledged);
        let name = "messages_redelivered_total";
        let help = "Messages written for clients that had been sent them before.";
        self.by_protocol(text, name, help, |protocol| &protocol.redelivered);
        let name = "publish_to_delivery_seconds";
        let help = "Time that the oldest message of each write was in the broker.";
        text.family(name, "histogram", help);
        for protocol in &self.protocols {
            protocol
                .delay
                .render(text, name, ("protocol", protocol.name));
        }
    }

    fn by_protocol(
        &self,
        text: &mut Text,
        name: &str,
        help: &str,
        counter: fn(&ProtocolMetrics) -> &Counter,
    ) {
        text.family(name, "counter", help);
        for protocol in &self.protocols {
            let labels = [("protocol", protocol.name)];
            text.sample(name, &labels, counter(protocol).value());
        }
    }

    fn by_qos(
        &self,
        text: &mut Text,
        name: &str,
        help: &str,
        counters: fn(&ProtocolMetrics) -> &[Counter; 3],
    ) {
        text.family(name, "counter", help);
        for protocol in &self.protocols {
            for (qos, counter) in ["0", "1", "2"].into_iter().zip(counters(protocol)) {
                let labels = [("protocol", protocol.name), ("qos", qos)];
                text.sample(name, &labels, counter.value());
            }
        }
    }

    fn render_sessions(&self, text: &mut Text) {
        let connected = self.sessions_connected.value();
        // The two gauges are not set at one moment.
        let away = (self.sessions.value() - connected).max(0);
        text.family(
            "sessions",
            "gauge",
            "Sessions, by whether they have a connection.",
        );
        for (state, value) in [("connected", connected), ("disconnected", away)] {
            text.sample("sessions", &[("state", state)], value);
        }
        text.family(
            "subscriptions",
            "gauge",
            "Subscriptions of all sessions, by their kind.",
        );
        for (kind, gauge) in [
            ("plain", &self.subscriptions),
            ("shared", &self.shared_subscriptions),
        ] {
            text.sample("subscriptions", &[("kind", kind)], gauge.value());
        }
    }

    fn render_state(&self, text: &mut Text) {
        self.render_sessions(text);
        let gauges = [
            (
                "retained_messages",
                "Retained messages.",
                &self.retained_messages,
            ),
            (
                "retained_bytes",
                "Bytes of all retained messages.",
                &self.retained_bytes,
            ),
            ("groups", "Shared groups and queues.", &self.groups),
            (
                "idempotency_keys",
                "Idempotency keys that are remembered.",
                &self.idempotency_keys,
            ),
            (
                "stored_queues_memory_bytes",
                "Memory that stored queues have borrowed beyond their own.",
                &self.stored_queues_memory,
            ),
            (
                "memory_alarm",
                "How scarce memory is: 0 to 2.",
                &self.memory_alarm,
            ),
            (
                "route_cache_topics",
                "Topics whose receivers are remembered.",
                &self.route_cache_topics,
            ),
        ];
        for (name, help, gauge) in gauges {
            text.family(name, "gauge", help);
            text.sample(name, &[], gauge.value());
        }
        let counters = [
            (
                "connections_delayed_total",
                "Times that accepting waited because connections came too fast.",
                &self.connections_delayed,
            ),
            (
                "publisher_pauses_total",
                "Times that a publisher waited because a receiver lagged behind.",
                &self.publisher_pauses,
            ),
            (
                "sessions_expired_total",
                "Sessions that ended because their time was over.",
                &self.sessions_expired,
            ),
            (
                "idempotent_suppressed_total",
                "Publishes that were answered without being carried out again.",
                &self.idempotent_suppressed,
            ),
            (
                "subscriptions_revoked_total",
                "Subscriptions that were not allowed any more when the rules changed.",
                &self.subscriptions_revoked,
            ),
        ];
        for (name, help, counter) in counters {
            text.family(name, "counter", help);
            text.sample(name, &[], counter.value());
        }
        let name = "messages_dropped_total";
        text.family(name, "counter", "Messages that did not reach a receiver.");
        for reason in Drop::ALL {
            let labels = [("reason", reason.as_str())];
            text.sample(name, &labels, self.dropped(reason).value());
        }
    }

    fn render_families(&self, text: &mut Text) {
        self.closed.render(
            text,
            "connections_closed_total",
            "Connections that ended.",
            ["protocol", "reason"],
        );
        self.errors.render(
            text,
            "protocol_errors_total",
            "What clients sent against the rules of their protocol.",
            ["protocol", "cause"],
        );
        self.negotiations.render(
            text,
            "ws_negotiation_total",
            "WebSocket handshakes.",
            ["offered", "result"],
        );
        self.not_accepted.render(
            text,
            "connections_refused_total",
            "Connections that were not accepted, by the limit that they met.",
            ["reason"],
        );
        self.refusals.render(
            text,
            "login_refused_total",
            "Logins that were refused.",
            ["reason"],
        );
        self.authenticated.render(
            text,
            "authentications_total",
            "Logins and renewals of credentials, by what proved them.",
            ["method"],
        );
        self.not_authenticated.render(
            text,
            "authentications_refused_total",
            "Credentials that were not taken.",
            ["reason"],
        );
        self.requests_refused.render(
            text,
            "requests_refused_total",
            "Publishes, subscriptions and other requests that were refused.",
            ["protocol", "reason"],
        );
        self.quota_refused.render(
            text,
            "quota_refused_total",
            "Retained messages and sessions that were refused, by the limit.",
            ["limit"],
        );
        self.denied.render(
            text,
            "access_denied_total",
            "What the access rules denied.",
            ["action", "protocol"],
        );
    }
}

#[cfg(test)]
mod tests {
    use protocols::connection::Cause;

    use super::*;

    #[test]
    fn every_line_is_well_formed() {
        let metrics = Metrics::new(&["mqtt", "stomp"]);
        metrics.connection_closed("mqtt", Cause::Io);
        let mut family = String::new();
        for line in metrics.render().lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                family = help.split(' ').next().unwrap_or_default().to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family);
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let name = name.split('{').next().unwrap_or_default();
                let parts = ["", "_bucket", "_sum", "_count"];
                let is_part = |part: &&str| name == format!("{family}{part}");
                assert!(parts.iter().any(is_part), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }
}

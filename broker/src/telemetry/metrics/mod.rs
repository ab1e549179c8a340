//! What the broker counts, and how a Prometheus server reads it.
//!
//! Here is the one place where everything is counted. [`ProtocolMetrics`] is what each protocol has
//! of its own, `labels` are the values that labels can have, [`Family`] are counters that are found
//! by them; `render` writes it all out as [`Text`].
//!
//! Counters of the hot path are fields, found once per connection through
//! [`Metrics::protocol`]; the rest is found by its labels when it happens. Labels are `'static`,
//! so a client cannot make new ones. The text is Prometheus' format 0.0.4; `/metrics` serves it.

mod family;
mod labels;
mod protocol;
mod render;
mod text;

use std::sync::Arc;

use protocols::Reply;
use protocols::connection::{Cause, RefusalCode};

use super::{Counter, Gauge, ProtectionMetrics, TlsMetrics, process};
use family::Family;
use labels::is_protocol_error;
pub use labels::{Drop, Transport};
pub use protocol::ProtocolMetrics;
pub(super) use text::Text;

/// Everything that is counted; one for the whole process.
#[derive(Debug)]
pub struct Metrics {
    /// Sessions, with a connection or without.
    pub sessions: Gauge,
    /// Sessions that have a connection.
    pub sessions_connected: Gauge,
    /// Sessions that ended because their time was over.
    pub sessions_expired: Counter,
    /// Publishes that were answered without being carried out again.
    pub idempotent_suppressed: Counter,
    /// Subscriptions that nobody shares.
    subscriptions: Gauge,
    /// Memberships in shared groups and of queues.
    shared_subscriptions: Gauge,
    /// Retained messages.
    pub retained_messages: Gauge,
    /// Bytes of all retained messages.
    pub retained_bytes: Gauge,
    /// Shared groups and queues.
    pub groups: Gauge,
    /// Idempotency keys that are remembered.
    pub idempotency_keys: Gauge,
    /// Bytes that stored queues have borrowed beyond what each has of its own.
    pub stored_queues_memory: Gauge,
    /// How scarce memory is: 0 not, 1 publishers are slowed down, 2 nobody is let in.
    pub memory_alarm: Gauge,
    /// Topics whose receivers are remembered.
    pub route_cache_topics: Gauge,
    /// Times that accepting waited because connections came too fast.
    pub connections_delayed: Counter,
    /// Times that a publisher was not read from because a receiver lagged behind.
    pub publisher_pauses: Counter,
    /// TLS.
    pub tls: TlsMetrics,
    /// Who is kept out or slowed down.
    pub protection: ProtectionMetrics,
    protocols: Vec<Arc<ProtocolMetrics>>,
    dropped: [Counter; Drop::ALL.len()],
    closed: Family<2>,
    errors: Family<2>,
    negotiations: Family<2>,
    refusals: Family<1>,
    authenticated: Family<1>,
    not_authenticated: Family<1>,
    requests_refused: Family<2>,
    quota_refused: Family<1>,
    not_accepted: Family<1>,
    denied: Family<2>,
    /// Subscriptions that a change of the rules took away.
    pub subscriptions_revoked: Counter,
    /// When the process started, in seconds since 1970.
    started_secs: f64,
}

impl Default for Metrics {
    /// For the protocols of the registry.
    fn default() -> Self {
        let names: Vec<_> = protocols::registry::PROTOCOLS
            .iter()
            .map(|protocol| protocol.name())
            .chain(["sse", "http", "gateway", "function"])
            .collect();
        Self::new(&names)
    }
}

impl Metrics {
    /// For protocols with these names.
    pub fn new(protocols: &[&'static str]) -> Self {
        let names = protocols.iter().copied().chain([NO_PROTOCOL]);
        Self {
            sessions: Gauge::default(),
            sessions_connected: Gauge::default(),
            sessions_expired: Counter::default(),
            idempotent_suppressed: Counter::default(),
            subscriptions: Gauge::default(),
            shared_subscriptions: Gauge::default(),
            retained_messages: Gauge::default(),
            retained_bytes: Gauge::default(),
            groups: Gauge::default(),
            idempotency_keys: Gauge::default(),
            stored_queues_memory: Gauge::default(),
            memory_alarm: Gauge::default(),
            route_cache_topics: Gauge::default(),
            connections_delayed: Counter::default(),
            publisher_pauses: Counter::default(),
            tls: TlsMetrics::default(),
            protection: ProtectionMetrics::default(),
            protocols: names
                .map(|name| Arc::new(ProtocolMetrics::new(name)))
                .collect(),
            dropped: Default::default(),
            closed: Family::default(),
            errors: Family::default(),
            negotiations: Family::default(),
            refusals: Family::default(),
            authenticated: Family::default(),
            not_authenticated: Family::default(),
            requests_refused: Family::default(),
            quota_refused: Family::default(),
            not_accepted: Family::default(),
            denied: Family::default(),
            subscriptions_revoked: Counter::default(),
            started_secs: process::wall_clock_secs(),
        }
    }

    /// The counters of a protocol, to be kept by its connections; those labelled `none` for a
    /// name that is not known, such as before a WebSocket upgrade.
    pub fn protocol(&self, name: &str) -> Arc<ProtocolMetrics> {
        let known = self.protocols.iter().find(|known| known.name == name);
        match known.or(self.protocols.last()) {
            Some(protocol) => Arc::clone(protocol),
            None => Arc::new(ProtocolMetrics::new(NO_PROTOCOL)),
        }
    }

    /// The counters of all protocols.
    pub fn protocols(&self) -> &[Arc<ProtocolMetrics>] {
        &self.protocols
    }

    /// Subscriptions of all sessions: those in shared groups and queues, or the others.
    pub const fn subscriptions(&self, shared: bool) -> &Gauge {
        if shared {
            &self.shared_subscriptions
        } else {
            &self.subscriptions
        }
    }

    /// Subscriptions of all sessions.
    pub fn subscriptions_in_all(&self) -> i64 {
        self.subscriptions.value() + self.shared_subscriptions.value()
    }

    /// Messages that did not reach a receiver.
    #[inline]
    pub fn dropped(&self, reason: Drop) -> &Counter {
        &self.dropped[reason as usize]
    }

    /// A connection ended: counts it, and the protocol error if it was one.
    pub fn connection_closed(&self, protocol: &'static str, cause: Cause) {
        self.closed.inc([protocol, cause.as_str()]);
        if is_protocol_error(cause) {
            self.errors.inc([protocol, cause.as_str()]);
        }
    }

    /// A WebSocket handshake: `offered` is the subprotocol of ours that was found in the list,
    /// `none` without a list and `unknown` if nothing in it is ours; `result` is what came of it
    /// (`accepted`, `no_subprotocol`, `origin`, `malformed` …).
    pub fn web_socket_negotiation(&self, offered: &'static str, result: &'static str) {
        self.negotiations.inc([offered, result]);
    }

    /// A login was refused.
    pub fn login_refused(&self, code: RefusalCode) {
        self.refusals.inc([code.as_str()]);
    }

    /// A client has proved who it is: `method` is what proved it.
    pub fn authenticated(&self, method: &'static str) {
        self.authenticated.inc([method]);
    }

    /// A client could not prove who it is.
    pub fn authentication_refused(&self, reason: &'static str) {
        self.not_authenticated.inc([reason]);
    }

    /// A request was refused, and the connection goes on: `reason` is [`RefusalCode::as_str`] or
    /// a protocol's own word.
    pub fn request_refused(&self, protocol: &'static str, reason: &'static str) {
        self.requests_refused.inc([protocol, reason]);
    }

    /// Something was refused because nobody, or not this user, may have more of it: `limit` is the
    /// key of the configuration, in `limits`.
    pub fn quota_refused(&self, limit: &'static str) {
        self.quota_refused.inc([limit]);
    }

    /// A client was denied something; `action` is a word of the access rules.
    pub fn access_denied(&self, action: &'static str, protocol: &'static str) {
        self.denied.inc([action, protocol]);
    }

    /// An answer is given: counts the refusals in it.
    pub fn replied(&self, protocol: &'static str, reply: &Reply) {
        let refusal = match reply {
            Reply::Subscribed { results, .. } => {
                for refusal in results.iter().filter_map(|result| result.as_ref().err()) {
                    self.request_refused(protocol, refusal.code.as_str());
                }
                return;
            }
            Reply::Published { result, .. } => result.as_ref().err(),
            Reply::Refreshed { result, .. } => result.as_ref().err(),
            Reply::Settled { result, .. } | Reply::Committed { result, .. } => {
                result.as_ref().err()
            }
            Reply::Connected(_)
            | Reply::Refused(_)
            | Reply::Released { .. }
            | Reply::Unsubscribed { .. }
            | Reply::Received { .. }
            | Reply::Passed { .. } => None,
        };
        if let Some(refusal) = refusal {
            self.request_refused(protocol, refusal.code.as_str());
        }
    }

    /// Messages that did not reach a receiver, whatever the reason.
    pub(super) fn dropped_in_all(&self) -> u64 {
        self.dropped.iter().map(Counter::value).sum()
    }

    /// The figures of the process, in Prometheus' text format.
    pub fn render_process(&self) -> String {
        process::render(self.started_secs)
    }

    /// A connection was not accepted, or ended before a protocol was spoken on it.
    pub fn connection_refused(&self, reason: &'static str) {
        self.not_accepted.inc([reason]);
    }
}

/// The protocol label of a connection that has not said what it speaks.
const NO_PROTOCOL: &str = "none";

#[cfg(test)]
mod tests {
    use protocols::connection::{Refusal, Token};
    use protocols::model::QoS;

    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(&["mqtt", "stomp"])
    }

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
    }

    #[test]
    fn counts_under_the_right_labels() {
        let metrics = metrics();
        let stomp = metrics.protocol("stomp");
        stomp.connections(Transport::WebSocket).inc();
        stomp.received(QoS::AtLeastOnce).add(2);
        stomp.delivered(QoS::ExactlyOnce).inc();
        stomp.bytes_sent.add(99);
        metrics.dropped(Drop::SlowConsumer).inc();
        metrics.retained_messages.set(3);
        metrics.login_refused(RefusalCode::BadCredentials);
        metrics.web_socket_negotiation("none", "accepted");
        for line in [
            "polycast_connections{protocol=\"stomp\",transport=\"ws\"} 1",
            "polycast_connections{protocol=\"mqtt\",transport=\"ws\"} 0",
            "polycast_messages_received_total{protocol=\"stomp\",qos=\"1\"} 2",
            "polycast_messages_delivered_total{protocol=\"stomp\",qos=\"2\"} 1",
            "polycast_bytes_sent_total{protocol=\"stomp\"} 99",
            "polycast_messages_dropped_total{reason=\"slow_consumer\"} 1",
            "polycast_retained_messages 3",
            "polycast_login_refused_total{reason=\"bad_credentials\"} 1",
            "polycast_ws_negotiation_total{offered=\"none\",result=\"accepted\"} 1",
            concat!(
                "polycast_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
        ] {
            has(&metrics, line);
        }
    }

    #[test]
    fn an_end_by_bad_bytes_is_a_protocol_error() {
        let metrics = metrics();
        metrics.connection_closed("mqtt", Cause::Malformed);
        metrics.connection_closed("mqtt", Cause::Normal);
        has(
            &metrics,
            "polycast_connections_closed_total{protocol=\"mqtt\",reason=\"malformed\"} 1",
        );
        has(
            &metrics,
            "polycast_protocol_errors_total{protocol=\"mqtt\",cause=\"malformed\"} 1",
        );
        assert!(!metrics.render().contains("cause=\"normal\""));
    }

    #[test]
    fn refusals_in_answers_are_counted() {
        let metrics = metrics();
        let quota = || Refusal::new(RefusalCode::Quota, "full");
        let token = Token(1);
        metrics.replied(
            "mqtt",
            &Reply::Subscribed {
                token,
                results: [Err(quota()), Err(quota())].into_iter().collect(),
            },
        );
        metrics.replied(
            "mqtt",
            &Reply::Published {
                token,
                result: Err(quota()),
            },
        );
        metrics.replied(
            "mqtt",
            &Reply::Published {
                token,
                result: Ok(0),
            },
        );
        metrics.request_refused("stomp", "too_deep");
        for line in [
            "polycast_requests_refused_total{protocol=\"mqtt\",reason=\"quota\"} 3",
            "polycast_requests_refused_total{protocol=\"stomp\",reason=\"too_deep\"} 1",
        ] {
            has(&metrics, line);
        }
    }

    #[test]
    fn an_unknown_protocol_is_none() {
        assert_eq!(metrics().protocol("amqp").name, "none");
    }
}

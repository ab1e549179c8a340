//! What the broker counts, and how a Prometheus server reads it.
//!
//! Counters of the hot path are fields, found once per connection through
//! [`Metrics::protocol`]; the rest is found by its labels when it happens. Labels are `'static`,
//! so a client cannot make new ones. The text is Prometheus' format 0.0.4; `/metrics` serves it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;
use protocols::Reply;
use protocols::connection::{Cause, RefusalCode};
use protocols::model::QoS;

use super::{Counter, Gauge, Histogram, ProtectionMetrics, TlsMetrics, process};
use crate::store::JournalStats;

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

/// What is counted for each protocol.
#[derive(Debug)]
pub struct ProtocolMetrics {
    /// The value of the label `protocol`.
    pub name: &'static str,
    /// Open connections by [`Transport`].
    connections: [Gauge; Transport::ALL.len()],
    /// Connections that were opened.
    pub opened: Counter,
    /// Messages that clients published, by QoS.
    received: [Counter; 3],
    /// Messages written for clients, by QoS.
    delivered: [Counter; 3],
    /// Messages that clients acknowledged.
    pub acknowledged: Counter,
    /// Messages written for clients that had been sent them before.
    pub redelivered: Counter,
    /// How long the oldest message of each write was in the broker.
    pub delay: Histogram,
    /// Bytes from clients, as the transport carried them.
    pub bytes_received: Counter,
    /// Bytes to clients, as the transport carried them.
    pub bytes_sent: Counter,
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket over TCP.
    WebSocket,
    /// WebSocket over TLS.
    WebSocketTls,
}

impl Transport {
    /// Whether WebSocket frames are on it.
    pub const fn is_web_socket(self) -> bool {
        matches!(self, Self::WebSocket | Self::WebSocketTls)
    }

    const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::WebSocket, Self::WebSocketTls];

    /// The value of the label `transport`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::WebSocket => "ws",
            Self::WebSocketTls => "wss",
        }
    }
}

/// Why a message did not reach a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// Nobody subscribed to its topic.
    NoSubscribers,
    /// The queue of a session or group was full.
    QueueFull,
    /// It was too old.
    Expired,
    /// QoS 0 to a receiver that is away.
    Qos0,
    /// Larger than the receiver takes.
    TooLarge,
    /// QoS 0 to a receiver that reads too slowly.
    SlowConsumer,
    /// The receiver refused it for good.
    Rejected,
    /// Its session ended before it was delivered.
    SessionEnded,
    /// The receiver must not get it.
    NotAuthorized,
}

impl Drop {
    const ALL: [Self; 9] = [
        Self::NoSubscribers,
        Self::QueueFull,
        Self::Expired,
        Self::Qos0,
        Self::TooLarge,
        Self::SlowConsumer,
        Self::Rejected,
        Self::SessionEnded,
        Self::NotAuthorized,
    ];

    /// The value of the label `reason`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSubscribers => "no_subscribers",
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::Qos0 => "qos0",
            Self::TooLarge => "too_large",
            Self::SlowConsumer => "slow_consumer",
            Self::Rejected => "rejected",
            Self::SessionEnded => "session_ended",
            Self::NotAuthorized => "not_authorized",
        }
    }
}

/// The protocol label of a connection that has not said what it speaks.
const NO_PROTOCOL: &str = "none";

impl ProtocolMetrics {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            connections: Default::default(),
            opened: Counter::default(),
            received: Default::default(),
            delivered: Default::default(),
            acknowledged: Counter::default(),
            redelivered: Counter::default(),
            delay: Histogram::default(),
            bytes_received: Counter::default(),
            bytes_sent: Counter::default(),
        }
    }

    /// Open connections on a transport.
    #[inline]
    pub fn connections(&self, transport: Transport) -> &Gauge {
        &self.connections[transport as usize]
    }

    /// Open connections on all transports.
    pub(super) fn open_connections(&self) -> i64 {
        self.connections.iter().map(Gauge::value).sum()
    }

    /// Messages that clients published.
    #[inline]
    pub fn received(&self, qos: QoS) -> &Counter {
        &self.received[qos as usize]
    }

    /// Messages written for clients.
    #[inline]
    pub fn delivered(&self, qos: QoS) -> &Counter {
        &self.delivered[qos as usize]
    }
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

    /// All metrics in Prometheus' text format 0.0.4
    /// (`Content-Type: text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        self.render_with(None)
    }

    /// The same with the store's figures.
    pub fn render_with(&self, store: Option<&JournalStats>) -> String {
        let mut text = Text(String::with_capacity(8 * 1024));
        text.family("build_info", "gauge", "The version that runs.");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.sample("build_info", &version, 1);
        self.render_protocols(&mut text);
        self.render_state(&mut text);
        self.render_families(&mut text);
        self.tls.render(&mut text);
        self.protection.render(&mut text);
        super::store::render(&mut text, store);
        text.0
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

/// Whether an end was the fault of what the client sent.
const fn is_protocol_error(cause: Cause) -> bool {
    match cause {
        Cause::Malformed
        | Cause::ProtocolError
        | Cause::WrongType
        | Cause::NotUtf8
        | Cause::TooLarge
        | Cause::ReceiveMaximum => true,
        Cause::Normal
        | Cause::Lost
        | Cause::Refused
        | Cause::Unavailable
        | Cause::Unauthorized
        | Cause::Quota
        | Cause::LoginTimeout
        | Cause::KeepAliveTimeout
        | Cause::TakenOver
        | Cause::SlowConsumer
        | Cause::Shutdown
        | Cause::Administrative
        | Cause::Expired
        | Cause::Rate
        | Cause::Io
        | Cause::Internal => false,
    }
}

/// Counters that appear when their labels first do.
#[derive(Debug)]
struct Family<const N: usize>(RwLock<BTreeMap<[&'static str; N], Counter>>);

impl<const N: usize> Default for Family<N> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<const N: usize> Family<N> {
    fn inc(&self, labels: [&'static str; N]) {
        if let Some(counter) = self.0.read().get(&labels) {
            return counter.inc();
        }
        self.0.write().entry(labels).or_default().inc();
    }

    fn render(&self, text: &mut Text, name: &str, help: &str, labels: [&str; N]) {
        text.family(name, "counter", help);
        for (values, counter) in self.0.read().iter() {
            let pairs = std::array::from_fn::<_, N, _>(|index| (labels[index], values[index]));
            text.sample(name, &pairs, counter.value());
        }
    }
}

/// The text format.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn into_string(self) -> String {
        self.0
    }

    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP polycast_{name} {help}\n# TYPE polycast_{name} {kind}"
        );
    }

    pub(super) fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) {
        let _ = write!(self.0, "polycast_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use protocols::connection::{Refusal, Token};

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

    #[test]
    fn indices_follow_the_lists() {
        for (index, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, transport) in Transport::ALL.into_iter().enumerate() {
            assert_eq!(transport as usize, index);
        }
    }

    #[test]
    fn every_line_is_well_formed() {
        let metrics = metrics();
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

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}

//! Every limit of the broker with its default, and the relations between them.
//!
//! Defaults of the protocol layer are those of [`protocols::Limits`]; they are not written twice.
//! This file is the only other place where the number of a default stands.

use std::time::Duration;

use protocols::Limits as Protocol;
use protocols::model::QoS;

use super::Config;
use super::section::section;
use super::setting::Bounds::{Count, Size, Time, Type};
use super::setting::{GIB, KIB, MIB};
use super::values::{Durability, FullQueue, Listen, Persistence};

const SECOND: u64 = 1000;
const DAY: u64 = 24 * 3600 * SECOND;

fn protocol() -> Protocol {
    Protocol::default()
}

fn millis(millis: u32) -> Duration {
    Duration::from_millis(millis.into())
}

fn secs(secs: u32) -> Duration {
    Duration::from_secs(secs.into())
}

fn bytes(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

section! {
    /// MQTT 3.1.1 and 5: where it listens, and what CONNACK tells the clients.
    pub struct Mqtt in "mqtt" {
        /// Where to listen for MQTT over TCP.
        listen: Listen = Listen::loopback(1883), Type, Restart;
        /// Where to listen for MQTT over TLS, by habit at port 8883; see `[tls]`.
        tls_listen: Listen = Listen::Off, Type, Restart;
        /// QoS 1 and 2 messages that a client may have open towards the broker (receive maximum).
        receive_maximum: u16 = protocol().receive_maximum, Count(1, 65_535), Live;
        /// The same for an MQTT 3.1.1 client, which cannot be told; beyond it, it is disconnected.
        receive_maximum_v3: u16 = protocol().receive_maximum_v3, Count(1, 65_535), Live;
        /// QoS 1 and 2 messages open towards a client that names no receive maximum of its own.
        /// The more, the fewer writes a message costs; what is open when a connection is lost is
        /// sent again.
        in_flight: u16 = protocol().mqtt_in_flight, Count(1, 65_535), Live;
        /// Topic aliases that a client may set; 0 turns them off.
        topic_alias_maximum: u16 = protocol().topic_alias_maximum, Count(0, 1024), Live;
        /// Topic aliases that the broker sets towards a client that allows as many.
        topic_alias_maximum_out: u16 =
            protocol().topic_alias_maximum_out, Count(0, 1024), Live;
        /// The highest quality of service that is accepted and granted.
        maximum_qos: QoS = protocol().maximum_qos, Type, Live;
        /// Whether retained messages are kept.
        retain_available: bool = protocol().retain_available, Type, Live;
        /// Longest keep alive. A client that asks for a longer one or for none gets this one
        /// (server keep alive).
        keep_alive_max: Duration =
            secs(protocol().keep_alive_max_secs.into()), Time(5 * SECOND, 65_535 * SECOND), Live;
        /// How long the session of an MQTT 3.1.1 client with clean session 0 outlives its
        /// connection; version 5 clients say it themselves.
        session_expiry_v3: Duration =
            secs(protocol().session_expiry_v3_secs), Time(0, 3650 * DAY), Live;
    }
}

section! {
    /// What survives the process: durable sessions, queues and retained messages, inside
    /// `data_dir`.
    pub struct Store in "store" {
        /// Whether anything is kept: in the embedded store, or not at all.
        persistence: Persistence = Persistence::default(), Type, Restart;
        /// When an acknowledgement that promises durability is given: when the disk has what it
        /// promises, or earlier, which a crash of the machine may turn into a lie.
        durability: Durability = Durability::default(), Type, Restart;
        /// Size of a file of the journal.
        segment_size: usize = bytes(8 * MIB), Size(256 * KIB, GIB), Restart;
        /// Time that clients which were connected when the broker stopped have to come back before
        /// their wills are published.
        recovery_grace: Duration = secs(10), Time(0, 3600 * SECOND), Restart;
    }
}

section! {
    /// What a client, a session and the whole broker may use. Every limit is enforced and counted.
    pub struct Limits in "limits" {
        /// Size of one packet or frame before the client is logged in.
        packet_size_before_login: usize =
            protocol().packet_bytes_before_login, Size(256, 16 * MIB), Live;
        /// Size of one packet, frame or WebSocket message after login.
        packet_size: usize = protocol().packet_bytes, Size(KIB, 256 * MIB), Live;
        /// Time from accepting a connection to the end of the login. On the HTTP port it holds for
        /// the head of each request, and again from the upgrade to WebSocket to the login.
        login_timeout: Duration = millis(protocol().login_ms), Time(100, 300 * SECOND), Live;
        /// Length of a topic name or filter in bytes.
        topic_length: usize = protocol().topic_bytes, Count(16, 65_535), Live;
        /// Levels of a topic name or filter.
        topic_levels: usize = protocol().topic_levels, Count(1, 128), Live;
        /// Length of a client identifier in bytes.
        client_id_length: usize = protocol().client_id_bytes, Count(23, 65_535), Live;
        /// Topic filters in one SUBSCRIBE or UNSUBSCRIBE.
        filters_per_subscribe: usize =
            protocol().filters_per_subscribe, Count(1, 10_000), Live;
        /// Subscriptions that one session may hold.
        subscriptions_per_session: usize =
            protocol().subscriptions_per_session, Count(1, 1_000_000), Live;
        /// Size of a last will: topic, payload and properties.
        will_size: usize = bytes(64 * KIB), Size(0, 256 * MIB), Live;
        /// User properties (headers) of one message.
        user_properties: usize = protocol().user_properties, Count(0, 10_000), Live;
        /// Size of all user properties (headers) of one message.
        user_property_size: usize = protocol().user_property_bytes, Size(0, 16 * MIB), Live;
        /// Acknowledged messages open towards a STOMP or JSON client that names no bound of its own
        /// (for MQTT see `mqtt.in_flight`).
        in_flight: u16 = protocol().in_flight, Count(1, 65_535), Live;
        /// The most that a client may raise that to.
        in_flight_max: u16 = protocol().in_flight_max, Count(1, 65_535), Live;
        /// How long a session may outlive its connection, whatever the client asks for.
        session_expiry_max: Duration =
            secs(protocol().session_expiry_max_secs), Time(0, 3650 * DAY), Live;

        /// Headers of a STOMP frame.
        stomp_headers: usize = protocol().stomp_headers, Count(8, 10_000), Live;
        /// Size of one STOMP header line or command.
        stomp_line_size: usize = protocol().stomp_line_bytes, Size(128, MIB), Live;
        /// Size of all header lines of a STOMP frame.
        stomp_header_size: usize = protocol().stomp_header_bytes, Size(256, 16 * MIB), Live;
        /// Open STOMP transactions of a connection.
        stomp_transactions: usize = protocol().stomp_transactions, Count(0, 1000), Live;
        /// Size of what one open STOMP transaction holds.
        stomp_transaction_size: usize =
            protocol().stomp_transaction_bytes, Size(KIB, 256 * MIB), Live;
        /// Shortest STOMP heart-beat interval that the broker agrees to.
        stomp_heart_beat_min: Duration =
            millis(protocol().stomp_heart_beat_min_ms), Time(100, 3600 * SECOND), Live;
        /// Heart-beat interval that the broker asks STOMP clients for.
        stomp_heart_beat: Duration =
            millis(protocol().stomp_heart_beat_ms), Time(100, 3600 * SECOND), Live;

        /// Nesting of a JSON frame.
        json_depth: usize = protocol().json_depth, Count(4, 128), Live;
        /// Silence after which a JSON client is pinged.
        json_ping_interval: Duration =
            millis(protocol().json_ping_ms), Time(SECOND, 3600 * SECOND), Live;
        /// Time that a JSON client has to answer a ping.
        json_pong_timeout: Duration =
            millis(protocol().json_pong_ms), Time(100, 3600 * SECOND), Live;

        /// Fragments of one WebSocket message.
        websocket_fragments: usize = protocol().websocket_fragments, Count(1, 1_000_000), Live;
        /// WebSocket control frames (ping, pong) that a client may send per second.
        websocket_controls_per_sec: u32 =
            protocol().websocket_controls_per_sec, Count(1, 1_000_000), Live;
        /// Size of the head of an HTTP request.
        http_head_size: usize = bytes(16 * KIB), Size(8 * KIB, MIB), Live;
        /// Headers of an HTTP request.
        http_headers: usize = 100, Count(8, 1000), Live;

        /// Open connections in all. The broker also stays below four fifths of the file
        /// descriptors that the system grants it.
        connections: usize = 100_000, Count(1, 10_000_000), Live;
        /// Open connections from one IP address; IPv6 addresses count by their /64 network.
        /// Loopback addresses are not counted: proxies and tests live there.
        connections_per_ip: usize = 1024, Count(1, 10_000_000), Live;
        /// New connections per second, in the long run. Those beyond wait to be accepted.
        connections_per_sec: u32 = 1000, Count(1, 1_000_000), Live;
        /// New connections at once, before the rate applies.
        connection_burst: u32 = 2000, Count(1, 10_000_000), Live;
        /// New connections per second from one IP address, in the long run; IPv6 addresses count
        /// by their /64 network, loopback addresses do not. Those beyond are closed at once. 0
        /// turns it off.
        connections_per_ip_per_sec: u32 = 100, Count(0, 1_000_000), Live;
        /// New connections at once from one IP address, before the rate applies.
        connection_burst_per_ip: u32 = 1024, Count(1, 10_000_000), Live;
        /// Open connections of one user.
        connections_per_user: usize = 100_000, Count(1, 10_000_000), Live;
        /// Share of the connections, in percent, that may be without a login: in the TLS
        /// handshake, over HTTP while nobody known asks, or before the login. Beyond it, the oldest
        /// of them is closed for each new one.
        half_open_percent: u32 = 20, Count(1, 100), Live;
        /// Bytes that all connections without a login may make the broker hold. Beyond it, the
        /// oldest of them is closed.
        unauthenticated_size: usize = bytes(128 * MIB), Size(64 * KIB, 64 * GIB), Live;
        /// Connections that wait in the kernel to be accepted.
        listen_backlog: u32 = 4096, Count(1, 65_535), Restart;

        /// Messages that wait for one session, those that are sent and not acknowledged included.
        session_queue_messages: usize = 1000, Count(1, 10_000_000), Live;
        /// Size of the messages that wait for one session, in memory.
        session_queue_size: usize = bytes(16 * MIB), Size(KIB, 64 * GIB), Live;
        /// The same for a session that is kept in the store.
        stored_queue_messages: usize = 100_000, Count(1, 1_000_000_000), Live;
        /// Size of the messages that wait for one session, queue or shared group that is kept in
        /// the store.
        stored_queue_size: usize = bytes(256 * MIB), Size(KIB, 1024 * GIB), Live;
        /// Size of a stored session's or queue's messages that are held in memory; the others are
        /// read from the disk when their turn comes.
        stored_queue_memory: usize = bytes(128 * KIB), Size(KIB, GIB), Live;
        /// What the queues of stored sessions whose clients are connected may hold in memory beyond
        /// `stored_queue_memory`, all of them together. One may take as much more as is left, so at
        /// most half of it.
        stored_queues_memory: usize = bytes(64 * MIB), Size(0, 64 * GIB), Live;
        /// What a session whose queue is full loses: the message that comes, or the oldest that
        /// waits.
        full_queue_drops: FullQueue = FullQueue::default(), Type, Live;
        /// Size of the store on disk. Beyond it, messages that would have to be stored are refused.
        store_size: usize = bytes(16 * GIB), Size(4 * MIB, 1024 * 1024 * GIB), Restart;
        /// Space on the store's file system that is left free: with less, messages that would have
        /// to be stored are refused.
        store_free_min: usize = bytes(256 * MIB), Size(0, 1024 * GIB), Restart;
        /// Unsent bytes of a connection above which QoS 0 messages to it are dropped, and its
        /// publishers are paused.
        outbox_soft_size: usize = bytes(MIB), Size(4 * KIB, GIB), Live;
        /// Unsent bytes of a connection above which it is closed as a slow consumer.
        outbox_hard_size: usize = bytes(8 * MIB), Size(4 * KIB, 4 * GIB), Live;
        /// Time without progress after which a connection with unsent bytes is closed as a slow
        /// consumer.
        slow_consumer_timeout: Duration = secs(15), Time(100, 3600 * SECOND), Live;
        /// Longest time that a publisher is not read from because a receiver lags behind; 0s
        /// turns the pause off.
        publisher_pause: Duration = millis(200), Time(0, 60 * SECOND), Live;

        /// Messages per second that one client may publish, in the long run. A faster one is read
        /// more slowly. 0 turns it off.
        messages_per_sec: u32 = 0, Count(0, 100_000_000), Live;
        /// Messages at once, before the rate applies; 0 for as many as a second allows.
        message_burst: u32 = 0, Count(0, 100_000_000), Live;
        /// Bytes per second that one client may send, in the long run. A faster one is read more
        /// slowly. 0 turns it off.
        receive_rate: usize = 0, Size(0, 64 * GIB), Live;
        /// Bytes at once, before the rate applies; 0 for as many as a second allows.
        receive_burst: usize = 0, Size(0, 64 * GIB), Live;
        /// How long a client may send as fast as its rate allows and have more to send before it
        /// is closed; 0s never closes it.
        rate_patience: Duration = secs(30), Time(0, 24 * 3600 * SECOND), Live;

        /// Retained messages in all.
        retained_messages: usize = 1_000_000, Count(0, 100_000_000), Restart;
        /// Size of all retained messages.
        retained_size: usize = bytes(GIB), Size(0, 1024 * GIB), Restart;
        /// Retained messages of one user. All clients that log in without a proof are one user
        /// here; messages of API keys count for nobody. 0 is no bound beside that of all users, as
        /// one user may be a whole fleet.
        retained_messages_per_user: usize = 0, Count(0, 100_000_000), Restart;
        /// Size of the retained messages of one user; 0 is no bound beside that of all users.
        retained_size_per_user: usize = 0, Size(0, 1024 * GIB), Restart;
        /// Messages that wait for the members of one shared group or queue.
        group_queue_messages: usize = 10_000, Count(1, 100_000_000), Live;
        /// Size of the messages that wait for the members of one shared group or queue.
        group_queue_size: usize = bytes(64 * MIB), Size(KIB, 64 * GIB), Live;
        /// Size of the messages that wait for all shared groups and queues together.
        group_queues_size: usize = bytes(GIB), Size(KIB, 1024 * GIB), Live;
        /// Shared groups and queues in all.
        groups: usize = 100_000, Count(1, 100_000_000), Live;
        /// Sessions in all, connected or not.
        sessions: usize = 1_000_000, Count(1, 100_000_000), Live;
        /// Sessions of one user that outlive their connections. All clients that log in without a
        /// proof are one user here. 0 is no bound beside that of all users, as one user may be a
        /// whole fleet.
        sessions_per_user: usize = 0, Count(0, 100_000_000), Restart;
        /// Idempotency keys that are remembered; beyond it, the oldest is forgotten.
        idempotency_keys: usize = 100_000, Count(0, 100_000_000), Restart;
        /// How long an idempotency key is remembered.
        idempotency_window: Duration = millis(86_400_000), Time(0, DAY), Restart;
        /// Topics whose receivers are remembered, about; the receivers of others are looked up at
        /// each publish.
        route_cache_topics: usize = 65_536, Count(0, 100_000_000), Restart;

        /// Memory that the broker may use: the alarms below are shares of it. 0 is what its control
        /// group allows, or else what the machine has.
        memory: usize = 0, Size(0, 1024 * GIB), Live;
        /// Share of the memory, in percent, from which on clients that publish are read more slowly.
        memory_high: u32 = 70, Count(1, 100), Live;
        /// Share of the memory, in percent, from which on no client is let in, and publishes that
        /// ask for an acknowledgement are refused.
        memory_max: u32 = 85, Count(1, 100), Live;

        /// Time that clients have to leave after they were told that the broker stops.
        drain_grace: Duration = secs(10), Time(0, 3600 * SECOND), Live;
    }
}

fn as_millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis()).unwrap_or(u32::MAX)
}

fn as_secs(span: Duration) -> u32 {
    u32::try_from(span.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

impl Config {
    /// The bounds of the protocol layer, for [`protocols::connection::Open`].
    pub fn protocol_limits(&self) -> Protocol {
        let Self { mqtt, limits, .. } = self;
        Protocol {
            packet_bytes_before_login: limits.packet_size_before_login,
            packet_bytes: limits.packet_size,
            login_ms: as_millis(limits.login_timeout),
            topic_bytes: limits.topic_length,
            topic_levels: limits.topic_levels,
            client_id_bytes: limits.client_id_length,
            filters_per_subscribe: limits.filters_per_subscribe,
            subscriptions_per_session: limits.subscriptions_per_session,
            user_properties: limits.user_properties,
            user_property_bytes: limits.user_property_size,
            receive_maximum: mqtt.receive_maximum,
            receive_maximum_v3: mqtt.receive_maximum_v3,
            in_flight: limits.in_flight,
            mqtt_in_flight: mqtt.in_flight,
            in_flight_max: limits.in_flight_max,
            topic_alias_maximum: mqtt.topic_alias_maximum,
            topic_alias_maximum_out: mqtt.topic_alias_maximum_out,
            maximum_qos: mqtt.maximum_qos,
            retain_available: mqtt.retain_available,
            keep_alive_max_secs: u16::try_from(as_secs(mqtt.keep_alive_max)).unwrap_or(u16::MAX),
            session_expiry_max_secs: as_secs(limits.session_expiry_max),
            session_expiry_v3_secs: as_secs(mqtt.session_expiry_v3),
            stomp_headers: limits.stomp_headers,
            stomp_line_bytes: limits.stomp_line_size,
            stomp_header_bytes: limits.stomp_header_size,
            stomp_transactions: limits.stomp_transactions,
            stomp_transaction_bytes: limits.stomp_transaction_size,
            stomp_heart_beat_min_ms: as_millis(limits.stomp_heart_beat_min),
            stomp_heart_beat_ms: as_millis(limits.stomp_heart_beat),
            json_depth: limits.json_depth,
            json_ping_ms: as_millis(limits.json_ping_interval),
            json_pong_ms: as_millis(limits.json_pong_timeout),
            websocket_fragments: limits.websocket_fragments,
            websocket_controls_per_sec: limits.websocket_controls_per_sec,
        }
    }
}

/// Two keys of which the first must not be greater.
pub(super) struct AtMost {
    pub(super) smaller: &'static str,
    pub(super) larger: &'static str,
    pub(super) why: &'static str,
    pub(super) holds: bool,
}

/// Checks the limits against each other.
pub(super) fn relations(config: &Config) -> Vec<AtMost> {
    let Config { mqtt, limits, .. } = config;
    macro_rules! at_most {
        ($($a:ident . $small:ident <= $b:ident . $large:ident: $why:literal;)*) => {
            vec![$(AtMost {
                smaller: concat!(stringify!($a), ".", stringify!($small)),
                larger: concat!(stringify!($b), ".", stringify!($large)),
                why: $why,
                holds: u128::from_value(&$a.$small) <= u128::from_value(&$b.$large),
            }),*]
        };
    }
    at_most![
        limits.packet_size_before_login <= limits.packet_size:
            "a login would allow less than no login";
        limits.packet_size <= limits.session_queue_size:
            "the largest packet would never fit into a session's queue";
        limits.packet_size <= limits.stored_queue_size:
            "the largest packet would never fit into a stored session's queue";
        limits.packet_size <= limits.group_queue_size:
            "the largest packet would never fit into a group's queue";
        limits.group_queue_size <= limits.group_queues_size:
            "one group could have more than all groups";
        limits.packet_size <= limits.outbox_hard_size:
            "the largest packet would close each connection that it is sent to";
        limits.outbox_soft_size <= limits.outbox_hard_size:
            "a connection would be closed before anything is dropped";
        limits.topic_length <= limits.packet_size:
            "a topic could be longer than the packet around it";
        limits.user_property_size <= limits.packet_size:
            "headers could be larger than the packet around them";
        limits.client_id_length <= limits.packet_size_before_login:
            "a client identifier could be longer than the packet around it";
        limits.in_flight <= limits.in_flight_max:
            "the default would be above the maximum";
        mqtt.in_flight <= limits.in_flight_max:
            "the default would be above the maximum";
        limits.stomp_line_size <= limits.stomp_header_size:
            "one line could be larger than all lines";
        limits.stomp_heart_beat_min <= limits.stomp_heart_beat:
            "the broker would ask for an interval that it refuses";
        limits.connections_per_ip <= limits.connections:
            "one address could have more connections than all";
        limits.connections <= limits.sessions:
            "not every connection could have a session";
        mqtt.session_expiry_v3 <= limits.session_expiry_max:
            "the default would be above the maximum";
    ]
}

/// A value as something that can be compared.
trait FromValue<T> {
    fn from_value(value: &T) -> Self;
}

impl FromValue<usize> for u128 {
    fn from_value(value: &usize) -> Self {
        *value as Self
    }
}

impl FromValue<u16> for u128 {
    fn from_value(value: &u16) -> Self {
        Self::from(*value)
    }
}

impl FromValue<Duration> for u128 {
    fn from_value(value: &Duration) -> Self {
        value.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_defaults_pass_through_unchanged() {
        assert_eq!(Config::default().protocol_limits(), Protocol::default());
    }

    #[test]
    fn defaults_keep_the_relations() {
        for relation in relations(&Config::default()) {
            assert!(
                relation.holds,
                "{} <= {}",
                relation.smaller, relation.larger
            );
        }
    }

    #[test]
    fn relations_can_fail() {
        let mut config = Config::default();
        config.limits.outbox_soft_size = config.limits.outbox_hard_size + 1;
        let broken: Vec<_> = relations(&config)
            .into_iter()
            .filter(|relation| !relation.holds)
            .map(|relation| relation.smaller)
            .collect();
        assert_eq!(broken, ["limits.outbox_soft_size"]);
    }
}

//! Every bound of the protocol layer, with its default.
//!
//! The broker's configuration sets them; a connection gets them when it opens. A limit that a
//! client can be told (receive maximum, maximum packet size, …) is told.

/// Bounds that the protocols keep, shared by all connections of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one packet or frame before the client is logged in.
    pub packet_bytes_before_login: usize,
    /// Bytes of one packet, frame or WebSocket message after login.
    pub packet_bytes: usize,
    /// Milliseconds from the first byte to the end of the login.
    pub login_ms: u32,
    /// Bytes of a topic name or filter.
    pub topic_bytes: usize,
    /// Levels of a topic name or filter.
    pub topic_levels: usize,
    /// Bytes of a client identifier.
    pub client_id_bytes: usize,
    /// Topic filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub filters_per_subscribe: usize,
    /// Subscriptions that one session may hold.
    pub subscriptions_per_session: usize,
    /// User properties (headers) of one message.
    pub user_properties: usize,
    /// Bytes of all user properties (headers) of one message.
    pub user_property_bytes: usize,
    /// QoS 1 and 2 messages that a client may have open towards the broker (receive maximum).
    pub receive_maximum: u16,
    /// QoS 2 messages that an MQTT 3.1.1 client may have open towards the broker. It cannot be
    /// told of the receive maximum, so this is only a bound for memory.
    pub receive_maximum_v3: u16,
    /// Acknowledged messages open towards a STOMP or JSON client that names no bound of its own:
    /// few, since they are often workers that share a queue.
    pub in_flight: u16,
    /// QoS 1 and 2 messages open towards an MQTT client that names no receive maximum, which in
    /// MQTT 5 means 65,535 `[MQTT-3.1.2.11.3]`. What is open is sent again after a lost
    /// connection.
    pub mqtt_in_flight: u16,
    /// The most that a client may raise that to.
    pub in_flight_max: u16,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// Topic aliases that the broker sets towards a client that allows as many.
    pub topic_alias_maximum_out: u16,
    /// The highest QoS that is granted.
    pub maximum_qos: crate::model::QoS,
    /// Whether retained messages are kept.
    pub retain_available: bool,
    /// Longest keep alive in seconds; 0 (none) asked by a client becomes this.
    pub keep_alive_max_secs: u16,
    /// Longest session expiry in seconds.
    pub session_expiry_max_secs: u32,
    /// Session expiry of an MQTT 3.1.1 client with clean session 0, in seconds.
    pub session_expiry_v3_secs: u32,
    /// Headers of a STOMP frame.
    pub stomp_headers: usize,
    /// Bytes of one STOMP header line or command.
    pub stomp_line_bytes: usize,
    /// Bytes of all STOMP header lines of a frame.
    pub stomp_header_bytes: usize,
    /// Open STOMP transactions of a connection.
    pub stomp_transactions: usize,
    /// Bytes held by one open STOMP transaction.
    pub stomp_transaction_bytes: usize,
    /// Shortest STOMP heart-beat interval that the broker agrees to, in milliseconds.
    pub stomp_heart_beat_min_ms: u32,
    /// Heart-beat interval that the broker asks STOMP clients for, in milliseconds.
    pub stomp_heart_beat_ms: u32,
    /// Nesting of a JSON frame.
    pub json_depth: usize,
    /// Milliseconds of silence after which a JSON client is pinged.
    pub json_ping_ms: u32,
    /// Milliseconds that a JSON client has to answer a ping.
    pub json_pong_ms: u32,
    /// Fragments of one WebSocket message.
    pub websocket_fragments: usize,
    /// WebSocket control frames per second.
    pub websocket_controls_per_sec: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes_before_login: 64 * 1024,
            packet_bytes: 1024 * 1024,
            login_ms: 10_000,
            topic_bytes: 1024,
            topic_levels: 32,
            client_id_bytes: 256,
            filters_per_subscribe: 100,
            subscriptions_per_session: 1000,
            user_properties: 64,
            user_property_bytes: 16 * 1024,
            receive_maximum: 256,
            receive_maximum_v3: 4096,
            in_flight: 32,
            mqtt_in_flight: 256,
            in_flight_max: 1024,
            topic_alias_maximum: 16,
            topic_alias_maximum_out: 16,
            maximum_qos: crate::model::QoS::ExactlyOnce,
            retain_available: true,
            keep_alive_max_secs: 1200,
            session_expiry_max_secs: 7 * 24 * 3600,
            session_expiry_v3_secs: 2 * 3600,
            stomp_headers: 100,
            stomp_line_bytes: 8 * 1024,
            stomp_header_bytes: 64 * 1024,
            stomp_transactions: 16,
            stomp_transaction_bytes: 1024 * 1024,
            stomp_heart_beat_min_ms: 1000,
            stomp_heart_beat_ms: 10_000,
            json_depth: 32,
            json_ping_ms: 25_000,
            json_pong_ms: 10_000,
            websocket_fragments: 1024,
            websocket_controls_per_sec: 100,
        }
    }
}

//! The values that labels of metrics can have. They are `'static`, so a client cannot make new ones.

use protocols::connection::Cause;

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

    pub(super) const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::WebSocket, Self::WebSocketTls];

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
    pub(super) const ALL: [Self; 9] = [
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

/// Whether an end was the fault of what the client sent.
pub(super) const fn is_protocol_error(cause: Cause) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_follow_the_lists() {
        for (index, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        for (index, transport) in Transport::ALL.into_iter().enumerate() {
            assert_eq!(transport as usize, index);
        }
    }
}

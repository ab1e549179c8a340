//! Quality of service.

/// How often a message is handed over: the three levels of `[MQTT-4.3]`.
///
/// STOMP and JSON use the first two: `ack:auto` is at most once, an acknowledged subscription is
/// at least once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(clippy::enum_variant_names)] // the names of the standard
pub enum QoS {
    /// Fire and forget (QoS 0).
    #[default]
    AtMostOnce = 0,
    /// Acknowledged, repeated after a lost connection (QoS 1).
    AtLeastOnce = 1,
    /// Acknowledged in two steps, never doubled (QoS 2).
    ExactlyOnce = 2,
}

impl QoS {
    /// The level for its number on the wire; `None` for 3 and above.
    #[inline]
    pub const fn from_u8(level: u8) -> Option<Self> {
        match level {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

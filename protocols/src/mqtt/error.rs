//! What can be wrong with a packet that came in, or with one that is to go out.

use super::Version;
use super::properties::PropertyId;
use super::reason::ReasonCode;

/// Why bytes are not a packet. The connection is over after any of these `[MQTT-4.13.1-1]`.
///
/// The texts may be shown to the client: they say what is wrong, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Bytes that the grammar of the standard does not allow (0x81).
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// A packet that can be read but says what the protocol forbids (0x82).
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// A property that may come only once came again (0x82).
    #[error("protocol error: property {0:?} appears more than once")]
    DuplicateProperty(PropertyId),
    /// A property that does not belong into this packet (0x81, `[MQTT-2.2.2.2]`).
    #[error("malformed packet: property {0:?} is not allowed in this packet")]
    MisplacedProperty(PropertyId),
    /// The whole packet is larger than allowed (0x95). Known from the fixed header.
    #[error("packet of {bytes} bytes, at most {max} are accepted")]
    TooLarge {
        /// Bytes that the packet has, with its fixed header.
        bytes: usize,
        /// Bytes that are allowed.
        max: usize,
    },
    /// CONNECT asks for a version that is not spoken (0x84, return code 0x01 in 3.1 and 3.1.1).
    /// Protocol name `MQIsdp` with level 3 is MQTT 3.1.
    #[error("protocol level {level} is not supported, use MQTT 3.1.1 (4) or 5 (5)")]
    UnsupportedVersion {
        /// The level byte as it came.
        level: u8,
    },
    /// CONNECT does not name the protocol: the peer speaks something else. Close without an
    /// answer `[MQTT-3.1.2-1]`.
    #[error("the protocol name is not MQTT")]
    NotMqtt,
    /// The client identifier is not acceptable (0x85, return code 0x02 in 3.1.1).
    #[error("client identifier: {0}")]
    ClientId(&'static str),
    /// The topic name of a PUBLISH, will or response topic is not one (0x90).
    #[error("topic name: {0}")]
    TopicName(&'static str),
    /// The topic alias is 0 (0x94, `[MQTT-3.3.2-8]`).
    #[error("topic alias 0 is not allowed")]
    TopicAlias,
}

impl DecodeError {
    /// The code for CONNACK or DISCONNECT; for 3.1.1 see [`ReasonCode::connack_v3`].
    pub const fn reason(&self) -> ReasonCode {
        match self {
            Self::Malformed(_) | Self::MisplacedProperty(_) => ReasonCode::MalformedPacket,
            Self::Protocol(_) | Self::DuplicateProperty(_) => ReasonCode::ProtocolError,
            Self::TooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::UnsupportedVersion { .. } | Self::NotMqtt => {
                ReasonCode::UnsupportedProtocolVersion
            }
            Self::ClientId(_) => ReasonCode::ClientIdentifierNotValid,
            Self::TopicName(_) => ReasonCode::TopicNameInvalid,
            Self::TopicAlias => ReasonCode::TopicAliasInvalid,
        }
    }

    /// In which version's form a CONNACK can answer [`DecodeError::UnsupportedVersion`], so that
    /// the client can read it; `None` for all other errors.
    ///
    /// The top bit of the level is set by bridges of some brokers; it does not change the form.
    pub const fn answer_version(&self) -> Option<Version> {
        match self {
            Self::UnsupportedVersion { level } if *level & 0x7f <= 4 => Some(Version::V311),
            Self::UnsupportedVersion { .. } => Some(Version::V5),
            _ => None,
        }
    }
}

/// Why a packet cannot be written. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A string or binary field of more than 65,535 bytes `[MQTT-1.5.4]`.
    #[error("a field has more than 65535 bytes")]
    FieldTooLong,
    /// A string that contains U+0000 `[MQTT-1.5.4-2]`.
    #[error("a text contains the NUL character")]
    Nul,
    /// More than 268,435,455 bytes behind the fixed header.
    #[error("the packet is larger than MQTT allows")]
    TooLarge,
    /// A packet, reason code or field value that this version of the protocol does not have.
    #[error("not in this version of MQTT: {0}")]
    NotInVersion(&'static str),
    /// Fields that contradict each other or the standard.
    #[error("not a valid packet: {0}")]
    Invalid(&'static str),
}

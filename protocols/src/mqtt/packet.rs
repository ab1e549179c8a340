//! The packets, borrowed from the bytes that they came in.
//!
//! A decoded packet is valid in itself; it points into the read buffer and is turned into owned
//! words ([`crate::connection::Command`]) by the connection. To be sent, it is filled by hand
//! and given to [`super::encode()`]. In 3.1.1 there are no properties: they are empty when
//! decoded and not written when encoded.

use std::num::NonZeroU16;

use super::Version;
use super::list::List;
use super::properties::{
    AckProperties, AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties,
    PublishProperties, SubscribeProperties, UnsubscribeProperties, WillProperties,
};
use super::reason::ReasonCode;
use crate::connection::RetainHandling;
use crate::model::QoS;

/// A packet identifier: never 0 `[MQTT-2.2.1-3]`.
pub type PacketId = NonZeroU16;

/// Any packet of MQTT 3.1.1 or 5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client asks to be let in. Boxed because it is large and rare.
    Connect(Box<Connect<'a>>),
    /// Answer to CONNECT. Boxed because it is large and rare.
    ConnAck(Box<ConnAck<'a>>),
    /// A message.
    Publish(Publish<'a>),
    /// Answer to a QoS 1 PUBLISH.
    PubAck(Ack<'a>),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Ack<'a>),
    /// Answer to PUBREC.
    PubRel(Ack<'a>),
    /// Answer to PUBREL.
    PubComp(Ack<'a>),
    /// Client asks for subscriptions.
    Subscribe(Subscribe<'a>),
    /// Answer to SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Client gives subscriptions up.
    Unsubscribe(Unsubscribe<'a>),
    /// Answer to UNSUBSCRIBE.
    UnsubAck(SubAck<'a>),
    /// Client shows that it is alive.
    PingReq,
    /// Answer to PINGREQ.
    PingResp,
    /// Good-bye.
    Disconnect(Disconnect<'a>),
    /// A step of enhanced authentication (5 only).
    Auth(Auth<'a>),
}

/// The type in the upper half of a packet's first byte `[MQTT-2.1.2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are those of the standard")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

/// CONNECT `[MQTT-3.1]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that all packets of this connection have.
    pub version: Version,
    /// Clean start (5) or clean session (3.1.1).
    pub clean_start: bool,
    /// Seconds between packets that the client promises; 0 promises nothing.
    pub keep_alive_secs: u16,
    /// The client's name; empty asks for one.
    pub client_id: &'a str,
    /// The message for the case that the connection is lost.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password; never without a user name in 3.1.1 `[MQTT-3.1.2-22]`.
    pub password: Option<&'a [u8]>,
    /// Version 5 properties.
    pub properties: ConnectProperties<'a>,
}

/// The will in CONNECT `[MQTT-3.1.2.5]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// Where to publish: not empty, no wildcards.
    pub topic: &'a str,
    /// What to publish.
    pub payload: &'a [u8],
    /// With which QoS.
    pub qos: QoS,
    /// Whether to retain it.
    pub retain: bool,
    /// Version 5 properties.
    pub properties: WillProperties<'a>,
}

/// CONNACK `[MQTT-3.2]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Whether an older session goes on; never with an error.
    pub session_present: bool,
    /// The outcome. In 3.1.1 written as return code, see [`ReasonCode::connack_v3`].
    pub reason: ReasonCode,
    /// Version 5 properties.
    pub properties: ConnAckProperties<'a>,
}

/// PUBLISH `[MQTT-3.3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether it may have been sent before; never at QoS 0.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// Topic name without wildcards; empty only with a topic alias.
    pub topic: &'a str,
    /// Packet identifier: there exactly if QoS is 1 or 2 `[MQTT-2.2.1-2]`.
    pub packet_id: Option<PacketId>,
    /// Version 5 properties.
    pub properties: PublishProperties<'a>,
    /// The message.
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP `[MQTT-3.4]` to `[MQTT-3.7]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// The identifier that the PUBLISH had.
    pub packet_id: PacketId,
    /// The outcome; always success in 3.1.1.
    pub reason: ReasonCode,
    /// Version 5 properties.
    pub properties: AckProperties<'a>,
}

/// SUBSCRIBE `[MQTT-3.8]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Its identifier, for SUBACK.
    pub packet_id: PacketId,
    /// Version 5 properties.
    pub properties: SubscribeProperties<'a>,
    /// At least one filter. The texts are UTF-8 without NUL but may not be valid filters: each
    /// is refused for itself in SUBACK.
    pub filters: List<'a, Subscription<'a>>,
}

/// One filter of a SUBSCRIBE with its options `[MQTT-3.8.3.1]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// The filter's text, `$share/…` included.
    pub filter: &'a str,
    /// The highest QoS to deliver with.
    pub qos: QoS,
    /// Not what this client published. Never on a shared subscription `[MQTT-3.8.3-4]`.
    pub no_local: bool,
    /// Keep the retain flag of the publisher.
    pub retain_as_published: bool,
    /// Which retained messages to send.
    pub retain_handling: RetainHandling,
}

/// SUBACK or UNSUBACK `[MQTT-3.9]` `[MQTT-3.11]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// The identifier of the SUBSCRIBE or UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// Version 5 properties.
    pub properties: AckProperties<'a>,
    /// One code for each filter, in order. Empty in a 3.1.1 UNSUBACK. Written to 3.1.1 clients,
    /// each error becomes 0x80.
    pub codes: List<'a, ReasonCode>,
}

/// UNSUBSCRIBE `[MQTT-3.10]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Its identifier, for UNSUBACK.
    pub packet_id: PacketId,
    /// Version 5 properties.
    pub properties: UnsubscribeProperties<'a>,
    /// At least one filter's text; not checked to be a valid filter.
    pub filters: List<'a, &'a str>,
}

/// DISCONNECT `[MQTT-3.14]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Why; always [`ReasonCode::Success`] (normal disconnection) in 3.1.1.
    pub reason: ReasonCode,
    /// Version 5 properties.
    pub properties: DisconnectProperties<'a>,
}

/// AUTH `[MQTT-3.15]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, continue or re-authenticate.
    pub reason: ReasonCode,
    /// Properties.
    pub properties: AuthProperties<'a>,
}

impl Packet<'_> {
    /// Which type it has.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

impl PacketType {
    /// The type for the upper half of a first byte; `None` for 0, which is reserved.
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The standard's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl<'a> Ack<'a> {
    /// An answer without properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            properties: AckProperties::default(),
        }
    }

    /// The same with an explanation for people.
    #[must_use]
    pub const fn with_reason_string(mut self, text: &'a str) -> Self {
        self.properties.reason_string = Some(text);
        self
    }
}

impl Disconnect<'_> {
    /// A good-bye without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            properties: DisconnectProperties::default(),
        }
    }
}

impl<'a> Subscription<'a> {
    /// A filter with the options that 3.1.1 knows.
    pub const fn new(filter: &'a str, qos: QoS) -> Self {
        Self {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }
}

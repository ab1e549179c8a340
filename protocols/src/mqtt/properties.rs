//! The properties of MQTT 5 `[MQTT-2.2.2]`: for each packet exactly those that it may have.
//!
//! A property that is absent is `None`; what absence means is said in the standard and decided by
//! the connection. Names are the standard's, with the unit at the end.

use std::num::{NonZeroU16, NonZeroU32};

use memchr::memchr2;

use super::Version;
use super::codec::{Measure, Reader, Sink, VARINT_MAX};
use super::error::{DecodeError, EncodeError};
use super::list::{List, UserProperty};
use crate::model::{PayloadFormat, QoS};

macro_rules! property_ids {
    ($( $code:literal $name:ident $kind:ident, )*) => {
        /// Identifier of a property (section 2.2.2.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "the names are those of the standard")]
        pub enum PropertyId { $( $name = $code, )* }

        impl PropertyId {
            const fn from_u32(id: u32) -> Option<Self> {
                match id {
                    $( $code => Some(Self::$name), )*
                    _ => None,
                }
            }

            const fn kind(self) -> Kind {
                match self { $( Self::$name => Kind::$kind, )* }
            }
        }
    };
}

property_ids! {
    0x01 PayloadFormatIndicator Byte,
    0x02 MessageExpiryInterval Four,
    0x03 ContentType Text,
    0x08 ResponseTopic Text,
    0x09 CorrelationData Binary,
    0x0B SubscriptionIdentifier Varint,
    0x11 SessionExpiryInterval Four,
    0x12 AssignedClientIdentifier Text,
    0x13 ServerKeepAlive Two,
    0x15 AuthenticationMethod Text,
    0x16 AuthenticationData Binary,
    0x17 RequestProblemInformation Byte,
    0x18 WillDelayInterval Four,
    0x19 RequestResponseInformation Byte,
    0x1A ResponseInformation Text,
    0x1C ServerReference Text,
    0x1F ReasonString Text,
    0x21 ReceiveMaximum Two,
    0x22 TopicAliasMaximum Two,
    0x23 TopicAlias Two,
    0x24 MaximumQoS Byte,
    0x25 RetainAvailable Byte,
    0x26 UserProperty Pair,
    0x27 MaximumPacketSize Four,
    0x28 WildcardSubscriptionAvailable Byte,
    0x29 SubscriptionIdentifierAvailable Byte,
    0x2A SharedSubscriptionAvailable Byte,
}

/// How a value is written.
#[derive(Clone, Copy)]
enum Kind {
    Byte,
    Two,
    Four,
    Varint,
    Text,
    Binary,
    Pair,
}

impl PropertyId {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::from_u32(reader.varint()?).ok_or(DecodeError::Malformed("unknown property"))
    }

    /// Passes over the value of a property that was checked before.
    pub(super) fn skip(self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        match self.kind() {
            Kind::Byte => reader.take(1).map(drop),
            Kind::Two => reader.take(2).map(drop),
            Kind::Four => reader.take(4).map(drop),
            Kind::Varint => reader.varint().map(drop),
            Kind::Text | Kind::Binary => reader.binary().map(drop),
            Kind::Pair => reader.binary().and_then(|_| reader.binary()).map(drop),
        }
    }
}

/// The value of a property: its type on the wire and its range.
trait Value<'a>: Sized {
    fn read(reader: &mut Reader<'a>, id: PropertyId) -> Result<Self, DecodeError>;
    fn write(&self, id: PropertyId, sink: &mut impl Sink);
}

impl<'a> Value<'a> for bool {
    fn read(reader: &mut Reader<'a>, _: PropertyId) -> Result<Self, DecodeError> {
        match reader.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Protocol("a property must be 0 or 1")),
        }
    }

    fn write(&self, _: PropertyId, sink: &mut impl Sink) {
        sink.byte(u8::from(*self));
    }
}

impl<'a> Value<'a> for PayloadFormat {
    fn read(reader: &mut Reader<'a>, id: PropertyId) -> Result<Self, DecodeError> {
        bool::read(reader, id).map(|text| if text { Self::Utf8 } else { Self::Bytes })
    }

    fn write(&self, id: PropertyId, sink: &mut impl Sink) {
        (*self == Self::Utf8).write(id, sink);
    }
}

impl<'a> Value<'a> for QoS {
    /// Maximum QoS: 2 is said by leaving it out `[MQTT-3.2.2.3.4]`.
    fn read(reader: &mut Reader<'a>, id: PropertyId) -> Result<Self, DecodeError> {
        bool::read(reader, id).map(|one| {
            if one {
                Self::AtLeastOnce
            } else {
                Self::AtMostOnce
            }
        })
    }

    fn write(&self, _: PropertyId, sink: &mut impl Sink) {
        if *self == Self::ExactlyOnce {
            sink.fail(EncodeError::Invalid("maximum QoS 2 is said by absence"));
        }
        sink.byte(*self as u8);
    }
}

impl<'a> Value<'a> for u16 {
    fn read(reader: &mut Reader<'a>, _: PropertyId) -> Result<Self, DecodeError> {
        reader.u16()
    }

    fn write(&self, _: PropertyId, sink: &mut impl Sink) {
        sink.u16(*self);
    }
}

impl<'a> Value<'a> for NonZeroU16 {
    /// Receive maximum and topic alias.
    fn read(reader: &mut Reader<'a>, id: PropertyId) -> Result<Self, DecodeError> {
        Self::new(reader.u16()?).ok_or(match id {
            PropertyId::TopicAlias => DecodeError::TopicAlias,
            _ => DecodeError::Protocol("receive maximum 0 is not allowed"),
        })
    }

    fn write(&self, _: PropertyId, sink: &mut impl Sink) {
        sink.u16(self.get());
    }
}

impl<'a> Value<'a> for u32 {
    fn read(reader: &mut Reader<'a>, _: PropertyId) -> Result<Self, DecodeError> {
        reader.u32()
    }

    fn write(&self, _: PropertyId, sink: &mut impl Sink) {
        sink.u32(*self);
    }
}

impl<'a> Value<'a> for NonZeroU32 {
    /// Maximum packet size, and the subscription identifier as a variable byte integer.
    fn read(reader: &mut Reader<'a>, id: PropertyId) -> Result<Self, DecodeError> {
        let (value, zero) = match id {
            PropertyId::SubscriptionIdentifier => {
                (reader.varint()?, "subscription identifier 0 is not allowed")
            }
            _ => (reader.u32()?, "maximum packet size 0 is not allowed"),
        };
        Self::new(value).ok_or(DecodeError::Protocol(zero))
    }

    fn write(&self, id: PropertyId, sink: &mut impl Sink) {
        if id != PropertyId::SubscriptionIdentifier {
            return sink.u32(self.get());
        }
        if self.get() > VARINT_MAX {
            sink.fail(EncodeError::Invalid(
                "a subscription identifier is too large",
            ));
        }
        sink.varint(self.get());
    }
}

impl<'a> Value<'a> for &'a str {
    fn read(reader: &mut Reader<'a>, id: PropertyId) -> Result<Self, DecodeError> {
        let text = reader.text()?;
        if id == PropertyId::ResponseTopic {
            check_response_topic(text).map_err(DecodeError::TopicName)?;
        }
        Ok(text)
    }

    fn write(&self, id: PropertyId, sink: &mut impl Sink) {
        if id == PropertyId::ResponseTopic
            && let Err(why) = check_response_topic(self)
        {
            sink.fail(EncodeError::Invalid(why));
        }
        sink.text(self);
    }
}

/// `[MQTT-3.3.2-14]` `[MQTT-4.7.3-1]`.
fn check_response_topic(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("the response topic is empty");
    }
    if memchr2(b'+', b'#', text.as_bytes()).is_some() {
        return Err("the response topic contains a wildcard");
    }
    Ok(())
}

impl<'a> Value<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>, _: PropertyId) -> Result<Self, DecodeError> {
        reader.binary()
    }

    fn write(&self, _: PropertyId, sink: &mut impl Sink) {
        sink.binary(self);
    }
}

impl<'a> Value<'a> for UserProperty<'a> {
    fn read(reader: &mut Reader<'a>, _: PropertyId) -> Result<Self, DecodeError> {
        Ok((reader.text()?, reader.text()?))
    }

    fn write(&self, _: PropertyId, sink: &mut impl Sink) {
        sink.text(self.0);
        sink.text(self.1);
    }
}

/// Defines the properties of a packet: those that come once, then those that may repeat.
macro_rules! properties {
    (
        $(#[$doc:meta])* $name:ident
        once { $( $(#[$once_doc:meta])* $once_id:ident $once:ident: $once_type:ty, )* }
        many { $( $(#[$many_doc:meta])* $many_id:ident $many:ident: $many_type:ty, )* }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name<'a> {
            $( $(#[$once_doc])* pub $once: Option<$once_type>, )*
            $( $(#[$many_doc])* pub $many: List<'a, $many_type>, )*
        }

        impl<'a> $name<'a> {
            /// Reads the length and the properties.
            pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                let section = reader.section()?;
                let mut this = Self::default();
                let mut reader = Reader::new(section);
                while !reader.is_empty() {
                    match PropertyId::read(&mut reader)? {
                        $( id @ PropertyId::$once_id => {
                            if this.$once.is_some() {
                                return Err(DecodeError::DuplicateProperty(id));
                            }
                            this.$once = Some(<$once_type>::read(&mut reader, id)?);
                        } )*
                        $( id @ PropertyId::$many_id => {
                            <$many_type>::read(&mut reader, id)?;
                            this.$many = List::wire(section, Version::V5);
                        } )*
                        id => return Err(DecodeError::MisplacedProperty(id)),
                    }
                }
                Ok(this)
            }

            /// Whether none is set.
            pub fn is_empty(&self) -> bool {
                true $( && self.$once.is_none() )* $( && self.$many.is_empty() )*
            }

            /// Writes the properties without their length.
            pub(super) fn write_each(&self, sink: &mut impl Sink) {
                $( if let Some(value) = &self.$once {
                    sink.byte(PropertyId::$once_id as u8);
                    value.write(PropertyId::$once_id, sink);
                } )*
                $( for value in &self.$many {
                    sink.byte(PropertyId::$many_id as u8);
                    value.write(PropertyId::$many_id, sink);
                } )*
            }

            /// Writes the length and the properties.
            pub(super) fn write(&self, sink: &mut impl Sink) {
                let mut measure = Measure::default();
                self.write_each(&mut measure);
                match measure.varint() {
                    Ok(length) => sink.varint(length),
                    Err(error) => sink.fail(error),
                }
                self.write_each(sink);
            }
        }
    };
}

properties! {
    /// Properties of CONNECT `[MQTT-3.1.2.11]`.
    ConnectProperties
    once {
        /// Seconds that the session outlives the connection; [`u32::MAX`] is for ever.
        SessionExpiryInterval session_expiry_secs: u32,
        /// QoS 1 and 2 messages that the client takes at once.
        ReceiveMaximum receive_maximum: NonZeroU16,
        /// Bytes of the largest packet that the client takes.
        MaximumPacketSize maximum_packet_size: NonZeroU32,
        /// Topic aliases that the client remembers.
        TopicAliasMaximum topic_alias_maximum: u16,
        /// Whether the client wants response information.
        RequestResponseInformation request_response_information: bool,
        /// Whether the client wants reason strings and user properties with errors.
        RequestProblemInformation request_problem_information: bool,
        /// Name of the enhanced authentication.
        AuthenticationMethod authentication_method: &'a str,
        /// Its data; never without the method.
        AuthenticationData authentication_data: &'a [u8],
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

properties! {
    /// Properties of a will `[MQTT-3.1.3.2]`.
    WillProperties
    once {
        /// Seconds to wait before it is published.
        WillDelayInterval delay_secs: u32,
        /// Whether the payload is text.
        PayloadFormatIndicator payload_format: PayloadFormat,
        /// Lifetime in seconds from its publishing.
        MessageExpiryInterval message_expiry_secs: u32,
        /// MIME type or what the applications agreed on.
        ContentType content_type: &'a str,
        /// Where to answer.
        ResponseTopic response_topic: &'a str,
        /// Ties the answer to the request.
        CorrelationData correlation_data: &'a [u8],
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

properties! {
    /// Properties of CONNACK `[MQTT-3.2.2.3]`.
    ConnAckProperties
    once {
        /// Seconds that the session outlives the connection, if not as the client asked.
        SessionExpiryInterval session_expiry_secs: u32,
        /// QoS 1 and 2 messages that the server takes at once.
        ReceiveMaximum receive_maximum: NonZeroU16,
        /// The highest QoS that the server takes: 0 or 1.
        MaximumQoS maximum_qos: QoS,
        /// Whether the server keeps retained messages.
        RetainAvailable retain_available: bool,
        /// Bytes of the largest packet that the server takes.
        MaximumPacketSize maximum_packet_size: NonZeroU32,
        /// The name that the server gave the client.
        AssignedClientIdentifier assigned_client_identifier: &'a str,
        /// Topic aliases that the server remembers.
        TopicAliasMaximum topic_alias_maximum: u16,
        /// Explanation for people.
        ReasonString reason_string: &'a str,
        /// Whether filters with wildcards are accepted.
        WildcardSubscriptionAvailable wildcard_subscription_available: bool,
        /// Whether subscription identifiers are accepted.
        SubscriptionIdentifierAvailable subscription_identifier_available: bool,
        /// Whether shared subscriptions are accepted.
        SharedSubscriptionAvailable shared_subscription_available: bool,
        /// Seconds of keep alive, instead of the client's.
        ServerKeepAlive server_keep_alive_secs: u16,
        /// Basis for response topics.
        ResponseInformation response_information: &'a str,
        /// Another server to use.
        ServerReference server_reference: &'a str,
        /// Name of the enhanced authentication.
        AuthenticationMethod authentication_method: &'a str,
        /// Its data.
        AuthenticationData authentication_data: &'a [u8],
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

properties! {
    /// Properties of PUBLISH `[MQTT-3.3.2.3]`.
    PublishProperties
    once {
        /// Whether the payload is text.
        PayloadFormatIndicator payload_format: PayloadFormat,
        /// Lifetime in seconds that is left.
        MessageExpiryInterval message_expiry_secs: u32,
        /// Number that stands for the topic from now on, or instead of it.
        TopicAlias topic_alias: NonZeroU16,
        /// Where to answer.
        ResponseTopic response_topic: &'a str,
        /// Ties the answer to the request.
        CorrelationData correlation_data: &'a [u8],
        /// MIME type or what the applications agreed on.
        ContentType content_type: &'a str,
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
        /// Identifiers of the subscriptions that matched; only from server to client, each at
        /// most 268,435,455.
        SubscriptionIdentifier subscription_ids: NonZeroU32,
    }
}

properties! {
    /// Properties of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK `[MQTT-3.4.2.2]`.
    AckProperties
    once {
        /// Explanation for people.
        ReasonString reason_string: &'a str,
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

properties! {
    /// Properties of SUBSCRIBE `[MQTT-3.8.2.1]`.
    SubscribeProperties
    once {
        /// Number to name these subscriptions by in PUBLISH, at most 268,435,455.
        SubscriptionIdentifier subscription_id: NonZeroU32,
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

properties! {
    /// Properties of UNSUBSCRIBE `[MQTT-3.10.2.1]`.
    UnsubscribeProperties
    once {}
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

properties! {
    /// Properties of DISCONNECT `[MQTT-3.14.2.2]`.
    DisconnectProperties
    once {
        /// A new session expiry in seconds; only from the client.
        SessionExpiryInterval session_expiry_secs: u32,
        /// Explanation for people.
        ReasonString reason_string: &'a str,
        /// Another server to use; only from the server.
        ServerReference server_reference: &'a str,
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

properties! {
    /// Properties of AUTH `[MQTT-3.15.2.2]`.
    AuthProperties
    once {
        /// Name of the enhanced authentication.
        AuthenticationMethod authentication_method: &'a str,
        /// Its data.
        AuthenticationData authentication_data: &'a [u8],
        /// Explanation for people.
        ReasonString reason_string: &'a str,
    }
    many {
        /// User properties.
        UserProperty user: UserProperty<'a>,
    }
}

//! Reason codes of MQTT 5 `[MQTT-2.4]` and their 3.1.1 counterparts.

use super::Side;
use super::packet::PacketType;

macro_rules! reason_codes {
    ($( $(#[$doc:meta])* $code:literal $name:ident $text:literal [ $($packet:ident)* ], )*) => {
        /// The outcome of a request, or why a connection ends.
        ///
        /// Codes below 0x80 are successes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode {
            $( $(#[$doc])* #[doc = concat!($text, ".")] $name = $code, )*
        }

        impl ReasonCode {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The code for a byte of the wire; `None` if the standard has no such code.
            #[inline]
            pub const fn from_u8(code: u8) -> Option<Self> {
                match code {
                    $( $code => Some(Self::$name), )*
                    _ => None,
                }
            }

            /// What it says, for people.
            pub const fn text(self) -> &'static str {
                match self {
                    $( Self::$name => $text, )*
                }
            }

            /// Whether the table of the standard allows it in this packet `[MQTT-2.4]`,
            /// whoever sends it.
            pub const fn is_in(self, packet: PacketType) -> bool {
                match self {
                    $( Self::$name => matches!(packet, $( PacketType::$packet )|* ), )*
                }
            }
        }
    };
}

reason_codes! {
    /// Also normal disconnection (DISCONNECT) and granted QoS 0 (SUBACK):
    0x00 Success "Success" [ConnAck PubAck PubRec PubRel PubComp SubAck UnsubAck Disconnect Auth],
    0x01 GrantedQoS1 "Granted QoS 1" [SubAck],
    0x02 GrantedQoS2 "Granted QoS 2" [SubAck],
    0x04 DisconnectWithWill "Disconnect with will message" [Disconnect],
    0x10 NoMatchingSubscribers "No matching subscribers" [PubAck PubRec],
    0x11 NoSubscriptionExisted "No subscription existed" [UnsubAck],
    0x18 ContinueAuthentication "Continue authentication" [Auth],
    0x19 ReAuthenticate "Re-authenticate" [Auth],
    0x80 UnspecifiedError "Unspecified error" [ConnAck PubAck PubRec SubAck UnsubAck Disconnect],
    0x81 MalformedPacket "Malformed packet" [ConnAck Disconnect],
    0x82 ProtocolError "Protocol error" [ConnAck Disconnect],
    0x83 ImplementationSpecificError "Implementation specific error"
        [ConnAck PubAck PubRec SubAck UnsubAck Disconnect],
    0x84 UnsupportedProtocolVersion "Unsupported protocol version" [ConnAck],
    0x85 ClientIdentifierNotValid "Client identifier not valid" [ConnAck],
    0x86 BadUserNameOrPassword "Bad user name or password" [ConnAck],
    0x87 NotAuthorized "Not authorized" [ConnAck PubAck PubRec SubAck UnsubAck Disconnect],
    0x88 ServerUnavailable "Server unavailable" [ConnAck],
    0x89 ServerBusy "Server busy" [ConnAck Disconnect],
    0x8A Banned "Banned" [ConnAck],
    0x8B ServerShuttingDown "Server shutting down" [Disconnect],
    0x8C BadAuthenticationMethod "Bad authentication method" [ConnAck Disconnect],
    0x8D KeepAliveTimeout "Keep alive timeout" [Disconnect],
    0x8E SessionTakenOver "Session taken over" [Disconnect],
    0x8F TopicFilterInvalid "Topic filter invalid" [SubAck UnsubAck Disconnect],
    0x90 TopicNameInvalid "Topic name invalid" [ConnAck PubAck PubRec Disconnect],
    0x91 PacketIdentifierInUse "Packet identifier in use" [PubAck PubRec SubAck UnsubAck],
    0x92 PacketIdentifierNotFound "Packet identifier not found" [PubRel PubComp],
    0x93 ReceiveMaximumExceeded "Receive maximum exceeded" [Disconnect],
    0x94 TopicAliasInvalid "Topic alias invalid" [Disconnect],
    0x95 PacketTooLarge "Packet too large" [ConnAck Disconnect],
    0x96 MessageRateTooHigh "Message rate too high" [Disconnect],
    0x97 QuotaExceeded "Quota exceeded" [ConnAck PubAck PubRec SubAck Disconnect],
    0x98 AdministrativeAction "Administrative action" [Disconnect],
    0x99 PayloadFormatInvalid "Payload format invalid" [ConnAck PubAck PubRec Disconnect],
    0x9A RetainNotSupported "Retain not supported" [ConnAck Disconnect],
    0x9B QoSNotSupported "QoS not supported" [ConnAck Disconnect],
    0x9C UseAnotherServer "Use another server" [ConnAck Disconnect],
    0x9D ServerMoved "Server moved" [ConnAck Disconnect],
    0x9E SharedSubscriptionsNotSupported "Shared subscriptions not supported" [SubAck Disconnect],
    0x9F ConnectionRateExceeded "Connection rate exceeded" [ConnAck Disconnect],
    0xA0 MaximumConnectTime "Maximum connect time" [Disconnect],
    0xA1 SubscriptionIdentifiersNotSupported "Subscription identifiers not supported"
        [SubAck Disconnect],
    0xA2 WildcardSubscriptionsNotSupported "Wildcard subscriptions not supported"
        [SubAck Disconnect],
}

impl ReasonCode {
    /// Its byte on the wire.
    #[inline]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether it is an error (0x80 and above).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// Whether this side may receive it in this packet: [`ReasonCode::is_in`] and the "sent by"
    /// columns for DISCONNECT and AUTH `[MQTT-3.14.2-1]` `[MQTT-3.15.2-1]`.
    pub const fn is_received(self, packet: PacketType, by: Side) -> bool {
        if !self.is_in(packet) {
            return false;
        }
        match (packet, by) {
            (PacketType::Auth, Side::Server) => !matches!(self, Self::Success),
            (PacketType::Auth, Side::Client) => !matches!(self, Self::ReAuthenticate),
            (PacketType::Disconnect, Side::Client) => !matches!(self, Self::DisconnectWithWill),
            (PacketType::Disconnect, Side::Server) => !self.is_server_disconnect(),
            _ => true,
        }
    }

    /// Codes that only a server puts into DISCONNECT (section 3.14.2.1).
    const fn is_server_disconnect(self) -> bool {
        matches!(
            self,
            Self::NotAuthorized
                | Self::ServerBusy
                | Self::ServerShuttingDown
                | Self::BadAuthenticationMethod
                | Self::KeepAliveTimeout
                | Self::SessionTakenOver
                | Self::TopicFilterInvalid
                | Self::RetainNotSupported
                | Self::QoSNotSupported
                | Self::UseAnotherServer
                | Self::ServerMoved
                | Self::SharedSubscriptionsNotSupported
                | Self::ConnectionRateExceeded
                | Self::MaximumConnectTime
                | Self::SubscriptionIdentifiersNotSupported
                | Self::WildcardSubscriptionsNotSupported
        )
    }

    /// The CONNACK return code of 3.1.1 (table 3.1). `None` for faults of the packet itself,
    /// where 3.1.1 wants the connection closed without an answer `[MQTT-3.2.2-6]`, and for codes
    /// that are no outcome of CONNECT.
    pub const fn connack_v3(self) -> Option<u8> {
        if !self.is_in(PacketType::ConnAck) {
            return None;
        }
        Some(match self {
            Self::Success => 0x00,
            Self::UnsupportedProtocolVersion => 0x01,
            Self::ClientIdentifierNotValid => 0x02,
            Self::BadUserNameOrPassword => 0x04,
            Self::MalformedPacket | Self::ProtocolError | Self::PacketTooLarge => return None,
            Self::UnspecifiedError
            | Self::ImplementationSpecificError
            | Self::ServerUnavailable
            | Self::ServerBusy
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => 0x03,
            // Refusals of what the client asked for: it is not allowed to do that here.
            _ => 0x05,
        })
    }

    /// The code for a CONNACK return code of 3.1.1; `None` for the reserved ones.
    pub const fn from_connack_v3(code: u8) -> Option<Self> {
        Some(match code {
            0x00 => Self::Success,
            0x01 => Self::UnsupportedProtocolVersion,
            0x02 => Self::ClientIdentifierNotValid,
            0x03 => Self::ServerUnavailable,
            0x04 => Self::BadUserNameOrPassword,
            0x05 => Self::NotAuthorized,
            _ => return None,
        })
    }

    /// The SUBACK return code of 3.1.1: the granted QoS or 0x80 `[MQTT-3.9.3-2]`.
    pub const fn suback_v3(self) -> u8 {
        match self {
            Self::Success | Self::GrantedQoS1 | Self::GrantedQoS2 => self.as_u8(),
            _ => 0x80,
        }
    }
}

impl From<crate::model::QoS> for ReasonCode {
    /// The code of SUBACK for a granted QoS.
    fn from(qos: crate::model::QoS) -> Self {
        match qos {
            crate::model::QoS::AtMostOnce => Self::Success,
            crate::model::QoS::AtLeastOnce => Self::GrantedQoS1,
            crate::model::QoS::ExactlyOnce => Self::GrantedQoS2,
        }
    }
}

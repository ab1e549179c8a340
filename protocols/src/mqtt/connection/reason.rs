//! The broker's words in MQTT's codes: what a refusal or an end is called in which packet.

use crate::connection::{Cause, RefusalCode};
use crate::mqtt::ReasonCode;

/// The code of CONNACK `[MQTT-3.2.2-8]`; 3.1.1 takes [`ReasonCode::connack_v3`] of it.
pub(super) const fn connack(code: RefusalCode) -> ReasonCode {
    match code {
        RefusalCode::Unspecified | RefusalCode::Unknown => ReasonCode::UnspecifiedError,
        RefusalCode::Implementation | RefusalCode::FilterInvalid => {
            ReasonCode::ImplementationSpecificError
        }
        RefusalCode::ClientId => ReasonCode::ClientIdentifierNotValid,
        RefusalCode::BadCredentials => ReasonCode::BadUserNameOrPassword,
        RefusalCode::NotAuthorized => ReasonCode::NotAuthorized,
        RefusalCode::Unavailable => ReasonCode::ServerUnavailable,
        RefusalCode::Busy => ReasonCode::ServerBusy,
        RefusalCode::Banned => ReasonCode::Banned,
        RefusalCode::TopicInvalid => ReasonCode::TopicNameInvalid,
        RefusalCode::TooLarge => ReasonCode::PacketTooLarge,
        RefusalCode::Quota => ReasonCode::QuotaExceeded,
        RefusalCode::PayloadFormat => ReasonCode::PayloadFormatInvalid,
        RefusalCode::Rate => ReasonCode::ConnectionRateExceeded,
    }
}

/// The code of PUBACK and PUBREC `[MQTT-3.4.2-1]`. They have no word for "later": what is
/// refused for the moment is "implementation specific" or "quota".
pub(super) const fn publish(code: RefusalCode) -> ReasonCode {
    match code {
        RefusalCode::NotAuthorized | RefusalCode::BadCredentials | RefusalCode::Banned => {
            ReasonCode::NotAuthorized
        }
        RefusalCode::TopicInvalid | RefusalCode::FilterInvalid => ReasonCode::TopicNameInvalid,
        RefusalCode::Quota | RefusalCode::Rate => ReasonCode::QuotaExceeded,
        RefusalCode::PayloadFormat => ReasonCode::PayloadFormatInvalid,
        RefusalCode::Implementation
        | RefusalCode::Unavailable
        | RefusalCode::Busy
        | RefusalCode::TooLarge => ReasonCode::ImplementationSpecificError,
        RefusalCode::Unspecified | RefusalCode::ClientId | RefusalCode::Unknown => {
            ReasonCode::UnspecifiedError
        }
    }
}

/// The code of SUBACK `[MQTT-3.9.3-2]`.
pub(super) const fn subscribe(code: RefusalCode) -> ReasonCode {
    match code {
        RefusalCode::NotAuthorized | RefusalCode::BadCredentials | RefusalCode::Banned => {
            ReasonCode::NotAuthorized
        }
        RefusalCode::TopicInvalid | RefusalCode::FilterInvalid => ReasonCode::TopicFilterInvalid,
        RefusalCode::Quota | RefusalCode::Rate => ReasonCode::QuotaExceeded,
        RefusalCode::Implementation
        | RefusalCode::Unavailable
        | RefusalCode::Busy
        | RefusalCode::TooLarge => ReasonCode::ImplementationSpecificError,
        RefusalCode::Unspecified
        | RefusalCode::ClientId
        | RefusalCode::PayloadFormat
        | RefusalCode::Unknown => ReasonCode::UnspecifiedError,
    }
}

/// Whether a refused publish may be accepted when it comes again. 3.1.1 has no code for it: such
/// a publish is not acknowledged and the connection closed, so that the client sends it again;
/// one that will never be accepted is acknowledged and dropped `[MQTT-3.3.5-2]`.
pub(super) const fn is_passing(code: RefusalCode) -> bool {
    matches!(
        code,
        RefusalCode::Unspecified
            | RefusalCode::Unavailable
            | RefusalCode::Busy
            | RefusalCode::Quota
            | RefusalCode::Rate
    )
}

/// Which kind of end a refused publish is to a 3.1.1 client.
pub(super) const fn cause(code: RefusalCode) -> Cause {
    match code {
        RefusalCode::Quota => Cause::Quota,
        RefusalCode::Rate => Cause::Rate,
        RefusalCode::TooLarge => Cause::TooLarge,
        RefusalCode::Unspecified | RefusalCode::Unavailable | RefusalCode::Busy => Cause::Internal,
        _ => Cause::Refused,
    }
}

/// The code of the server's DISCONNECT `[MQTT-3.14.2-1]`; `None` where nobody is left to read it.
pub(super) const fn disconnect(cause: Cause) -> Option<ReasonCode> {
    Some(match cause {
        Cause::Lost | Cause::Io => return None,
        Cause::Normal => ReasonCode::Success,
        Cause::Refused | Cause::Unauthorized => ReasonCode::NotAuthorized,
        Cause::Malformed | Cause::NotUtf8 => ReasonCode::MalformedPacket,
        Cause::ProtocolError | Cause::WrongType => ReasonCode::ProtocolError,
        Cause::TooLarge => ReasonCode::PacketTooLarge,
        Cause::ReceiveMaximum => ReasonCode::ReceiveMaximumExceeded,
        Cause::Quota | Cause::SlowConsumer => ReasonCode::QuotaExceeded,
        // As other brokers say that a token has ended.
        Cause::LoginTimeout | Cause::Expired => ReasonCode::MaximumConnectTime,
        Cause::KeepAliveTimeout => ReasonCode::KeepAliveTimeout,
        Cause::TakenOver => ReasonCode::SessionTakenOver,
        Cause::Shutdown => ReasonCode::ServerShuttingDown,
        Cause::Administrative => ReasonCode::AdministrativeAction,
        Cause::Rate => ReasonCode::MessageRateTooHigh,
        Cause::Unavailable => ReasonCode::ServerBusy,
        Cause::Internal => ReasonCode::UnspecifiedError,
    })
}

/// The code of CONNACK for an end that comes before the broker's answer to CONNECT.
pub(super) const fn connack_for_end(cause: Cause) -> Option<ReasonCode> {
    Some(match cause {
        Cause::Lost | Cause::Io | Cause::Normal => return None,
        Cause::Refused | Cause::Unauthorized | Cause::Expired => ReasonCode::NotAuthorized,
        Cause::Quota => ReasonCode::QuotaExceeded,
        Cause::Rate => ReasonCode::ConnectionRateExceeded,
        _ => ReasonCode::ServerUnavailable,
    })
}

/// Which kind of end an error of the client is.
pub(super) const fn cause_of(code: ReasonCode) -> Cause {
    match code {
        ReasonCode::MalformedPacket => Cause::Malformed,
        ReasonCode::PacketTooLarge => Cause::TooLarge,
        ReasonCode::ReceiveMaximumExceeded => Cause::ReceiveMaximum,
        ReasonCode::QuotaExceeded => Cause::Quota,
        ReasonCode::KeepAliveTimeout => Cause::KeepAliveTimeout,
        _ => Cause::ProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::PacketType;

    const REFUSALS: [RefusalCode; 15] = [
        RefusalCode::Unspecified,
        RefusalCode::Implementation,
        RefusalCode::ClientId,
        RefusalCode::BadCredentials,
        RefusalCode::NotAuthorized,
        RefusalCode::Unavailable,
        RefusalCode::Busy,
        RefusalCode::Banned,
        RefusalCode::FilterInvalid,
        RefusalCode::TopicInvalid,
        RefusalCode::TooLarge,
        RefusalCode::Quota,
        RefusalCode::PayloadFormat,
        RefusalCode::Rate,
        RefusalCode::Unknown,
    ];

    /// `[MQTT-3.2.2-8]` `[MQTT-3.4.2-1]` `[MQTT-3.5.2-1]` `[MQTT-3.9.3-2]`
    #[test]
    fn each_code_belongs_into_its_packet() {
        for code in REFUSALS {
            assert!(connack(code).is_in(PacketType::ConnAck), "{code:?}");
            assert!(connack(code).is_error());
            assert!(publish(code).is_in(PacketType::PubAck), "{code:?}");
            assert!(publish(code).is_in(PacketType::PubRec), "{code:?}");
            assert!(publish(code).is_error());
            assert!(subscribe(code).is_in(PacketType::SubAck), "{code:?}");
            assert!(subscribe(code).is_error());
        }
    }
}

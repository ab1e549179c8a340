//! Packets from the configuration and publications, and verdicts from packets.

use protocols::model::QoS;
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, Login, Packet, PubAckReason, PubCompReason, PubRecReason, Publish,
    PublishProperties,
};

use super::window::{Refusal, Verdict};
use crate::config::Broker;
use crate::mapping::Publication;

/// CONNECT. A session is kept for so many seconds; 0 begins anew each time.
#[must_use]
pub fn connect(
    broker: &Broker,
    client_id: &str,
    session_secs: u32,
    receive_maximum: u16,
) -> Packet {
    let properties = ConnectProperties {
        session_expiry_interval: Some(session_secs),
        receive_maximum: Some(receive_maximum),
        max_packet_size: None,
        topic_alias_max: None,
        request_response_info: None,
        request_problem_info: None,
        user_properties: Vec::new(),
        authentication_method: None,
        authentication_data: None,
    };
    let connect = Connect {
        keep_alive: u16::try_from(broker.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: client_id.to_owned(),
        clean_start: session_secs == 0,
        properties: Some(properties),
    };
    let login = broker.username.as_ref().map(|username| Login {
        username: username.clone(),
        password: broker
            .password
            .as_ref()
            .map_or("", |password| password.reveal())
            .to_owned(),
    });
    Packet::Connect(connect, None, login)
}

/// PUBLISH, still without a packet identifier.
pub(super) fn publish(publication: Publication) -> Publish {
    let properties = PublishProperties {
        payload_format_indicator: None,
        message_expiry_interval: publication.expiry_secs,
        topic_alias: None,
        response_topic: publication.response_topic,
        correlation_data: publication.correlation,
        user_properties: publication.user_properties,
        subscription_identifiers: Vec::new(),
        content_type: publication.content_type,
    };
    Publish {
        dup: false,
        qos: wire_qos(publication.qos),
        retain: publication.retain,
        topic: publication.topic.into(),
        pkid: 0,
        payload: publication.payload,
        properties: Some(properties),
    }
}

/// What [`publish`] was made of.
#[cfg(test)]
pub(super) fn publication(publish: Publish) -> Publication {
    let topic = topic(&publish).to_owned();
    let properties = publish.properties.unwrap_or_default();
    Publication {
        topic,
        payload: publish.payload,
        qos: match publish.qos {
            WireQoS::AtMostOnce => QoS::AtMostOnce,
            WireQoS::AtLeastOnce => QoS::AtLeastOnce,
            WireQoS::ExactlyOnce => QoS::ExactlyOnce,
        },
        retain: publish.retain,
        expiry_secs: properties.message_expiry_interval,
        content_type: properties.content_type,
        response_topic: properties.response_topic,
        correlation: properties.correlation_data,
        user_properties: properties.user_properties,
    }
}

/// What a PUBLISH is published to.
#[cfg(test)]
pub(super) fn topic(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.topic).unwrap_or_default()
}

/// The model's QoS on the wire.
pub(crate) fn wire_qos(qos: QoS) -> WireQoS {
    match qos {
        QoS::AtMostOnce => WireQoS::AtMostOnce,
        QoS::AtLeastOnce => WireQoS::AtLeastOnce,
        QoS::ExactlyOnce => WireQoS::ExactlyOnce,
    }
}

/// What PUBACK says `[MQTT-3.4.2-1]`.
#[must_use]
pub fn verdict_of_puback(reason: PubAckReason) -> Verdict {
    let refusal = match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return Verdict::Accepted,
        PubAckReason::QuotaExceeded => Refusal::Busy,
        PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse => Refusal::Unclear,
        PubAckReason::NotAuthorized
        | PubAckReason::TopicNameInvalid
        | PubAckReason::PayloadFormatInvalid => Refusal::Final,
    };
    refused(refusal, &reason)
}

/// What PUBREC says `[MQTT-3.5.2-1]`.
pub(super) fn verdict_of_pubrec(reason: PubRecReason) -> Verdict {
    let refusal = match reason {
        PubRecReason::Success | PubRecReason::NoMatchingSubscribers => return Verdict::Accepted,
        PubRecReason::QuotaExceeded => Refusal::Busy,
        PubRecReason::UnspecifiedError
        | PubRecReason::ImplementationSpecificError
        | PubRecReason::PacketIdentifierInUse => Refusal::Unclear,
        PubRecReason::NotAuthorized
        | PubRecReason::TopicNameInvalid
        | PubRecReason::PayloadFormatInvalid => Refusal::Final,
    };
    refused(refusal, &reason)
}

/// What PUBCOMP says `[MQTT-3.7.2-1]`: the broker that does not know the identifier any more has
/// already completed it.
pub(super) fn verdict_of_pubcomp(reason: PubCompReason) -> Verdict {
    match reason {
        PubCompReason::Success | PubCompReason::PacketIdentifierNotFound => Verdict::Accepted,
    }
}

fn refused(refusal: Refusal, reason: &impl std::fmt::Debug) -> Verdict {
    let reason = format!("the broker answers {reason:?}");
    Verdict::Refused { refusal, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_help_is_tried_again() {
        let refusal = |reason| match verdict_of_puback(reason) {
            Verdict::Accepted => None,
            Verdict::Refused { refusal, .. } => Some(refusal),
        };
        assert_eq!(refusal(PubAckReason::Success), None);
        assert_eq!(refusal(PubAckReason::NoMatchingSubscribers), None);
        assert_eq!(refusal(PubAckReason::QuotaExceeded), Some(Refusal::Busy));
        assert_eq!(
            refusal(PubAckReason::UnspecifiedError),
            Some(Refusal::Unclear)
        );
        assert_eq!(refusal(PubAckReason::NotAuthorized), Some(Refusal::Final));
    }
}

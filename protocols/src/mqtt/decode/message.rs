//! PUBLISH, SUBSCRIBE, UNSUBSCRIBE and the packets that answer them.

use super::{Frame, packet_id, reason_code, topic};
use crate::model::QoS;
use crate::mqtt::codec::Reader;
use crate::mqtt::error::DecodeError;
use crate::mqtt::list::List;
use crate::mqtt::packet::{Ack, PacketType, Publish, SubAck, Subscribe, Subscription, Unsubscribe};
use crate::mqtt::properties::{
    AckProperties, PublishProperties, SubscribeProperties, UnsubscribeProperties,
};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::{Side, Version};

#[inline]
pub(super) fn publish<'a>(
    frame: &Frame<'a>,
    version: Version,
    side: Side,
) -> Result<Publish<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let qos = QoS::from_u8((frame.first >> 1) & 0b11)
        .ok_or(DecodeError::Malformed("QoS 3 does not exist"))?;
    let topic = topic(&mut reader)?;
    let packet_id = match qos {
        QoS::AtMostOnce => None,
        _ => Some(packet_id(&mut reader)?),
    };
    let properties = match version {
        Version::V311 => PublishProperties::default(),
        Version::V5 => PublishProperties::read(&mut reader)?,
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        // [MQTT-4.7.3-1], 5: section 3.3.2.1
        return Err(DecodeError::Protocol("neither topic name nor topic alias"));
    }
    // [MQTT-3.3.4-6]
    if side == Side::Server && !properties.subscription_ids.is_empty() {
        return Err(DecodeError::Protocol(
            "a client must not send subscription identifiers",
        ));
    }
    Ok(Publish {
        dup: frame.first & 0b1000 != 0,
        qos,
        retain: frame.first & 1 != 0,
        topic,
        packet_id,
        properties,
        payload: reader.rest(),
    })
}

#[inline]
pub(super) fn ack<'a>(frame: &Frame<'a>, version: Version) -> Result<Ack<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let mut ack = Ack::new(packet_id(&mut reader)?, ReasonCode::Success);
    // Both may be left out: sections 3.4.2.1 and 3.4.2.2.1.
    if version == Version::V5 && !reader.is_empty() {
        ack.reason = reason_code(reader.byte()?, frame.packet_type, Side::Server)?;
        if !reader.is_empty() {
            ack.properties = AckProperties::read(&mut reader)?;
        }
    }
    reader.finish()?;
    Ok(ack)
}

pub(super) fn subscribe<'a>(
    frame: &Frame<'a>,
    version: Version,
) -> Result<Subscribe<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let packet_id = packet_id(&mut reader)?;
    let properties = match version {
        Version::V311 => SubscribeProperties::default(),
        Version::V5 => SubscribeProperties::read(&mut reader)?,
    };
    let filters = reader.rest();
    // [MQTT-3.8.3-2], 3.1.1: [MQTT-3.8.3-3]
    if filters.is_empty() {
        return Err(DecodeError::Protocol("SUBSCRIBE without a filter"));
    }
    while !reader.is_empty() {
        let filter = reader.text()?;
        check_options(filter, reader.byte()?, version)?;
    }
    Ok(Subscribe {
        packet_id,
        properties,
        filters: List::wire(filters, version),
    })
}

fn check_options(filter: &str, options: u8, version: Version) -> Result<(), DecodeError> {
    // [MQTT-3.8.3-5], 3.1.1: [MQTT-3-8.3-4]
    let reserved = match version {
        Version::V311 => 0b1111_1100,
        Version::V5 => 0b1100_0000,
    };
    if options & reserved != 0 {
        return Err(DecodeError::Malformed(
            "reserved bits of the subscription options are set",
        ));
    }
    let Some(subscription) = Subscription::from_options(filter, options) else {
        // Section 3.8.3.1.
        return Err(DecodeError::Protocol("QoS 3 or retain handling 3"));
    };
    // [MQTT-3.8.3-4]
    if subscription.no_local && subscription.is_shared() {
        return Err(DecodeError::Protocol("no local on a shared subscription"));
    }
    Ok(())
}

pub(super) fn suback<'a>(frame: &Frame<'a>, version: Version) -> Result<SubAck<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let packet_id = packet_id(&mut reader)?;
    let properties = match version {
        Version::V311 => AckProperties::default(),
        Version::V5 => AckProperties::read(&mut reader)?,
    };
    let codes = reader.rest();
    let is_empty = version == Version::V311 && frame.packet_type == PacketType::UnsubAck;
    // [MQTT-3.9.3-1] [MQTT-3.11.3-1]; 3.1.1 has no payload in UNSUBACK.
    if codes.is_empty() != is_empty {
        return Err(DecodeError::Malformed("wrong number of reason codes"));
    }
    for &code in codes {
        // 3.1.1: [MQTT-3.9.3-2]
        if version == Version::V311 && !matches!(code, 0 | 1 | 2 | 0x80) {
            return Err(DecodeError::Malformed("reserved SUBACK return code"));
        }
        reason_code(code, frame.packet_type, Side::Client)?;
    }
    Ok(SubAck {
        packet_id,
        properties,
        codes: List::wire(codes, version),
    })
}

pub(super) fn unsubscribe<'a>(
    frame: &Frame<'a>,
    version: Version,
) -> Result<Unsubscribe<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let packet_id = packet_id(&mut reader)?;
    let properties = match version {
        Version::V311 => UnsubscribeProperties::default(),
        Version::V5 => UnsubscribeProperties::read(&mut reader)?,
    };
    let filters = reader.rest();
    // [MQTT-3.10.3-2]
    if filters.is_empty() {
        return Err(DecodeError::Protocol("UNSUBSCRIBE without a filter"));
    }
    while !reader.is_empty() {
        reader.text()?;
    }
    Ok(Unsubscribe {
        packet_id,
        properties,
        filters: List::wire(filters, version),
    })
}

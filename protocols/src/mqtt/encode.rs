//! Packets to bytes.
//!
//! What [`super::decode()`] would refuse is refused here too, except for rules about who may send
//! what: the caller knows which side it is.

use bytes::BufMut;

use super::Version;
use super::codec::{Measure, Sink, Writer, varint_bytes};
use super::error::EncodeError;
use super::packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, PacketType, Publish, SubAck, Subscribe,
    Unsubscribe, Will,
};
use super::reason::ReasonCode;
use crate::model::QoS;

/// Appends a packet to `out` and returns how many bytes it has. Nothing is written with an error.
///
/// What 3.1.1 has no words for is left out: properties, and the reasons of acknowledgements and
/// DISCONNECT. Return codes of CONNACK and SUBACK are mapped. CONNECT is written in its own
/// version, whatever `version` says.
///
/// A buffer of fixed size that is too small gives [`EncodeError::TooLarge`].
pub fn encode(
    packet: &Packet<'_>,
    version: Version,
    out: &mut impl BufMut,
) -> Result<usize, EncodeError> {
    let (remaining, total) = lengths(packet, version)?;
    if out.remaining_mut() < total {
        return Err(EncodeError::TooLarge);
    }
    let mut sink = Writer(out);
    sink.byte(first_byte(packet));
    sink.varint(remaining);
    body(packet, version, &mut sink);
    Ok(total)
}

/// How many bytes [`encode()`] would write.
pub fn encoded_len(packet: &Packet<'_>, version: Version) -> Result<usize, EncodeError> {
    Ok(lengths(packet, version)?.1)
}

/// Remaining length and length of the whole packet.
fn lengths(packet: &Packet<'_>, version: Version) -> Result<(u32, usize), EncodeError> {
    let mut measure = Measure::default();
    body(packet, version, &mut measure);
    let remaining = measure.varint()?;
    let (_, header) = varint_bytes(remaining);
    Ok((remaining, 1 + header + measure.length))
}

fn first_byte(packet: &Packet<'_>) -> u8 {
    let flags = match packet {
        Packet::Publish(publish) => publish_flags(publish.dup, publish.qos, publish.retain),
        Packet::PubRel(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => 2,
        _ => 0,
    };
    (packet.packet_type() as u8) << 4 | flags
}

pub(super) const fn publish_flags(dup: bool, qos: QoS, retain: bool) -> u8 {
    (dup as u8) << 3 | (qos as u8) << 1 | retain as u8
}

fn body(packet: &Packet<'_>, version: Version, sink: &mut impl Sink) {
    match packet {
        Packet::Connect(connect) => write_connect(connect, sink),
        Packet::ConnAck(connack) => write_connack(connack, version, sink),
        Packet::Publish(publish) => write_publish(publish, version, sink),
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            write_ack(ack, packet.packet_type(), version, sink);
        }
        Packet::Subscribe(subscribe) => write_subscribe(subscribe, version, sink),
        Packet::SubAck(suback) | Packet::UnsubAck(suback) => {
            write_suback(suback, packet.packet_type(), version, sink);
        }
        Packet::Unsubscribe(unsubscribe) => write_unsubscribe(unsubscribe, version, sink),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(disconnect) => write_disconnect(disconnect, version, sink),
        Packet::Auth(auth) => write_auth(auth, version, sink),
    }
}

fn write_connect(connect: &Connect<'_>, sink: &mut impl Sink) {
    let version = connect.version;
    check_connect(connect, sink);
    sink.text("MQTT");
    sink.byte(version.level());
    let mut flags = u8::from(connect.clean_start) << 1
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.username.is_some()) << 7;
    if let Some(will) = &connect.will {
        flags |= 1 << 2 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    sink.byte(flags);
    sink.u16(connect.keep_alive_secs);
    if version == Version::V5 {
        connect.properties.write(sink);
    }
    sink.text(connect.client_id);
    if let Some(will) = &connect.will {
        write_will(will, version, sink);
    }
    if let Some(username) = connect.username {
        sink.text(username);
    }
    if let Some(password) = connect.password {
        sink.binary(password);
    }
}

fn check_connect(connect: &Connect<'_>, sink: &mut impl Sink) {
    let properties = &connect.properties;
    match connect.version {
        Version::V311 if connect.password.is_some() && connect.username.is_none() => {
            sink.fail(EncodeError::NotInVersion("a password without a user name"));
        }
        Version::V311 if connect.client_id.is_empty() && !connect.clean_start => {
            sink.fail(EncodeError::NotInVersion(
                "no client identifier without a clean session",
            ));
        }
        Version::V5
            if properties.authentication_data.is_some()
                && properties.authentication_method.is_none() =>
        {
            sink.fail(EncodeError::Invalid("authentication data without a method"));
        }
        _ => {}
    }
}

fn write_will(will: &Will<'_>, version: Version, sink: &mut impl Sink) {
    if will.topic.is_empty() {
        sink.fail(EncodeError::Invalid("the will topic is empty"));
    }
    if version == Version::V5 {
        will.properties.write(sink);
    }
    write_topic(will.topic, sink);
    sink.binary(will.payload);
}

fn write_topic(topic: &str, sink: &mut impl Sink) {
    if memchr::memchr2(b'+', b'#', topic.as_bytes()).is_some() {
        sink.fail(EncodeError::Invalid("a topic name contains a wildcard"));
    }
    sink.text(topic);
}

fn write_connack(connack: &ConnAck<'_>, version: Version, sink: &mut impl Sink) {
    if connack.session_present && connack.reason.is_error() {
        sink.fail(EncodeError::Invalid("session present with a refusal"));
    }
    sink.byte(u8::from(connack.session_present));
    match version {
        Version::V311 => {
            let code = connack.reason.connack_v3().unwrap_or_else(|| {
                sink.fail(EncodeError::NotInVersion("no return code for this reason"));
                0
            });
            sink.byte(code);
        }
        Version::V5 => {
            write_reason(connack.reason, PacketType::ConnAck, sink);
            connack.properties.write(sink);
        }
    }
}

fn write_reason(reason: ReasonCode, packet: PacketType, sink: &mut impl Sink) {
    if !reason.is_in(packet) {
        sink.fail(EncodeError::Invalid(
            "the reason code is not allowed in this packet",
        ));
    }
    sink.byte(reason.as_u8());
}

fn write_publish(publish: &Publish<'_>, version: Version, sink: &mut impl Sink) {
    if publish.packet_id.is_some() != (publish.qos != QoS::AtMostOnce) {
        sink.fail(EncodeError::Invalid(
            "a packet identifier belongs to QoS 1 and 2 exactly",
        ));
    }
    if publish.dup && publish.qos == QoS::AtMostOnce {
        sink.fail(EncodeError::Invalid("DUP is set at QoS 0"));
    }
    let has_alias = version == Version::V5 && publish.properties.topic_alias.is_some();
    if publish.topic.is_empty() && !has_alias {
        sink.fail(EncodeError::Invalid("neither topic name nor topic alias"));
    }
    write_topic(publish.topic, sink);
    if let Some(id) = publish.packet_id {
        sink.u16(id.get());
    }
    if version == Version::V5 {
        publish.properties.write(sink);
    }
    sink.slice(publish.payload);
}

fn write_ack(ack: &Ack<'_>, packet: PacketType, version: Version, sink: &mut impl Sink) {
    sink.u16(ack.packet_id.get());
    let has_properties = !ack.properties.is_empty();
    if version == Version::V5 && (has_properties || ack.reason != ReasonCode::Success) {
        write_reason(ack.reason, packet, sink);
        if has_properties {
            ack.properties.write(sink);
        }
    }
}

fn write_subscribe(subscribe: &Subscribe<'_>, version: Version, sink: &mut impl Sink) {
    if subscribe.filters.is_empty() {
        sink.fail(EncodeError::Invalid("SUBSCRIBE without a filter"));
    }
    sink.u16(subscribe.packet_id.get());
    if version == Version::V5 {
        subscribe.properties.write(sink);
    }
    for subscription in &subscribe.filters {
        if version == Version::V5 && subscription.no_local && subscription.is_shared() {
            sink.fail(EncodeError::Invalid("no local on a shared subscription"));
        }
        subscription.write(version, sink);
    }
}

fn write_suback(suback: &SubAck<'_>, packet: PacketType, version: Version, sink: &mut impl Sink) {
    sink.u16(suback.packet_id.get());
    let has_payload = version == Version::V5 || packet == PacketType::SubAck;
    if has_payload && suback.codes.is_empty() {
        sink.fail(EncodeError::Invalid("no reason codes"));
    }
    match version {
        Version::V311 if has_payload => {
            for code in &suback.codes {
                sink.byte(code.suback_v3());
            }
        }
        Version::V311 => {}
        Version::V5 => {
            suback.properties.write(sink);
            for code in &suback.codes {
                write_reason(code, packet, sink);
            }
        }
    }
}

fn write_unsubscribe(unsubscribe: &Unsubscribe<'_>, version: Version, sink: &mut impl Sink) {
    if unsubscribe.filters.is_empty() {
        sink.fail(EncodeError::Invalid("UNSUBSCRIBE without a filter"));
    }
    sink.u16(unsubscribe.packet_id.get());
    if version == Version::V5 {
        unsubscribe.properties.write(sink);
    }
    for filter in &unsubscribe.filters {
        sink.text(filter);
    }
}

fn write_disconnect(disconnect: &Disconnect<'_>, version: Version, sink: &mut impl Sink) {
    let has_properties = !disconnect.properties.is_empty();
    if version == Version::V5 && (has_properties || disconnect.reason != ReasonCode::Success) {
        write_reason(disconnect.reason, PacketType::Disconnect, sink);
        if has_properties {
            disconnect.properties.write(sink);
        }
    }
}

fn write_auth(auth: &Auth<'_>, version: Version, sink: &mut impl Sink) {
    if version == Version::V311 {
        return sink.fail(EncodeError::NotInVersion("AUTH"));
    }
    if auth.properties.is_empty() && auth.reason == ReasonCode::Success {
        return;
    }
    if auth.properties.authentication_method.is_none() {
        sink.fail(EncodeError::Invalid("AUTH without a method"));
    }
    write_reason(auth.reason, PacketType::Auth, sink);
    auth.properties.write(sink);
}

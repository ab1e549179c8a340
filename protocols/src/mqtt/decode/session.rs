//! The packets that begin and end a connection: CONNECT, CONNACK, DISCONNECT, AUTH.

use super::{Frame, reason_code, topic};
use crate::model::QoS;
use crate::mqtt::codec::Reader;
use crate::mqtt::error::DecodeError;
use crate::mqtt::packet::{Auth, ConnAck, Connect, Disconnect, Will};
use crate::mqtt::properties::{
    AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties, WillProperties,
};
use crate::mqtt::reason::ReasonCode;
use crate::mqtt::{Side, Version};

/// The flags of CONNECT `[MQTT-3.1.2.3]`.
#[derive(Clone, Copy)]
struct ConnectFlags {
    username: bool,
    password: bool,
    will: Option<(QoS, bool)>,
    clean_start: bool,
}

impl ConnectFlags {
    fn parse(flags: u8, version: Version) -> Result<Self, DecodeError> {
        // [MQTT-3.1.2-3]
        if flags & 1 != 0 {
            return Err(DecodeError::Malformed("the reserved connect flag is set"));
        }
        let (will_qos, will_retain) = ((flags >> 3) & 0b11, flags & 0b10_0000 != 0);
        let will = if flags & 0b100 != 0 {
            // [MQTT-3.1.2-12], 3.1.1: [MQTT-3.1.2-14]
            let qos = QoS::from_u8(will_qos).ok_or(DecodeError::Malformed("will QoS 3"))?;
            Some((qos, will_retain))
        } else if will_qos != 0 || will_retain {
            // [MQTT-3.1.2-11] [MQTT-3.1.2-13], 3.1.1: [MQTT-3.1.2-13] [MQTT-3.1.2-15]
            return Err(DecodeError::Malformed("will flags without a will"));
        } else {
            None
        };
        let flags = Self {
            username: flags & 0b1000_0000 != 0,
            password: flags & 0b0100_0000 != 0,
            will,
            clean_start: flags & 0b10 != 0,
        };
        // 3.1.1: [MQTT-3.1.2-22]
        if version == Version::V311 && flags.password && !flags.username {
            return Err(DecodeError::Malformed("a password without a user name"));
        }
        Ok(flags)
    }
}

/// Protocol name and level `[MQTT-3.1.2-1]` `[MQTT-3.1.2-2]`.
fn protocol(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::NotMqtt);
    }
    match reader.byte()? {
        4 if name == b"MQTT" => Ok(Version::V311),
        5 if name == b"MQTT" => Ok(Version::V5),
        level => Err(DecodeError::UnsupportedVersion { level }),
    }
}

pub(super) fn connect<'a>(frame: &Frame<'a>) -> Result<Connect<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let version = protocol(&mut reader)?;
    if version == Version::V5 {
        frame.check_minimal()?;
    }
    let flags = ConnectFlags::parse(reader.byte()?, version)?;
    let keep_alive_secs = reader.u16()?;
    let properties = match version {
        Version::V311 => ConnectProperties::default(),
        Version::V5 => ConnectProperties::read(&mut reader)?,
    };
    // Section 3.1.2.11.10.
    if properties.authentication_data.is_some() && properties.authentication_method.is_none() {
        return Err(DecodeError::Protocol(
            "authentication data without a method",
        ));
    }
    let client_id = reader.text()?;
    let will = match flags.will {
        None => None,
        Some((qos, retain)) => Some(will(&mut reader, version, qos, retain)?),
    };
    let username = flags.username.then(|| reader.text()).transpose()?;
    let password = flags.password.then(|| reader.binary()).transpose()?;
    reader.finish()?;
    // 3.1.1: [MQTT-3.1.3-7] [MQTT-3.1.3-8]
    if version == Version::V311 && client_id.is_empty() && !flags.clean_start {
        return Err(DecodeError::ClientId("empty without a clean session"));
    }
    Ok(Connect {
        version,
        clean_start: flags.clean_start,
        keep_alive_secs,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

fn will<'a>(
    reader: &mut Reader<'a>,
    version: Version,
    qos: QoS,
    retain: bool,
) -> Result<Will<'a>, DecodeError> {
    let properties = match version {
        Version::V311 => WillProperties::default(),
        Version::V5 => WillProperties::read(reader)?,
    };
    let topic = topic(reader)?;
    if topic.is_empty() {
        return Err(DecodeError::TopicName("the will topic is empty"));
    }
    Ok(Will {
        topic,
        payload: reader.binary()?,
        qos,
        retain,
        properties,
    })
}

pub(super) fn connack<'a>(frame: &Frame<'a>, version: Version) -> Result<ConnAck<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let flags = reader.byte()?;
    // [MQTT-3.2.2-1]
    if flags > 1 {
        return Err(DecodeError::Malformed("reserved CONNACK flags are set"));
    }
    let code = reader.byte()?;
    let (reason, properties) = match version {
        Version::V311 => (
            ReasonCode::from_connack_v3(code)
                .ok_or(DecodeError::Malformed("unknown return code"))?,
            ConnAckProperties::default(),
        ),
        Version::V5 => (
            reason_code(code, frame.packet_type, Side::Client)?,
            ConnAckProperties::read(&mut reader)?,
        ),
    };
    reader.finish()?;
    // [MQTT-3.2.2-6], 3.1.1: [MQTT-3.2.2-4]
    if flags == 1 && reason.is_error() {
        return Err(DecodeError::Protocol("session present with a refusal"));
    }
    Ok(ConnAck {
        session_present: flags == 1,
        reason,
        properties,
    })
}

pub(super) fn disconnect<'a>(
    frame: &Frame<'a>,
    version: Version,
    side: Side,
) -> Result<Disconnect<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    let mut disconnect = Disconnect::new(ReasonCode::Success);
    // Both may be left out: sections 3.14.2.1 and 3.14.2.2.1.
    if version == Version::V5 && !reader.is_empty() {
        disconnect.reason = reason_code(reader.byte()?, frame.packet_type, side)?;
        if !reader.is_empty() {
            disconnect.properties = DisconnectProperties::read(&mut reader)?;
        }
    }
    reader.finish()?;
    // [MQTT-3.14.2-2]
    if side == Side::Client && disconnect.properties.session_expiry_secs.is_some() {
        return Err(DecodeError::Protocol(
            "a server must not send a session expiry in DISCONNECT",
        ));
    }
    Ok(disconnect)
}

pub(super) fn auth<'a>(frame: &Frame<'a>, side: Side) -> Result<Auth<'a>, DecodeError> {
    let mut reader = Reader::new(frame.body);
    // Nothing at all is success without properties: section 3.15.2.1.
    let code = if reader.is_empty() { 0 } else { reader.byte()? };
    let reason = reason_code(code, frame.packet_type, side)?;
    let mut properties = AuthProperties::default();
    if !frame.body.is_empty() {
        properties = AuthProperties::read(&mut reader)?;
        // Section 3.15.2.2.2.
        if properties.authentication_method.is_none() {
            return Err(DecodeError::Protocol("AUTH without a method"));
        }
    }
    reader.finish()?;
    Ok(Auth { reason, properties })
}

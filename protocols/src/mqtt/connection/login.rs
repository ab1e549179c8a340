//! CONNECT to a login, the broker's answer to CONNACK `[MQTT-3.1]` `[MQTT-3.2]`.
//!
//! What the limits alone decide is refused here; who the client is and which session it gets is
//! the broker's.

use std::borrow::Cow;
use std::num::{NonZeroU16, NonZeroU32};

use bytestring::ByteString;

use super::alias::{Aliases, AliasesIn, AliasesOut};
use super::publish::{Region, check_payload, check_user_properties, user_properties};
use super::{Client, Phase, auth, reason, reason_string};
use crate::connection::{
    Cause, Command, Connect as Login, Connected, Output, Overlap, Refusal, Will as LastWill,
    parse_topic,
};
use crate::model::{Message, Properties, QoS, Timestamp};
use crate::mqtt::packet::{ConnAck, Connect, Will};
use crate::mqtt::properties::ConnAckProperties;
use crate::mqtt::{
    DecodeError, Decoded, Packet, ReasonCode, Version, decode_connect, offered_version,
};
use crate::outbox::{FrameType, Outbox};

/// The first byte of CONNECT, reserved bits included.
const CONNECT: u8 = 0x10;

/// What CONNACK is to say if the broker agrees.
#[derive(Debug)]
pub(super) struct Asked {
    /// Set if it is not what the client asked for `[MQTT-3.2.2.3.2]`.
    session_expiry_secs: Option<u32>,
    /// Set if it is not what the client asked for `[MQTT-3.1.2-21]`.
    server_keep_alive_secs: Option<u16>,
    response_information: bool,
}

/// Why the client is not let in.
pub(super) struct Refused {
    code: ReasonCode,
    cause: Cause,
    detail: Cow<'static, str>,
}

impl Refused {
    pub(super) fn new(code: ReasonCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            cause: Cause::Refused,
            detail: detail.into(),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: reason::connack(refusal.code),
            cause: refusal.code.login_cause(),
            detail: refusal.detail,
        }
    }
}

impl Client {
    /// Bytes before the login: CONNECT or the end `[MQTT-3.1.0-1]`.
    pub(super) fn receive_connect(&mut self, input: &[u8], out: &mut Output<'_>) -> usize {
        match input.first() {
            None => return 0,
            // Known before the length is: nobody waits for a body that was only claimed.
            Some(&first) if first != CONNECT => {
                out.end(Cause::ProtocolError, "the first packet is not CONNECT");
                self.phase = Phase::Over;
                return input.len();
            }
            Some(_) => {}
        }
        let max = self.limits.packet_bytes_before_login;
        match decode_connect(input, max.min(self.limits.packet_bytes)) {
            Ok(Decoded::NeedMore { .. }) => 0,
            Ok(Decoded::Packet { packet, consumed }) => {
                if let Err(refused) = self.handle_connect(&packet, out) {
                    self.refuse(&refused, out);
                }
                consumed
            }
            Err(error) => {
                self.refuse_bytes(error, input, out);
                input.len()
            }
        }
    }

    /// A CONNECT that cannot be read is answered if the client's version can be
    /// `[MQTT-3.1.2-2]` `[MQTT-3.1.4-1]`.
    fn refuse_bytes(&mut self, error: DecodeError, input: &[u8], out: &mut Output<'_>) {
        let version = match error {
            DecodeError::NotMqtt => None,
            _ => error.answer_version().or_else(|| offered_version(input)),
        };
        let code = error.reason();
        let detail = error.to_string();
        if let Some(version) = version {
            self.version = version;
            self.put_refusal(code, &detail, out.outbox);
        }
        let cause = match error {
            DecodeError::NotMqtt => Cause::Malformed,
            DecodeError::UnsupportedVersion { .. } | DecodeError::ClientId(_) => Cause::Refused,
            _ => reason::cause_of(code),
        };
        out.end(cause, detail);
        self.phase = Phase::Over;
    }

    fn handle_connect(
        &mut self,
        connect: &Connect<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), Refused> {
        self.take_terms(connect);
        self.check_connect(connect)?;
        let will = match &connect.will {
            Some(will) => Some(Box::new(self.will(will)?)),
            None => None,
        };
        let (session_expiry_secs, asked_expiry) = self.session_expiry(connect);
        let keep_alive_secs = self.keep_alive(connect.keep_alive_secs);
        self.silence_ms = u32::from(keep_alive_secs) * 1500;
        self.session_ends = asked_expiry == 0;
        let asked = Box::new(Asked {
            session_expiry_secs: (session_expiry_secs != asked_expiry)
                .then_some(session_expiry_secs),
            server_keep_alive_secs: (keep_alive_secs != connect.keep_alive_secs)
                .then_some(keep_alive_secs),
            response_information: connect.properties.request_response_information == Some(true),
        });
        let login = Box::new(Login {
            protocol: connect.version.as_str(),
            client_id: (!connect.client_id.is_empty()).then(|| connect.client_id.into()),
            clean_start: connect.clean_start,
            session_expiry_secs,
            keep_alive_secs,
            username: connect.username.map(ByteString::from),
            password: connect.password.map(bytes::Bytes::copy_from_slice),
            token: auth::token(connect),
            host: None,
            will,
            in_flight: self.in_flight(connect),
            overlap: Overlap::Merge,
            auto_subscribe: false,
        });
        if self.enhanced && login.token.is_none() {
            self.challenge(login, asked, out);
        } else {
            self.ask(login, asked, out);
        }
        Ok(())
    }

    /// Leaves it to the broker whether the client is let in.
    pub(super) fn ask(&mut self, login: Box<Login>, asked: Box<Asked>, out: &mut Output<'_>) {
        self.phase = Phase::Asked(asked);
        out.commands.push(Command::Connect(login));
    }

    /// What the client says about the packets that it takes; holds for refusals too.
    fn take_terms(&mut self, connect: &Connect<'_>) {
        let properties = &connect.properties;
        self.version = connect.version;
        self.enhanced = properties.authentication_method == Some(auth::METHOD);
        self.problem_information = properties.request_problem_information != Some(false);
        self.packet_max = properties
            .maximum_packet_size
            .map_or(u32::MAX, std::num::NonZero::get);
        let aliases = properties
            .topic_alias_maximum
            .unwrap_or(0)
            .min(self.limits.topic_alias_maximum_out);
        self.aliases = (aliases > 0).then(|| {
            Box::new(Aliases {
                incoming: AliasesIn::default(),
                outgoing: Some(AliasesOut::new(aliases)),
            })
        });
    }

    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), Refused> {
        // [MQTT-4.12.0-1]
        if connect
            .properties
            .authentication_method
            .is_some_and(|method| method != auth::METHOD)
        {
            return Err(Refused::new(
                ReasonCode::BadAuthenticationMethod,
                "the only method of enhanced authentication is jwt",
            ));
        }
        // [MQTT-3.1.3-8] in 3.1.1; version 5 gives a name to any client [MQTT-3.1.3-6].
        if connect.client_id.is_empty() && connect.version == Version::V311 && !connect.clean_start
        {
            return Err(Refused::new(
                ReasonCode::ClientIdentifierNotValid,
                "a session that is kept needs a client identifier",
            ));
        }
        if connect.client_id.len() > self.limits.client_id_bytes {
            return Err(Refused::new(
                ReasonCode::ClientIdentifierNotValid,
                "the client identifier is too long",
            ));
        }
        check_user_properties(connect.properties.user.iter(), &self.limits)?;
        Ok(())
    }

    /// `[MQTT-3.1.2.5]`
    fn will(&self, will: &Will<'_>) -> Result<LastWill, Refused> {
        if will.qos > self.limits.maximum_qos {
            // [MQTT-3.2.2-12]
            return Err(Refused::new(
                ReasonCode::QoSNotSupported,
                "the will's QoS is above the maximum QoS",
            ));
        }
        if will.retain && !self.limits.retain_available {
            // [MQTT-3.2.2-13]
            return Err(Refused::new(
                ReasonCode::RetainNotSupported,
                "the will is retained, retained messages are not available",
            ));
        }
        let topic = parse_topic(will.topic.into(), &self.limits)
            .map_err(|error| Refused::new(ReasonCode::TopicNameInvalid, error.to_string()))?;
        let properties = &will.properties;
        check_payload(properties.payload_format, will.payload)?;
        let region = Region::apart();
        let mut message = Message::new(topic, region.bytes(will.payload), will.qos, will.retain);
        let carried = Properties {
            content_type: properties.content_type.map(ByteString::from),
            reply_to: properties.response_topic.map(ByteString::from),
            correlation: properties.correlation_data.map(|data| region.bytes(data)),
            user: user_properties(properties.user.iter(), &region, &self.limits)?,
        };
        message.payload_format = properties.payload_format;
        message.properties = (!carried.is_empty()).then(|| Box::new(carried));
        Ok(LastWill {
            message,
            delay_secs: properties.delay_secs.unwrap_or(0),
            expiry_secs: properties.message_expiry_secs,
        })
    }

    /// The session expiry that is granted and the one that was asked for.
    fn session_expiry(&self, connect: &Connect<'_>) -> (u32, u32) {
        let asked = match connect.version {
            Version::V5 => connect.properties.session_expiry_secs.unwrap_or(0),
            Version::V311 if connect.clean_start => 0,
            Version::V311 => self.limits.session_expiry_v3_secs,
        };
        (asked.min(self.limits.session_expiry_max_secs), asked)
    }

    /// Seconds of keep alive that hold. In 3.1.1 the client is not told of another one: it finds
    /// out if it is silent for longer than the longest one allowed.
    fn keep_alive(&self, asked: u16) -> u16 {
        let max = self.limits.keep_alive_max_secs;
        if max > 0 && (asked == 0 || asked > max) {
            max
        } else {
            asked
        }
    }

    fn in_flight(&self, connect: &Connect<'_>) -> u16 {
        match connect.properties.receive_maximum {
            Some(asked) => asked.get().min(self.limits.in_flight_max),
            None => self.limits.mqtt_in_flight,
        }
    }

    pub(super) fn handle_connected(
        &mut self,
        connected: &Connected,
        now: Timestamp,
        out: &mut Output<'_>,
    ) {
        let Phase::Asked(asked) = std::mem::replace(&mut self.phase, Phase::Online) else {
            return;
        };
        self.heard = now;
        let information = asked
            .response_information
            .then(|| response_information(&connected.client_id))
            .flatten();
        let packet = Packet::ConnAck(Box::new(ConnAck {
            session_present: connected.session_present,
            reason: ReasonCode::Success,
            properties: self.announce(&asked, connected, information.as_deref()),
        }));
        if !self.put(&packet, out.outbox) {
            out.end(
                Cause::TooLarge,
                "CONNACK is larger than the client's maximum packet size",
            );
            self.phase = Phase::Over;
        }
    }

    /// What is not as the client would assume `[MQTT-3.2.2.3]`.
    fn announce<'a>(
        &self,
        asked: &Asked,
        connected: &'a Connected,
        information: Option<&'a str>,
    ) -> ConnAckProperties<'a> {
        if self.version == Version::V311 {
            return ConnAckProperties::default();
        }
        let limits = &*self.limits;
        let packet_bytes = u32::try_from(limits.packet_bytes).unwrap_or(u32::MAX);
        ConnAckProperties {
            session_expiry_secs: asked.session_expiry_secs,
            receive_maximum: NonZeroU16::new(limits.receive_maximum)
                .filter(|maximum| *maximum < NonZeroU16::MAX),
            maximum_qos: Some(limits.maximum_qos).filter(|qos| *qos < QoS::ExactlyOnce),
            retain_available: (!limits.retain_available).then_some(false),
            maximum_packet_size: NonZeroU32::new(packet_bytes),
            assigned_client_identifier: connected.assigned.then_some(&*connected.client_id),
            topic_alias_maximum: Some(limits.topic_alias_maximum).filter(|maximum| *maximum > 0),
            server_keep_alive_secs: asked.server_keep_alive_secs,
            response_information: information,
            // Section 4.12: what CONNECT named, CONNACK names too.
            authentication_method: self.enhanced.then_some(auth::METHOD),
            ..ConnAckProperties::default()
        }
    }

    pub(super) fn handle_refused(&mut self, refusal: Refusal, out: &mut Output<'_>) {
        self.refuse(&refusal.into(), out);
    }

    pub(super) fn refuse(&mut self, refused: &Refused, out: &mut Output<'_>) {
        self.put_refusal(refused.code, &refused.detail, out.outbox);
        out.end(refused.cause, refused.detail.clone());
        self.phase = Phase::Over;
    }

    /// CONNACK that says no; the connection is closed behind it `[MQTT-3.2.2-7]`. Nothing in
    /// 3.1.1 where it has no code `[MQTT-3.2.2-6]`.
    pub(super) fn put_refusal(&self, code: ReasonCode, detail: &str, outbox: &mut Outbox) {
        if self.version == Version::V311 {
            if let Some(code) = code.connack_v3() {
                outbox.frame(FrameType::Binary, &[&[0x20, 2, 0, code]]);
            }
            return;
        }
        let refusal = |reason_string| {
            Packet::ConnAck(Box::new(ConnAck {
                session_present: false,
                reason: code,
                properties: ConnAckProperties {
                    reason_string,
                    ..ConnAckProperties::default()
                },
            }))
        };
        if !self.put(&refusal(reason_string(detail)), outbox) {
            self.put(&refusal(None), outbox);
        }
    }
}

/// Where a client that asks for it may expect answers `[MQTT-3.2.2.3.15]`: `$reply/{client id}`,
/// to be followed by levels of its own. Nothing for a name that would not be one level.
fn response_information(client_id: &str) -> Option<String> {
    let plain = !client_id.contains(['/', '+', '#', '\0']);
    plain.then(|| format!("$reply/{client_id}"))
}

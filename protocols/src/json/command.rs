//! What frames mean: from what a client wrote to what the broker is asked.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use super::content::{Content, Data, Expiry};
use super::error::{ErrorCode, FrameError};
use super::frame::{ConnectRequest, Options, PublishRequest, Target};
use super::message::APPLICATION_JSON;
use super::plain::Plain;
use crate::connection::{
    Connect, Lane, Overlap, Publish, Refusal, RefusalCode, RetainHandling, Secret,
    SubscribeRequest, parse_filter, parse_topic, topics,
};
use crate::last_topic::LastTopic;
use crate::limits::Limits;
use crate::model::{Kind, Message, PayloadFormat, Properties, QoS, Timestamp, Topic};

/// Longest `idempotencyKey` in bytes.
const IDEMPOTENCY_KEY_BYTES: usize = 256;

/// Payloads below this share one allocation with their topic. Above, a topic that someone keeps
/// (an index, a cache) must not keep the payload with it.
const SHARE_WITH_TOPIC_BYTES: usize = 1024;

/// The login that a `connect` frame asks for. A frame without any field logs in anonymously.
pub(super) fn connect(request: ConnectRequest<'_>, limits: &Limits) -> Result<Connect, FrameError> {
    let client_id = request.client_id.filter(|id| !id.is_empty());
    if let Some(id) = &client_id {
        check_client_id(id, limits)?;
    }
    if request.token.is_some() && request.password.is_some() {
        let detail = "\"token\" and \"password\" exclude each other";
        return Err(FrameError::invalid(detail));
    }
    let secret = |text: Option<Cow<'_, str>>| text.map(|text| Bytes::from(text.into_owned()));
    let expiry_secs = request.session_expiry_secs.unwrap_or(0);
    let in_flight = match request.in_flight {
        None => limits.in_flight,
        Some(0) => return Err(FrameError::invalid("\"inFlight\" must be at least 1")),
        Some(wanted) => u16::try_from(wanted)
            .unwrap_or(u16::MAX)
            .min(limits.in_flight_max),
    };
    let silence_ms = limits.json_ping_ms.saturating_add(limits.json_pong_ms);
    Ok(Connect {
        protocol: "json 1",
        client_id: client_id.as_deref().map(ByteString::from),
        // Who asks for a session wants to find it again.
        clean_start: request.clean_start.unwrap_or(expiry_secs == 0),
        session_expiry_secs: expiry_secs.min(limits.session_expiry_max_secs),
        keep_alive_secs: u16::try_from(silence_ms / 1000).unwrap_or(u16::MAX),
        username: request.username.as_deref().map(ByteString::from),
        password: secret(request.password),
        token: secret(request.token).map(Secret),
        host: None,
        will: None,
        in_flight: in_flight.max(1),
        overlap: Overlap::Merge,
        auto_subscribe: true,
    })
}

fn check_client_id(id: &str, limits: &Limits) -> Result<(), FrameError> {
    let wrong = |detail: String| Err(FrameError::new(ErrorCode::ClientIdInvalid, detail));
    if id.len() > limits.client_id_bytes {
        return wrong(format!(
            "\"clientId\" has more than {} bytes",
            limits.client_id_bytes
        ));
    }
    if id.contains(char::is_control) {
        return wrong("\"clientId\" contains a control character".to_owned());
    }
    Ok(())
}

/// The message that a `publish` or `broadcast` frame asks to publish; the token is the caller's.
pub(super) fn publish(
    request: PublishRequest<'_>,
    has_id: bool,
    (limits, last_topic): (&Limits, &mut LastTopic),
    now: Timestamp,
) -> Result<Publish, FrameError> {
    let qos = level(request.qos, request.retain, has_id, limits)?;
    let idempotency_key = request.idempotency_key.as_deref().map(ByteString::from);
    if idempotency_key
        .as_ref()
        .is_some_and(|key| key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES)
    {
        return Err(FrameError::invalid(format!(
            "\"idempotencyKey\" must have 1 to {IDEMPOTENCY_KEY_BYTES} bytes"
        )));
    }
    let name = target_topic(&request.target)?;
    let content = request.content;
    if let Some(reply_to) = &content.reply_to {
        topic(reply_to.as_ref().into(), "replyTo", limits)?;
    }
    let properties = properties(&content, limits)?;
    let expires_at = content.expiry.map(|expiry| match expiry {
        Expiry::In(span) => now + span,
        Expiry::At(at) => at,
    });
    let (payload_format, _) = format_of(&content.data);
    let (topic, payload) = topic_and_payload(&name, content.data, limits, last_topic)?;
    let mut message = Message::new(topic, payload, qos, request.retain);
    message.payload_format = payload_format;
    message.properties = properties.map(Box::new);
    message.expires_at = expires_at;
    Ok(Publish {
        token: None,
        exactly_once: None,
        idempotency_key,
        message: Arc::new(message),
    })
}

/// The same for the commonest frame.
pub(super) fn publish_plain(
    request: Plain<'_>,
    limits: &Limits,
    last_topic: &mut LastTopic,
) -> Result<Publish, FrameError> {
    let qos = level(request.qos, request.retain, request.id.is_some(), limits)?;
    let (payload_format, content_type) = format_of(&request.data);
    let (topic, payload) = topic_and_payload(request.topic, request.data, limits, last_topic)?;
    let mut message = Message::new(topic, payload, qos, request.retain);
    message.payload_format = payload_format;
    message.properties = content_type.map(|text| {
        Box::new(Properties {
            content_type: Some(ByteString::from_static(text)),
            ..Properties::default()
        })
    });
    Ok(Publish {
        token: None,
        exactly_once: None,
        idempotency_key: None,
        message: Arc::new(message),
    })
}

/// The quality of service of a publish, if the broker takes what is asked for.
fn level(
    asked: Option<u8>,
    retain: bool,
    has_id: bool,
    limits: &Limits,
) -> Result<QoS, FrameError> {
    let highest = limits.maximum_qos.min(QoS::AtLeastOnce);
    let qos = match asked {
        None if has_id => highest,
        None | Some(0) => QoS::AtMostOnce,
        Some(_) => QoS::AtLeastOnce,
    };
    if qos > highest {
        return Err(not_supported("this broker does not take \"qos\" 1"));
    }
    if retain && !limits.retain_available {
        return Err(not_supported("this broker does not keep retained messages"));
    }
    Ok(qos)
}

fn not_supported(detail: &'static str) -> FrameError {
    FrameError::new(ErrorCode::NotSupported, detail)
}

/// The topic that a message for this target is published on.
fn target_topic<'a>(target: &'a Target<'a>) -> Result<Cow<'a, str>, FrameError> {
    match target {
        Target::Topic(topic) => Ok(Cow::Borrowed(topic)),
        Target::Group(group) => group_topic(group).map(Cow::Owned),
        Target::User { user, topic } => {
            check_level("user", user)?;
            Ok(Cow::Owned(match topic {
                None => format!("{}{user}", topics::USER),
                Some(topic) => format!("{}{user}/{topic}", topics::USER),
            }))
        }
        Target::Everyone => Ok(Cow::Borrowed(topics::BROADCAST)),
    }
}

/// The topic of a group.
pub(super) fn group_topic(group: &str) -> Result<String, FrameError> {
    check_level("group", group)?;
    Ok(format!("{}{group}", topics::GROUP))
}

/// A name that is one level of a topic: anything else would reach other groups or users.
fn check_level(name: &str, level: &str) -> Result<(), FrameError> {
    if level.is_empty() || level.contains(['/', '+', '#', '\0']) {
        let detail = format!("\"{name}\" must not be empty and not contain / + # or NUL");
        return Err(FrameError::new(ErrorCode::TopicInvalid, detail));
    }
    Ok(())
}

fn topic_and_payload(
    name: &str,
    data: Data<'_>,
    limits: &Limits,
    last_topic: &mut LastTopic,
) -> Result<(Topic, Bytes), FrameError> {
    if let Some(topic) = last_topic.get(name) {
        return Ok((topic, payload(data)));
    }
    if last_topic.is_again(name) {
        let topic = topic(name.into(), "topic", limits)?;
        last_topic.keep(&topic);
        return Ok((topic, payload(data)));
    }
    let (name, payload) = allocate(name, data);
    Ok((topic(name, "topic", limits)?, payload))
}

fn topic(name: ByteString, field: &str, limits: &Limits) -> Result<Topic, FrameError> {
    parse_topic(name, limits).map_err(|error| {
        let detail = format!("\"{field}\" is not a topic: {error}");
        FrameError::new(ErrorCode::TopicInvalid, detail)
    })
}

/// Topic and payload, small ones in one piece of memory.
fn allocate(name: &str, data: Data<'_>) -> (ByteString, Bytes) {
    if let Data::Json(Cow::Borrowed(_)) | Data::Text(Cow::Borrowed(_)) = data
        && data.as_bytes().len() < SHARE_WITH_TOPIC_BYTES
    {
        let both = Bytes::from([name.as_bytes(), data.as_bytes()].concat());
        let head = ByteString::try_from(both.slice(..name.len()));
        let payload = both.slice(name.len()..);
        return (head.unwrap_or_else(|_| name.into()), payload);
    }
    (ByteString::from(name), payload(data))
}

fn payload(data: Data<'_>) -> Bytes {
    match data {
        Data::Json(Cow::Owned(text)) | Data::Text(Cow::Owned(text)) => Bytes::from(text),
        Data::Binary(Cow::Owned(bytes)) => Bytes::from(bytes),
        borrowed => Bytes::copy_from_slice(borrowed.as_bytes()),
    }
}

fn properties(content: &Content<'_>, limits: &Limits) -> Result<Option<Properties>, FrameError> {
    let header_bytes: usize = content
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if header_bytes > limits.user_property_bytes {
        let detail = format!(
            "headers of {header_bytes} bytes, at most {} are allowed",
            limits.user_property_bytes
        );
        return Err(FrameError::new(ErrorCode::TooLarge, detail));
    }
    let (_, implied) = format_of(&content.data);
    let properties = Properties {
        content_type: match content.content_type.as_deref() {
            Some(said) => Some(said.into()),
            None => implied.map(ByteString::from_static),
        },
        reply_to: content.reply_to.as_deref().map(Into::into),
        correlation: content
            .correlation
            .as_ref()
            .map(|bytes| Bytes::copy_from_slice(bytes)),
        user: content
            .headers
            .iter()
            .map(|(name, value)| (name.as_ref().into(), value.as_ref().into()))
            .collect(),
    };
    Ok((!properties.is_empty()).then_some(properties))
}

/// What other protocols learn of the payload: the payload format and the content type that it has
/// unless the client names one.
const fn format_of(data: &Data<'_>) -> (Option<PayloadFormat>, Option<&'static str>) {
    match data {
        Data::Json(_) => (Some(PayloadFormat::Utf8), Some(APPLICATION_JSON)),
        Data::Text(_) => (Some(PayloadFormat::Utf8), None),
        Data::Binary(_) => (None, Some("application/octet-stream")),
    }
}

/// The subscriptions that a `subscribe` or `join` frame asks for, one for each filter.
pub(super) fn subscriptions<'a>(
    filters: impl IntoIterator<Item = &'a str>,
    share: Option<&str>,
    options: Options,
    limits: &Limits,
) -> SmallVec<[Result<SubscribeRequest, Refusal>; 1]> {
    filters
        .into_iter()
        .map(|filter| subscription(filter, share, options, limits))
        .collect()
}

fn subscription(
    filter: &str,
    share: Option<&str>,
    options: Options,
    limits: &Limits,
) -> Result<SubscribeRequest, Refusal> {
    let invalid = |detail: String| Refusal::new(RefusalCode::FilterInvalid, detail);
    if share.is_some_and(|share| check_level("share", share).is_err()) {
        let detail = "\"share\" must not be empty and not contain / + # or NUL";
        return Err(invalid(detail.to_owned()));
    }
    let key = key(filter, share);
    let filter = parse_filter(key.clone(), limits)
        .map_err(|error| invalid(format!("not a topic filter: {error}")))?;
    if options.no_local && matches!(filter.kind(), Kind::Shared { .. }) {
        let detail = "\"noLocal\" has no meaning where others share the messages";
        return Err(invalid(detail.to_owned()));
    }
    Ok(SubscribeRequest {
        key,
        filter,
        qos: QoS::from_u8(options.qos)
            .unwrap_or_default()
            .min(limits.maximum_qos),
        no_local: options.no_local,
        retain_as_published: false,
        retain_handling: if limits.retain_available {
            options.retained
        } else {
            RetainHandling::DoNotSend
        },
        identifier: None,
        lane: Lane::Session,
        auto_settle: false,
        durable: true,
    })
}

/// What names a subscription in its session.
pub(super) fn key(filter: &str, share: Option<&str>) -> ByteString {
    match share {
        None => filter.into(),
        Some(share) => format!("$share/{share}/{filter}").into(),
    }
}

//! The frames that answer a client's requests.

use super::connection::UNANSWERED_MAX;
use super::error::{ErrorCode, FrameError};
use super::fields::ID_BYTES;
use super::frame::{Id, write_session};
use super::write::Object;
use crate::connection::{Connected, Granted, Refusal, RefusalCode};
use crate::limits::Limits;
use crate::model::{QoS, Timestamp};
use crate::outbox::{FrameType, Outbox};

/// What a request was about, as far as its answer repeats it.
#[derive(Debug)]
pub(super) enum What {
    /// Nothing to repeat.
    Nothing,
    /// Topic filters and the share that they have in common, as the client wrote them.
    Topics(Box<[Box<str>]>, Option<Box<str>>),
    /// A group.
    Group(Box<str>),
}

/// `connected`: who the client is now, and what it was granted (session expiry in seconds and
/// messages in flight).
pub(super) fn connected(
    id: Option<&Id>,
    connection_id: &str,
    connected: &Connected,
    (session_expiry_secs, in_flight): (u32, u16),
    limits: &Limits,
) -> Object {
    let mut frame = Object::frame("connected", id);
    frame
        .string("connectionId", connection_id)
        .string("clientId", &connected.client_id)
        .maybe("user", connected.user.as_deref())
        .plain("sessionPresent", connected.session_present);
    write_session(&mut frame, Some(session_expiry_secs));
    frame
        .plain("inFlight", in_flight)
        .plain("pingIntervalMs", limits.json_ping_ms)
        .plain("pongTimeoutMs", limits.json_pong_ms)
        .plain("qos", limits.maximum_qos.min(QoS::AtLeastOnce) as u8)
        .plain("retain", limits.retain_available)
        .raw("limits", &bounds(limits));
    frame
}

fn bounds(limits: &Limits) -> String {
    let mut object = Object::open("{");
    object
        .plain("frameBytes", limits.packet_bytes)
        .plain("depth", limits.json_depth)
        .plain("idBytes", ID_BYTES)
        .plain("topicBytes", limits.topic_bytes)
        .plain("topicLevels", limits.topic_levels)
        .plain("topicsPerFrame", limits.filters_per_subscribe)
        .plain("subscriptions", limits.subscriptions_per_session)
        .plain("headers", limits.user_properties)
        .plain("headerBytes", limits.user_property_bytes)
        .plain("unanswered", UNANSWERED_MAX);
    object.end()
}

/// `error`.
pub(super) fn error(error: &FrameError) -> Object {
    let mut frame = Object::frame("error", error.id.as_ref());
    explain(&mut frame, error.code, &error.detail);
    frame
}

/// Puts the answer to a publish.
pub(super) fn published(id: Option<Id>, result: Result<u32, Refusal>, outbox: &mut Outbox) {
    match result {
        Ok(receivers) => {
            let mut digits = itoa::Buffer::new();
            let (before, id) = match &id {
                Some(id) => (",\"id\":", id.as_json()),
                None => ("", ""),
            };
            let receivers = digits.format(receivers);
            let parts = [
                "{\"type\":\"ack\"",
                before,
                id,
                ",\"receivers\":",
                receivers,
                "}",
            ];
            outbox.frame(FrameType::Text, &parts.map(str::as_bytes));
        }
        Err(refusal) => send(outbox, refused(id, refusal)),
    }
}

/// Puts an answer.
pub(super) fn send(outbox: &mut Outbox, frame: Object) {
    outbox.frame(FrameType::Text, &[frame.end().as_bytes()]);
}

/// The answer to what has no result beside yes or no.
pub(super) fn done(id: Option<Id>, result: Result<(), Refusal>) -> Object {
    match result {
        Ok(()) => Object::frame("ack", id.as_ref()),
        Err(refusal) => refused(id, refusal),
    }
}

/// The answer to `refresh`: when the new token ends.
pub(super) fn refreshed(id: Option<Id>, result: Result<Option<Timestamp>, Refusal>) -> Object {
    match result {
        Ok(expires_at) => {
            let mut frame = Object::frame("ack", id.as_ref());
            if let Some(at) = expires_at {
                frame.plain("expiresAt", at.0);
            }
            frame
        }
        Err(refusal) => refused(id, refusal),
    }
}

/// The answer to `subscribe` and `join`: an error if nothing at all was granted.
pub(super) fn subscribed(
    id: Option<&Id>,
    what: &What,
    results: &[Result<Granted, Refusal>],
) -> Object {
    let all_refused = results.iter().all(Result::is_err);
    let mut frame = match results.first() {
        Some(Err(refusal)) if all_refused => {
            let mut frame = Object::frame("error", id);
            explain(&mut frame, refusal.code.into(), &refusal.detail);
            frame
        }
        _ => Object::frame("ack", id),
    };
    describe(&mut frame, what, results, |object, result| match result {
        Ok(granted) => {
            object.plain("qos", granted.qos as u8);
        }
        Err(refusal) => {
            let mut inner = Object::open("{");
            explain(&mut inner, refusal.code.into(), &refusal.detail);
            object.raw("error", &inner.end());
        }
    });
    frame
}

/// The answer to `unsubscribe` and `leave`.
pub(super) fn unsubscribed(id: Option<&Id>, what: &What, existed: &[bool]) -> Object {
    let mut frame = Object::frame("ack", id);
    describe(&mut frame, what, existed, |object, existed| {
        object.plain("existed", existed);
    });
    frame
}

/// Says for each topic, or for the group, what became of it.
fn describe<T>(frame: &mut Object, what: &What, results: &[T], write: impl Fn(&mut Object, &T)) {
    match what {
        What::Topics(topics, share) => {
            let results = topics.iter().zip(results).map(|(topic, result)| {
                let mut object = Object::open("{");
                object
                    .string("topic", topic)
                    .maybe("share", share.as_deref());
                write(&mut object, result);
                object.end()
            });
            frame.array("results", results);
        }
        What::Group(group) => {
            let mut object = Object::open("{");
            object.string("group", group);
            if let Some(result) = results.first() {
                write(&mut object, result);
            }
            frame.array("results", [object.end()]);
        }
        What::Nothing => {}
    }
}

/// The `reason` label of metrics: the word that all protocols use where there is one.
pub(super) const fn label(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Malformed => "malformed",
        ErrorCode::TooDeep => "too_deep",
        ErrorCode::InvalidFrame => "invalid_frame",
        ErrorCode::UnknownType => "unknown_type",
        ErrorCode::AlreadyConnected => "already_connected",
        ErrorCode::Internal => RefusalCode::Unspecified.as_str(),
        ErrorCode::NotSupported => RefusalCode::Implementation.as_str(),
        ErrorCode::ClientIdInvalid => RefusalCode::ClientId.as_str(),
        ErrorCode::BadCredentials => RefusalCode::BadCredentials.as_str(),
        ErrorCode::NotAuthorized => RefusalCode::NotAuthorized.as_str(),
        ErrorCode::Unavailable => RefusalCode::Unavailable.as_str(),
        ErrorCode::Busy => RefusalCode::Busy.as_str(),
        ErrorCode::Banned => RefusalCode::Banned.as_str(),
        ErrorCode::FilterInvalid => RefusalCode::FilterInvalid.as_str(),
        ErrorCode::TopicInvalid => RefusalCode::TopicInvalid.as_str(),
        ErrorCode::TooLarge => RefusalCode::TooLarge.as_str(),
        ErrorCode::QuotaExceeded => RefusalCode::Quota.as_str(),
        ErrorCode::PayloadInvalid => RefusalCode::PayloadFormat.as_str(),
        ErrorCode::RateExceeded => RefusalCode::Rate.as_str(),
        ErrorCode::UnknownMessage => RefusalCode::Unknown.as_str(),
    }
}

fn refused(id: Option<Id>, refusal: Refusal) -> Object {
    error(&FrameError {
        id,
        ..FrameError::from(refusal)
    })
}

fn explain(object: &mut Object, code: ErrorCode, detail: &str) {
    object
        .string("code", code.as_str())
        .string("message", detail);
}

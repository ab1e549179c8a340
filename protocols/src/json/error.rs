//! Error codes of the protocol, and the error of one frame.

use std::borrow::Cow;

use super::frame::Id;
use super::scan::{Problem, ScanError};
use crate::connection::{Cause, Refusal, RefusalCode};

/// What an `error` frame says in `code`. Codes are never renamed; new ones may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The text is not JSON, or not an object. Too many of these and of [`Self::TooDeep`] end the
    /// connection.
    Malformed,
    /// Objects and arrays are nested more deeply than allowed.
    TooDeep,
    /// A field is missing, comes twice, or has the wrong type or value.
    InvalidFrame,
    /// The `type` is not known.
    UnknownType,
    /// `connect` came when the client was in already.
    AlreadyConnected,
    /// Something went wrong on the broker's side.
    Internal,
    /// Not allowed by a limit or a setting of this broker.
    NotSupported,
    /// The client identifier is not acceptable.
    ClientIdInvalid,
    /// Unknown user, wrong password or bad token.
    BadCredentials,
    /// Known but not allowed.
    NotAuthorized,
    /// The broker cannot take it now.
    Unavailable,
    /// Too busy; try again later.
    Busy,
    /// Banned.
    Banned,
    /// The topic filter is not valid or not accepted.
    FilterInvalid,
    /// The topic is not valid or not accepted.
    TopicInvalid,
    /// Larger than allowed.
    TooLarge,
    /// Over a quota.
    QuotaExceeded,
    /// The payload is not what its type says.
    PayloadInvalid,
    /// Too many connections or messages in a time.
    RateExceeded,
    /// The message that it speaks of is not open.
    UnknownMessage,
}

impl ErrorCode {
    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooDeep => "tooDeep",
            Self::InvalidFrame => "invalidFrame",
            Self::UnknownType => "unknownType",
            Self::AlreadyConnected => "alreadyConnected",
            Self::Internal => "internal",
            Self::NotSupported => "notSupported",
            Self::ClientIdInvalid => "clientIdInvalid",
            Self::BadCredentials => "badCredentials",
            Self::NotAuthorized => "notAuthorized",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Banned => "banned",
            Self::FilterInvalid => "filterInvalid",
            Self::TopicInvalid => "topicInvalid",
            Self::TooLarge => "tooLarge",
            Self::QuotaExceeded => "quotaExceeded",
            Self::PayloadInvalid => "payloadInvalid",
            Self::RateExceeded => "rateExceeded",
            Self::UnknownMessage => "unknownMessage",
        }
    }
}

impl From<RefusalCode> for ErrorCode {
    fn from(code: RefusalCode) -> Self {
        match code {
            RefusalCode::Unspecified => Self::Internal,
            RefusalCode::Implementation => Self::NotSupported,
            RefusalCode::ClientId => Self::ClientIdInvalid,
            RefusalCode::BadCredentials => Self::BadCredentials,
            RefusalCode::NotAuthorized => Self::NotAuthorized,
            RefusalCode::Unavailable => Self::Unavailable,
            RefusalCode::Busy => Self::Busy,
            RefusalCode::Banned => Self::Banned,
            RefusalCode::FilterInvalid => Self::FilterInvalid,
            RefusalCode::TopicInvalid => Self::TopicInvalid,
            RefusalCode::TooLarge => Self::TooLarge,
            RefusalCode::Quota => Self::QuotaExceeded,
            RefusalCode::PayloadFormat => Self::PayloadInvalid,
            RefusalCode::Rate => Self::RateExceeded,
            RefusalCode::Unknown => Self::UnknownMessage,
        }
    }
}

/// Why a frame is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", .code.as_str())]
pub struct FrameError {
    /// The frame's `id`, as far as it could be read.
    pub id: Option<Id>,
    /// The kind, for programs.
    pub code: ErrorCode,
    /// What is wrong, for people.
    pub detail: Cow<'static, str>,
}

impl FrameError {
    /// An error of a frame whose `id` is not known yet.
    pub(super) fn new(code: ErrorCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            id: None,
            code,
            detail: detail.into(),
        }
    }

    /// A field that is missing or wrong.
    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::InvalidFrame, detail)
    }
}

impl From<ScanError> for FrameError {
    fn from(error: ScanError) -> Self {
        let code = if error.problem == Problem::TooDeep {
            ErrorCode::TooDeep
        } else {
            ErrorCode::Malformed
        };
        Self::new(code, format!("not a JSON object: {error}"))
    }
}

impl From<Refusal> for FrameError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code.into(), refusal.detail)
    }
}

/// What a `disconnect` frame says in `reason`.
pub(super) const fn reason(cause: Cause) -> &'static str {
    match cause {
        Cause::Normal => "normal",
        Cause::Lost => "lost",
        Cause::Refused => "refused",
        Cause::Unavailable => "unavailable",
        Cause::Unauthorized => "unauthorized",
        Cause::Malformed => "malformed",
        Cause::ProtocolError => "protocolError",
        Cause::WrongType => "wrongType",
        Cause::NotUtf8 => "notUtf8",
        Cause::TooLarge => "tooLarge",
        Cause::ReceiveMaximum => "receiveMaximum",
        Cause::Quota => "quotaExceeded",
        Cause::LoginTimeout => "loginTimeout",
        Cause::KeepAliveTimeout => "pingTimeout",
        Cause::TakenOver => "takenOver",
        Cause::SlowConsumer => "slowConsumer",
        Cause::Shutdown => "shutdown",
        Cause::Administrative => "administrative",
        Cause::Expired => "expired",
        Cause::Rate => "rateExceeded",
        Cause::Io => "io",
        Cause::Internal => "internal",
    }
}

/// Whether a client that is told to go does well to come back by itself.
pub(super) const fn reconnect(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::Lost
            | Cause::LoginTimeout
            | Cause::KeepAliveTimeout
            | Cause::SlowConsumer
            | Cause::Shutdown
            | Cause::Rate
            | Cause::Io
            | Cause::Internal
    )
}

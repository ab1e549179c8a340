//! What a client did wrong or was refused, and the ERROR frame that says so.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::connection::{Cause, Elsewhere, Refusal, RefusalCode};
use crate::stomp::{DecodeError, FrameWriter, Version};

/// The end of a connection by an ERROR (STOMP 1.2 §ERROR).
#[derive(Debug)]
pub(super) struct Fault {
    /// The kind.
    pub(super) cause: Cause,
    /// The `message` header: a few fixed words.
    message: &'static str,
    /// The body: what is wrong and what would be right.
    pub(super) detail: Cow<'static, str>,
    /// The `version` header, after a failed negotiation.
    versions: Option<String>,
    /// The `server` header: another one to use.
    server: Option<Arc<str>>,
}

impl Fault {
    pub(super) fn new(
        cause: Cause,
        message: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            cause,
            message,
            detail: detail.into(),
            versions: None,
            server: None,
        }
    }

    /// A frame that is well formed but not allowed here.
    pub(super) fn protocol(message: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Cause::ProtocolError, message, detail)
    }

    /// An end of this kind, in its usual words.
    pub(super) fn of(cause: Cause, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(cause, last_words(cause).unwrap_or("Error"), detail)
    }

    /// A header that must be there and is not.
    pub(super) fn missing(command: &str, header: &str) -> Self {
        Self::protocol(
            "Missing header",
            format!("{command} needs the header {header}"),
        )
    }

    /// A header whose value means nothing.
    pub(super) fn invalid(header: &str, value: &str, wanted: &str) -> Self {
        Self::protocol(
            "Invalid header",
            format!("{header} is {}, it must be {wanted}", quoted(value)),
        )
    }

    /// No version in common (STOMP 1.2 §Protocol Negotiation).
    pub(super) fn version(supported: &[Version]) -> Self {
        let list: Vec<_> = supported.iter().map(|version| version.as_str()).collect();
        let list = list.join(",");
        let mut fault = Self::protocol(
            "Unsupported version",
            format!("supported protocol versions are {list}"),
        );
        fault.versions = Some(list);
        fault
    }

    /// The same words for another kind of end.
    pub(super) fn with_cause(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// With the name of another server, for clients that are sent there.
    pub(super) fn elsewhere(mut self, elsewhere: Option<&Elsewhere>) -> Self {
        self.server = elsewhere.map(|elsewhere| Arc::clone(&elsewhere.server));
        self
    }

    /// The ERROR frame.
    pub(super) fn frame(&self, version: Option<Version>, receipt: Option<&str>) -> Vec<u8> {
        let detail = if self.detail.is_empty() {
            String::new()
        } else {
            format!("{}\n", self.detail)
        };
        FrameWriter::new("ERROR", version)
            .header("message", self.message)
            .header_if("receipt-id", receipt)
            .header_if("version", self.versions.as_deref())
            .header_if("server", self.server.as_deref())
            .header("content-type", "text/plain")
            .body(detail.as_bytes())
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::of(error.cause(), error.to_string())
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let (cause, message) = match refusal.code {
            RefusalCode::Unspecified => (Cause::Internal, "Internal error"),
            RefusalCode::Implementation => (Cause::Refused, "Not supported"),
            RefusalCode::ClientId => (Cause::Refused, "Client identifier not valid"),
            RefusalCode::BadCredentials => (Cause::Unauthorized, "Bad credentials"),
            RefusalCode::NotAuthorized => (Cause::Refused, "Not authorized"),
            RefusalCode::Unavailable => (Cause::Refused, "Server unavailable"),
            RefusalCode::Busy => (Cause::Refused, "Server busy"),
            RefusalCode::Banned => (Cause::Refused, "Banned"),
            RefusalCode::FilterInvalid | RefusalCode::TopicInvalid => {
                (Cause::ProtocolError, "Invalid destination")
            }
            RefusalCode::TooLarge => (Cause::TooLarge, "Message too large"),
            RefusalCode::Quota => (Cause::Quota, "Quota exceeded"),
            RefusalCode::PayloadFormat => (Cause::ProtocolError, "Invalid payload"),
            RefusalCode::Rate => (Cause::Rate, "Rate exceeded"),
            RefusalCode::Unknown => (Cause::ProtocolError, "Unknown message"),
        };
        Self::new(cause, message, refusal.detail)
    }
}

/// A short name for an end that the broker decided: the `message` of an ERROR; `None` where the
/// client is told nothing.
pub(super) fn last_words(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::Normal | Cause::Lost | Cause::Io => return None,
        Cause::Refused | Cause::Unauthorized => "Access refused",
        Cause::Malformed | Cause::NotUtf8 => "Malformed frame",
        Cause::ProtocolError => "Protocol error",
        Cause::Unavailable => "Server unavailable",
        Cause::WrongType => "Wrong WebSocket message type",
        Cause::TooLarge => "Frame too large",
        Cause::ReceiveMaximum => "Too many unacknowledged messages",
        Cause::Quota => "Quota exceeded",
        Cause::LoginTimeout => "Login timeout",
        Cause::KeepAliveTimeout => "Heart-beat timeout",
        Cause::TakenOver => "Session taken over",
        Cause::SlowConsumer => "Slow consumer",
        Cause::Shutdown => "Server shutting down",
        Cause::Administrative => "Closed by administrator",
        Cause::Expired => "Credentials expired",
        Cause::Rate => "Rate exceeded",
        Cause::Internal => "Internal error",
    })
}

/// A text of the client's as it may stand in a log: short, without control characters.
pub(super) fn quoted(text: &str) -> String {
    const MAX: usize = 80;
    let mut quoted = String::from("\"");
    for character in text.chars().take(MAX).flat_map(char::escape_debug) {
        quoted.push(character);
    }
    let rest = text.chars().skip(MAX).count();
    quoted.push('"');
    if rest > 0 {
        let _ = write!(quoted, " and {rest} more characters");
    }
    quoted
}

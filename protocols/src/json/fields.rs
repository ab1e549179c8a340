//! The members of a frame by name, each read as the type that it must have.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::error::{ErrorCode, FrameError};
use super::frame::Id;
use super::scan::{self, Kind, Value};

/// Longest `id` in bytes, as it is written.
pub(super) const ID_BYTES: usize = 128;
/// Longest string in bytes that other protocols can carry beside the payload.
pub(super) const STRING_BYTES: usize = 65_535;

macro_rules! names {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// Every field name of the protocol; others are ignored.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Name { $($name),* }

        impl Name {
            const ALL: &[Self] = &[$(Self::$name),*];

            fn of(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$name),)*
                    _ => None,
                }
            }

            const fn bit(self) -> u64 {
                1 << self as u64
            }

            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

names! {
    AckId = "ackId",
    AckIds = "ackIds",
    Broadcast = "broadcast",
    CleanStart = "cleanStart",
    ClientId = "clientId",
    Code = "code",
    ConnectionId = "connectionId",
    ContentType = "contentType",
    CorrelationBinary = "correlationIdBase64",
    CorrelationId = "correlationId",
    Data = "data",
    DataType = "dataType",
    DeliveryCount = "deliveryCount",
    Dropped = "dropped",
    ExpiresAt = "expiresAt",
    ExpiresIn = "expiresIn",
    Group = "group",
    Headers = "headers",
    Id = "id",
    IdempotencyKey = "idempotencyKey",
    InFlight = "inFlight",
    Message = "message",
    NoLocal = "noLocal",
    Password = "password",
    PingIntervalMs = "pingIntervalMs",
    Qos = "qos",
    Reason = "reason",
    Receivers = "receivers",
    Reconnect = "reconnect",
    Redelivered = "redelivered",
    ReplyTo = "replyTo",
    Requeue = "requeue",
    Results = "results",
    Retain = "retain",
    Retained = "retained",
    Session = "session",
    SessionPresent = "sessionPresent",
    Share = "share",
    Token = "token",
    Topic = "topic",
    Topics = "topics",
    Type = "type",
    User = "user",
    Username = "username",
}

/// The known members of one object: few of all that there are.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    values: SmallVec<[(Name, Value<'a>); 8]>,
    /// A bit for each name that is there.
    present: u64,
}

const _: () = assert!(Name::ALL.len() <= 64, "a name has a bit");

impl<'a> Fields<'a> {
    /// Reads an object. A known member that comes twice is an error; unknown ones are skipped.
    pub(super) fn read(text: &'a str, max_depth: usize) -> Result<Self, FrameError> {
        let mut fields = Self {
            values: SmallVec::new(),
            present: 0,
        };
        scan::object(text, max_depth, |key, value| {
            let key = key.string();
            let Some(name) = Name::of(&key) else {
                return Ok(());
            };
            if fields.has(name) {
                return Err(FrameError::invalid(format!("\"{key}\" comes twice")));
            }
            fields.present |= name.bit();
            fields.values.push((name, value));
            Ok(())
        })?;
        Ok(fields)
    }

    /// The value of a member, `null` included.
    #[inline]
    pub(super) fn any(&self, name: Name) -> Option<Value<'a>> {
        if !self.has(name) {
            return None;
        }
        let mut values = self.values.iter();
        let found = values.find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    #[inline]
    fn has(&self, name: Name) -> bool {
        self.present & name.bit() != 0
    }

    /// The value of a member; `null` is the same as none.
    pub(super) fn value(&self, name: Name) -> Option<Value<'a>> {
        self.any(name).filter(|value| value.kind != Kind::Null)
    }

    /// A string.
    pub(super) fn string(&self, name: Name) -> Result<Option<Cow<'a, str>>, FrameError> {
        self.value(name)
            .map(|value| as_string(name.as_str(), value))
            .transpose()
    }

    /// A string that travels with a message: within [`STRING_BYTES`] and without NUL, so that
    /// every protocol can carry it.
    pub(super) fn portable(&self, name: Name) -> Result<Option<Cow<'a, str>>, FrameError> {
        self.value(name)
            .map(|value| as_portable(name.as_str(), value))
            .transpose()
    }

    /// `true` or `false`.
    pub(super) fn truth(&self, name: Name) -> Result<Option<bool>, FrameError> {
        match self.value(name).map(|value| value.kind) {
            None => Ok(None),
            Some(Kind::Bool(truth)) => Ok(Some(truth)),
            Some(_) => Err(must_be(name, "true or false")),
        }
    }

    /// A whole number.
    pub(super) fn whole(&self, name: Name) -> Result<Option<u64>, FrameError> {
        self.value(name)
            .map(|value| {
                value
                    .whole()
                    .ok_or_else(|| must_be(name, "a whole number, not negative"))
            })
            .transpose()
    }

    /// The quality of service: 0 or 1.
    pub(super) fn qos(&self) -> Result<Option<u8>, FrameError> {
        match self.value(Name::Qos) {
            None => Ok(None),
            Some(value) => match value.whole() {
                Some(0) => Ok(Some(0)),
                Some(1) => Ok(Some(1)),
                _ => Err(must_be(Name::Qos, "0 or 1")),
            },
        }
    }

    /// The frame's `id`.
    pub(super) fn id(&self) -> Result<Option<Id>, FrameError> {
        let Some(value) = self.value(Name::Id) else {
            return Ok(None);
        };
        if !matches!(value.kind, Kind::String { .. } | Kind::Number) {
            return Err(must_be(Name::Id, "a string or a number"));
        }
        if value.raw.len() > ID_BYTES {
            let detail = format!("\"id\" has more than {ID_BYTES} bytes");
            return Err(FrameError::new(ErrorCode::TooLarge, detail));
        }
        Ok(Some(Id::of_json(value.raw)))
    }
}

/// A value that must be a string.
pub(super) fn as_string<'a>(name: &str, value: Value<'a>) -> Result<Cow<'a, str>, FrameError> {
    if !matches!(value.kind, Kind::String { .. }) {
        return Err(FrameError::invalid(format!("\"{name}\" must be a string")));
    }
    Ok(value.string())
}

/// A string as [`Fields::portable`] wants it.
pub(super) fn as_portable<'a>(name: &str, value: Value<'a>) -> Result<Cow<'a, str>, FrameError> {
    let text = as_string(name, value)?;
    check_portable(name, &text)?;
    Ok(text)
}

/// Checks what [`Fields::portable`] promises.
pub(super) fn check_portable(name: &str, text: &str) -> Result<(), FrameError> {
    if text.len() > STRING_BYTES {
        let detail = format!("\"{name}\" has more than {STRING_BYTES} bytes");
        return Err(FrameError::new(ErrorCode::TooLarge, detail));
    }
    if memchr::memchr(0, text.as_bytes()).is_some() {
        let detail = format!("\"{name}\" contains the NUL character");
        return Err(FrameError::invalid(detail));
    }
    Ok(())
}

/// The error of a field that has the wrong type or value.
pub(super) fn must_be(name: Name, what: &str) -> FrameError {
    FrameError::invalid(format!("\"{}\" must be {what}", name.as_str()))
}

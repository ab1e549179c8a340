//! The `publish` that most clients send, read on a way of its own.
//!
//! A topic, a payload that stands in the frame as it is, perhaps an `id`, a QoS, a retain flag: such
//! a frame is gone through once and nothing of it is copied. All that is less usual, and all that
//! is wrong, is left to [`ClientFrame::parse`](super::ClientFrame::parse), which begins anew; a
//! property test sees to it that both say the same of what is read here.
//!
//! Called by [`super::connection`].

use std::borrow::Cow;

use super::content::Data;
use super::fields::ID_BYTES;
use super::scan::{self, Kind, ScanError, Value};

/// A `publish` frame to a topic that asks for nothing else.
#[derive(Debug, Default)]
pub(super) struct Plain<'a> {
    /// As it stands in the frame, see [`Id`](super::Id).
    pub(super) id: Option<&'a str>,
    pub(super) topic: &'a str,
    /// Text or JSON, as it stands in the frame.
    pub(super) data: Data<'a>,
    pub(super) qos: Option<u8>,
    pub(super) retain: bool,
}

/// The frame is another one, or not in order.
struct Other;

impl From<ScanError> for Other {
    fn from(_: ScanError) -> Self {
        Self
    }
}

/// Reads a frame, if it is one of these.
pub(super) fn read(text: &str, max_depth: usize) -> Option<Plain<'_>> {
    let mut plain = Plain::default();
    let mut seen = 0_u8;
    let result = scan::object(text, max_depth, |key, value| {
        let bit = plain.member(key, value)?;
        if seen & bit != 0 {
            return Err(Other);
        }
        seen |= bit;
        Ok(())
    });
    let is_whole = result.is_ok() && seen & (TYPE | TOPIC) == TYPE | TOPIC;
    is_whole.then_some(plain)
}

// A bit for each member that may be there.
const TYPE: u8 = 1;
const TOPIC: u8 = 1 << 1;
const DATA: u8 = 1 << 2;
const ID: u8 = 1 << 3;
const QOS: u8 = 1 << 4;
const RETAIN: u8 = 1 << 5;

impl<'a> Plain<'a> {
    /// Takes a member and says which it is.
    #[inline]
    fn member(&mut self, key: Value<'a>, value: Value<'a>) -> Result<u8, Other> {
        Ok(match (key.raw, value.kind) {
            ("\"type\"", _) if value.raw == "\"publish\"" => TYPE,
            ("\"topic\"", Kind::String { plain: true }) => {
                self.topic = value.inside();
                TOPIC
            }
            ("\"data\"", kind) => {
                self.data = match kind {
                    Kind::String { plain: true } => Data::Text(Cow::Borrowed(value.inside())),
                    Kind::String { plain: false } => return Err(Other),
                    _ => Data::Json(Cow::Borrowed(value.raw)),
                };
                DATA
            }
            ("\"id\"", Kind::String { .. } | Kind::Number) if value.raw.len() <= ID_BYTES => {
                self.id = Some(value.raw);
                ID
            }
            ("\"qos\"", Kind::Number) => {
                self.qos = Some(match value.raw {
                    "0" => 0,
                    "1" => 1,
                    _ => return Err(Other),
                });
                QOS
            }
            ("\"retain\"", Kind::Bool(retain)) => {
                self.retain = retain;
                RETAIN
            }
            _ => return Err(Other),
        })
    }
}

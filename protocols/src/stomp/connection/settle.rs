//! ACK and NACK (STOMP 1.2 §ACK), and the identifiers of messages that they name.

use super::answers::Wait;
use super::fault::{Fault, quoted};
use super::subscribe::AckMode;
use super::{StompConnection, required};
use crate::connection::{Command, Output, Position, Settle, SubscriptionId};
use crate::stomp::encode::put_number;
use crate::stomp::frame::Buffer;
use crate::stomp::{Frame, Version};

/// The `message-id` of a MESSAGE, and its `ack`: all that is needed to settle it, so that no
/// table of them has to be kept.
///
/// `{subscription}-{position}`, or `{subscription}-{positions before it}-{serial}` for a message
/// that the broker does not wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageId {
    pub(super) subscription: SubscriptionId,
    pub(super) number: Number,
}

/// Which message of its subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    /// One that can be settled.
    Position(Position),
    /// One that need not be.
    Unsettled {
        /// One more than the last position delivered before it; 0 if there was none.
        next_position: u64,
        /// Tells it from others.
        serial: u64,
    },
}

impl MessageId {
    pub(super) fn put(self, buffer: &mut Buffer) {
        put_number(buffer, self.subscription.0.into());
        let mut part = |number| {
            buffer.push(b'-');
            put_number(buffer, number);
        };
        match self.number {
            Number::Position(position) => part(position),
            Number::Unsettled {
                next_position,
                serial,
            } => {
                part(next_position);
                part(serial);
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-').map(digits);
        let subscription = parts.next()??;
        let first = parts.next()??;
        let serial = parts.next();
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            subscription: SubscriptionId(u32::try_from(subscription).ok()?),
            number: match serial {
                None => Number::Position(first),
                Some(serial) => Number::Unsettled {
                    next_position: first,
                    serial: serial?,
                },
            },
        })
    }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    text.parse().ok()
}

impl StompConnection {
    pub(super) fn ack(&mut self, frame: &Frame<'_>, out: &mut Output<'_>) -> Result<Wait, Fault> {
        let (id, mode) = self.named(frame)?;
        let (settle, forgive) = match (mode, id.number) {
            (AckMode::Client, Number::Position(position)) => {
                (Some(Settle::DoneThrough(id.subscription, position)), false)
            }
            (AckMode::Client, Number::Unsettled { next_position, .. }) => {
                let last = next_position.checked_sub(1);
                let settle = last.map(|last| Settle::DoneThrough(id.subscription, last));
                (settle, true)
            }
            (_, Number::Position(position)) => (Some(Settle::Done(position)), false),
            (_, Number::Unsettled { .. }) => (None, true),
        };
        self.settle(frame, settle, forgive, out)
    }

    /// `requeue:false` is for the named message alone, also where a plain NACK is for all up to
    /// it.
    pub(super) fn nack(&mut self, frame: &Frame<'_>, out: &mut Output<'_>) -> Result<Wait, Fault> {
        if self.version == Some(Version::V1_0) {
            let detail = "STOMP 1.0 has no NACK";
            return Err(Fault::protocol("Unknown command", detail));
        }
        let (id, mode) = self.named(frame)?;
        let requeue = frame.header("requeue").is_none() || super::flag(frame, "requeue")?;
        let (settle, forgive) = match (mode, id.number) {
            (AckMode::Client, Number::Position(position)) if requeue => (
                Some(Settle::RejectedThrough(id.subscription, position)),
                false,
            ),
            (AckMode::Client, Number::Unsettled { next_position, .. }) if requeue => {
                let last = next_position.checked_sub(1);
                let settle = last.map(|last| Settle::RejectedThrough(id.subscription, last));
                (settle, true)
            }
            (_, Number::Position(position)) => {
                (Some(Settle::Rejected { position, requeue }), false)
            }
            (_, Number::Unsettled { .. }) => (None, true),
        };
        self.settle(frame, settle, forgive, out)
    }

    /// The message that a frame names, by the header of the version, and how its subscription
    /// acknowledges.
    fn named(&mut self, frame: &Frame<'_>) -> Result<(MessageId, AckMode), Fault> {
        let version = self.version.unwrap_or(Version::V1_0);
        let (name, subscription) = match version {
            Version::V1_0 => ("message-id", frame.header("subscription")),
            Version::V1_1 => ("message-id", Some(required(frame, "subscription")?)),
            Version::V1_2 => ("id", None),
        };
        let text = required(frame, name)?;
        let id = MessageId::parse(&text);
        let known = id.and_then(|id| Some((id, self.subscriptions.by_id(id.subscription)?)));
        let known = known.filter(|(_, known)| {
            let named = subscription.as_deref();
            named.is_none_or(|named| known.key == named)
        });
        let Some((id, known)) = known else {
            let detail = format!("no message {} is open here", quoted(&text));
            return Err(Fault::protocol("Unknown message", detail));
        };
        if known.ack == AckMode::Auto {
            let detail = "the subscription has ack:auto: its messages are not acknowledged";
            return Err(Fault::protocol("Unexpected acknowledgement", detail));
        }
        Ok((id, known.ack))
    }

    fn settle(
        &mut self,
        frame: &Frame<'_>,
        settle: Option<Settle>,
        forgive: bool,
        out: &mut Output<'_>,
    ) -> Result<Wait, Fault> {
        let transaction = frame.header("transaction");
        if let Some(name) = &transaction {
            self.transactions.check(name)?;
        }
        let Some(settle) = settle else {
            return Ok(Wait::Ready);
        };
        if let Some(name) = transaction {
            let token = None;
            let command = Command::Settle { token, settle };
            self.transactions.add(&name, command, 0, &self.limits)?;
            return Ok(Wait::Ready);
        }
        let token = self.answers.token();
        out.commands.push(Command::Settle {
            token: Some(token),
            settle,
        });
        Ok(if forgive {
            Wait::Lenient(token)
        } else {
            Wait::Answer(token)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_come_back() {
        for number in [
            Number::Position(0),
            Number::Position(u64::MAX),
            Number::Unsettled {
                next_position: 3,
                serial: 9,
            },
        ] {
            let id = MessageId {
                subscription: SubscriptionId(7),
                number,
            };
            let mut buffer = Buffer::new();
            id.put(&mut buffer);
            let text = String::from_utf8(buffer).unwrap();
            assert_eq!(MessageId::parse(&text), Some(id), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_identifiers() {
        for text in [
            "",
            "-",
            "1",
            "1-",
            "+1-2",
            "1-2-",
            "1-2-3-4",
            "4294967296-1",
            "a-b",
        ] {
            assert_eq!(MessageId::parse(text), None, "{text}");
        }
    }
}

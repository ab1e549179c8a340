//! The binary form of operations, as the journal holds them.
//!
//! A unit's payload is its operations one after the other, each a tag and its fields; numbers are
//! varints (LEB128), texts and bytes have their length before them. A tag names a layout for ever:
//! an operation whose fields change gets a new tag, and the old one stays readable. So operations
//! can be copied from one unit to another as they are.
//!
//! Reading trusts nothing: whatever the bytes are, it ends with operations or with [`Malformed`],
//! and takes no more memory than a small multiple of their length. Checksums, places and files are
//! the journal's.

mod message;
mod records;
pub(super) mod wire;

#[cfg(test)]
pub(crate) mod arbitrary;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use protocols::connection::SubscriptionId;
use protocols::model::{Message, Timestamp};

use super::{Op, Receiver};
use message::{Body, body_estimate, put_body, put_queue, put_receiver, queue, receiver};
pub(super) use message::{put_receivers, receivers};
use records::{group, put_group, put_session, put_subscription, session, subscription};
pub(super) use wire::Malformed;
use wire::{Reader, put_bytes, put_varint};

const MESSAGE: u8 = 1;
const DONE: u8 = 2;
const RECEIVED: u8 = 3;
const MOVE: u8 = 4;
const SESSION: u8 = 5;
const SESSION_END: u8 = 6;
const SUBSCRIPTION: u8 = 7;
const SUBSCRIPTION_END: u8 = 8;
const ACCEPTED: u8 = 9;
const RELEASED: u8 = 10;
const GROUP: u8 = 11;
const GROUP_END: u8 = 12;
const RETAIN: u8 = 13;
const UNRETAIN: u8 = 14;
const KEY: u8 = 15;

/// One operation of a unit, as [`scan`] finds it.
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// Where it is in the payload; what is there may be copied into another payload.
    pub(super) range: Range<usize>,
    /// What it is.
    pub(super) what: Scanned<'a>,
}

/// An operation whose message was not built.
#[derive(Debug)]
pub(super) enum Scanned<'a> {
    /// [`Op::Message`].
    Message {
        /// Who gets it.
        receivers: Vec<Receiver>,
        /// What [`Message::size`] says of the message.
        size: usize,
        /// Where its body is in the payload, for [`message`] and [`encode_body`].
        body: Range<usize>,
    },
    /// [`Op::Retain`].
    Retain {
        /// The message's topic.
        topic: &'a str,
        /// When the message is of no more interest.
        expires_at: Option<Timestamp>,
        /// Where its body is in the payload, for [`message`].
        body: Range<usize>,
    },
    /// [`Op::Key`].
    Key {
        /// The key.
        key: &'a str,
        /// The answer that was given.
        answer: u32,
        /// Until when it is remembered.
        until: Timestamp,
    },
    /// Any other.
    Other(Op),
}

/// Appends an operation to a unit's payload.
pub(super) fn encode(op: &Op, out: &mut Vec<u8>) {
    match op {
        Op::Message { message, receivers } => {
            out.reserve(body_estimate(message) + 16 * receivers.len());
            out.push(MESSAGE);
            put_receivers(out, receivers);
            put_body(out, message);
        }
        Op::Retain { message } => {
            out.reserve(body_estimate(message));
            out.push(RETAIN);
            put_body(out, message);
        }
        Op::Session(record) => {
            out.push(SESSION);
            put_session(out, record);
        }
        Op::Subscription { number, record } => {
            put_numbers(out, SUBSCRIPTION, &[*number]);
            put_subscription(out, record);
        }
        Op::Group { number, record } => {
            put_numbers(out, GROUP, &[*number]);
            put_group(out, record);
        }
        small => encode_small(small, out),
    }
}

/// Operations of a few numbers.
fn encode_small(op: &Op, out: &mut Vec<u8>) {
    match op {
        Op::Done { queue, position } => {
            let lane = u64::from(queue.lane);
            put_numbers(out, DONE, &[queue.owner, lane, *position]);
        }
        Op::Received { queue, position } => {
            let lane = u64::from(queue.lane);
            put_numbers(out, RECEIVED, &[queue.owner, lane, *position]);
        }
        Op::Move { from, position, to } => {
            out.push(MOVE);
            put_queue(out, *from);
            put_varint(out, *position);
            put_receiver(out, to);
        }
        Op::SessionEnd { number } => put_numbers(out, SESSION_END, &[*number]),
        Op::SubscriptionEnd { number, id } => {
            put_numbers(out, SUBSCRIPTION_END, &[*number, u64::from(id.0)]);
        }
        Op::Accepted { number, packet_id } => {
            put_numbers(out, ACCEPTED, &[*number, u64::from(*packet_id)]);
        }
        Op::Released { number, packet_id } => {
            put_numbers(out, RELEASED, &[*number, u64::from(*packet_id)]);
        }
        Op::GroupEnd { number } => put_numbers(out, GROUP_END, &[*number]),
        Op::Unretain { topic } => {
            out.push(UNRETAIN);
            put_bytes(out, topic.as_bytes());
        }
        Op::Key { key, answer, until } => {
            put_numbers(out, KEY, &[u64::from(*answer), until.0]);
            put_bytes(out, key.as_bytes());
        }
        // Written by `encode`.
        Op::Message { .. }
        | Op::Retain { .. }
        | Op::Session(_)
        | Op::Subscription { .. }
        | Op::Group { .. } => {}
    }
}

/// A tag and numbers.
fn put_numbers(out: &mut Vec<u8>, tag: u8, numbers: &[u64]) {
    out.push(tag);
    for number in numbers {
        put_varint(out, *number);
    }
}

/// Appends an [`Op::Message`] whose body is there already, as a scan found it.
pub(super) fn encode_body(receivers: &[Receiver], body: &[u8], out: &mut Vec<u8>) {
    out.push(MESSAGE);
    put_receivers(out, receivers);
    put_bytes(out, body);
}

/// Builds a message from its body. It shares no memory with it.
pub(super) fn message(body: &[u8]) -> Result<Message, Malformed> {
    Body::parse(body)?.message()
}

/// All operations of a unit's payload, messages included.
pub(super) fn decode(payload: &[u8]) -> Result<Vec<Op>, Malformed> {
    scan(payload)
        .map(|record| build(record?.what, payload))
        .collect()
}

/// The operation of a record that was scanned in `payload`.
pub(super) fn build(scanned: Scanned<'_>, payload: &[u8]) -> Result<Op, Malformed> {
    Ok(match scanned {
        Scanned::Message {
            receivers, body, ..
        } => Op::Message {
            message: Arc::new(message(&payload[body])?),
            receivers,
        },
        Scanned::Retain { body, .. } => Op::Retain {
            message: Arc::new(message(&payload[body])?),
        },
        Scanned::Key { key, answer, until } => Op::Key {
            key: key.into(),
            answer,
            until,
        },
        Scanned::Other(op) => op,
    })
}

/// Goes through a unit's payload without building messages that may be large. Ends after the
/// first error.
pub(super) fn scan(payload: &[u8]) -> Scan<'_> {
    Scan {
        reader: Reader::new("a unit", payload),
        failed: false,
    }
}

/// See [`scan`].
#[derive(Debug)]
pub(super) struct Scan<'a> {
    reader: Reader<'a>,
    failed: bool,
}

impl<'a> Iterator for Scan<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.reader.is_done() {
            return None;
        }
        let start = self.reader.at();
        let scanned = record(&mut self.reader);
        self.failed = scanned.is_err();
        Some(scanned.map(|what| Record {
            range: start..self.reader.at(),
            what,
        }))
    }
}

/// Reads one operation that is neither a message nor a retained one.
pub(super) fn one(reader: &mut Reader<'_>) -> Result<Op, Malformed> {
    let tag = reader.byte()?;
    other(tag, reader)
}

fn record<'a>(reader: &mut Reader<'a>) -> Result<Scanned<'a>, Malformed> {
    match reader.byte()? {
        MESSAGE => {
            let receivers = receivers(reader)?;
            let (body, range) = body(reader)?;
            Ok(Scanned::Message {
                receivers,
                size: body.size(),
                body: range,
            })
        }
        RETAIN => {
            let (body, range) = body(reader)?;
            Ok(Scanned::Retain {
                topic: body.topic()?,
                expires_at: body.expires_at,
                body: range,
            })
        }
        KEY => Ok(Scanned::Key {
            answer: reader.varint_u32()?,
            until: Timestamp(reader.varint()?),
            key: reader.str()?,
        }),
        tag => other(tag, reader).map(Scanned::Other),
    }
}

/// A body and where it is.
fn body<'a>(reader: &mut Reader<'a>) -> Result<(Body<'a>, Range<usize>), Malformed> {
    let bytes = reader.bytes()?;
    let end = reader.at();
    Ok((Body::parse(bytes)?, end - bytes.len()..end))
}

fn other(tag: u8, reader: &mut Reader<'_>) -> Result<Op, Malformed> {
    Ok(match tag {
        DONE => Op::Done {
            queue: queue(reader)?,
            position: reader.varint()?,
        },
        RECEIVED => Op::Received {
            queue: queue(reader)?,
            position: reader.varint()?,
        },
        MOVE => Op::Move {
            from: queue(reader)?,
            position: reader.varint()?,
            to: receiver(reader)?,
        },
        SESSION => Op::Session(Box::new(session(reader)?)),
        SESSION_END => Op::SessionEnd {
            number: reader.varint()?,
        },
        SUBSCRIPTION => Op::Subscription {
            number: reader.varint()?,
            record: Box::new(subscription(reader)?),
        },
        SUBSCRIPTION_END => Op::SubscriptionEnd {
            number: reader.varint()?,
            id: SubscriptionId(reader.varint_u32()?),
        },
        ACCEPTED => Op::Accepted {
            number: reader.varint()?,
            packet_id: reader.varint_u16()?,
        },
        RELEASED => Op::Released {
            number: reader.varint()?,
            packet_id: reader.varint_u16()?,
        },
        GROUP => Op::Group {
            number: reader.varint()?,
            record: group(reader)?,
        },
        GROUP_END => Op::GroupEnd {
            number: reader.varint()?,
        },
        UNRETAIN => Op::Unretain {
            topic: reader.text()?,
        },
        KEY => Op::Key {
            answer: reader.varint_u32()?,
            until: Timestamp(reader.varint()?),
            key: reader.text()?,
        },
        _ => return Err(reader.malformed("an unknown operation")),
    })
}

//! Sessions, subscriptions and groups.

use std::num::NonZeroU32;
use std::sync::Arc;

use protocols::connection::{Lane, Overlap, RetainHandling, SubscribeRequest, SubscriptionId};
use protocols::model::{Filter, SubscriptionFilter, Timestamp};

use super::super::{GroupRecord, RetainedProgress, SessionRecord, SubscriptionRecord, WillRecord};
use super::message::{Body, parse_topic, put_body, qos, set};
use super::wire::{Malformed, Reader, put_bytes, put_len, put_optional, put_varint};

const USER: u8 = 1;
const CONNECTED: u8 = 1 << 1;
const ENDS_AT: u8 = 1 << 2;
const WILL_AT: u8 = 1 << 3;
const WILL: u8 = 1 << 4;
const WILL_EXPIRY: u8 = 1 << 5;
const OVERLAP_EACH: u8 = 1 << 6;
const WHO: u8 = 1 << 7;

const NO_LOCAL: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
const AUTO_SETTLE: u8 = 1 << 4;
const DURABLE: u8 = 1 << 5;
const RETAIN_HANDLING_SHIFT: u8 = 6;

const IDENTIFIER: u8 = 1;
const LANE_OWN: u8 = 1 << 1;
const RETAINED_WANTED: u8 = 1 << 2;
const RETAINED_BEHIND: u8 = 1 << 3;

/// Writes a session.
pub(super) fn put_session(out: &mut Vec<u8>, session: &SessionRecord) {
    let mut flags = 0;
    set(&mut flags, USER, session.user.is_some());
    set(&mut flags, CONNECTED, session.connected);
    set(&mut flags, ENDS_AT, session.ends_at.is_some());
    set(&mut flags, WILL_AT, session.will_at.is_some());
    set(&mut flags, WILL, session.will.is_some());
    let will_expiry = session.will.as_ref().and_then(|will| will.expiry_secs);
    set(&mut flags, WILL_EXPIRY, will_expiry.is_some());
    set(&mut flags, OVERLAP_EACH, session.overlap == Overlap::Each);
    set(&mut flags, WHO, session.who.is_some());
    out.push(flags);
    put_varint(out, session.number);
    put_bytes(out, session.client_id.as_bytes());
    if let Some(user) = &session.user {
        put_bytes(out, user.as_bytes());
    }
    put_varint(out, u64::from(session.expiry_secs));
    put_optional(out, session.ends_at.map(|at| at.0));
    put_optional(out, session.will_at.map(|at| at.0));
    if let Some(will) = &session.will {
        put_body(out, &will.message);
        put_varint(out, u64::from(will.delay_secs));
        put_optional(out, will_expiry.map(u64::from));
    }
    put_varint(out, u64::from(session.window));
    put_varint(out, session.next_position);
    put_varint(out, u64::from(session.next_subscription));
    put_len(out, session.sent.len());
    for (lane, position) in &session.sent {
        put_varint(out, u64::from(*lane));
        put_varint(out, *position);
    }
    if let Some(who) = &session.who {
        put_bytes(out, who.as_bytes());
    }
}

/// Reads a session.
pub(super) fn session(reader: &mut Reader<'_>) -> Result<SessionRecord, Malformed> {
    let known = USER | CONNECTED | ENDS_AT | WILL_AT | WILL | WILL_EXPIRY | OVERLAP_EACH | WHO;
    let flags = reader.flags(known)?;
    let has = |flag| flags & flag != 0;
    if has(WILL_EXPIRY) && !has(WILL) {
        return Err(reader.malformed("the expiry of a will without a will"));
    }
    Ok(SessionRecord {
        number: reader.varint()?,
        client_id: reader.text()?,
        user: reader.optional_text(has(USER))?,
        expiry_secs: reader.varint_u32()?,
        connected: has(CONNECTED),
        ends_at: reader.optional(has(ENDS_AT))?.map(Timestamp),
        will_at: reader.optional(has(WILL_AT))?.map(Timestamp),
        will: has(WILL)
            .then(|| will(reader, has(WILL_EXPIRY)))
            .transpose()?,
        overlap: if has(OVERLAP_EACH) {
            Overlap::Each
        } else {
            Overlap::Merge
        },
        window: reader.varint_u16()?,
        next_position: reader.varint()?,
        next_subscription: reader.varint_u32()?,
        sent: sent(reader)?,
        who: reader.optional_text(has(WHO))?,
    })
}

fn will(reader: &mut Reader<'_>, expires: bool) -> Result<WillRecord, Malformed> {
    Ok(WillRecord {
        message: Arc::new(Body::parse(reader.bytes()?)?.message()?),
        delay_secs: reader.varint_u32()?,
        expiry_secs: expires.then(|| reader.varint_u32()).transpose()?,
    })
}

fn sent(reader: &mut Reader<'_>) -> Result<Vec<(u32, u64)>, Malformed> {
    let count = reader.count(2)?;
    let mut sent = Vec::with_capacity(count);
    for _ in 0..count {
        sent.push((reader.varint_u32()?, reader.varint()?));
    }
    Ok(sent)
}

/// Writes a subscription.
pub(super) fn put_subscription(out: &mut Vec<u8>, record: &SubscriptionRecord) {
    let request = &record.request;
    let mut flags = request.qos as u8;
    set(&mut flags, NO_LOCAL, request.no_local);
    set(&mut flags, RETAIN_AS_PUBLISHED, request.retain_as_published);
    set(&mut flags, AUTO_SETTLE, request.auto_settle);
    set(&mut flags, DURABLE, request.durable);
    flags |= retain_handling_bits(request.retain_handling) << RETAIN_HANDLING_SHIFT;
    let mut more = match record.retained {
        RetainedProgress::Done => 0,
        RetainedProgress::Wanted => RETAINED_WANTED,
        RetainedProgress::Behind(_) => RETAINED_BEHIND,
    };
    set(&mut more, IDENTIFIER, request.identifier.is_some());
    set(&mut more, LANE_OWN, request.lane != Lane::Session);
    out.extend([flags, more]);
    put_varint(out, u64::from(record.id.0));
    put_bytes(out, request.key.as_bytes());
    put_bytes(out, request.filter.as_str().as_bytes());
    put_optional(
        out,
        request.identifier.map(|number| u64::from(number.get())),
    );
    if let Lane::Own { in_flight } = request.lane {
        put_varint(out, u64::from(in_flight));
    }
    if let RetainedProgress::Behind(topic) = &record.retained {
        put_bytes(out, topic.as_str().as_bytes());
    }
}

/// Reads a subscription.
pub(super) fn subscription(reader: &mut Reader<'_>) -> Result<SubscriptionRecord, Malformed> {
    let flags = reader.byte()?;
    let more = reader.flags(IDENTIFIER | LANE_OWN | RETAINED_WANTED | RETAINED_BEHIND)?;
    let id = SubscriptionId(reader.varint_u32()?);
    let request = SubscribeRequest {
        key: reader.text()?,
        filter: subscription_filter(reader)?,
        qos: qos(reader, flags)?,
        no_local: flags & NO_LOCAL != 0,
        retain_as_published: flags & RETAIN_AS_PUBLISHED != 0,
        retain_handling: retain_handling(reader, flags >> RETAIN_HANDLING_SHIFT)?,
        identifier: (more & IDENTIFIER != 0)
            .then(|| identifier(reader))
            .transpose()?,
        lane: match more & LANE_OWN {
            0 => Lane::Session,
            _ => Lane::Own {
                in_flight: reader.varint_u16()?,
            },
        },
        auto_settle: flags & AUTO_SETTLE != 0,
        durable: flags & DURABLE != 0,
    };
    let retained = match more & (RETAINED_WANTED | RETAINED_BEHIND) {
        0 => RetainedProgress::Done,
        RETAINED_WANTED => RetainedProgress::Wanted,
        RETAINED_BEHIND => {
            let text = reader.str()?;
            RetainedProgress::Behind(parse_topic(reader, text)?)
        }
        _ => return Err(reader.malformed("two states of retained messages")),
    };
    Ok(SubscriptionRecord {
        id,
        request,
        retained,
    })
}

fn identifier(reader: &mut Reader<'_>) -> Result<NonZeroU32, Malformed> {
    let number = reader.varint_u32()?;
    NonZeroU32::new(number).ok_or_else(|| reader.malformed("a subscription identifier of 0"))
}

fn subscription_filter(reader: &mut Reader<'_>) -> Result<SubscriptionFilter, Malformed> {
    let text = reader.text()?;
    SubscriptionFilter::parse(text, usize::MAX, usize::MAX)
        .map_err(|_| reader.malformed("a text that is no filter"))
}

fn retain_handling_bits(handling: RetainHandling) -> u8 {
    match handling {
        RetainHandling::Send => 0,
        RetainHandling::SendIfNew => 1,
        RetainHandling::DoNotSend => 2,
    }
}

fn retain_handling(reader: &Reader<'_>, bits: u8) -> Result<RetainHandling, Malformed> {
    match bits {
        0 => Ok(RetainHandling::Send),
        1 => Ok(RetainHandling::SendIfNew),
        2 => Ok(RetainHandling::DoNotSend),
        _ => Err(reader.malformed("an unknown retain handling")),
    }
}

/// Writes a group.
pub(super) fn put_group(out: &mut Vec<u8>, record: &GroupRecord) {
    out.push(u8::from(record.share.is_some()));
    if let Some(share) = &record.share {
        put_bytes(out, share.as_bytes());
    }
    put_bytes(out, record.filter.as_str().as_bytes());
}

/// Reads a group.
pub(super) fn group(reader: &mut Reader<'_>) -> Result<GroupRecord, Malformed> {
    let flags = reader.flags(1)?;
    let share = reader.optional_text(flags != 0)?;
    let filter = Filter::parse(reader.text()?, usize::MAX, usize::MAX)
        .map_err(|_| reader.malformed("a text that is no filter"))?;
    Ok(GroupRecord { share, filter })
}

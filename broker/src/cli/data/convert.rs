//! Between the lines of an export and what the store holds.

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use bytestring::ByteString;
use protocols::connection::{self, Lane, SubscribeRequest, SubscriptionId};
use protocols::model::{self, Filter, QoS, SubscriptionFilter, Timestamp, Topic};

use super::lines::{
    Body, Entry, From as FromGroup, Group, Message, Overlap, PayloadFormat, Properties,
    RetainHandling, RetainedProgress, Session, Subscription, Will,
};
use crate::store::{
    self, GroupRecord, LoadedEntry, QueueId, Receiver, SessionRecord, SubscriptionRecord,
    WillRecord,
};

/// The line of a session.
pub(super) fn session_line(record: &SessionRecord) -> Session {
    Session {
        number: record.number,
        client_id: record.client_id.to_string(),
        user: record.user.as_deref().map(str::to_owned),
        expiry_secs: record.expiry_secs,
        connected: record.connected,
        ends_at: record.ends_at.map(|at| at.0),
        will_at: record.will_at.map(|at| at.0),
        will: record.will.as_ref().map(|will| Will {
            message: message_line(&will.message),
            delay_secs: will.delay_secs,
            expiry_secs: will.expiry_secs,
        }),
        overlap: match record.overlap {
            connection::Overlap::Merge => Overlap::Merge,
            connection::Overlap::Each => Overlap::Each,
        },
        window: record.window,
        next_position: record.next_position,
        next_subscription: record.next_subscription,
        sent: record.sent.clone(),
        who: record.who.as_deref().map(str::to_owned),
    }
}

/// The session of a line.
pub(super) fn session(line: Session) -> Result<SessionRecord> {
    Ok(SessionRecord {
        number: line.number,
        client_id: line.client_id.into(),
        user: line.user.map(ByteString::from),
        expiry_secs: line.expiry_secs,
        connected: line.connected,
        ends_at: line.ends_at.map(Timestamp),
        will_at: line.will_at.map(Timestamp),
        will: line.will.map(will).transpose()?,
        overlap: match line.overlap {
            Overlap::Merge => connection::Overlap::Merge,
            Overlap::Each => connection::Overlap::Each,
        },
        window: line.window,
        next_position: line.next_position,
        next_subscription: line.next_subscription,
        sent: line.sent,
        who: line.who.map(ByteString::from),
    })
}

fn will(line: Will) -> Result<WillRecord> {
    Ok(WillRecord {
        message: message(line.message)?,
        delay_secs: line.delay_secs,
        expiry_secs: line.expiry_secs,
    })
}

/// The line of a subscription.
pub(super) fn subscription_line(session: u64, record: &SubscriptionRecord) -> Subscription {
    let request = &record.request;
    Subscription {
        session,
        id: record.id.0,
        key: request.key.to_string(),
        filter: request.filter.as_str().to_owned(),
        qos: request.qos as u8,
        no_local: request.no_local,
        retain_as_published: request.retain_as_published,
        retain_handling: match request.retain_handling {
            connection::RetainHandling::Send => RetainHandling::Send,
            connection::RetainHandling::SendIfNew => RetainHandling::SendIfNew,
            connection::RetainHandling::DoNotSend => RetainHandling::DoNotSend,
        },
        identifier: request.identifier.map(NonZeroU32::get),
        own_lane: match request.lane {
            Lane::Session => None,
            Lane::Own { in_flight } => Some(in_flight),
        },
        auto_settle: request.auto_settle,
        durable: request.durable,
        retained: match &record.retained {
            store::RetainedProgress::Done => RetainedProgress::Done,
            store::RetainedProgress::Wanted => RetainedProgress::Wanted,
            store::RetainedProgress::Behind(topic) => {
                RetainedProgress::Behind(topic.as_str().to_owned())
            }
        },
    }
}

/// The subscription of a line.
pub(super) fn subscription(line: Subscription) -> Result<SubscriptionRecord> {
    let filter = SubscriptionFilter::parse(line.filter.clone().into(), usize::MAX, usize::MAX)
        .with_context(|| format!("filter {:?}", line.filter))?;
    let identifier = line
        .identifier
        .map(|number| NonZeroU32::new(number).context("identifier: 0 is none"))
        .transpose()?;
    Ok(SubscriptionRecord {
        id: SubscriptionId(line.id),
        request: SubscribeRequest {
            key: line.key.into(),
            filter,
            qos: qos(line.qos)?,
            no_local: line.no_local,
            retain_as_published: line.retain_as_published,
            retain_handling: match line.retain_handling {
                RetainHandling::Send => connection::RetainHandling::Send,
                RetainHandling::SendIfNew => connection::RetainHandling::SendIfNew,
                RetainHandling::DoNotSend => connection::RetainHandling::DoNotSend,
            },
            identifier,
            lane: match line.own_lane {
                None => Lane::Session,
                Some(in_flight) => Lane::Own { in_flight },
            },
            auto_settle: line.auto_settle,
            durable: line.durable,
        },
        retained: match line.retained {
            RetainedProgress::Done => store::RetainedProgress::Done,
            RetainedProgress::Wanted => store::RetainedProgress::Wanted,
            RetainedProgress::Behind(text) => store::RetainedProgress::Behind(topic(&text)?),
        },
    })
}

/// The line of a group.
pub(super) fn group_line(number: u64, record: &GroupRecord) -> Group {
    Group {
        number,
        share: record.share.as_deref().map(str::to_owned),
        filter: record.filter.as_str().to_owned(),
    }
}

/// The group of a line.
pub(super) fn group(line: Group) -> Result<GroupRecord> {
    let filter = Filter::parse(line.filter.clone().into(), usize::MAX, usize::MAX)
        .with_context(|| format!("filter {:?}", line.filter))?;
    Ok(GroupRecord {
        share: line.share.map(ByteString::from),
        filter,
    })
}

/// The line of a queue's entry.
pub(super) fn entry_line(queue: QueueId, entry: &LoadedEntry) -> Entry {
    Entry {
        owner: queue.owner,
        lane: queue.lane,
        position: entry.position,
        qos: entry.qos as u8,
        retain: entry.retain,
        attempts: entry.attempts,
        received: entry.received,
        matched: entry.matched.iter().map(|id| id.0).collect(),
        from: entry
            .group
            .map(|(group, position)| FromGroup { group, position }),
        message: message_line(&entry.message),
    }
}

/// The entry of a line: how it is to be delivered, and its message.
pub(super) fn entry(line: Entry) -> Result<(Receiver, Arc<model::Message>)> {
    let receiver = Receiver {
        queue: QueueId {
            owner: line.owner,
            lane: line.lane,
        },
        position: line.position,
        qos: qos(line.qos)?,
        retain: line.retain,
        attempts: line.attempts,
        matched: line.matched.into_iter().map(SubscriptionId).collect(),
        group: line.from.map(|from| (from.group, from.position)),
    };
    Ok((receiver, message(line.message)?))
}

/// A message in a line.
pub(super) fn message_line(message: &model::Message) -> Message {
    Message {
        topic: message.topic.as_str().to_owned(),
        body: body_line(&message.payload),
        qos: message.qos as u8,
        retain: message.retain,
        expires_at: message.expires_at.map(|at| at.0),
        publisher: message.publisher,
        source: message.source.as_deref().map(str::to_owned),
        retained_at: (message.retained_at.0 != 0).then_some(message.retained_at.0),
        properties: (!message.is_bare()).then(|| properties_line(message)),
    }
}

/// The message in a line.
pub(super) fn message(line: Message) -> Result<Arc<model::Message>> {
    let payload = body(line.body)?;
    let mut message =
        model::Message::new(topic(&line.topic)?, payload, qos(line.qos)?, line.retain);
    message.expires_at = line.expires_at.map(Timestamp);
    message.publisher = line.publisher;
    message.source = line.source.map(Arc::from);
    message.retained_at = Timestamp(line.retained_at.unwrap_or(0));
    if let Some(line) = line.properties {
        message.payload_format = line.payload_format.map(|format| match format {
            PayloadFormat::Bytes => model::PayloadFormat::Bytes,
            PayloadFormat::Utf8 => model::PayloadFormat::Utf8,
        });
        message.properties = properties(line)?.map(Box::new);
    }
    Ok(Arc::new(message))
}

fn properties_line(message: &model::Message) -> Properties {
    let none = model::Properties::default();
    let properties = message.properties.as_deref().unwrap_or(&none);
    let user = properties.user.iter();
    Properties {
        content_type: properties.content_type.as_deref().map(str::to_owned),
        reply_to: properties.reply_to.as_deref().map(str::to_owned),
        correlation: properties.correlation.as_ref().map(body_line),
        payload_format: message.payload_format.map(|format| match format {
            model::PayloadFormat::Bytes => PayloadFormat::Bytes,
            model::PayloadFormat::Utf8 => PayloadFormat::Utf8,
        }),
        user: user
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
    }
}

fn properties(line: Properties) -> Result<Option<model::Properties>> {
    let user = line.user.into_iter();
    let properties = model::Properties {
        content_type: line.content_type.map(ByteString::from),
        reply_to: line.reply_to.map(ByteString::from),
        correlation: line.correlation.map(body).transpose()?,
        user: user
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
    };
    Ok((!properties.is_empty()).then_some(properties))
}

fn body_line(bytes: &Bytes) -> Body {
    match std::str::from_utf8(bytes) {
        Ok(text) => Body::Text(text.to_owned()),
        Err(_) => Body::Base64(STANDARD.encode(bytes)),
    }
}

fn body(line: Body) -> Result<Bytes> {
    Ok(match line {
        Body::Text(text) => text.into_bytes().into(),
        Body::Base64(text) => STANDARD.decode(text).context("base64")?.into(),
    })
}

fn topic(text: &str) -> Result<Topic> {
    Topic::parse(text.into(), usize::MAX, usize::MAX).with_context(|| format!("topic {text:?}"))
}

fn qos(level: u8) -> Result<QoS> {
    QoS::from_u8(level).ok_or_else(|| anyhow!("qos: there is no level {level}"))
}

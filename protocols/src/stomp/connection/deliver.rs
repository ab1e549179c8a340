//! MESSAGE (STOMP 1.2 §MESSAGE): a head for the subscription, then what all receivers share.

use std::num::NonZeroU32;

use super::StompConnection;
use super::settle::{MessageId, Number};
use super::subscribe::{AckMode, Subscription};
use crate::connection::{Delivered, Delivery, SubscriptionId};
use crate::model::{Message, Timestamp};
use crate::outbox::Outbox;
use crate::stomp::destination::Style;
use crate::stomp::encode::put_number;
use crate::stomp::frame::{Buffer, Escaping, buffer};
use crate::stomp::{GIVEN, Version, destination, message};

impl StompConnection {
    /// Writes a message once for each of the subscriptions that it comes from.
    pub(super) fn message(
        &mut self,
        delivery: &Delivery<'_>,
        version: Version,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        if delivery.matched.is_empty() {
            return self.unasked(delivery, version, now, outbox);
        }
        let mut delivered = Delivered::NotSubscribed;
        for matched in delivery.matched {
            let serial = self.serial;
            let Some(subscription) = self.subscriptions.by_id(matched.id) else {
                if let Some(number) = matched.identifier {
                    delivered = self.given(number, delivery, version, now, outbox);
                }
                continue;
            };
            let number = subscription.number(delivery, serial);
            let head = head(subscription, matched.id, number, delivery, version);
            put(head, delivery.message, version, outbox);
            self.serial += 1;
            self.heart_beat.sent(now);
            delivered = Delivered::Written;
        }
        delivered
    }

    /// A message for this connection that no subscription asked for. STOMP wants one named all the
    /// same: it is the topic, which no client has as the `id` of a subscription by accident.
    fn unasked(
        &mut self,
        delivery: &Delivery<'_>,
        version: Version,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        let escaping = Escaping::of("MESSAGE", Some(version));
        let topic = delivery.message.topic.as_str();
        let name = |head: &mut Buffer| destination::put(topic, Style::Bare, escaping, head);
        self.not_its_own(name, delivery, version, now, outbox)
    }

    /// A message of a subscription that was made in the client's place: the only ones here that
    /// have an identifier, and it makes their name.
    fn given(
        &mut self,
        number: NonZeroU32,
        delivery: &Delivery<'_>,
        version: Version,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        let name = |head: &mut Buffer| {
            head.extend_from_slice(GIVEN.as_bytes());
            put_number(head, u64::from(number.get()));
        };
        self.not_its_own(name, delivery, version, now, outbox)
    }

    /// A message of what is not in the client's own table.
    fn not_its_own(
        &mut self,
        name: impl FnOnce(&mut Buffer),
        delivery: &Delivery<'_>,
        version: Version,
        now: Timestamp,
        outbox: &mut Outbox,
    ) -> Delivered {
        if delivery.position.is_some() {
            // Nothing could acknowledge it.
            return Delivered::NotSubscribed;
        }
        let escaping = Escaping::of("MESSAGE", Some(version));
        let mut head = buffer();
        head.extend_from_slice(b"MESSAGE\nsubscription:");
        name(&mut head);
        head.extend_from_slice(b"\nmessage-id:");
        put_number(&mut head, self.serial);
        head.extend_from_slice(b"\ndestination:");
        let topic = delivery.message.topic.as_str();
        destination::put(topic, Style::Bare, escaping, &mut head);
        head.push(b'\n');
        if delivery.retain {
            head.extend_from_slice(b"retained:true\n");
        }
        put(head, delivery.message, version, outbox);
        self.serial += 1;
        self.heart_beat.sent(now);
        Delivered::Written
    }
}

impl Subscription {
    fn number(&mut self, delivery: &Delivery<'_>, serial: u64) -> Number {
        match delivery.position {
            Some(position) if self.ack != AckMode::Auto => {
                self.next_position = self.next_position.max(position.saturating_add(1));
                Number::Position(position)
            }
            _ => Number::Unsettled {
                next_position: self.next_position,
                serial,
            },
        }
    }
}

/// Puts a MESSAGE that begins with `head`.
fn put(mut head: Buffer, message: &Message, version: Version, outbox: &mut Outbox) {
    let payload = &message.payload;
    if message.is_for_one() {
        let escaping = Escaping::of("MESSAGE", Some(version));
        message::put_tail(message, escaping, &mut head);
        let kind = message::kind(message);
        outbox.frame_of(message, kind, &[&head], payload, b"\0");
    } else {
        let tail = message::tail(message, version);
        let parts = [head.as_slice(), tail.bytes];
        outbox.frame_of(message, tail.kind, &parts, payload, b"\0");
    }
}

fn head(
    subscription: &Subscription,
    id: SubscriptionId,
    number: Number,
    delivery: &Delivery<'_>,
    version: Version,
) -> Buffer {
    let mut head = buffer();
    head.extend_from_slice(&subscription.head);
    let id = MessageId {
        subscription: id,
        number,
    };
    head.extend_from_slice(b"message-id:");
    id.put(&mut head);
    if version == Version::V1_2 && subscription.ack != AckMode::Auto {
        head.extend_from_slice(b"\nack:");
        id.put(&mut head);
    }
    head.extend_from_slice(b"\ndestination:");
    let escaping = Escaping::of("MESSAGE", Some(version));
    let topic = delivery.message.topic.as_str();
    destination::put(topic, subscription.style, escaping, &mut head);
    head.push(b'\n');
    if delivery.retain {
        head.extend_from_slice(b"retained:true\n");
    }
    if delivery.attempts > 0 {
        head.extend_from_slice(b"redelivered:true\ndelivery-count:");
        put_number(&mut head, u64::from(delivery.attempts) + 1);
        head.push(b'\n');
    }
    head
}

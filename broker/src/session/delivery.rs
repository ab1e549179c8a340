//! Messages into a session: at once, through a lane, or not at all.
//!
//! A publisher comes here with the session's lock held, once for each session that its message
//! goes to; a group asks with an [`Offer`]. What then leaves the lanes is in `sending.rs`, what
//! the client answers in `settlement.rs`.

use std::sync::Arc;

use protocols::Delivery;
use protocols::connection::{Delivered, Matched, SubscriptionId};
use protocols::model::{Message, QoS};
use smallvec::SmallVec;

use super::sending::{pump_lane, tell_gap};
use super::{Batch, Dropped, Entry, Lane, Session, Share, Spare, State};
use crate::store::{QueueId, Receiver, Ticket};
use crate::telemetry::{Drop as DropReason, trace};

/// What became of a message for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written, or waiting in a lane.
    Accepted,
    /// The client is away and the message is not kept for it.
    Away,
    /// Dropped and counted.
    Dropped,
}

/// A group's question to one of its members, answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The message is the member's now.
    Yes,
    /// Not now: no room.
    Busy,
    /// The member has no connection.
    Away,
}

/// A message that a group offers to a member.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The group, and the message's position there.
    pub share: Share,
    /// Whether it waits in the group, and is on disk if the group is stored; otherwise it has just
    /// been published.
    pub waits: bool,
}

/// What one delivery is, beside the message.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// The level to deliver with.
    pub qos: QoS,
    /// The retain flag to show.
    pub retain: bool,
    /// The subscriptions that it comes from.
    pub matched: &'a [Matched],
    /// The subscription with a lane of its own, if it has one.
    pub lane: Option<SubscriptionId>,
    /// How often it was sent before.
    pub attempts: u32,
}

impl State {
    /// Takes a message for the client: writes it, or keeps it until it can be written.
    pub fn accept(
        &mut self,
        me: &Arc<Session>,
        message: &Arc<Message>,
        terms: &Terms<'_>,
        batch: &mut Batch,
    ) -> Outcome {
        if self.guarded && !me.rights.may_receive(&message.topic) {
            batch.count_dropped(DropReason::NotAuthorized, 1);
            lost(me, message, DropReason::NotAuthorized);
            return Outcome::Dropped;
        }
        if terms.qos == QoS::AtMostOnce {
            return self.write(me, message, terms, batch);
        }
        self.enqueue(me, message, terms, None, batch)
    }

    /// Writes a message for the connection that the session has now, at most once, whatever it has
    /// subscribed to.
    pub fn write_to_link(
        &mut self,
        me: &Arc<Session>,
        message: &Arc<Message>,
        batch: &mut Batch,
    ) -> Outcome {
        let terms = Terms {
            qos: QoS::AtMostOnce,
            retain: false,
            matched: &[],
            lane: None,
            attempts: 0,
        };
        self.write(me, message, &terms, batch)
    }

    /// Takes a message for the client from a group, only if it can go out at once.
    pub fn offer(
        &mut self,
        me: &Arc<Session>,
        message: &Arc<Message>,
        terms: &Terms<'_>,
        offer: Offer,
        batch: &mut Batch,
    ) -> Taken {
        let limit = self.bounds.outbox_bytes;
        if self.guarded && !me.rights.may_receive(&message.topic) {
            return Taken::Away;
        }
        match &self.link {
            None => return Taken::Away,
            Some(link) if link.end.is_some() => return Taken::Away,
            Some(link) if link.outbox.len() > limit => {
                // No acknowledgement may ever come to ask for it: the next write does.
                self.missed_offer = true;
                return Taken::Busy;
            }
            Some(_) => {}
        }
        if terms.qos == QoS::AtMostOnce {
            let outcome = self.write(me, message, terms, batch);
            if outcome != Outcome::Away && offer.waits {
                offer.share.done(batch);
            }
            return match outcome {
                // Dropped means here that it is larger than the client takes. It must not hold up
                // what is behind it in the group [MQTT-3.1.2-25].
                Outcome::Accepted | Outcome::Dropped => Taken::Yes,
                Outcome::Away => Taken::Away,
            };
        }
        let room = match self.lane_at(terms.lane) {
            Some(at) => self.lanes[at].has_room(),
            None => terms.lane.is_none() && self.window > 0,
        };
        if !room {
            return Taken::Busy;
        }
        match self.enqueue(me, message, terms, Some(offer), batch) {
            Outcome::Accepted => Taken::Yes,
            Outcome::Away | Outcome::Dropped => Taken::Busy,
        }
    }

    fn write(
        &mut self,
        me: &Arc<Session>,
        message: &Arc<Message>,
        terms: &Terms<'_>,
        batch: &mut Batch,
    ) -> Outcome {
        let limit = self.bounds.outbox_bytes;
        let Some(link) = self.link.as_mut().filter(|link| link.end.is_none()) else {
            return Outcome::Away;
        };
        if link.outbox.len() > limit {
            link.gap = link.gap.saturating_add(1);
            batch.count_dropped(DropReason::SlowConsumer, 1);
            lost(me, message, DropReason::SlowConsumer);
            return Outcome::Dropped;
        }
        tell_gap(link, batch.now);
        let delivery = Delivery {
            message,
            qos: QoS::AtMostOnce,
            retain: terms.retain,
            position: None,
            attempts: terms.attempts,
            matched: terms.matched,
        };
        match link
            .connection
            .deliver(&delivery, batch.now, &mut link.outbox)
        {
            Delivered::Written => {
                link.wrote(message, terms.retain);
                batch.count_delivered(&link.metrics, QoS::AtMostOnce);
                if trace::is_on() {
                    let name = link.metrics.name;
                    trace::delivered(&me.client_id, name, message, QoS::AtMostOnce, 0);
                }
            }
            Delivered::TooLarge => {
                batch.count_dropped(DropReason::TooLarge, 1);
                lost(me, message, DropReason::TooLarge);
                return Outcome::Dropped;
            }
            Delivered::NotSubscribed => return Outcome::Away,
        }
        self.rouse(me, batch);
        Outcome::Accepted
    }

    fn enqueue(
        &mut self,
        me: &Arc<Session>,
        message: &Arc<Message>,
        terms: &Terms<'_>,
        offer: Option<Offer>,
        batch: &mut Batch,
    ) -> Outcome {
        let Some(at) = self.lane_for(terms.lane) else {
            return Outcome::Away;
        };
        let size = message.size();
        if !self.make_room(me, at, size, batch) {
            batch.count_dropped(DropReason::QueueFull, 1);
            lost(me, message, DropReason::QueueFull);
            if let Some(link) = &mut self.link {
                link.gap = link.gap.saturating_add(1);
            }
            return Outcome::Dropped;
        }
        let position = self.next_position;
        self.next_position += 1;
        self.queued += 1;
        self.queued_bytes += size;
        let lane = &mut self.lanes[at];
        let ticket = keep(me, lane, position, message, terms, offer.as_ref(), batch);
        let is_away = self.link.is_none();
        if let Some(ticket) = &ticket
            && lane.is_stored()
            && offer.is_none()
            && (is_away || lane.spills(&self.bounds, Spare::of_process()))
        {
            lane.push_spilled(position, size, Arc::clone(ticket));
            batch.tell(me);
            return Outcome::Accepted;
        }
        if ticket.is_some() {
            batch.tell(me);
        }
        lane.push(Entry {
            position,
            message: Arc::clone(message),
            qos: terms.qos,
            retain: terms.retain,
            attempts: terms.attempts,
            received: false,
            matched: terms.matched.into(),
            group: offer.map(|offer| offer.share),
            stored: lane.is_stored().then(|| lane.number()),
            ticket,
        });
        let limit = self.bounds.outbox_bytes;
        if let Some(link) = self.link.as_mut().filter(|link| link.end.is_none()) {
            let mut gone = SmallVec::new();
            let trust = (&**me, self.trusted_from);
            pump_lane(lane, link, limit, trust, batch, &mut gone);
            for entry in &gone {
                self.done(me, entry, batch);
            }
            self.rouse(me, batch);
        }
        Outcome::Accepted
    }

    /// The lane of that subscription, or the session's own, which begins with its first message.
    fn lane_for(&mut self, owner: Option<SubscriptionId>) -> Option<usize> {
        if owner.is_none() && self.window > 0 && self.lane_at(None).is_none() {
            self.lane_mut(None, self.window, false);
        }
        self.lane_at(owner)
    }

    /// Whether another message may wait; if so configured, the oldest that waits makes room.
    fn make_room(
        &mut self,
        me: &Arc<Session>,
        lane: usize,
        size: usize,
        batch: &mut Batch,
    ) -> bool {
        loop {
            let fits = self.queued < self.bounds.queue_messages
                && self.queued_bytes.saturating_add(size) <= self.bounds.queue_bytes;
            if fits || !self.bounds.drop_oldest {
                return fits;
            }
            let store = me.store.as_deref();
            match self.lanes[lane].drop_oldest(store, me.number) {
                Some(Dropped::Entry(entry)) => self.done(me, &entry, batch),
                Some(Dropped::Spilled { size }) => {
                    self.queued = self.queued.saturating_sub(1);
                    self.queued_bytes = self.queued_bytes.saturating_sub(size);
                }
                None => return false,
            }
            batch.count_dropped(DropReason::QueueFull, 1);
        }
    }
}

/// Stores a message for a lane that is stored, or for the group that keeps it until the member is
/// done with it. Returns what must be on disk before it is sent.
fn keep(
    me: &Session,
    lane: &Lane,
    position: u64,
    message: &Arc<Message>,
    terms: &Terms<'_>,
    offer: Option<&Offer>,
    batch: &mut Batch,
) -> Option<Arc<Ticket>> {
    let share = offer
        .map(|offer| &offer.share)
        .filter(|share| share.group.is_stored());
    if !lane.is_stored() {
        let (offer, share) = (offer?, share?);
        if offer.waits {
            return None;
        }
        return Some(batch.keep(message, share.receiver(message, terms.attempts)));
    }
    let receiver = Receiver {
        queue: QueueId {
            owner: me.number,
            lane: lane.number(),
        },
        position,
        qos: terms.qos,
        retain: terms.retain,
        attempts: terms.attempts,
        matched: terms.matched.iter().map(|matched| matched.id).collect(),
        group: share.map(|share| (share.group.number, share.position)),
    };
    match share.filter(|_| offer.is_some_and(|offer| offer.waits)) {
        Some(share) => Some(batch.relocate(share.queue(), share.position, receiver)),
        None => Some(batch.keep(message, receiver)),
    }
}

/// Tells those who follow the client or the topic that it will not get a message.
pub(super) fn lost(me: &Session, message: &Message, reason: DropReason) {
    if trace::is_on() {
        trace::dropped(&me.client_id, message, reason.as_str());
    }
}

//! Messages into a session: at once, through a lane, or not at all.

use std::sync::Arc;

use protocols::Delivery;
use protocols::Reply;
use protocols::connection::{Delivered, Matched, Notice, Position, Settle, SubscriptionId};
use protocols::model::{Message, QoS, Timestamp};
use smallvec::SmallVec;

use super::{Batch, Dropped, Entry, Lane, Link, Queue, Session, Share, State};
use crate::store::{Op, QueueId, Receiver, Ticket, Urgency};
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

/// What a settlement did.
#[derive(Debug, Default)]
pub struct Settled {
    /// Whether a message was open under that position.
    pub found: bool,
    /// Messages that go back to their group.
    pub returned: Vec<Entry>,
    /// Whether retained messages wait for room.
    pub more_retained: bool,
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

    /// Carries out what the client says about messages that it was sent.
    pub fn settle(&mut self, me: &Arc<Session>, settle: Settle, batch: &mut Batch) -> Settled {
        let mut settled = Settled::default();
        match settle {
            Settle::Received(position) => {
                settled.found = self.receive(me, position, batch);
                return settled;
            }
            Settle::Done(position) => {
                settled.found = self.settle_one(me, position, batch);
                self.acknowledged(usize::from(settled.found));
            }
            Settle::DoneThrough(id, position) => {
                if let Some(at) = self.lane_of(id) {
                    let entries = self.lanes[at].settle_through(position);
                    settled.found = !entries.is_empty();
                    self.acknowledged(entries.len());
                    for entry in &entries {
                        self.done(me, entry, batch);
                    }
                }
            }
            Settle::Rejected { position, requeue } => {
                for at in 0..self.lanes.len() {
                    let Some(entry) = self.lanes[at].settle(position) else {
                        continue;
                    };
                    settled.found = true;
                    self.reject(me, at, entry, requeue, &mut settled.returned, batch);
                    break;
                }
            }
            Settle::RejectedThrough(id, position) => {
                if let Some(at) = self.lane_of(id) {
                    let entries = self.lanes[at].settle_through(position);
                    settled.found = !entries.is_empty();
                    // From the last to the first: each goes before the one that followed it.
                    for entry in entries.into_iter().rev() {
                        self.reject(me, at, entry, true, &mut settled.returned, batch);
                    }
                    settled.returned.reverse();
                }
            }
        }
        self.pump(me, batch);
        settled.more_retained = !self.retained().is_empty();
        settled
    }

    /// The client is done with these messages. Says whether retained ones wait for the room.
    pub fn settle_all(&mut self, me: &Arc<Session>, done: &[Position], batch: &mut Batch) -> bool {
        let settled = done
            .iter()
            .filter(|position| self.settle_one(me, **position, batch));
        let count = settled.count();
        self.acknowledged(count);
        self.pump(me, batch);
        !self.retained().is_empty()
    }

    /// Counts messages that the client said it has.
    fn acknowledged(&self, count: usize) {
        if let Some(link) = &self.link {
            link.metrics.acknowledged.add(count as u64);
        }
    }

    fn settle_one(&mut self, me: &Session, position: Position, batch: &mut Batch) -> bool {
        let mut lanes = self.lanes.iter_mut();
        let Some(entry) = lanes.find_map(|lane| lane.settle(position)) else {
            return false;
        };
        self.done(me, &entry, batch);
        true
    }

    /// Sends what waits and may go out now.
    pub fn pump(&mut self, me: &Arc<Session>, batch: &mut Batch) {
        let limit = self.bounds.outbox_bytes;
        let Some(link) = self.link.as_mut().filter(|link| link.end.is_none()) else {
            return;
        };
        if link.outbox.is_empty() {
            // It has read all: it learns now what it missed, not with some later message.
            tell_gap(link, batch.now);
        }
        let memory = self.bounds.memory_bytes;
        let mut gone: SmallVec<[Entry; 4]> = SmallVec::new();
        let trust = (&**me, self.trusted_from);
        for lane in &mut self.lanes {
            pump_lane(lane, link, limit, trust, batch, &mut gone);
            if let Some(wish) = lane.wish(memory, self.next_position) {
                batch.load(Queue::Lane(Arc::clone(me), lane.number()), wish);
            }
        }
        for entry in &gone {
            self.done(me, entry, batch);
        }
        let missed = std::mem::take(&mut self.missed_offer);
        if missed || self.has_room() {
            for held in self.subscriptions.values() {
                if let Some(group) = held.group.as_ref().filter(|group| group.has_backlog()) {
                    batch.thirst(group);
                }
            }
        }
        self.rouse(me, batch);
    }

    /// A group may have something for it.
    pub fn ask_for_more(&mut self) {
        if let Some(link) = &mut self.link {
            self.missed_offer = true;
            link.nudge();
        }
    }

    /// Whether something waits that may go out when the outbox is empty again.
    pub fn has_more(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.gap > 0)
            || self.missed_offer
            || !self.retained().is_empty()
            || self.lanes.iter().any(|lane| lane.len() > lane.open())
    }

    /// Whether further messages may be produced for this client (retained ones, say): it is
    /// there, and reads, and its window has room.
    pub fn wants_more(&self) -> bool {
        let limit = self.bounds.outbox_bytes / 2;
        self.link
            .as_ref()
            .is_some_and(|link| link.end.is_none() && link.outbox.len() < limit)
            && self.lanes.iter().all(|lane| lane.len() <= lane.open())
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
            && (is_away || lane.spills(self.bounds.memory_bytes))
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

    /// The client has a message: from now on only PUBREL is sent for it.
    fn receive(&mut self, me: &Arc<Session>, position: u64, batch: &mut Batch) -> bool {
        for lane in &mut self.lanes {
            let queue = QueueId {
                owner: me.number,
                lane: lane.number(),
            };
            let is_stored = lane.is_stored();
            if lane.receive(position).is_some() {
                if is_stored {
                    batch.record(Op::Received { queue, position }, Urgency::Now);
                }
                return true;
            }
        }
        false
    }

    /// A message is done with: it is counted out, and the store forgets it.
    fn done(&mut self, me: &Session, entry: &Entry, batch: &mut Batch) {
        self.forget(std::slice::from_ref(entry));
        entry.done(me, batch);
    }

    /// Wakes the connection's task at the end of the batch, and remembers pressure.
    fn rouse(&mut self, me: &Arc<Session>, batch: &mut Batch) {
        let Some(link) = &mut self.link else { return };
        if link.outbox.is_empty() {
            return;
        }
        link.bound(self.bounds.outbox_hard_bytes);
        if let Some(waker) = link.take_writer() {
            batch.wake(waker);
        }
        let pressed = link.outbox.len() > self.bounds.outbox_bytes / 2 && link.patience > 0;
        if pressed && batch.press(me) {
            link.patience -= 1;
        }
    }

    fn reject(
        &mut self,
        me: &Arc<Session>,
        lane: usize,
        entry: Entry,
        requeue: bool,
        returned: &mut Vec<Entry>,
        batch: &mut Batch,
    ) {
        if requeue && entry.group.is_none() {
            self.lanes[lane].requeue(entry);
            return;
        }
        if requeue {
            self.forget(std::slice::from_ref(&entry));
            returned.push(entry);
        } else {
            self.done(me, &entry, batch);
            batch.count_dropped(DropReason::Rejected, 1);
        }
    }

    fn lane_of(&self, id: SubscriptionId) -> Option<usize> {
        self.lane_at(Some(id))
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
fn lost(me: &Session, message: &Message, reason: DropReason) {
    if trace::is_on() {
        trace::dropped(&me.client_id, message, reason.as_str());
    }
}

fn tell_gap(link: &mut Link, now: Timestamp) {
    if link.gap > 0 {
        let dropped = u64::from(std::mem::take(&mut link.gap));
        link.connection
            .notify(&Notice::Gap { dropped }, now, &mut link.outbox);
    }
}

/// Sends from one lane until its window, the outbox or the lane itself ends it. What is not sent
/// but dropped goes to `gone`, as does what needs no settlement. What was queued before
/// `trusted_from` may not be the client's any more.
fn pump_lane(
    lane: &mut Lane,
    link: &mut Link,
    limit: usize,
    (me, trusted_from): (&Session, Position),
    batch: &mut Batch,
    gone: &mut SmallVec<[Entry; 4]>,
) {
    while link.outbox.len() <= limit {
        let Some(entry) = lane.due() else { return };
        if entry.received {
            let position = entry.position;
            link.drive(&mut Vec::new(), |connection, out| {
                connection.reply(
                    Reply::Received {
                        position,
                        found: true,
                    },
                    batch.now,
                    out,
                );
            });
            lane.sent();
            continue;
        }
        if entry.position < trusted_from && !me.rights.may_receive(&entry.message.topic) {
            batch.count_dropped(DropReason::NotAuthorized, 1);
            lost(me, &entry.message, DropReason::NotAuthorized);
            gone.extend(lane.drop_next());
            continue;
        }
        if entry.message.is_expired(batch.now) {
            batch.count_dropped(DropReason::Expired, 1);
            lost(me, &entry.message, DropReason::Expired);
            gone.extend(lane.drop_next());
            continue;
        }
        tell_gap(link, batch.now);
        let delivery = Delivery {
            message: &entry.message,
            qos: entry.qos,
            retain: entry.retain,
            position: Some(entry.position),
            attempts: entry.attempts,
            matched: &entry.matched,
        };
        match link
            .connection
            .deliver(&delivery, batch.now, &mut link.outbox)
        {
            Delivered::Written => {
                batch.count_delivered(&link.metrics, entry.qos);
                link.wrote(&entry.message, entry.retain);
                if entry.attempts > 0 {
                    link.metrics.redelivered.inc();
                }
                if trace::is_on() {
                    let (name, message) = (link.metrics.name, &entry.message);
                    trace::delivered(&me.client_id, name, message, entry.qos, entry.attempts);
                }
                if lane.auto_settle {
                    gone.extend(lane.drop_next());
                } else {
                    lane.sent();
                }
            }
            Delivered::TooLarge => {
                batch.count_dropped(DropReason::TooLarge, 1);
                lost(me, &entry.message, DropReason::TooLarge);
                gone.extend(lane.drop_next());
            }
            Delivered::NotSubscribed => return,
        }
    }
}

//! What of the hub survives a crash: handing units to the store, reading back, and the restart.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};

use hashbrown::HashSet;
use protocols::connection::{Refusal, RefusalCode, SubscribeRequest, topics};
use protocols::model::{Message, QoS, Timestamp};

use super::Hub;
use crate::auth::access::{Permissions, Standing};
use crate::auth::stored::{self, Stored};
use crate::session::{Batch, Group, GroupName, Queue, Restart, Session, SubRoute, Wish};
use crate::store::{
    Committed, Loaded, Op, QueueId, Recovered, RecoveredSession, Seq, Store, Unit, Urgency,
};

/// Tells somebody when a unit of others is on disk.
struct Told(Arc<dyn Committed>);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        Arc::clone(&self.0).committed();
    }
}

impl Hub {
    /// The store, if there is one.
    pub fn store(&self) -> Option<&Arc<dyn Store>> {
        self.store.as_ref()
    }

    /// Whether a unit is on disk; always, without a store.
    pub fn is_durable(&self, seq: Seq) -> bool {
        seq == 0
            || self
                .store
                .as_ref()
                .is_none_or(|store| store.durable() >= seq)
    }

    /// Ends a piece of work: what it changed is handed to the store as one unit, groups give
    /// messages to members that got room, and what is needed next is read from the disk.
    pub(super) fn commit_batch(&self, batch: &mut Batch) {
        if batch.in_transaction() || batch.is_settled() {
            return;
        }
        loop {
            self.seal(batch);
            self.tell_of_taken(batch);
            let thirsty = batch.take_thirsty();
            if thirsty.is_empty() {
                break;
            }
            for group in thirsty {
                group.drain(batch);
                self.drop_if_empty(&group, batch);
            }
        }
        for (queue, wish) in batch.take_loads() {
            self.load(queue, wish, batch.now);
        }
    }

    /// Those who wait for what others have handed to the store, and change nothing themselves: a
    /// queue that got a message back which is not on disk yet.
    fn tell_of_taken(&self, batch: &mut Batch) {
        let Some(store) = &self.store else { return };
        for who in batch.take_waiting() {
            store.wake_at(store.taken(), &Waker::from(Arc::new(Told(who))));
        }
    }

    /// Hands what the batch has changed so far to the store.
    pub(super) fn seal(&self, batch: &mut Batch) -> Seq {
        let Some((unit, urgency)) = batch.take_unit() else {
            return 0;
        };
        let Some(store) = &self.store else { return 0 };
        let seq = store.append(unit, urgency);
        if urgency == Urgency::Now {
            batch.promise(seq);
        }
        seq
    }

    /// The answer says what may have become true a moment ago: it waits for all that was taken.
    pub(super) fn promise_all(&self, batch: &mut Batch) {
        if let Some(store) = &self.store {
            batch.promise(store.taken());
        }
    }

    /// Whether a message can be stored, if it must be.
    pub(super) fn check_space(&self, message: &Message, needed: bool) -> Result<(), Refusal> {
        if message.qos != QoS::AtMostOnce {
            self.guard.memory.check()?;
        }
        let Some(store) = &self.store else {
            return Ok(());
        };
        match store.room() {
            Err(full) if needed || self.must_store(message) => {
                Err(Refusal::new(RefusalCode::Quota, full.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the retained message of a topic, and writes it down at the same moment.
    pub(super) fn retain(&self, message: &Arc<Message>, batch: &mut Batch) -> Result<(), Refusal> {
        let mut seq = 0;
        let set = self.retained.set_and(Arc::clone(message), batch.now, || {
            let Some(store) = &self.store else { return };
            let urgency = match message.qos {
                QoS::AtMostOnce => Urgency::Later,
                _ => Urgency::Now,
            };
            let mut unit = Unit::default();
            unit.ops.push(if message.payload.is_empty() {
                Op::Unretain {
                    topic: message.topic.text().clone(),
                }
            } else {
                Op::Retain {
                    message: Arc::clone(message),
                }
            });
            seq = store.append(unit, urgency);
        });
        if message.qos > QoS::AtMostOnce {
            batch.promise(seq);
        }
        match set {
            Ok(_replaced) => Ok(()),
            Err(full) => Err(self.not_retained(full)),
        }
    }

    /// Brings back what the store held. To be called once, before the first client.
    pub fn restore(&self, recovered: Recovered, restart: Restart) {
        self.numbers
            .fetch_max(recovered.next_number, Ordering::AcqRel);
        // A publisher's messages share what is said of it, as they did when it was there.
        let mut sources: HashSet<Arc<str>> = HashSet::new();
        for mut message in recovered.retained {
            if let Some(source) = Arc::get_mut(&mut message).and_then(|held| held.source.as_mut()) {
                *source = Arc::clone(sources.get_or_insert_with(source, |_| Arc::clone(source)));
            }
            if let Err(full) = self.retained.restore(message, restart.now) {
                tracing::error!(%full, "a retained message that was stored is not served");
            }
        }
        for (until, key, answer) in recovered.keys {
            self.idempotency.lock().restore(&key, answer, until);
        }
        for group in &recovered.groups {
            let name = GroupName {
                share: group.record.share.clone(),
                filter: group.record.filter.clone(),
            };
            let queue = group.queue;
            let held = self.insert_group(group.number, name);
            held.recovered(queue.messages, queue.bytes, queue.last_position);
        }
        let mut batch = Batch::new(restart.now);
        for session in recovered.sessions {
            self.restore_session(session, restart, &mut batch);
        }
        let groups: Vec<_> = self.groups.lock().by_name.values().cloned().collect();
        for group in groups {
            self.drop_if_empty(&group, &mut batch);
        }
        self.commit_batch(&mut batch);
        batch.finish(&self.metrics);
    }

    fn restore_session(&self, recovered: RecoveredSession, restart: Restart, batch: &mut Batch) {
        let Some(store) = &self.store else { return };
        let bounds = Arc::clone(&self.bounds.load().stored_session);
        let session = Session::restore(&recovered, bounds, Arc::clone(store), restart);
        let session = Arc::new(session);
        let mut recovered = recovered;
        let subscriptions = std::mem::take(&mut recovered.subscriptions);
        for record in subscriptions {
            let group = self.restore_group(&record.request, batch);
            let mut state = session.lock();
            let overlap = state.overlap;
            let held = state.restore_subscription(record, group);
            drop(state);
            self.route_restored(&session, &held, SubRoute::new(&held, overlap));
        }
        self.sessions.insert(&session);
        self.restore_place(&session, recovered.record.who.as_deref());
        let mut state = session.lock();
        let was_connected = recovered.record.connected;
        let maybe_sent = was_connected && recovered.record.ends_at.is_none();
        for (queue, wish) in state.restore_queues(&session, &recovered, maybe_sent) {
            batch.load(queue, wish);
        }
        if was_connected {
            state.record(&session, batch, Urgency::Later);
        }
        self.watch(&session, &mut state);
        drop(state);
        if let Some(stored) = recovered.record.who.as_deref().and_then(stored::read) {
            self.know_again(&session, stored, batch);
        }
    }

    /// A client that is away may do what it could, by the rules that are in force now.
    fn know_again(&self, session: &Arc<Session>, stored: Stored, batch: &mut Batch) {
        let who = Arc::new(stored.who);
        session.lock().identify(&who);
        let standing = self
            .access
            .standing(Arc::clone(&who), &session.client_id, stored.protocol);
        let standing = standing.unwrap_or_else(|_| Standing {
            who,
            protocol: stored.protocol,
            version: self.access.version(),
            permissions: Some(Arc::new(Permissions::nothing())),
        });
        self.stand(session, standing, batch);
    }

    fn load(&self, queue: Queue, wish: Wish, now: Timestamp) {
        let Some(store) = &self.store else { return };
        let id = match &queue {
            Queue::Lane(session, lane) => QueueId {
                owner: session.number,
                lane: *lane,
            },
            Queue::Group(group) => QueueId {
                owner: group.number,
                lane: 0,
            },
        };
        let hub = self.me.clone();
        let then = move |loaded: Loaded| {
            if let Some(hub) = hub.upgrade() {
                hub.loaded(queue, wish, loaded, now);
            }
        };
        store.load(wish.load(id, Box::new(then)));
    }

    fn loaded(&self, queue: Queue, wish: Wish, loaded: Loaded, now: Timestamp) {
        let mut batch = Batch::new(now);
        match queue {
            Queue::Lane(session, lane) => {
                let groups = |number| self.groups.lock().by_number.get(&number).map(Arc::clone);
                session.lock().loaded(lane, &wish, loaded, &groups);
            }
            Queue::Group(group) => group.loaded(wish, loaded, &mut batch),
        }
        self.commit_batch(&mut batch);
        batch.finish(&self.metrics);
    }

    /// A queue survives a crash, unless it is one connection's own.
    pub(super) fn store_queue(&self, group: &Arc<Group>, batch: &mut Batch) {
        if self.store.is_some() && !group.is_passing() {
            group.become_stored(batch);
        }
    }

    /// Whether a message has to be on disk: for a receiver, or because it is retained.
    fn must_store(&self, message: &Message) -> bool {
        let topic = message.topic.as_str();
        if message.retain || topic.starts_with(topics::QUEUE) {
            return true;
        }
        let plan = self.router.routes(&message.topic);
        plan.groups.iter().any(|group| group.is_stored())
            || plan.targets.iter().any(|target| target.stores(message))
    }

    /// The group of a shared subscription that was stored.
    fn restore_group(&self, request: &SubscribeRequest, batch: &mut Batch) -> Option<Arc<Group>> {
        let name = super::subscribe::group_name(request)?;
        match self.group(name) {
            Ok(group) => {
                group.become_stored(batch);
                Some(group)
            }
            Err(refusal) => {
                tracing::error!(
                    filter = request.filter.as_str(), reason = %refusal.detail,
                    "a stored subscription is not served"
                );
                None
            }
        }
    }
}

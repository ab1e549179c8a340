//! Publishing: from a message to everyone who is to get it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytestring::ByteString;
use protocols::connection::{Command, Publish, Refusal, RefusalCode, topics};
use protocols::model::{Filter, Message};

use super::{Hub, stripe};
use crate::session::{Batch, GroupName, Session, TEMPORARY};
use crate::store::{Op, Urgency};
use crate::telemetry::{Drop as DropReason, trace};

impl Hub {
    /// Publishes for a client. Says how many sessions and groups took the message.
    pub fn publish_for(
        &self,
        session: &Arc<Session>,
        publish: Publish,
        batch: &mut Batch,
    ) -> Result<u32, Refusal> {
        let Publish {
            exactly_once,
            idempotency_key,
            mut message,
            ..
        } = publish;
        if let Err(refusal) = self.check_publish(session, &message) {
            // What was taken before the rules changed is answered as it was: a client that is
            // refused uses the identifier again, and what comes with it would be taken for this.
            if !exactly_once.is_some_and(|id| session.lock().accepted.contains(id)) {
                return Err(refusal);
            }
        }
        let key = idempotency_key.as_ref();
        // Who comes with the same key at the same time waits for the answer that it is to get.
        let _one_at_a_time = key.map(|key| self.keys[stripe(key)].lock());
        if let Some(packet_id) = exactly_once
            && !session.lock().accepted.insert(packet_id)
        {
            self.promise_all(batch);
            return Ok(1);
        }
        if let Some(key) = &idempotency_key
            && let Some(answer) = self.idempotency.lock().answer(key, batch.now)
        {
            self.metrics.idempotent_suppressed.inc();
            self.promise_all(batch);
            return Ok(answer);
        }
        let own = Arc::make_mut(&mut message);
        own.publisher = session.number;
        self.sign(session, own);
        take(own, batch);
        let stored_id = exactly_once.filter(|_| session.is_stored());
        let result = check_topic(message.topic.as_str())
            .and_then(|()| self.check_space(&message, stored_id.is_some() || key.is_some()))
            .and_then(|()| self.deliver(&message, batch));
        if trace::is_on() {
            let protocol = session.rights.protocol();
            trace::published(&session.client_id, protocol, &message, &outcome(&result));
        }
        match &result {
            Ok(receivers) => {
                if let Some(packet_id) = stored_id {
                    let number = session.number;
                    batch.record(Op::Accepted { number, packet_id }, Urgency::Now);
                }
                if let Some(key) = idempotency_key {
                    self.remember(key, *receivers, batch);
                }
            }
            Err(_) => {
                if let Some(packet_id) = exactly_once {
                    session.lock().accepted.remove(packet_id);
                }
            }
        }
        self.commit_batch(batch);
        result
    }

    /// A QoS 2 publish is over: its packet identifier may be used again. `true` if it was open.
    pub fn release(&self, session: &Arc<Session>, packet_id: u16, batch: &mut Batch) -> bool {
        let found = session.lock().accepted.remove(packet_id);
        if !session.is_stored() {
            return found;
        }
        if found {
            let number = session.number;
            batch.record(Op::Released { number, packet_id }, Urgency::Now);
            self.seal(batch);
        } else {
            self.promise_all(batch);
        }
        found
    }

    pub(super) fn remember(&self, key: ByteString, answer: u32, batch: &mut Batch) {
        let mut window = self.idempotency.lock();
        window.remember(&key, answer, batch.now);
        if self.store.is_some() {
            let until = window.until(batch.now);
            drop(window);
            batch.record(Op::Key { key, answer, until }, Urgency::Now);
        }
    }

    /// Publishes a message to all whom it concerns.
    pub fn publish(&self, mut message: Message, batch: &mut Batch) -> Result<u32, Refusal> {
        take(&mut message, batch);
        let result = self.deliver(&Arc::new(message), batch);
        self.commit_batch(batch);
        result
    }

    /// Gives a message that was taken to all whom it concerns; what it changes is not handed to the
    /// store yet.
    pub(super) fn deliver(
        &self,
        message: &Arc<Message>,
        batch: &mut Batch,
    ) -> Result<u32, Refusal> {
        let span = self.spans.begin(message, batch.now);
        let result = self.deliver_to_all(message, batch);
        if let Some(span) = span {
            let receivers = result.as_ref().ok().copied();
            self.spans.end(span, message, receivers);
        }
        result
    }

    fn deliver_to_all(&self, message: &Arc<Message>, batch: &mut Batch) -> Result<u32, Refusal> {
        let to_queue = message.topic.as_str().starts_with(topics::QUEUE);
        // Consumers of a queue get no retained messages, so there is no use in keeping one.
        if message.retain && !to_queue && self.bounds.load().retain_available {
            self.retain(message, batch)?;
        }
        let plan = self
            .router
            .routes_again(&message.topic, batch.last_plan.take());
        if plan.targets.len() == 1 && plan.groups.is_empty() && !message.retain {
            message.set_for_one();
        }
        let mut receivers: u32 = 0;
        for target in &plan.targets {
            receivers += u32::from(target.deliver(message, batch));
        }
        for group in plan.groups.iter().filter(|group| !group.is_queue()) {
            receivers += u32::from(group.dispatch(message, batch) == Some(true));
        }
        if to_queue {
            receivers += u32::from(self.enqueue(message, batch)?);
        } else if receivers == 0 && plan.targets.is_empty() && plan.groups.is_empty() {
            batch.count_dropped(DropReason::NoSubscribers, 1);
        }
        batch.last_plan = Some(plan);
        Ok(receivers)
    }

    /// Carries out a transaction's commands together; nothing happens if it is seen beforehand
    /// that one of them cannot.
    pub fn commit(
        &self,
        session: &Arc<Session>,
        mut commands: Vec<Command>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        for command in &mut commands {
            if let Command::Publish(publish) = command {
                self.sign(session, Arc::make_mut(&mut publish.message));
            }
        }
        let publishes = commands.iter().filter_map(|command| match command {
            Command::Publish(publish) => Some(publish),
            _ => None,
        });
        self.check_publishes(session, publishes)?;
        self.check_transaction(&commands, batch)?;
        // Between begin and end nothing is handed to the store: it is one unit.
        batch.begin_transaction();
        let result = self.commit_each(session, commands, batch);
        batch.end_transaction();
        self.commit_batch(batch);
        result
    }

    fn commit_each(
        &self,
        session: &Arc<Session>,
        commands: Vec<Command>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        for command in commands {
            match command {
                Command::Publish(publish) => {
                    self.publish_for(session, publish, batch)?;
                }
                Command::Settle { settle, .. } => {
                    self.settle(session, settle, true, batch);
                }
                other => debug_assert!(false, "not allowed in a transaction: {other:?}"),
            }
        }
        Ok(())
    }

    /// Whether there is room for all that a transaction publishes. What consumers would take at
    /// once counts too: they may have gone when it comes to that.
    fn check_transaction(&self, commands: &[Command], batch: &mut Batch) -> Result<(), Refusal> {
        let messages = commands.iter().filter_map(|command| match command {
            Command::Publish(publish) => Some(&*publish.message),
            _ => None,
        });
        let mut queues: BTreeMap<&str, (&Message, usize, usize)> = BTreeMap::new();
        for message in messages.clone() {
            let topic = message.topic.as_str();
            check_topic(topic)?;
            self.check_space(message, false)?;
            if topic.starts_with(topics::QUEUE) {
                let (_, count, bytes) = queues.entry(topic).or_insert((message, 0, 0));
                *count += 1;
                *bytes += message.size();
            }
        }
        self.check_queues(&queues, batch)?;
        if !self.bounds.load().retain_available {
            return Ok(());
        }
        let retained = messages
            .filter(|message| message.retain && !message.topic.as_str().starts_with(topics::QUEUE));
        let checked = self.retained.check(&retained, batch.now);
        checked.map_err(|full| self.not_retained(full))
    }

    fn check_queues(
        &self,
        queues: &BTreeMap<&str, (&Message, usize, usize)>,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        let refused = || Refusal::new(RefusalCode::Quota, "the queue is full");
        let bounds = self.bounds.load();
        let mut total = self.backlog_bytes.load(Ordering::Relaxed);
        let mut new = 0;
        for (message, count, bytes) in queues.values() {
            total = total.saturating_add(*bytes);
            let name = GroupName {
                share: None,
                filter: Filter::exactly(&message.topic),
            };
            let fits = match self.known_group(&name) {
                Some(group) => group.could_keep(*count, *bytes, batch),
                None => {
                    new += 1;
                    let (max_messages, max_bytes) = bounds.group.of(self.store.is_some());
                    *count <= max_messages && *bytes <= max_bytes
                }
            };
            if !fits {
                return Err(refused());
            }
        }
        let groups = self.groups.lock().by_name.len().saturating_add(new);
        if (new > 0 && groups > bounds.groups)
            || (!queues.is_empty() && total > bounds.group.total_bytes)
        {
            return Err(refused());
        }
        Ok(())
    }

    /// Puts a message on its queue, which exists from its first message on.
    fn enqueue(&self, message: &Arc<Message>, batch: &mut Batch) -> Result<bool, Refusal> {
        loop {
            let name = GroupName {
                share: None,
                filter: Filter::exactly(&message.topic),
            };
            if name.filter.as_str().starts_with(TEMPORARY) && self.known_group(&name).is_none() {
                // Its connection has gone, or reads it not yet; nobody else ever will.
                batch.count_dropped(DropReason::NoSubscribers, 1);
                return Ok(false);
            }
            let group = self.group(name)?;
            self.store_queue(&group, batch);
            match group.dispatch(message, batch) {
                Some(true) => return Ok(true),
                Some(false) => {
                    self.drop_if_empty(&group, batch);
                    return Err(Refusal::new(RefusalCode::Quota, "the queue is full"));
                }
                None => {}
            }
        }
    }
}

/// Notes on a message when it was taken.
pub(super) fn take(message: &mut Message, batch: &Batch) {
    message.taken_us = batch.moment_us;
    if message.retain {
        message.retained_at = batch.now;
    }
}

/// What came of a publish, for those who follow it.
pub(super) fn outcome(result: &Result<u32, Refusal>) -> serde_json::Value {
    match result {
        Ok(receivers) => serde_json::json!({"receivers": receivers}),
        Err(refusal) => serde_json::json!({"refused": refusal.code.as_str()}),
    }
}

/// Topics that clients may not publish to, whatever they are allowed otherwise.
pub(super) fn check_topic(topic: &str) -> Result<(), Refusal> {
    if !topic.starts_with('$') {
        return Ok(());
    }
    if topic == "$SYS" || topic.starts_with(topics::SYS) {
        return Err(Refusal::new(
            RefusalCode::NotAuthorized,
            "$SYS topics are the broker's own and read-only",
        ));
    }
    if topic == "$auth" || topic.starts_with(topics::AUTH) {
        return Err(Refusal::new(
            RefusalCode::NotAuthorized,
            "$auth topics are the broker's own; a token is published to $auth/refresh",
        ));
    }
    if topic == "$share" || topic.starts_with("$share/") {
        return Err(Refusal::new(
            RefusalCode::TopicInvalid,
            "$share is for subscriptions; publish to the topic itself",
        ));
    }
    Ok(())
}

//! Subscribing, unsubscribing, retained messages for new subscriptions, and groups.

use std::sync::Arc;

use parking_lot::MutexGuard;
use protocols::connection::{
    Granted, Refusal, RefusalCode, RetainHandling, Subscribe, SubscribeRequest,
};
use protocols::model::{Kind, Message, QoS};
use smallvec::SmallVec;

use super::access::FORBIDDEN;
use super::{Groups, Hub, RouteKey};
use crate::auth::access::Verdict;
use crate::router::Cursor;
use crate::session::{
    Batch, Group, GroupName, RetainedWork, Route, Session, State, SubRoute, Subscription,
    TEMPORARY, Terms,
};
use crate::store::{Op, Urgency};
use crate::telemetry::trace;

/// Retained messages that are looked up at a time.
const RETAINED_BATCH: usize = 64;

impl Hub {
    /// Makes the subscriptions and says what was granted. Retained messages are not sent yet:
    /// [`Hub::send_retained`] does, after the answer.
    pub fn subscribe(
        &self,
        session: &Arc<Session>,
        subscribe: Subscribe,
        batch: &mut Batch,
    ) -> SmallVec<[Result<Granted, Refusal>; 1]> {
        let requests = subscribe.requests.into_iter();
        let results = requests
            .map(|request| self.subscribe_one(session, request?, batch))
            .collect();
        self.seal(batch);
        results
    }

    /// Removes subscriptions; says for each whether it was there.
    pub fn unsubscribe(
        &self,
        session: &Arc<Session>,
        keys: &[impl AsRef<str>],
        batch: &mut Batch,
    ) -> SmallVec<[bool; 1]> {
        let existed: SmallVec<[bool; 1]> = keys
            .iter()
            .map(|key| self.unsubscribe_one(session, key.as_ref(), batch))
            .collect();
        if session.is_stored() && existed.contains(&false) {
            // It may have been removed a moment ago.
            self.promise_all(batch);
        }
        self.commit_batch(batch);
        existed
    }

    fn unsubscribe_one(&self, session: &Arc<Session>, key: &str, batch: &mut Batch) -> bool {
        let removed = session.lock().unsubscribe(key);
        let Some((subscription, entries)) = removed else {
            return false;
        };
        if trace::is_on() {
            note(session, "unsubscribed", &subscription);
        }
        self.unroute(session, &subscription);
        self.give_back(session, entries, batch);
        if session.is_stored() && subscription.request.durable {
            let (number, id) = (session.number, subscription.id);
            batch.record(Op::SubscriptionEnd { number, id }, Urgency::Now);
            // Its number is not given again, even if no subscription tells any more that it was.
            session.lock().record(session, batch, Urgency::Now);
        }
        self.drop_group_of(&subscription, batch);
        true
    }

    /// Sends retained messages to subscriptions that still wait for some, as far as the client
    /// takes them now.
    pub fn send_retained(&self, session: &Arc<Session>, batch: &mut Batch) {
        loop {
            let work = {
                let mut state = session.lock();
                if state.retained().is_empty() || !state.wants_more() {
                    return;
                }
                state.change_retained(|works| works.remove(0))
            };
            let filter = work.request.filter.filter();
            let found =
                self.retained
                    .matching(filter, work.cursor.as_ref(), RETAINED_BATCH, batch.now);
            let mut state = session.lock();
            let Some(held) = state.subscriptions.get(&work.request.key) else {
                continue;
            };
            if held.id != work.id {
                continue;
            }
            let sub = SubRoute::new(held, state.overlap);
            let mut cursor = found.next;
            let mut last: Option<&Arc<Message>> = None;
            let held = held.clone();
            for message in &found.messages {
                if !self.may_read(session, message) {
                    batch.count_dropped(FORBIDDEN, 1);
                    last = Some(message);
                    continue;
                }
                if !state.wants_more() {
                    // What is written or queued beyond that could be dropped.
                    cursor = last.map_or(work.cursor.clone(), |last| Some(Cursor::behind(last)));
                    state.put_back_retained(RetainedWork { cursor, ..work });
                    record_progress(&state, session, &held, last.is_some(), batch);
                    drop(state);
                    self.seal(batch);
                    return;
                }
                let terms = Terms {
                    qos: sub.effective(message.qos),
                    retain: true,
                    matched: &[sub.matched],
                    lane: sub.lane(),
                    attempts: 0,
                };
                state.accept(session, message, &terms, batch);
                last = Some(message);
            }
            if cursor.is_some() {
                state.put_back_retained(RetainedWork { cursor, ..work });
            }
            record_progress(&state, session, &held, true, batch);
            drop(state);
            self.seal(batch);
        }
    }

    /// Forgets the group of a subscription that is gone, if nothing else keeps it.
    pub(super) fn drop_group_of(&self, held: &Subscription, batch: &mut Batch) {
        if let Some(group) = &held.group {
            self.drop_if_empty(group, batch);
        }
    }

    /// Takes a subscription out of the index or its group. The group itself is not forgotten yet:
    /// what the session holds of it may come back.
    pub(super) fn unroute(&self, session: &Arc<Session>, held: &Subscription) {
        self.remove_route(session, held);
        self.metrics.subscriptions(held.group.is_some()).dec();
    }

    fn remove_route(&self, session: &Arc<Session>, held: &Subscription) {
        match &held.group {
            Some(group) => group.leave(session, held.id),
            None => {
                self.router
                    .remove(held.request.filter.filter(), route_key(session, held));
            }
        }
    }

    /// The group of that name, if it is there.
    pub(super) fn known_group(&self, name: &GroupName) -> Option<Arc<Group>> {
        self.groups.lock().by_name.get(name).map(Arc::clone)
    }

    /// The group of that name, made if it is not there.
    pub(super) fn group(&self, name: GroupName) -> Result<Arc<Group>, Refusal> {
        let groups = self.groups.lock();
        if let Some(group) = groups.by_name.get(&name) {
            return Ok(Arc::clone(group));
        }
        if groups.by_name.len() >= self.bounds.load().groups {
            return Err(Refusal::new(
                RefusalCode::Quota,
                "the broker has no room for another queue or shared subscription",
            ));
        }
        Ok(self.add_group(groups, self.next_number(), name))
    }

    /// Brings a group back that was stored.
    pub(super) fn insert_group(&self, number: u64, name: GroupName) -> Arc<Group> {
        self.add_group(self.groups.lock(), number, name)
    }

    fn add_group(
        &self,
        mut groups: MutexGuard<'_, Groups>,
        number: u64,
        name: GroupName,
    ) -> Arc<Group> {
        let total = Arc::clone(&self.backlog_bytes);
        let bounds = self.bounds.load().group;
        let group = Arc::new(Group::new(number, name.clone(), bounds, total));
        self.router
            .insert(&name.filter, (0, number), Route::Group(Arc::clone(&group)));
        groups.by_number.insert(number, Arc::clone(&group));
        groups.by_name.insert(name, Arc::clone(&group));
        group
    }

    /// Forgets a group that has neither members nor messages.
    pub(super) fn drop_if_empty(&self, group: &Arc<Group>, batch: &mut Batch) {
        let mut groups = self.groups.lock();
        if !group.close_if_idle(batch) {
            return;
        }
        groups.by_number.remove(&group.number);
        if groups
            .by_name
            .get(&group.name)
            .is_some_and(|held| Arc::ptr_eq(held, group))
        {
            groups.by_name.remove(&group.name);
            self.router.remove(&group.name.filter, (0, group.number));
        }
    }

    fn subscribe_one(
        &self,
        session: &Arc<Session>,
        request: SubscribeRequest,
        batch: &mut Batch,
    ) -> Result<Granted, Refusal> {
        let (verdict, version) = self.check_subscribe(session, &request)?;
        let group = group_name(&request)
            .map(|name| self.group(name))
            .transpose()?;
        if let Some(group) = &group {
            // It outlives a crash as soon as one of its members does.
            if session.is_stored() && request.durable {
                group.become_stored(batch);
            }
            self.store_queue(group, batch);
        }
        let (held, old, sub) = {
            let mut state = session.lock();
            if let Err(refusal) = self.check_room(&state, &request) {
                drop(state);
                if let Some(group) = group {
                    // It may have been made for this.
                    self.drop_if_empty(&group, batch);
                }
                return Err(refusal);
            }
            let overlap = state.overlap;
            let stored = session.is_stored();
            let (held, old) = state.subscribe(request, group.clone(), stored);
            state.guarded |= verdict != Verdict::Full;
            want_retained(&mut state, &held, old.is_some());
            state.record_subscription(session, &held, batch, Urgency::Now);
            let sub = SubRoute::new(&held, overlap);
            (held, old, sub)
        };
        self.replace_route(session, &held, old.as_ref(), sub, batch)?;
        self.notice_system(&held.request.filter);
        if session.lock().ended {
            // It ended before the route was there to be removed.
            self.remove_route(session, &held);
            self.drop_group_of(&held, batch);
        }
        self.checked_subscribe(session, version, batch);
        if trace::is_on() {
            note(session, "subscribed", &held);
        }
        Ok(Granted {
            id: held.id,
            qos: sub.qos,
        })
    }

    /// Puts a subscription that was stored into the index.
    pub(super) fn route_restored(
        &self,
        session: &Arc<Session>,
        held: &Subscription,
        sub: SubRoute,
    ) {
        self.metrics.subscriptions(held.group.is_some()).inc();
        if let Err(refusal) = self.route(session, held, sub) {
            tracing::error!(reason = %refusal.detail, "a stored subscription is not served");
        }
    }

    fn replace_route(
        &self,
        session: &Arc<Session>,
        held: &Subscription,
        old: Option<&Subscription>,
        sub: SubRoute,
        batch: &mut Batch,
    ) -> Result<(), Refusal> {
        self.metrics.subscriptions(held.group.is_some()).inc();
        if let Some(old) = old {
            if old.request.filter == held.request.filter {
                self.metrics.subscriptions(old.group.is_some()).dec();
            } else {
                self.unroute(session, old);
                self.drop_group_of(old, batch);
            }
        }
        self.route(session, held, sub)
    }

    fn route(
        &self,
        session: &Arc<Session>,
        held: &Subscription,
        sub: SubRoute,
    ) -> Result<(), Refusal> {
        match &held.group {
            Some(group) => self.join(group, session, held, sub)?,
            None => {
                let route = Route::Session {
                    session: Arc::clone(session),
                    sub,
                };
                let filter = held.request.filter.filter();
                self.router.insert(filter, route_key(session, held), route);
            }
        }
        Ok(())
    }

    /// Joins a group, or the one that took its place if it was forgotten meanwhile.
    pub(super) fn join(
        &self,
        group: &Arc<Group>,
        session: &Arc<Session>,
        held: &Subscription,
        sub: SubRoute,
    ) -> Result<(), Refusal> {
        let mut group = Arc::clone(group);
        while !group.join(session, sub) {
            group = self.group(group.name.clone())?;
            if let Some(held) = session.lock().subscriptions.get_mut(&held.request.key) {
                held.group = Some(Arc::clone(&group));
            }
        }
        Ok(())
    }

    fn check_room(&self, state: &State, request: &SubscribeRequest) -> Result<(), Refusal> {
        if state.ended {
            return Err(Refusal::new(
                RefusalCode::Unavailable,
                "the session has ended",
            ));
        }
        if let Some(queue) = request.filter.as_str().strip_prefix(TEMPORARY)
            && !state.link.as_ref().is_some_and(|link| {
                let owner = queue.strip_prefix(&*link.connection_id());
                owner.is_some_and(|rest| rest.starts_with('/'))
            })
        {
            return Err(Refusal::new(
                RefusalCode::NotAuthorized,
                "a temporary queue is read only by the connection that it belongs to",
            ));
        }
        let full = state.subscriptions.len() >= self.bounds.load().subscriptions
            && !state.subscriptions.contains_key(&request.key);
        if full {
            return Err(Refusal::new(
                RefusalCode::Quota,
                "the session has as many subscriptions as it may have",
            ));
        }
        Ok(())
    }
}

/// The group that a subscription is a member of, if it is shared.
pub(super) fn group_name(request: &SubscribeRequest) -> Option<GroupName> {
    let share = match request.filter.kind() {
        Kind::Plain => return None,
        Kind::Queue => None,
        Kind::Shared { group } => Some(group.clone()),
    };
    let filter = request.filter.filter().clone();
    Some(GroupName { share, filter })
}

/// What is queued of the retained messages is on record together with the messages.
fn record_progress(
    state: &State,
    session: &Session,
    held: &Subscription,
    moved: bool,
    batch: &mut Batch,
) {
    if moved && held.request.qos > QoS::AtMostOnce {
        state.record_subscription(session, held, batch, Urgency::Later);
    }
}

/// Remembers to send retained messages, if the subscription asks for them. Shared subscriptions
/// get none `[MQTT-3.8.3-4]`; queues have none.
fn want_retained(state: &mut State, held: &Subscription, existed: bool) {
    state.change_retained(|works| works.retain(|work| work.id != held.id));
    let wanted = match held.request.retain_handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => !existed,
        RetainHandling::DoNotSend => false,
    };
    if wanted && held.group.is_none() {
        let request = held.request.clone();
        let work = RetainedWork {
            id: held.id,
            request,
            cursor: None,
        };
        state.change_retained(|works| works.push(work));
    }
}

fn note(session: &Session, what: &'static str, held: &Subscription) {
    trace::note(&trace::Event {
        what,
        client: &session.client_id,
        topic: None,
        filter: Some(held.request.filter.filter()),
        more: serde_json::json!({
            "subscription": held.request.filter.as_str(),
            "qos": held.request.qos as u8,
        }),
    });
}

fn route_key(session: &Session, held: &Subscription) -> RouteKey {
    (session.number, u64::from(held.id.0))
}

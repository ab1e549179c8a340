//! How clients go: connections and sessions that end, their deadlines, wills.

use std::sync::Arc;
use std::time::Duration;

use protocols::connection::{Refusal, Will};
use protocols::model::{Message, Timestamp};

use super::{Hub, stripe};
use crate::session::{Batch, Session, State, Subscription};
use crate::store::{Op, Urgency};
use crate::telemetry::trace;

impl Hub {
    /// The connection `link` of a session is over. With `say_will` the will is published, at
    /// once or after its delay; `expiry_secs` replaces the session's expiry, if it has one. Does
    /// nothing if the session has let that connection go already.
    pub fn disconnect(
        &self,
        session: &Arc<Session>,
        link: u64,
        say_will: bool,
        expiry_secs: Option<u32>,
        batch: &mut Batch,
    ) {
        self.forget(link);
        let will = {
            // The client may come back at this moment: it finds the session left, or not yet.
            let _login = self.logins[stripe(&session.client_id)].lock();
            let mut state = session.lock();
            let Some(link) = state.detach(Some(link)) else {
                return;
            };
            link.hand_back();
            // One that was to end with its connection has no place on the disk nor among its user's
            // [MQTT-3.14.2-2].
            if let Some(secs) = expiry_secs
                && state.expiry_secs > 0
            {
                state.expiry_secs = secs;
            }
            let will = state.take_will().filter(|_| say_will);
            if state.expiry_secs == 0 {
                drop(state);
                self.end(session, batch);
                will
            } else {
                drop(state);
                self.leave(session, will, batch)
            }
        };
        self.publish_will(session, will, batch);
        self.commit_batch(batch);
    }

    /// A connection that its session has let go is over.
    pub fn forget(&self, link: u64) {
        self.connections.remove(&link);
    }

    /// Ends a session: its subscriptions go, what it held returns to its groups.
    pub fn end(&self, session: &Arc<Session>, batch: &mut Batch) {
        let (subscriptions, entries) = {
            let mut state = session.lock();
            if let Some(watched) = state.set_watched(Timestamp::NEVER).known() {
                self.deadlines.lock().remove(&(watched, session.number));
            }
            state.end()
        };
        for held in &subscriptions {
            self.unroute(session, held);
        }
        self.sessions.remove(session);
        self.give_place_back(session);
        self.give_back(session, entries, batch);
        if session.is_stored() {
            let number = session.number;
            batch.record(Op::SessionEnd { number }, Urgency::Now);
        }
        for held in &subscriptions {
            self.drop_group_of(held, batch);
        }
        self.commit_batch(batch);
    }

    /// Carries out what is due: delayed wills and session ends.
    pub fn tick(&self, batch: &mut Batch) {
        loop {
            let due = {
                let mut deadlines = self.deadlines.lock();
                match deadlines.first_entry() {
                    Some(entry) if entry.key().0 <= batch.now => entry.remove(),
                    _ => return,
                }
            };
            self.meet_deadline(&due, batch);
        }
    }

    /// How long it is from `now` until [`Hub::tick`] has something to do; `None` if nothing will be
    /// due.
    pub fn until_due(&self, now: Timestamp) -> Option<Duration> {
        let deadlines = self.deadlines.lock();
        let ((first, _), _) = deadlines.first_key_value()?;
        Some(Duration::from_millis(first.0.saturating_sub(now.0)))
    }

    /// The client is away: subscriptions that do not outlive a connection go, the rest waits.
    /// Returns the will if it is due now.
    pub(super) fn leave(
        &self,
        session: &Arc<Session>,
        will: Option<Box<Will>>,
        batch: &mut Batch,
    ) -> Option<Box<Will>> {
        let (passing, now_due) = {
            let mut state = session.lock();
            let passing: Vec<Subscription> = state
                .subscriptions
                .values()
                .filter(|held| !held.request.durable)
                .cloned()
                .collect();
            let expiry = state.expiry_secs;
            state.end_after(batch.now, expiry);
            let mut now_due = None;
            if let Some(will) = will {
                // Whichever comes first, the delay or the session's end [MQTT-3.1.3-9].
                let delay = will.delay_secs.min(expiry);
                if delay == 0 {
                    now_due = Some(will);
                } else {
                    state.set_will_at(batch.now.plus_secs(delay));
                    state.set_will(Some(will));
                }
            }
            self.watch(session, &mut state);
            state.record(session, batch, Urgency::Now);
            (passing, now_due)
        };
        for held in passing {
            self.unsubscribe(session, &[&held.request.key], batch);
        }
        now_due
    }

    fn meet_deadline(&self, session: &Arc<Session>, batch: &mut Batch) {
        let will = {
            let _login = self.logins[stripe(&session.client_id)].lock();
            let mut state = session.lock();
            state.set_watched(Timestamp::NEVER);
            if state.link.is_some() || state.ended {
                return;
            }
            let ends = state.ends_at() <= batch.now;
            let mut will = None;
            if ends || state.will_at() <= batch.now {
                state.set_will_at(Timestamp::NEVER);
                will = state.take_will();
            }
            if ends {
                drop(state);
                self.metrics.sessions_expired.inc();
                self.end(session, batch);
            } else {
                self.watch(session, &mut state);
                if will.is_some() {
                    // In one unit with the will.
                    state.record(session, batch, Urgency::Now);
                }
            }
            will
        };
        self.publish_will(session, will, batch);
        self.commit_batch(batch);
    }

    /// Sees to it that a session's next deadline is met. Each session is in the list at most once,
    /// so that clients that come and go do not make it grow: an entry that comes too early is
    /// renewed when it is met.
    pub(super) fn watch(&self, session: &Arc<Session>, state: &mut State) {
        let at = state.will_at().min(state.ends_at());
        if at == Timestamp::NEVER || state.watched() <= at {
            return;
        }
        let mut deadlines = self.deadlines.lock();
        if let Some(later) = state.set_watched(at).known() {
            deadlines.remove(&(later, session.number));
        }
        let key = (at, session.number);
        let is_first = deadlines.keys().next().is_none_or(|first| key < *first);
        deadlines.insert(key, Arc::clone(session));
        drop(deadlines);
        if is_first {
            self.earlier.notify_one();
        }
    }

    pub(super) fn publish_will(
        &self,
        session: &Session,
        will: Option<Box<Will>>,
        batch: &mut Batch,
    ) {
        let Some(will) = will else { return };
        let Will {
            mut message,
            expiry_secs,
            ..
        } = *will;
        message.publisher = session.number;
        self.sign(session, &mut message);
        message.expires_at = expiry_secs.map(|secs| batch.now.plus_secs(secs));
        let traced = trace::is_on().then(|| message.copy());
        let result = self.publish_will_message(session, message, batch);
        if let Some(message) = traced {
            let outcome = super::publish::outcome(&result);
            trace::published(&session.client_id, "will", &message, &outcome);
        }
        if let Err(refusal) = result {
            tracing::warn!(reason = %refusal.detail, "a will could not be published");
        }
    }

    fn publish_will_message(
        &self,
        session: &Session,
        message: Message,
        batch: &mut Batch,
    ) -> Result<u32, Refusal> {
        super::publish::check_topic(message.topic.as_str())?;
        self.check_will(session, &message.topic)?;
        self.publish(message, batch)
    }
}

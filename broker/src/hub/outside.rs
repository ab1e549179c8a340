//! What is asked from outside, by those who hold no session: publishing, and looking at or changing
//! what clients have. Called by `http`.

use std::sync::Arc;

use bytestring::ByteString;
use protocols::connection::{CloseReason, Publish, Refusal, RefusalCode};
use protocols::model::{Filter, Message, QoS, Timestamp, Topic};

use super::publish::{check_topic, outcome, take};
use super::{Hub, stripe};
use crate::router::Cursor;
use crate::session::{Batch, Outcome, Session};
use crate::telemetry::trace;

/// Some rows of a longer list.
#[derive(Debug)]
pub struct Page<T> {
    /// The rows, in order.
    pub rows: Vec<T>,
    /// Where to go on; `None` when there are no more.
    pub next: Option<u64>,
}

/// Some of the retained messages.
#[derive(Debug)]
pub struct PublishedRetained {
    /// In the order of their topics.
    pub messages: Vec<Arc<Message>>,
    /// The topic behind which to go on; `None` when there are no more.
    pub next: Option<Topic>,
}

/// Retained topics that one page looks at, matching or not, in pieces of the router's choice.
const RETAINED_LOOKS: usize = 8;

impl Hub {
    /// Publishes for someone without a session. The answer waits for [`Batch::take_promised`].
    pub fn publish_from_outside(
        &self,
        publish: Publish,
        batch: &mut Batch,
    ) -> Result<u32, Refusal> {
        let Publish {
            idempotency_key,
            mut message,
            ..
        } = publish;
        self.once(idempotency_key, batch, |batch, keyed| {
            take(Arc::make_mut(&mut message), batch);
            let result = check_topic(message.topic.as_str())
                .and_then(|()| self.check_space(&message, keyed))
                .and_then(|()| self.deliver(&message, batch));
            if trace::is_on() {
                trace::published("", "http", &message, &outcome(&result));
            }
            result
        })
    }

    /// Writes a message for one connection, whatever it has subscribed to: at most once. Says
    /// whether it was written; `None` if there is no such connection.
    pub fn send_to_connection(
        &self,
        connection_id: &str,
        message: &Arc<Message>,
        idempotency_key: Option<ByteString>,
        batch: &mut Batch,
    ) -> Option<Result<bool, Refusal>> {
        let mut is_gone = false;
        let sent = self.once(idempotency_key, batch, |batch, _| {
            let Some((session, _)) = self.connection(connection_id) else {
                is_gone = true;
                return Err(Refusal::new(RefusalCode::Unknown, "no such connection"));
            };
            let mut state = session.lock();
            let outcome = state.write_to_link(&session, message, batch);
            Ok(u32::from(outcome == Outcome::Accepted))
        });
        (!is_gone).then_some(sent.map(|count| count > 0))
    }

    /// Carries something out, unless that was done under the same key: then the answer is the
    /// same.
    fn once(
        &self,
        key: Option<ByteString>,
        batch: &mut Batch,
        act: impl FnOnce(&mut Batch, bool) -> Result<u32, Refusal>,
    ) -> Result<u32, Refusal> {
        let _one_at_a_time = key.as_ref().map(|key| self.keys[stripe(key)].lock());
        if let Some(key) = &key
            && let Some(answer) = self.idempotency.lock().answer(key, batch.now)
        {
            self.metrics.idempotent_suppressed.inc();
            self.promise_all(batch);
            return Ok(answer);
        }
        let result = act(batch, key.is_some());
        if let (Ok(answer), Some(key)) = (&result, key) {
            self.remember(key, *answer, batch);
        }
        self.commit_batch(batch);
        result
    }

    /// The session that has a connection of this name, and the connection's number.
    pub fn connection(&self, connection_id: &str) -> Option<(Arc<Session>, u64)> {
        let number = connection_id.rsplit_once('-')?.1.parse().ok()?;
        let session = Arc::clone(self.connections.get(&number)?.value());
        let is_it = session.with_link(number, |link| {
            link.connection_id() == connection_id && link.end.is_none()
        });
        is_it.unwrap_or(false).then_some((session, number))
    }

    /// Ends a session's connection, if it has one (and, with `link`, if it is this one).
    pub fn kick(
        &self,
        session: &Arc<Session>,
        link: Option<u64>,
        reason: &CloseReason,
        batch: &mut Batch,
    ) -> bool {
        let ended = {
            let mut state = session.lock();
            let held = state.link.as_mut().filter(|held| {
                let is_it = link.is_none_or(|link| link == held.id);
                is_it && held.end.is_none()
            });
            match held {
                // Its task sees the end, writes the last words and leaves the session.
                Some(held) => {
                    held.close(reason.clone());
                    held.nudge();
                    Some(held.id)
                }
                None => None,
            }
        };
        if let Some(link) = ended {
            self.disconnect(session, link, true, None, batch);
        }
        ended.is_some()
    }

    /// Ends a session, with its connection if it has one.
    pub fn end_session(&self, session: &Arc<Session>, reason: &CloseReason, batch: &mut Batch) {
        self.kick(session, None, reason, batch);
        let _turn = session.turn.lock();
        // Its client may come back at this moment: it finds the session, or none.
        let _login = self.logins[stripe(&session.client_id)].lock();
        {
            let mut state = session.lock();
            if state.ended {
                return;
            }
            state.dismiss(reason.clone());
        }
        self.end(session, batch);
    }

    /// At most `limit` sessions behind the one with the number `after`, the oldest first.
    pub fn sessions_page(&self, after: u64, limit: usize) -> Page<Arc<Session>> {
        let (rows, more) = self.sessions.page(after, limit);
        let last = rows.last().map(|session| session.number);
        Page {
            rows,
            next: last.filter(|_| more),
        }
    }

    /// At most `limit` of the sessions that a message on this topic would go to, behind the one with
    /// the number `after`, the oldest first; groups that share it count in neither.
    pub fn receivers_page(&self, topic: &Topic, after: u64, limit: usize) -> Page<Arc<Session>> {
        let routes = self.router.routes(topic);
        let start = routes
            .targets
            .partition_point(|target| target.session().number <= after);
        let mut rows: Vec<Arc<Session>> = Vec::new();
        for target in &routes.targets[start..] {
            let session = target.session();
            if rows.last().is_some_and(|last| Arc::ptr_eq(last, session)) {
                continue;
            }
            if rows.len() == limit {
                let next = rows.last().map(|last| last.number);
                return Page { rows, next };
            }
            rows.push(Arc::clone(session));
        }
        Page { rows, next: None }
    }

    /// Whom a message on this topic would go to: sessions, and shared groups and queues with their
    /// members and what waits in them.
    pub fn describe_topic(&self, topic: &Topic) -> (usize, Vec<(String, usize, usize)>) {
        let routes = self.router.routes(topic);
        let groups = routes.groups.iter().map(|group| {
            let name = match &group.name.share {
                Some(share) => format!("$share/{share}/{}", group.name.filter.as_str()),
                None => group.name.filter.as_str().to_owned(),
            };
            (name, group.members(), group.backlog())
        });
        (routes.targets.len(), groups.collect())
    }

    /// The retained message of a topic.
    pub fn retained(&self, topic: &Topic, now: Timestamp) -> Option<Arc<Message>> {
        self.retained.message(topic, now)
    }

    /// At most `limit` retained messages behind a topic. A page may be empty with more to come.
    pub fn retained_page(
        &self,
        filter: Option<&Filter>,
        after: Option<&Topic>,
        limit: usize,
        now: Timestamp,
    ) -> PublishedRetained {
        let mut cursor = after.map(Cursor::behind_topic);
        let mut messages = Vec::new();
        for _ in 0..RETAINED_LOOKS {
            let room = limit - messages.len();
            let found = match filter {
                Some(filter) => self.retained.matching(filter, cursor.as_ref(), room, now),
                None => self.retained.list(cursor.as_ref(), room, now),
            };
            messages.extend(found.messages);
            cursor = found.next;
            if cursor.is_none() || messages.len() >= limit {
                break;
            }
        }
        PublishedRetained {
            messages,
            next: cursor.and_then(|cursor| cursor.topic()),
        }
    }

    /// Removes the retained message of a topic without telling its subscribers. `true` if there was
    /// one.
    pub fn forget_retained(&self, topic: &Topic, batch: &mut Batch) -> bool {
        let found = self.retained.message(topic, batch.now).is_some();
        let empty = Message::new(topic.clone(), bytes::Bytes::new(), QoS::AtLeastOnce, true);
        // An empty message takes no room, so it is never refused.
        let removed = self.retain(&Arc::new(empty), batch);
        debug_assert!(removed.is_ok(), "{removed:?}");
        found
    }
}

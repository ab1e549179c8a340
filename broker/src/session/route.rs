//! What the router knows of a subscription, and the plan of who gets a message on a topic.

use std::sync::Arc;

use protocols::connection::{Lane, Matched, Overlap, SubscriptionId};
use protocols::model::{Message, QoS};
use smallvec::SmallVec;

use super::{Batch, Group, Outcome, Session, Subscription, Terms};

/// One subscription in the index.
#[derive(Clone, Debug)]
pub enum Route {
    /// A session's own.
    Session {
        /// Whose.
        session: Arc<Session>,
        /// On which terms.
        sub: SubRoute,
    },
    /// Shared by the members of a group.
    Group(Arc<Group>),
}

/// The terms of a subscription, as far as delivery needs them.
#[derive(Clone, Copy, Debug)]
pub struct SubRoute {
    /// Its number and the client's identifier.
    pub matched: Matched,
    /// The highest level.
    pub qos: QoS,
    /// Not what the session itself published.
    pub no_local: bool,
    /// Show the publisher's retain flag.
    pub retain_as_published: bool,
    /// Whether it has a lane of its own: then its level does not depend on the publisher's.
    pub own_lane: bool,
    /// Whether it is delivered apart from other subscriptions of its session.
    pub apart: bool,
    /// Whether it stays while its client is away.
    pub durable: bool,
}

/// Who gets a message on a topic: computed once per topic and cached.
#[derive(Debug, Default)]
pub struct Plan {
    /// Sessions, each once unless its subscriptions are delivered apart.
    pub targets: Vec<Target>,
    /// Groups, each of which hands the message to one member.
    pub groups: Vec<Arc<Group>>,
}

/// One session of a plan.
#[derive(Debug)]
pub struct Target {
    session: Arc<Session>,
    subs: SmallVec<[SubRoute; 1]>,
}

impl SubRoute {
    /// The terms of a subscription of a session that treats overlaps so.
    pub fn new(held: &Subscription, overlap: Overlap) -> Self {
        let request = &held.request;
        Self {
            matched: Matched {
                id: held.id,
                identifier: request.identifier,
            },
            qos: request.qos,
            no_local: request.no_local,
            retain_as_published: request.retain_as_published,
            own_lane: matches!(request.lane, Lane::Own { .. }),
            apart: overlap == Overlap::Each,
            durable: request.durable,
        }
    }

    /// The level that a message is delivered with.
    pub fn effective(&self, published: QoS) -> QoS {
        if self.own_lane {
            self.qos
        } else {
            self.qos.min(published)
        }
    }

    /// The subscription whose lane is used, if it is not the session's.
    pub fn lane(&self) -> Option<SubscriptionId> {
        self.own_lane.then_some(self.matched.id)
    }
}

impl FromIterator<Route> for Plan {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut plan = Self::default();
        for route in routes {
            match route {
                Route::Group(group) => plan.groups.push(group),
                Route::Session { session, sub } => {
                    plan.targets.push(Target {
                        session,
                        subs: SmallVec::from_elem(sub, 1),
                    });
                }
            }
        }
        // Stable order: sessions by age, so that a plan does not depend on hashing.
        plan.targets
            .sort_by_key(|target| (target.session.number, target.subs[0].matched.id));
        plan.targets.dedup_by(|next, kept| {
            let same = next.session.number == kept.session.number && !next.subs[0].apart;
            if same {
                kept.subs.append(&mut next.subs);
            }
            same
        });
        plan
    }
}

impl Target {
    /// Whose it is.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The subscriptions by which it is one, those that are delivered together.
    pub fn subs(&self) -> &[SubRoute] {
        &self.subs
    }

    /// Whether the session keeps the message in the store.
    pub fn stores(&self, message: &Message) -> bool {
        let mut subs = self.subs.iter();
        self.session.is_stored()
            && subs.any(|sub| sub.durable && sub.effective(message.qos) > QoS::AtMostOnce)
    }

    /// Delivers a message to the session; `true` if it went or will go to the client.
    #[inline]
    pub fn deliver(&self, message: &Arc<Message>, batch: &mut Batch) -> bool {
        if let [sub] = self.subs[..] {
            if sub.no_local && message.publisher == self.session.number {
                return false;
            }
            let terms = Terms {
                qos: sub.effective(message.qos),
                retain: sub.retain_as_published && message.retain,
                matched: &[sub.matched],
                lane: sub.lane(),
                attempts: 0,
            };
            return self.hand_over(message, &terms, batch);
        }
        self.deliver_merged(message, batch)
    }

    /// One copy for several subscriptions: all their identifiers, the highest level, and the
    /// retain flag if one of them wants it `[MQTT-3.3.4-2]` `[MQTT-3.3.4-3]`.
    fn deliver_merged(&self, message: &Arc<Message>, batch: &mut Batch) -> bool {
        let local = message.publisher == self.session.number;
        let mut matched: SmallVec<[Matched; 4]> = SmallVec::new();
        let mut qos = QoS::AtMostOnce;
        let mut retain = false;
        for sub in self.subs.iter().filter(|sub| !(local && sub.no_local)) {
            matched.push(sub.matched);
            qos = qos.max(sub.effective(message.qos));
            retain |= sub.retain_as_published && message.retain;
        }
        if matched.is_empty() {
            return false;
        }
        let terms = Terms {
            qos,
            retain,
            matched: &matched,
            lane: None,
            attempts: 0,
        };
        self.hand_over(message, &terms, batch)
    }

    #[inline]
    fn hand_over(&self, message: &Arc<Message>, terms: &Terms<'_>, batch: &mut Batch) -> bool {
        let mut state = self.session.lock();
        state.accept(&self.session, message, terms, batch) == Outcome::Accepted
    }
}

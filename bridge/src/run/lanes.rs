//! Who is under way: events of one group one after another, all others side by side.
//!
//! What can be published goes to the publisher many at a time, and one task ([`hear`]) hears what
//! became of it, many at a time too. Only an event that cannot just be published gets a task.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Flow;
use super::budget::{Budget, Place};
use super::carry::{self, Step, Trouble, now_ms};
use super::seen::Key;
use crate::numbered::Numbered;
use crate::publisher::{Verdict, Verdicts};
use crate::source::{Delivery, Outcome};

/// An event that has a place in the budget. It is handed on many times, so it is boxed at once.
#[derive(Debug)]
pub(super) struct Passenger {
    pub(super) delivery: Delivery,
    pub(super) since: Instant,
    group: Option<String>,
    /// By the source's clock, or else ours.
    accepted_ms: u64,
    place: Place,
}

/// A verdict on what was published under a number.
pub(super) type Heard = (u64, Verdict);

/// The events of a source that are under way.
#[derive(Debug)]
pub(crate) struct Lanes {
    flow: Arc<Flow>,
    budget: Arc<Budget>,
    /// Who waits behind the one of each group that is under way.
    groups: Mutex<HashMap<String, VecDeque<Box<Passenger>>>>,
    published: Mutex<Published>,
    verdicts: Verdicts,
}

/// What the publisher has, by number, and the keys to remember.
#[derive(Debug, Default)]
struct Published {
    waiting: Numbered<(Box<Passenger>, Option<Key>)>,
    /// The bridge gives back what is in flight: nothing more is published.
    is_closed: bool,
}

impl Lanes {
    /// Also where verdicts will come out; they are as few as the budget allows.
    pub(super) fn new(
        flow: Arc<Flow>,
        budget: Arc<Budget>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Vec<Heard>>) {
        let (verdicts, heard) = mpsc::unbounded_channel();
        let lanes = Self {
            flow,
            budget,
            groups: Mutex::default(),
            published: Mutex::default(),
            verdicts: Arc::new(verdicts),
        };
        (Arc::new(lanes), heard)
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Takes events in and starts those that have nobody of their group before them.
    pub(super) fn enter(self: &Arc<Self>, deliveries: Vec<Delivery>) {
        let metrics = &self.flow.metrics;
        metrics.received.add(deliveries.len() as u64);
        if let Some(accepted) = deliveries.last().and_then(|last| last.event.accepted_ms) {
            metrics.lag_ms.set(now_ms().saturating_sub(accepted));
        }
        let now = Instant::now();
        let boarded = deliveries
            .into_iter()
            .map(|delivery| self.board(delivery, now));
        let due = boarded.filter_map(|passenger| self.queue(passenger));
        let due = due.collect();
        self.note_in_flight();
        self.start(due);
    }

    fn board(&self, delivery: Delivery, now: Instant) -> Box<Passenger> {
        let accepted_ms = delivery.event.accepted_ms.unwrap_or_else(now_ms);
        self.flow.metrics.oldest.enter(accepted_ms);
        Box::new(Passenger {
            since: now,
            group: self.group_of(&delivery),
            accepted_ms,
            place: self.budget.enter(delivery.event.body.len()),
            delivery,
        })
    }

    /// An event whose group cannot be told goes alone; mapping it fails too and says why.
    fn group_of(&self, delivery: &Delivery) -> Option<String> {
        let mapping = &self.flow.config.mapping;
        let group = mapping.group(&delivery.event, &self.flow.config.name);
        group.ok().flatten()
    }

    /// Gives it back if its turn is now.
    fn queue(&self, passenger: Box<Passenger>) -> Option<Box<Passenger>> {
        let Some(group) = &passenger.group else {
            return Some(passenger);
        };
        let mut groups = self.groups.lock();
        if let Some(waiting) = groups.get_mut(group) {
            waiting.push_back(passenger);
            return None;
        }
        groups.insert(group.clone(), VecDeque::new());
        Some(passenger)
    }

    /// Publishes those whose turn it is, and those behind one that needs no publishing.
    fn start(self: &Arc<Self>, mut due: VecDeque<Box<Passenger>>) {
        if due.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut ready = Vec::with_capacity(due.len());
        while let Some(passenger) = due.pop_front() {
            match carry::step(&self.flow, &passenger, now) {
                Step::Publish(publication, key) => ready.push((passenger, key, publication)),
                Step::Settled(outcome) => due.extend(self.settle(passenger, outcome)),
                Step::Trouble(trouble) => self.see_to(passenger, trouble),
            }
        }
        if ready.is_empty() {
            return;
        }
        let mut published = self.published.lock();
        if published.is_closed {
            drop(published);
            for (passenger, ..) in ready {
                self.settle(passenger, Outcome::Released);
            }
            return;
        }
        let mut publications = Vec::with_capacity(ready.len());
        for (passenger, key, publication) in ready {
            let number = published.waiting.push((passenger, key));
            publications.push((number, publication));
        }
        drop(published);
        let shared = &self.flow.shared;
        shared.publisher.publish_all(publications, &self.verdicts);
    }

    fn see_to(self: &Arc<Self>, passenger: Box<Passenger>, trouble: Trouble) {
        let lanes = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = carry::carry(&lanes.flow, &passenger, trouble).await;
            let next = lanes.settle(passenger, outcome);
            lanes.note_in_flight();
            lanes.start(next.into_iter().collect());
        });
    }

    fn heard(self: &Arc<Self>, verdicts: Vec<Heard>) {
        let mut told = Vec::with_capacity(verdicts.len());
        let mut published = self.published.lock();
        for (number, verdict) in verdicts {
            let found = published.waiting.remove(number);
            told.extend(found.map(|waited| (waited, verdict)));
        }
        drop(published);
        let now = Instant::now();
        let mut due = VecDeque::new();
        for ((passenger, key), verdict) in told {
            match verdict {
                Verdict::Accepted => {
                    carry::note_published(&self.flow, &passenger, key, now);
                    due.extend(self.settle(passenger, Outcome::Done));
                }
                Verdict::Refused { refusal, reason } => {
                    self.see_to(passenger, Trouble::Refused(refusal, reason));
                }
            }
        }
        self.note_in_flight();
        self.start(due);
    }

    /// Gives back what the publisher has, and publishes nothing more.
    pub(super) fn release(&self) {
        let mut published = self.published.lock();
        published.is_closed = true;
        let waiting = published.waiting.take();
        drop(published);
        for (passenger, _) in waiting {
            self.settle(passenger, Outcome::Released);
        }
        self.note_in_flight();
    }

    /// Says what became of an event; returns the next of its group. One that is given back takes
    /// those behind it along, so that they come again in their order.
    fn settle(&self, mut passenger: Box<Passenger>, outcome: Outcome) -> Option<Box<Passenger>> {
        let group = passenger.group.take();
        let stops = match &outcome {
            Outcome::Retry { .. } | Outcome::Released => Some(outcome.clone()),
            Outcome::Poison { .. } => {
                let after = self.flow.config.limits.retry_max;
                Some(Outcome::Retry { after })
            }
            Outcome::Done | Outcome::DeadLettered => None,
        };
        self.tell(passenger, outcome);
        let group = group?;
        let Some(outcome) = stops else {
            return self.next(&group);
        };
        let behind = self.groups.lock().remove(&group);
        for passenger in behind.into_iter().flatten() {
            self.tell(passenger, outcome.clone());
        }
        None
    }

    /// The next of a group; the last one ends it.
    fn next(&self, group: &str) -> Option<Box<Passenger>> {
        let mut groups = self.groups.lock();
        let next = groups.get_mut(group)?.pop_front();
        if next.is_none() {
            groups.remove(group);
        }
        next
    }

    /// Tells the source, counts, and gives the place back.
    fn tell(&self, passenger: Box<Passenger>, outcome: Outcome) {
        let metrics = &self.flow.metrics;
        match &outcome {
            Outcome::Done => metrics.acknowledged.add(1),
            Outcome::DeadLettered => {
                metrics.acknowledged.add(1);
                metrics.dead_lettered.add(1);
            }
            Outcome::Poison { .. } => metrics.dead_lettered.add(1),
            Outcome::Retry { .. } | Outcome::Released => metrics.retried.add(1),
        }
        metrics.oldest.leave(passenger.accepted_ms);
        let Passenger {
            delivery, place, ..
        } = *passenger;
        delivery.handle.settle(outcome);
        drop(place);
    }

    fn note_in_flight(&self) {
        let events = self.budget.events();
        self.flow.metrics.in_flight.set(events as u64);
    }
}

/// Hears verdicts for as long as there are lanes.
pub(super) async fn hear(lanes: Arc<Lanes>, mut verdicts: mpsc::UnboundedReceiver<Vec<Heard>>) {
    while let Some(heard) = verdicts.recv().await {
        lanes.heard(heard);
    }
}

//! Order: events of one group one after another, all others side by side.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::Flow;
use super::budget::{Budget, Place};
use super::carry::{self, now_ms};
use crate::source::{Delivery, Outcome};

/// An event that has a place in the budget.
#[derive(Debug)]
pub(super) struct Passenger {
    pub(super) delivery: Delivery,
    pub(super) since: Instant,
    /// By the source's clock, or else ours.
    accepted_ms: u64,
    place: Place,
}

/// The groups of a source that have events in flight.
#[derive(Debug)]
pub(crate) struct Lanes {
    flow: Arc<Flow>,
    budget: Arc<Budget>,
    /// Who waits behind the one that is being carried.
    groups: Mutex<HashMap<String, VecDeque<Passenger>>>,
}

impl Lanes {
    pub(super) fn new(flow: Arc<Flow>, budget: Arc<Budget>) -> Arc<Self> {
        let groups = Mutex::default();
        Arc::new(Self {
            flow,
            budget,
            groups,
        })
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Takes an event in and starts it, unless one of its group is under way.
    pub(super) fn enter(self: &Arc<Self>, delivery: Delivery) {
        self.flow.metrics.received.add(1);
        let place = self.budget.enter(delivery.event.body.len());
        self.note_in_flight();
        let group = self.group_of(&delivery);
        let accepted_ms = delivery.event.accepted_ms.unwrap_or_else(now_ms);
        self.flow.metrics.oldest.enter(accepted_ms);
        let passenger = Passenger {
            delivery,
            since: Instant::now(),
            accepted_ms,
            place,
        };
        let lanes = Arc::clone(self);
        let Some(group) = group else {
            tokio::spawn(async move {
                let outcome = carry::carry(&lanes.flow, &passenger).await;
                lanes.settle(passenger, outcome);
            });
            return;
        };
        let mut groups = self.groups.lock();
        if let Some(waiting) = groups.get_mut(&group) {
            waiting.push_back(passenger);
            return;
        }
        groups.insert(group.clone(), VecDeque::new());
        drop(groups);
        tokio::spawn(async move { lanes.carry_group(group, passenger).await });
    }

    /// An event whose group cannot be told goes alone; mapping it fails too and says why.
    fn group_of(&self, delivery: &Delivery) -> Option<String> {
        let mapping = &self.flow.config.mapping;
        let group = mapping.group(&delivery.event, &self.flow.config.name);
        group.ok().flatten()
    }

    /// Carries a group's events one after another. One that is given back takes those behind it
    /// along, so that they come again in their order.
    async fn carry_group(self: Arc<Self>, group: String, first: Passenger) {
        let mut next = Some(first);
        while let Some(passenger) = next {
            let outcome = carry::carry(&self.flow, &passenger).await;
            let stops = match &outcome {
                Outcome::Retry { .. } | Outcome::Released => Some(outcome.clone()),
                Outcome::Poison { .. } => {
                    let after = self.flow.config.limits.retry_max;
                    Some(Outcome::Retry { after })
                }
                Outcome::Done | Outcome::DeadLettered => None,
            };
            self.settle(passenger, outcome);
            if let Some(outcome) = stops {
                for passenger in self.leave(&group) {
                    self.settle(passenger, outcome.clone());
                }
                return;
            }
            next = self.next(&group);
        }
    }

    /// The next of a group; the last one ends it.
    fn next(&self, group: &str) -> Option<Passenger> {
        let mut groups = self.groups.lock();
        let next = groups.get_mut(group)?.pop_front();
        if next.is_none() {
            groups.remove(group);
        }
        next
    }

    fn leave(&self, group: &str) -> VecDeque<Passenger> {
        self.groups.lock().remove(group).unwrap_or_default()
    }

    /// Tells the source, counts, and gives the place back.
    fn settle(&self, passenger: Passenger, outcome: Outcome) {
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
        passenger.delivery.handle.settle(outcome);
        drop(passenger.place);
        self.note_in_flight();
    }

    fn note_in_flight(&self) {
        let events = self.budget.events();
        self.flow.metrics.in_flight.set(events as u64);
    }
}

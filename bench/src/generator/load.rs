//! A load on the broker: publishers, receivers, and how fast the ones publish. Two ways: a closed
//! one, in which a bounded number of deliveries is under way at any time, so that the broker is
//! busy all the time and never asked to buffer more; and a paced one at a fixed rate.

use super::clock;
use super::ledger::Ledger;
use super::pace::{Schedule, Timer};
use super::publisher::Publisher;
use super::swarm::{Handler, Swarm};
use crate::measure::latency::Latency;
use crate::wire::Message;
use anyhow::Result;
use std::ops::Range;
use std::time::Duration;

/// Bytes that may wait for a publisher's socket before it stops to publish.
const UNSENT_MAX: usize = 256 << 10;

/// Silence after which deliveries under way are given up as lost.
const SILENCE: Duration = Duration::from_secs(3);

/// Silence after which a load is broken off because publishes are not acknowledged.
const ACK_PATIENCE: Duration = Duration::from_mins(1);

/// A load.
#[derive(Debug)]
pub struct Load {
    /// Those who publish, numbered as in their stamps.
    pub publishers: Vec<Publisher>,
    /// The connections that receive; receiver 0 of the ledger is the first of them.
    pub receivers: Range<usize>,
    /// Deliveries that each published message causes.
    pub fan: u64,
    /// What became of the messages.
    pub ledger: Ledger,
    /// Publish to acknowledgement.
    pub ack_latency: Latency,
    /// Intended time of sending to delivery, while a schedule is set.
    pub latency: Latency,
    /// Acknowledgements so far.
    pub acked: u64,
    /// Deliveries so far, duplicates included.
    pub received: u64,
    /// When the last delivery or acknowledgement came.
    pub last: u64,
    schedule: Option<Schedule>,
    timed: bool,
    sent_at: u64,
    of_client: Vec<u32>,
    given_up: u64,
    most: u64,
    turn: usize,
}

impl Load {
    /// A load of these publishers on these receivers.
    pub fn new(publishers: Vec<Publisher>, receivers: Range<usize>, fan: u64) -> Self {
        let clients = publishers.iter().map(|p| p.client + 1).max().unwrap_or(0);
        let mut of_client = vec![u32::MAX; clients];
        for (number, publisher) in publishers.iter().enumerate() {
            of_client[publisher.client] = number as u32;
        }
        Self {
            ledger: Ledger::new(publishers.len(), receivers.len()),
            publishers,
            receivers,
            fan,
            ack_latency: Latency::default(),
            latency: Latency::default(),
            acked: 0,
            received: 0,
            last: clock::now(),
            schedule: None,
            timed: false,
            sent_at: 0,
            of_client,
            given_up: 0,
            most: u64::MAX,
            turn: 0,
        }
    }

    /// With one delivery under way at a time: measures each from the moment of sending.
    pub fn time_each(&mut self) {
        self.timed = true;
    }

    /// Each publisher stops after so many messages.
    pub fn stop_after(&mut self, messages: u64) {
        self.most = messages;
    }

    /// Deliveries that are under way.
    fn outstanding(&self) -> u64 {
        let verdict = self.ledger.verdict();
        verdict.lost().saturating_sub(self.given_up)
    }

    fn unacknowledged(&self) -> usize {
        self.publishers.iter().map(Publisher::unacknowledged).sum()
    }

    /// Whether everything was delivered and acknowledged.
    pub fn settled(&self) -> bool {
        self.outstanding() == 0 && self.unacknowledged() == 0
    }

    /// One publisher appends up to `most` messages; returns how many.
    fn burst(&mut self, number: usize, swarm: &mut Swarm, most: u64, now: u64) -> u64 {
        let publisher = &mut self.publishers[number];
        let Some(client) = swarm.client(publisher.client) else {
            return 0;
        };
        let most = most.min(self.most - publisher.published().min(self.most));
        let mut sent = 0;
        while sent < most && publisher.may_send() && client.unsent() < UNSENT_MAX {
            publisher.send(client.buffer(), now);
            sent += 1;
        }
        if sent > 0 {
            self.ledger.expect(sent * self.fan);
            swarm.flush(self.publishers[number].client);
        }
        sent
    }

    /// Publishes so that at most `ahead` deliveries are under way (and no more than the windows
    /// allow), until `until` says so. It is asked after each turn.
    pub fn run_closed(
        &mut self,
        swarm: &mut Swarm,
        ahead: u64,
        mut until: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let count = self.publishers.len();
        self.last = clock::now();
        while !until(self) {
            self.top_up(swarm, ahead, count);
            swarm.turn(Duration::from_millis(100), self)?;
            self.judge_silence(clock::now() - self.last)?;
        }
        Ok(())
    }

    /// Gives up deliveries that do not come any more, so that the load goes on without them.
    fn judge_silence(&mut self, nanos: u64) -> Result<()> {
        if nanos < clock::nanos(SILENCE) {
            return Ok(());
        }
        if self.unacknowledged() > 0 {
            let patient = nanos < clock::nanos(ACK_PATIENCE);
            anyhow::ensure!(patient, "acknowledgements stay away");
            return Ok(());
        }
        anyhow::ensure!(self.received + self.acked > 0, "nothing is delivered");
        self.given_up = self.ledger.verdict().lost();
        self.last = clock::now();
        Ok(())
    }

    /// Lets each publisher have its part of what may be under way, in turns.
    fn top_up(&mut self, swarm: &mut Swarm, ahead: u64, count: usize) {
        let outstanding = self.outstanding();
        // Topping up in halves makes bursts, as real traffic has, and saves turns.
        if self.fan > 0 && outstanding * 2 > ahead {
            return;
        }
        let fan = self.fan.max(1);
        let mut room = ((ahead - outstanding.min(ahead)) / fan).max(1);
        let part = (room / count as u64).clamp(1, 64);
        let now = clock::now();
        self.sent_at = now;
        let mut idle = 0;
        while room > 0 && idle < count {
            let number = self.turn % count;
            self.turn += 1;
            let sent = self.burst(number, swarm, part.min(room), now);
            room -= sent;
            idle = if sent == 0 { idle + 1 } else { 0 };
        }
    }

    /// Publishes `per_sec` messages a second for `duration` and measures each delivery from the
    /// moment at which the message was meant to be sent.
    pub fn run_paced(
        &mut self,
        swarm: &mut Swarm,
        per_sec: f64,
        duration: Duration,
        mut stop: impl FnMut() -> bool,
    ) -> Result<()> {
        let before = self.publishers.first().map_or(0, Publisher::published);
        let start = clock::now() + 1_000_000;
        let schedule = Schedule::new(start, per_sec, self.publishers.len(), before);
        let timer = Timer::start(swarm, &schedule)?;
        self.schedule = Some(schedule.clone());
        let (mut sent, end) = (0, start + clock::nanos(duration));
        loop {
            if swarm.turn(Duration::from_millis(100), self)? {
                timer.clear();
            }
            let now = clock::now();
            if now >= end || stop() {
                break;
            }
            let due = schedule.due(now);
            while sent < due && self.burst(schedule.publisher(sent), swarm, 1, now) == 1 {
                sent += 1;
            }
        }
        timer.stop(swarm)?;
        self.settle(swarm, SILENCE)?;
        self.schedule = None;
        Ok(())
    }

    /// Publishes nothing and waits until everything has arrived or nothing comes for `patience`.
    pub fn settle(&mut self, swarm: &mut Swarm, patience: Duration) -> Result<()> {
        self.last = clock::now();
        while !self.settled() && clock::now() - self.last < clock::nanos(patience) {
            swarm.turn(Duration::from_millis(100), self)?;
        }
        Ok(())
    }
}

impl Handler for Load {
    #[inline]
    fn message(&mut self, client: usize, message: &Message<'_>, now: u64) {
        self.received += 1;
        self.last = now;
        let receiver = client.wrapping_sub(self.receivers.start);
        let first = self.ledger.arrive(receiver, message.stamp);
        if self.timed {
            self.latency.record(now - self.sent_at);
        }
        if let (Some(schedule), Some(stamp), true) = (&self.schedule, message.stamp, first) {
            let intended = schedule.intended(stamp.publisher, stamp.sequence);
            self.latency.record(now.saturating_sub(intended));
        }
    }

    #[inline]
    fn acked(&mut self, client: usize, id: u16, now: u64) {
        self.last = now;
        let Some(&number) = self.of_client.get(client) else {
            return;
        };
        let Some(publisher) = self.publishers.get_mut(number as usize) else {
            return;
        };
        if let Some(sent) = publisher.acked(id) {
            self.acked += 1;
            self.ack_latency.record(now - sent);
        }
    }
}

//! A fixed rate: when each message is meant to be sent, and a timer that wakes the generator for
//! it. A message that the generator sends late is still measured from that moment, so that a
//! pause of the broker, or of the machine, shows in every message that it delayed.

use super::clock;
use super::swarm::{Swarm, TIMER};
use anyhow::{Context, Result};
use mio::Interest;
use mio::unix::SourceFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::os::fd::{AsRawFd, OwnedFd};

/// Messages are sent together when they would be closer to each other than this.
const TICK_MIN_NANOS: u64 = 200_000;

/// Part of a message by which one may be early, so that rounding of the tick makes none late.
const ROUNDING: f64 = 1e-3;

/// A schedule for publishers that take turns.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: u64,
    per_sec: f64,
    tick: u64,
    publishers: u64,
    /// Messages that each publisher had sent before.
    before: u64,
}

impl Schedule {
    /// A schedule that begins at `start`; each publisher has published `before` messages already.
    pub fn new(start: u64, per_sec: f64, publishers: usize, before: u64) -> Self {
        Self {
            start,
            per_sec,
            tick: ((1e9 / per_sec) as u64).max(TICK_MIN_NANOS),
            publishers: publishers as u64,
            before,
        }
    }

    /// Messages that are due at this moment, counted from the start.
    pub fn due(&self, now: u64) -> u64 {
        let ticks = now.saturating_sub(self.start) / self.tick;
        self.due_at_tick(ticks)
    }

    fn due_at_tick(&self, tick: u64) -> u64 {
        ((tick * self.tick) as f64 * self.per_sec / 1e9 + ROUNDING) as u64
    }

    /// Which publisher sends the message with this number.
    pub fn publisher(&self, number: u64) -> usize {
        (number % self.publishers) as usize
    }

    /// When this message of this publisher was meant to be sent.
    #[inline]
    pub fn intended(&self, publisher: u32, sequence: u64) -> u64 {
        let number =
            (sequence - self.before.min(sequence)) * self.publishers + u64::from(publisher);
        // The first tick at which more messages are due than came before this one.
        let exact = (number + 1) as f64 * 1e9 / self.per_sec;
        let mut tick = exact as u64 / self.tick;
        while self.due_at_tick(tick) <= number {
            tick += 1;
        }
        self.start + tick * self.tick
    }

    /// Nanoseconds between two moments of sending.
    pub fn tick(&self) -> u64 {
        self.tick
    }
}

/// Wakes a swarm at every tick.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// Begins to tick.
    pub fn start(swarm: &Swarm, schedule: &Schedule) -> Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)
            .context("timerfd_create")?;
        let first = schedule.start.saturating_sub(clock::now()).max(1);
        let setting = Itimerspec {
            it_interval: timespec(schedule.tick),
            it_value: timespec(first),
        };
        timerfd_settime(&fd, TimerfdTimerFlags::empty(), &setting).context("timerfd_settime")?;
        let raw = fd.as_raw_fd();
        let registry = swarm.poll.registry();
        registry.register(&mut SourceFd(&raw), TIMER, Interest::READABLE)?;
        Ok(Self(fd))
    }

    /// Stops ticking.
    pub fn stop(self, swarm: &Swarm) -> Result<()> {
        let raw = self.0.as_raw_fd();
        swarm.poll.registry().deregister(&mut SourceFd(&raw))?;
        Ok(())
    }

    /// Makes the timer wake the swarm again.
    pub fn clear(&self) {
        let mut count = [0u8; 8];
        // Nothing to read means that nothing went off: no reason to do anything.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

fn timespec(nanos: u64) -> Timespec {
    Timespec {
        tv_sec: (nanos / 1_000_000_000) as i64,
        tv_nsec: (nanos % 1_000_000_000) as i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_intended_for_the_tick_at_which_it_becomes_due() {
        for per_sec in [10.0, 1000.0, 4321.0, 50_000.0, 333_333.0] {
            let schedule = Schedule::new(1_000, per_sec, 3, 5);
            for number in 0..2000u64 {
                let at = schedule.intended(schedule.publisher(number) as u32, 5 + number / 3);
                assert!(schedule.due(at) > number, "{per_sec} {number}");
                assert!(schedule.due(at - 1) <= number, "{per_sec} {number}");
            }
        }
    }

    #[test]
    fn the_rate_is_kept() {
        let schedule = Schedule::new(0, 12_345.0, 1, 0);
        let due = schedule.due(10_000_000_000);
        assert!((123_440..=123_450).contains(&due), "{due}");
    }
}

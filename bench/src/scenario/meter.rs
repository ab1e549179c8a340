//! The time, the broker's processor time and the generator's between two moments.

use super::{Arena, Outcome};
use crate::generator::clock;
use crate::measure::process::{Usage, own_cpu_secs};

/// What had been used at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    at: u64,
    broker: Option<Usage>,
    own: f64,
}

/// What was used between two moments.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Seconds that went by.
    pub secs: f64,
    /// Processor seconds of the broker, if its process is known.
    pub cpu_secs: Option<f64>,
    /// Bytes that the broker wrote, if its process is known.
    pub written: Option<u64>,
    /// Processor seconds of the generator.
    pub own_cpu_secs: f64,
}

impl Meter {
    /// Reads the meters.
    pub fn read(arena: &Arena<'_>) -> Self {
        Self {
            at: clock::now(),
            broker: arena.process.and_then(|process| process.usage().ok()),
            own: own_cpu_secs(),
        }
    }

    /// What was used since `earlier`.
    pub fn since(&self, earlier: &Self) -> Span {
        let both = self.broker.zip(earlier.broker);
        Span {
            secs: clock::seconds(self.at - earlier.at),
            cpu_secs: both.map(|(now, then)| (now.cpu_secs - then.cpu_secs).max(0.0)),
            written: both.map(|(now, then)| now.written.saturating_sub(then.written)),
            own_cpu_secs: self.own - earlier.own,
        }
    }

    /// Resident memory of the broker in bytes.
    pub fn resident(&self) -> Option<f64> {
        self.broker.map(|usage| usage.resident as f64)
    }
}

impl Span {
    /// Adds the figures for `count` things that were done in this span.
    pub fn rates(
        &self,
        outcome: &mut Outcome,
        count: u64,
        per_sec: &'static str,
        per_cpu_sec: &'static str,
    ) {
        outcome.set(per_sec, count as f64 / self.secs);
        if let Some(cpu) = self.cpu_secs {
            outcome.set(per_cpu_sec, count as f64 / cpu);
        }
        self.costs(outcome);
    }

    /// Adds what the span itself cost.
    pub fn costs(&self, outcome: &mut Outcome) {
        outcome.set("secs", self.secs);
        outcome.set(
            "generator_cpu_percent",
            self.own_cpu_secs / self.secs * 100.0,
        );
        if let Some(cpu) = self.cpu_secs {
            outcome.set("cpu_secs", cpu);
        }
    }
}

/// Bytes as MiB.
pub fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

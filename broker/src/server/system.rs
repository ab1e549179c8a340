//! When the broker says something about itself, below `$SYS/broker`.

use std::time::Duration;

use crate::net::Net;
use crate::session::Batch;
use crate::telemetry::{System, SystemState};

/// Has no timer of its own: the loop that meets all deadlines asks it when it is due, and while
/// nobody has subscribed it never is.
pub(super) struct SystemTopics {
    system: System,
    /// Whether anybody had subscribed when it was last published. Sessions that were stored may
    /// have.
    is_wanted: bool,
}

impl SystemTopics {
    /// At the start of the broker.
    pub(super) fn new(net: &Net) -> Self {
        Self {
            system: System::new(net.clock.now()),
            is_wanted: true,
        }
    }

    /// Brings the averages up to date and publishes, if it is time to, or somebody has just
    /// subscribed. The averages know how much time has passed, however long that is.
    pub(super) fn turn(&mut self, net: &Net) {
        let every = net.live.load().sys_interval;
        let now = net.clock.now();
        if every == Duration::ZERO {
            return;
        }
        let is_new = net.hub.take_system_wanted();
        let is_due = self.is_wanted && now.since(self.system.sampled()) >= every;
        if is_due || is_new {
            net.hub.gauge();
            self.system.sample(now, &net.hub.metrics);
            self.publish(net);
        }
    }

    /// How long it is until [`SystemTopics::turn`] has something to do.
    pub(super) fn until_due(&self, net: &Net) -> Option<Duration> {
        let every = net.live.load().sys_interval;
        let passed = net.clock.now().since(self.system.sampled());
        (self.is_wanted && every != Duration::ZERO).then(|| every.saturating_sub(passed))
    }

    fn publish(&mut self, net: &Net) {
        let stored = net.hub.store().and_then(|store| store.stats());
        let state = stored.map_or_else(SystemState::default, |stats| SystemState {
            stored_messages: stats.stored_messages,
            stored_bytes: stats.live_bytes,
        });
        let mut batch = Batch::new(net.clock.now());
        let values = self.system.values(&net.hub.metrics, state);
        self.is_wanted = net.hub.publish_system(values, &mut batch);
        batch.finish(&net.hub.metrics);
    }
}

//! What the broker says about itself, given to those who have subscribed to it.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use protocols::connection::topics;
use protocols::model::{Message, QoS, SubscriptionFilter, Topic};

use super::Hub;
use crate::session::Batch;

/// Enough for every topic of ours.
const TOPIC_LENGTH: usize = 256;

impl Hub {
    /// Remembers that a subscription was made which only what the broker says can match.
    pub(super) fn notice_system(&self, filter: &SubscriptionFilter) {
        if filter.filter().as_str().starts_with(topics::SYS) {
            self.system_wanted.store(true, Ordering::Release);
            self.earlier.notify_one();
        }
    }

    /// Whether somebody has subscribed to what the broker says since this was last asked.
    pub fn take_system_wanted(&self) -> bool {
        // Read first: usually nobody has, and the cache line stays shared.
        self.system_wanted.load(Ordering::Acquire)
            && self.system_wanted.swap(false, Ordering::AcqRel)
    }

    /// Publishes values below `$SYS/broker/`, each only if somebody wants it. Says whether anybody
    /// has subscribed to any of them.
    pub fn publish_system(&self, values: Vec<(String, String)>, batch: &mut Batch) -> bool {
        let mut wanted = false;
        for (name, value) in values {
            let topic = format!("{}broker/{name}", topics::SYS);
            let Ok(topic) = Topic::parse(topic.into(), TOPIC_LENGTH, TOPIC_LENGTH) else {
                debug_assert!(false, "{name} is no topic");
                continue;
            };
            let routes = self.router.routes(&topic);
            if routes.targets.is_empty() && routes.groups.is_empty() {
                continue;
            }
            wanted = true;
            let message = Message::new(topic, Bytes::from(value), QoS::AtMostOnce, false);
            // A message that is not kept is never refused.
            let published = self.publish(message, batch);
            debug_assert!(published.is_ok(), "{published:?}");
        }
        wanted
    }
}

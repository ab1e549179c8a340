//! What a session has seldom: kept in a box that is there only while something is in it, as most
//! sessions are idle and little else than their fields.

use protocols::connection::Will;
use protocols::model::Timestamp;

use super::{RetainedWork, State};

/// See the module; read and changed through [`State`].
#[derive(Debug)]
pub(super) struct Aside {
    ends_at: Timestamp,
    will: Option<Box<Will>>,
    will_at: Timestamp,
    watched: Timestamp,
    retained: Vec<RetainedWork>,
}

impl Default for Aside {
    fn default() -> Self {
        Self {
            ends_at: Timestamp::NEVER,
            will: None,
            will_at: Timestamp::NEVER,
            watched: Timestamp::NEVER,
            retained: Vec::new(),
        }
    }
}

impl Aside {
    fn is_vacant(&self) -> bool {
        self.will.is_none()
            && self.retained.is_empty()
            && [self.ends_at, self.will_at, self.watched] == [Timestamp::NEVER; 3]
    }
}

impl State {
    /// When it ends, while it has no connection, or [`Timestamp::NEVER`].
    pub fn ends_at(&self) -> Timestamp {
        let aside = self.aside.as_ref();
        aside.map_or(Timestamp::NEVER, |aside| aside.ends_at)
    }

    /// Sets when it ends.
    pub fn set_ends_at(&mut self, at: Timestamp) {
        self.change(|aside| aside.ends_at = at);
    }

    /// What to publish if the connection ends without a good-bye.
    pub fn will(&self) -> Option<&Will> {
        self.aside.as_ref()?.will.as_deref()
    }

    /// Takes the will away.
    pub fn take_will(&mut self) -> Option<Box<Will>> {
        self.change(|aside| aside.will.take())
    }

    /// Sets the will.
    pub fn set_will(&mut self, will: Option<Box<Will>>) {
        self.change(|aside| aside.will = will);
    }

    /// When the will is due, while the client is away, or [`Timestamp::NEVER`].
    pub fn will_at(&self) -> Timestamp {
        let aside = self.aside.as_ref();
        aside.map_or(Timestamp::NEVER, |aside| aside.will_at)
    }

    /// Sets when the will is due.
    pub fn set_will_at(&mut self, at: Timestamp) {
        self.change(|aside| aside.will_at = at);
    }

    /// When the hub looks after it next, or [`Timestamp::NEVER`] if it is not in the hub's list of
    /// deadlines.
    pub fn watched(&self) -> Timestamp {
        let aside = self.aside.as_ref();
        aside.map_or(Timestamp::NEVER, |aside| aside.watched)
    }

    /// Sets when the hub looks after it next; returns when it would have before.
    pub fn set_watched(&mut self, at: Timestamp) -> Timestamp {
        self.change(|aside| std::mem::replace(&mut aside.watched, at))
    }

    /// Retained messages that are still to be sent to new subscriptions.
    #[inline]
    pub fn retained(&self) -> &[RetainedWork] {
        let aside = self.aside.as_ref();
        aside.map_or(&[], |aside| &aside.retained)
    }

    /// Changes what retained messages are still to be sent.
    pub fn change_retained<R>(&mut self, change: impl FnOnce(&mut Vec<RetainedWork>) -> R) -> R {
        self.change(|aside| change(&mut aside.retained))
    }

    /// Retained messages that were taken out are still to be sent, before the others.
    pub fn put_back_retained(&mut self, work: RetainedWork) {
        self.change_retained(|works| works.insert(0, work));
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut Aside) -> R) -> R {
        let Some(aside) = &mut self.aside else {
            let mut aside = Aside::default();
            let result = change(&mut aside);
            self.aside = (!aside.is_vacant()).then(|| Box::new(aside));
            return result;
        };
        let result = change(aside);
        if aside.is_vacant() {
            self.aside = None;
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use protocols::model::{Message, QoS, Topic};

    use super::*;
    use crate::session::{Bounds, Session};

    fn session() -> Session {
        let bounds = Bounds {
            queue_messages: 1,
            queue_bytes: 1,
            drop_oldest: false,
            memory_bytes: 1,
            spare_bytes: 0,
            outbox_bytes: 1,
            outbox_hard_bytes: 1,
        };
        Session::new(1, "a".into(), None, Arc::new(bounds), None)
    }

    fn will() -> Box<Will> {
        let topic = Topic::parse("w".into(), 64, 8).unwrap();
        Box::new(Will {
            message: Message::new(topic, Bytes::new(), QoS::AtMostOnce, false),
            delay_secs: 0,
            expiry_secs: None,
        })
    }

    #[test]
    fn what_was_set_is_found_and_the_box_goes_with_the_last_of_it() {
        let session = session();
        let mut state = session.lock();
        state.set_ends_at(Timestamp::NEVER);
        state.change_retained(Vec::clear);
        assert!(state.aside.is_none() && state.take_will().is_none());
        state.set_will(Some(will()));
        state.set_will_at(Timestamp(1));
        state.set_ends_at(Timestamp(2));
        assert_eq!(state.set_watched(Timestamp(3)), Timestamp::NEVER);
        let set = [state.will_at(), state.ends_at(), state.watched()];
        assert_eq!(set, [1, 2, 3].map(Timestamp));
        assert!(state.will().is_some() && state.take_will().is_some());
        state.set_will_at(Timestamp::NEVER);
        state.set_ends_at(Timestamp::NEVER);
        assert_eq!(state.set_watched(Timestamp::NEVER), Timestamp(3));
        assert!(state.aside.is_none());
    }
}

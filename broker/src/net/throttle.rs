//! How fast one client may send: two token buckets, of messages and of bytes.
//!
//! A client that is too fast is not read from for a while, so that its own socket fills up and
//! slows it down. One that goes on like this is closed. Nothing here runs by itself: a connection
//! that sends nothing is never woken for it.

use std::time::Duration;

use protocols::connection::{Cause, CloseReason};
use protocols::model::Timestamp;

use crate::guard::{Bucket, Rate};

/// How long after a wait a client that does not go on at once counts as one that has stopped.
const LULL: Duration = Duration::from_millis(500);

/// How fast one client may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Messages that it publishes.
    pub messages: Rate,
    /// Bytes that it sends, as the transport carries them.
    pub bytes: Rate,
    /// How long it may have more to send than its rate allows; zero for ever.
    pub patience: Duration,
}

/// What one client has used up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Throttle {
    messages: Bucket,
    bytes: Bucket,
    /// Until when it is not read from.
    until: Timestamp,
    /// Since when it is too fast.
    since: Option<Timestamp>,
}

/// What a client was too fast with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooFast {
    /// Messages.
    Messages,
    /// Bytes.
    Bytes,
}

impl Throttling {
    /// What a new client begins with; `None` if nothing is limited.
    pub(super) fn begin(&self) -> Option<Box<Throttle>> {
        let limited = self.messages.is_limited() || self.bytes.is_limited();
        limited.then(Box::default)
    }
}

impl Throttle {
    /// The client has sent this; says whether it must wait, and for what.
    pub(super) fn spend(
        &mut self,
        limits: &Throttling,
        (messages, bytes): (u64, u64),
        now: Timestamp,
    ) -> Option<TooFast> {
        if self.until + LULL < now {
            self.since = None;
        }
        let messages = self.messages.spend(limits.messages, messages, now);
        let bytes = self.bytes.spend(limits.bytes, bytes, now);
        let wait = messages.max(bytes);
        if wait == Duration::ZERO {
            self.since = None;
            return None;
        }
        self.since.get_or_insert(now);
        // Rounded up: time is in whole milliseconds.
        self.until = now + wait + Duration::from_millis(1);
        Some(if messages >= bytes {
            TooFast::Messages
        } else {
            TooFast::Bytes
        })
    }

    /// When there is something to do: to read on, or to give up.
    pub(super) fn deadline(&self, limits: &Throttling, now: Timestamp) -> Option<Timestamp> {
        if self.until <= now {
            return None;
        }
        Some(
            self.end(limits)
                .map_or(self.until, |end| end.min(self.until)),
        )
    }

    /// Whether the client waits now; the reason to close it, if it was too fast for too long.
    pub(super) fn holds(&self, limits: &Throttling, now: Timestamp) -> Result<bool, CloseReason> {
        if self.until <= now {
            return Ok(false);
        }
        match self.end(limits) {
            Some(end) if end <= now => Err(CloseReason::new(
                Cause::Rate,
                format!(
                    "more was sent than the rate allows, for {} seconds (limits.messages_per_sec, \
                     limits.receive_rate)",
                    limits.patience.as_secs_f32()
                ),
            )),
            _ => Ok(true),
        }
    }

    fn end(&self, limits: &Throttling) -> Option<Timestamp> {
        let patience = Some(limits.patience).filter(|patience| *patience > Duration::ZERO)?;
        Some(self.since? + patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Throttling = Throttling {
        messages: Rate {
            per_sec: 10,
            burst: 10,
        },
        bytes: Rate {
            per_sec: 1000,
            burst: 1000,
        },
        patience: Duration::from_secs(5),
    };

    fn at(millis: u64) -> Timestamp {
        Timestamp(1_000_000 + millis)
    }

    #[test]
    fn who_is_too_fast_waits_for_as_long_as_it_was() {
        let mut throttle = Throttle::default();
        let mut spend = |what, now| throttle.spend(&LIMITS, what, at(now));
        assert_eq!(spend((10, 500), 0), None);
        assert_eq!(spend((5, 0), 0), Some(TooFast::Messages));
        assert_eq!(throttle.deadline(&LIMITS, at(0)), Some(at(501)));
        assert_eq!(throttle.holds(&LIMITS, at(500)), Ok(true));
        assert_eq!(throttle.holds(&LIMITS, at(501)), Ok(false));
        assert_eq!(throttle.deadline(&LIMITS, at(501)), None);
        let bytes = throttle.spend(&LIMITS, (0, 1501), at(501));
        assert_eq!(bytes, Some(TooFast::Bytes));
    }

    #[test]
    fn who_goes_on_too_fast_is_closed() {
        let mut throttle = Throttle::default();
        let mut now = 0;
        let end = loop {
            throttle.spend(&LIMITS, (15, 0), at(now));
            let Some(next) = throttle.deadline(&LIMITS, at(now)) else {
                panic!("it waits")
            };
            now = next.0 - 1_000_000;
            if let Err(end) = throttle.holds(&LIMITS, next) {
                break end;
            }
            assert!(now < 10_000);
        };
        assert_eq!((end.cause, now), (Cause::Rate, 5000));
    }

    #[test]
    fn who_pauses_between_bursts_is_not_closed() {
        let mut throttle = Throttle::default();
        for round in 0..10 {
            let now = at(round * 4000);
            throttle.spend(&LIMITS, (30, 0), now);
            assert_eq!(throttle.holds(&LIMITS, now), Ok(true));
            assert_eq!(
                throttle.holds(&LIMITS, now + Duration::from_millis(2001)),
                Ok(false)
            );
        }
    }

    #[test]
    fn patience_may_be_endless_and_rates_may_be_off() {
        let limits = Throttling {
            patience: Duration::ZERO,
            ..LIMITS
        };
        let mut throttle = Throttle::default();
        throttle.spend(&limits, (1_000_000, 0), at(0));
        assert_eq!(throttle.holds(&limits, at(50_000_000)), Ok(true));
        assert!(Throttling::default().begin().is_none());
        assert!(LIMITS.begin().is_some());
    }
}

//! The credentials of a connected client: renewing them, and what happens before and at their end.

use std::sync::Arc;

use bytes::Bytes;
use protocols::Delivery;
use protocols::connection::{Cause, CloseReason, Matched, Notice, Overlap, topics};
use protocols::model::{Message, QoS, Timestamp, Topic};
use smallvec::SmallVec;

use super::State;
use crate::auth::{Identity, Method};

impl State {
    /// Takes the identity of a client that logs in.
    pub fn identify(&mut self, who: &Arc<Identity>) {
        let is_proved = who.method != Method::Anonymous;
        self.identity = is_proved.then(|| Arc::clone(who));
    }

    /// Goes on with new credentials, if `link` is still the session's; `due` is when they are
    /// looked at.
    pub fn renew(&mut self, link: u64, who: &Arc<Identity>, due: Timestamp) {
        if let Some(link) = self.link.as_mut().filter(|held| held.id == link) {
            link.due = due;
            self.identify(who);
        }
    }

    /// Warns the client of the end of its credentials, or closes its connection at the end, if the
    /// time for it has come and `link` is still the session's.
    pub fn look_at_credentials(&mut self, link: u64, now: Timestamp) {
        let Some(link) = self.link.as_mut().filter(|held| held.id == link) else {
            return;
        };
        if link.due > now || link.end.is_some() {
            return;
        }
        let end = self.identity.as_ref().and_then(|who| who.expires_at);
        match end {
            None => link.due = Timestamp::NEVER,
            Some(end) if end <= now => {
                let detail = "the credentials have expired";
                link.close(CloseReason::new(Cause::Expired, detail));
            }
            Some(end) => {
                link.due = end;
                self.warn(end, now);
            }
        }
    }

    /// Says when the credentials end, in the protocol's own words and to subscribers of
    /// [`topics::AUTH_EXPIRING`].
    fn warn(&mut self, end: Timestamp, now: Timestamp) {
        let Some(link) = &mut self.link else { return };
        let notice = Notice::Expiring { at: end };
        link.connection.notify(&notice, now, &mut link.outbox);
        let mut matched: SmallVec<[Matched; 2]> = SmallVec::new();
        for held in self.subscriptions.values() {
            let filter = held.request.filter.as_str();
            if filter == topics::AUTH_EXPIRING || filter == "$auth/#" || filter == "$auth/+" {
                matched.push(Matched {
                    id: held.id,
                    identifier: held.request.identifier,
                });
            }
        }
        matched.sort_by_key(|matched| matched.id);
        let Some(message) = expiring(end, now).filter(|_| !matched.is_empty()) else {
            return;
        };
        let each = match self.overlap {
            Overlap::Merge => matched.len(),
            Overlap::Each => 1,
        };
        for matched in matched.chunks(each) {
            let delivery = Delivery {
                message: &message,
                qos: QoS::AtMostOnce,
                retain: false,
                position: None,
                attempts: 0,
                matched,
            };
            // A client that does not take it is not worse off than one that did not subscribe.
            let _ = link.connection.deliver(&delivery, now, &mut link.outbox);
        }
    }
}

/// The message: `{"expiresAt":…,"expiresIn":…}`, milliseconds since 1970 and seconds from now.
fn expiring(end: Timestamp, now: Timestamp) -> Option<Arc<Message>> {
    let any = usize::from(u16::MAX);
    let topic = Topic::parse(topics::AUTH_EXPIRING.into(), any, any).ok()?;
    let left = end.0.saturating_sub(now.0).div_ceil(1000);
    let text = format!("{{\"expiresAt\":{},\"expiresIn\":{left}}}", end.0);
    let message = Message::new(topic, Bytes::from(text), QoS::AtMostOnce, false);
    Some(Arc::new(message))
}

//! Bans that concern clients who are here already.

use bytestring::ByteString;
use protocols::connection::{Cause, CloseReason};
use protocols::model::Timestamp;

use super::Hub;
use crate::guard::Subject;
use crate::session::{Link, Session};

impl Hub {
    /// Bans somebody until a time, or for good, and closes the connections that this concerns.
    /// Says how many. Sessions stay, and wills are published as after any other end.
    pub fn ban(
        &self,
        subject: Subject,
        until: Option<Timestamp>,
        reason: impl Into<ByteString>,
        now: Timestamp,
    ) -> usize {
        self.guard.bans.add(subject, until, reason, now);
        self.close_banned(now)
    }

    /// Closes the connections of all who are banned now; says how many.
    pub fn close_banned(&self, now: Timestamp) -> usize {
        if self.guard.bans.len(now) == 0 {
            return 0;
        }
        let sessions = self.sessions.all();
        let closed = sessions.iter().filter(|session| {
            let mut state = session.lock();
            let link = state.link.as_mut();
            let link = link.filter(|link| link.end.is_none() && self.is_banned(session, link, now));
            let Some(link) = link else { return false };
            link.close(CloseReason::new(Cause::Administrative, "banned"));
            if let Some(sleeper) = link.sleeper.take() {
                sleeper.wake();
            }
            true
        });
        closed.count()
    }

    fn is_banned(&self, session: &Session, link: &Link, now: Timestamp) -> bool {
        let bans = &self.guard.bans;
        let user = session.user();
        bans.is_banned(&Subject::Client(session.client_id.clone()), now)
            || user.is_some_and(|user| bans.is_banned(&Subject::User(user.clone()), now))
            || link
                .origin
                .ip()
                .is_some_and(|ip| bans.is_address_banned(ip, now))
    }
}

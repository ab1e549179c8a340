//! What one user may have on the disk: sessions that outlive their connections, and retained
//! messages, whose counting is the router's.
//!
//! A session's place is kept here and not with the session, so that sessions cost nothing more while
//! users have no bound.

use dashmap::DashMap;
use foldhash::quality::RandomState;
use protocols::connection::{Connect, Refusal, RefusalCode};
use protocols::model::Message;

use super::Hub;
use crate::auth::{Identity, stored};
use crate::guard::{Place, Places};
use crate::router::RetainedFull;
use crate::session::Session;

/// What the broker's own sessions speak: they are nobody's.
const INSIDE: &str = "function";

/// Sessions of each user, while that is bounded.
#[derive(Default)]
pub(super) struct Quotas {
    places: Places,
    /// By the session's number.
    held: DashMap<u64, Place, RandomState>,
}

impl Hub {
    /// Gives a client a place for a session that outlives its connection, if it needs one that it
    /// has not: `old` is its session of now. To be called with the lock of its login.
    pub(super) fn session_place(
        &self,
        connect: &Connect,
        who: &Identity,
        old: Option<&Session>,
    ) -> Result<Option<Place>, Refusal> {
        let limit = self.bounds.load().sessions_per_user;
        if limit == 0 || connect.session_expiry_secs == 0 {
            return Ok(None);
        }
        if connect.protocol == INSIDE {
            // It may have come back with the sessions of clients.
            if let Some(old) = old {
                self.give_place_back(old);
            }
            return Ok(None);
        }
        let user = stored::holder(who);
        let held = old.and_then(|old| self.quotas.held.get(&old.number));
        let is_own = held.is_some_and(|place| *place.user() == user);
        let goes_on = old.is_some_and(|old| {
            let state = old.lock();
            !connect.clean_start && state.expiry_secs > 0 && !state.ended
        });
        let limit = match (goes_on, is_own) {
            (true, true) => return Ok(None),
            // It was somebody's who had not proved who it is.
            (true, false) => usize::MAX,
            (false, is_own) => limit.saturating_add(usize::from(is_own)),
        };
        let place = self.quotas.places.take(&user, limit).ok_or_else(|| {
            self.metrics.quota_refused("sessions_per_user");
            let detail = "as many sessions that outlive their connections as one user may have";
            Refusal::new(RefusalCode::Quota, detail)
        })?;
        Ok(Some(place))
    }

    /// The place is the session's until it ends.
    pub(super) fn keep_place(&self, session: &Session, place: Option<Place>) {
        if let Some(place) = place {
            self.quotas.held.insert(session.number, place);
        }
    }

    /// A session that was there before the process started has its place, whatever its user has by
    /// now. `who` is what was written of its client.
    pub(super) fn restore_place(&self, session: &Session, who: Option<&str>) {
        if self.bounds.load().sessions_per_user == 0 {
            return;
        }
        let user = who.and_then(stored::holder_of).unwrap_or_default();
        let place = self.quotas.places.take(&user, usize::MAX);
        self.keep_place(session, place);
    }

    /// The session has ended.
    pub(super) fn give_place_back(&self, session: &Session) {
        self.quotas.held.remove(&session.number);
    }

    /// Says of a message to be retained whose it is, by what is said of its publisher.
    pub(super) fn sign(&self, session: &Session, message: &mut Message) {
        if message.retain {
            let always = self.retained.counts_users();
            message.source = session.rights.source(&session.client_id, always);
        }
    }

    /// A message is not retained: what its publisher is told.
    pub(super) fn not_retained(&self, full: RetainedFull) -> Refusal {
        self.metrics.quota_refused(full.as_str());
        Refusal::new(RefusalCode::Quota, full.to_string())
    }

    /// Sessions that have a place, of all users.
    #[cfg(test)]
    pub(super) fn places_held(&self) -> usize {
        self.quotas.held.len()
    }
}

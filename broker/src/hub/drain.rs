//! Sending clients away before the broker ends.
//!
//! Wills are not said: those who would hear them are leaving too, and a server that shuts down may
//! defer them until it is back (MQTT 5 §3.1.2.5). Sessions that outlive their connection stay as
//! they are.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocols::connection::CloseReason;

use super::Hub;
use crate::session::{Batch, Session};
use crate::store::Urgency;

impl Hub {
    /// Lets nobody in from now on.
    pub fn begin_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether the broker is stopping and lets nobody in.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Clients that are connected now, as far as the hub has learned of their ends.
    pub fn connected_count(&self) -> usize {
        self.connections.len()
    }

    /// The sessions that have a connection, the oldest first.
    pub fn connected(&self) -> Vec<Arc<Session>> {
        let all = self.sessions.all().into_iter();
        all.filter(|session| session.lock().link.is_some())
            .collect()
    }

    /// Ends a session's connection, if it has one.
    pub fn send_away(&self, session: &Arc<Session>, reason: &CloseReason, batch: &mut Batch) {
        let ends = {
            let mut state = session.lock();
            if state.link.is_none() {
                return;
            }
            // As connected, so that its client has some time to come back at the next start;
            // but with an end, which says that what was sent is known.
            let ends_at = batch.now.plus_secs(state.expiry_secs);
            state.set_ends_at(ends_at);
            state.record(session, batch, Urgency::Later);
            state.dismiss(reason.clone());
            state.expiry_secs == 0 && !session.is_stored()
        };
        if ends {
            let _login = self.logins[super::stripe(&session.client_id)].lock();
            self.end(session, batch);
        }
    }

    /// Ends all connections.
    pub fn stop(&self, reason: &CloseReason, batch: &mut Batch) {
        self.begin_stop();
        for session in self.connected() {
            self.send_away(&session, reason, batch);
        }
        self.commit_batch(batch);
    }

    /// Hands what sending away has changed to the store.
    pub fn sent_away(&self, batch: &mut Batch) {
        self.commit_batch(batch);
    }
}

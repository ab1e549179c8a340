//! Revoked credentials: what is connected or waits with them ends at once.

use std::sync::Arc;

use bytestring::ByteString;
use protocols::connection::{Cause, CloseReason};
use protocols::model::Timestamp;

use super::{Hub, stripe};
use crate::auth::{Revoked, Subject};
use crate::session::{Batch, Session};

/// A token that a session has used, by its name, and when it ends.
type UsedToken = (ByteString, Option<Timestamp>);

impl Hub {
    /// Closes the connections of a user, a token or a client, ends their sessions, connected or
    /// not, and drops their wills. Says which tokens they had.
    pub fn revoke(&self, subject: &Subject, batch: &mut Batch) -> (Revoked, Vec<UsedToken>) {
        let is_meant = |session: &Session| match subject {
            Subject::User(user) => session.user() == Some(user),
            Subject::Client(client) => session.client_id == *client,
            Subject::Token(token) => {
                let state = session.lock();
                let identity = state.identity.as_ref();
                identity.is_some_and(|who| who.token_id.as_ref() == Some(token))
            }
        };
        // No session is locked while the table is.
        let mut meant = self.sessions.all();
        meant.retain(|session| is_meant(session));
        let (mut revoked, mut tokens) = (Revoked::default(), Vec::new());
        for session in meant {
            let identity = session.lock().identity.clone();
            let token = identity.and_then(|who| Some((who.token_id.clone()?, who.expires_at)));
            tokens.extend(token);
            revoked.sessions += 1;
            // What its connection is carrying out comes first, as at a takeover.
            let _turn = session.turn.lock();
            revoked.connections += usize::from(self.end_revoked(&session, batch));
        }
        (revoked, tokens)
    }

    /// Ends one such session; `true` if it had a connection. To be called by the connection that
    /// has the session, or with its turn.
    pub fn end_revoked(&self, session: &Arc<Session>, batch: &mut Batch) -> bool {
        let _login = self.logins[stripe(&session.client_id)].lock();
        let was_connected = {
            let mut state = session.lock();
            if state.ended {
                return false;
            }
            state.set_will(None);
            let reason = CloseReason::new(Cause::Unauthorized, "the credentials were revoked");
            state.dismiss(reason)
        };
        self.end(session, batch);
        was_connected
    }
}

//! Revoked credentials: the list, and who is here with them. Called by the HTTP API.

use std::io;

use super::Net;
use crate::auth::{Revocation, Revoked, Subject};
use crate::session::Batch;

impl Net {
    /// Ends credentials before their time: connections are closed, sessions and wills dropped, and
    /// the credentials refused until they would have ended anyway. A restart remembers it only
    /// after [`Net::keep_revocations`].
    pub fn revoke(&self, revocation: &Revocation, batch: &mut Batch) -> Revoked {
        let auth = self.auth.load_full();
        // First the list, then the connections: who comes in between looks at the list again.
        auth.revoke(&revocation.subject, revocation.until);
        let (revoked, tokens) = self.hub.revoke(&revocation.subject, batch);
        for (token_id, until) in tokens {
            auth.revoke(&Subject::Token(token_id), until);
        }
        tracing::info!(
            connections = revoked.connections,
            sessions = revoked.sessions,
            "credentials were revoked"
        );
        revoked
    }

    /// Writes down what is revoked; an error says that a restart would forget it.
    pub async fn keep_revocations(&self) -> io::Result<()> {
        let list = std::sync::Arc::clone(self.auth.load().revocations());
        // It waits for the disk, which no task may.
        let saved = tokio::task::spawn_blocking(move || list.save()).await;
        saved.map_err(io::Error::other)?
    }
}

//! A connection of the broker's own: a session without a socket, for topic rules.
//!
//! It is a link like any other, but nothing is read or written: its state machine takes what is
//! delivered, and whoever holds the [`ServiceLink`] settles it.

use std::sync::Arc;
use std::task::Poll;

use parking_lot::Mutex;
use protocols::Outbox;
use protocols::connection::{Connect, Connection, Refusal};

use super::Net;
use super::execute::Home;
use crate::auth::Identity;
use crate::session::{Batch, Link, Origin, Session};

/// A link that is let go when this is dropped; its session stays as long as its expiry says.
pub struct ServiceLink {
    net: Arc<Net>,
    /// Locked for moments only; its task alone does so.
    home: Mutex<Home>,
    session: Arc<Session>,
}

impl Net {
    /// Lets a client of the broker's own in.
    pub(crate) fn open_service(
        self: &Arc<Self>,
        connection: Box<dyn Connection>,
        (connect, identity): (Connect, Identity),
        batch: &mut Batch,
    ) -> Result<ServiceLink, Refusal> {
        let number = self.admission.number();
        let mut link = Link::new(
            number,
            self.hub.metrics.protocol("function"),
            connection,
            Outbox::new(),
            Arc::default(),
        );
        link.origin = Origin::inside(batch.now);
        let mut home = Home::new(link);
        let session = home.let_in(&self.hub, (connect, identity), batch)?;
        Ok(ServiceLink {
            net: Arc::clone(self),
            home: Mutex::new(home),
            session,
        })
    }
}

impl ServiceLink {
    /// The session.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Waits until the session may have something new to send: what was stored is on disk.
    pub(crate) async fn nudged(&self) {
        std::future::poll_fn(|cx| {
            let home = self.home.lock();
            let outgoing = home.take_outgoing(&self.net.hub);
            if outgoing.nudged {
                return Poll::Ready(());
            }
            if let (Some(seq), Some(store)) = (outgoing.cork, self.net.hub.store()) {
                store.wake_at(seq, cx.waker());
            }
            home.with(|link| {
                if link.nudged {
                    cx.waker().wake_by_ref();
                } else {
                    link.sleep(cx.waker(), false);
                }
            });
            Poll::Pending
        })
        .await;
    }
}

impl Drop for ServiceLink {
    fn drop(&mut self) {
        let mut batch = Batch::new(self.net.clock.now());
        let home = self.home.lock();
        home.leave(&self.net.hub, false, None, &mut batch);
        batch.finish(&self.net.hub.metrics);
        // The link knows the way to its slot: left in there, both would hold each other for ever.
        let (_, slot) = home.slot();
        let link = slot.lock().take();
        drop(link);
    }
}

//! HTTP connections of which nobody knows whose they are.
//!
//! HTTP has no login: each request says who it is, or nothing. So a connection counts among those
//! without a login ([`Admission`](super::Admission)) until its first request is whole, and again
//! from each answer on that was not one to somebody known. [`super::http`] tells it what happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::Net;

/// Time for an answer to someone who is sent away.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One HTTP connection, as those see it who count.
pub(super) struct Visitor {
    net: Arc<Net>,
    /// Told when it has to go.
    told: Arc<Notify>,
    /// Its number among those without a login; 0 while it is none of them.
    place: AtomicU64,
    /// Whether a request of it was answered.
    has_asked: AtomicBool,
    /// Told when nothing more is answered.
    last_words: Notify,
}

impl Visitor {
    /// Nothing was asked yet; `number` is the connection's.
    pub(super) fn new(net: Arc<Net>, number: u64) -> Self {
        let told = net.admission.begin_handshake(number);
        Self {
            net,
            told,
            place: AtomicU64::new(number),
            has_asked: AtomicBool::new(false),
            last_words: Notify::new(),
        }
    }

    /// A request is whole. What is answered, and to whom, takes no place from others.
    pub(super) fn asks(&self) {
        self.has_asked.store(true, Ordering::Relaxed);
        self.leave();
    }

    /// It was answered, and whose it is nobody knows. It is the youngest then: whoever asks from
    /// time to time is not the first to go.
    pub(super) fn waits(&self) {
        let number = self.net.admission.number();
        self.place.store(number, Ordering::Relaxed);
        self.net.admission.wait_again(number, &self.told);
    }

    /// Waits until it has to make room. An answer that is on its way to it has a moment to get there.
    pub(super) async fn dismissed(&self) {
        self.told.notified().await;
        if self.has_asked.load(Ordering::Relaxed) {
            self.last_words.notify_one();
            tokio::time::sleep(LAST_WORDS).await;
        }
    }

    /// Waits until it is to end behind the answer that it gets now.
    pub(super) async fn winds_up(&self) {
        tokio::select! {
            () = self.net.api.stopping.notified() => {}
            () = self.last_words.notified() => {}
        }
    }

    fn leave(&self) {
        let number = self.place.swap(0, Ordering::Relaxed);
        if number != 0 {
            self.net.admission.end_login(number);
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.leave();
    }
}

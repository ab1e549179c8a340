//! Sending clients away over a time, so that they do not all come back at one moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocols::connection::{Cause, CloseReason};

use super::{DRAIN_CHECK, Server, received};
use crate::http::DrainWish;
use crate::session::Batch;

/// Clients that may always be sent away in a second.
const PER_SECOND: u64 = 1000;

impl Server {
    /// Closes the listeners.
    pub(super) async fn close(&mut self) {
        self.tasks.close.send_replace(true);
        for task in self.tasks.accepting.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a listener failed");
            }
        }
    }

    /// Says good-bye to all clients: over the time that was asked for, or at a signal over that of
    /// the configuration. Ends early when nobody is left, or at a signal.
    /// Says what it has told them.
    pub(super) async fn drain(&mut self, wish: Option<DrainWish>) -> CloseReason {
        let clients = self.net.hub.connected();
        let asked = wish.is_some();
        if asked {
            // Who still has a connection without a login may not come in meanwhile.
            self.net.hub.begin_stop();
        }
        let wish = wish.unwrap_or_else(|| self.at_signal(clients.len()));
        let secs = wish.over.as_secs_f64();
        tracing::info!(clients = clients.len(), secs, "clients are sent away");
        let mut reason = CloseReason::new(Cause::Shutdown, "the broker is stopping");
        reason.elsewhere = wish.elsewhere;
        self.net.api.control.begin(clients.len(), wish.over);
        let (net, began) = (Arc::clone(&self.net), Instant::now());
        let send_away = async {
            let mut told = 0;
            while told < clients.len() && net.hub.connected_count() > 0 {
                let due = due(clients.len(), began.elapsed(), wish.over).max(told);
                let mut batch = Batch::new(net.clock.now());
                for session in &clients[told..due] {
                    net.hub.send_away(session, &reason, &mut batch);
                }
                net.hub.sent_away(&mut batch);
                batch.finish(&net.hub.metrics);
                told = due;
                if told < clients.len() {
                    tokio::time::sleep(DRAIN_CHECK).await;
                }
            }
        };
        tokio::select! {
            () = send_away => {}
            // A second signal at a stop, the first one while clients are drained.
            () = received(&mut self.signals.terminate) => {}
            () = received(&mut self.signals.interrupt) => {}
        }
        if asked {
            tracing::info!("all clients have been told");
        }
        reason
    }

    /// What a signal asks for.
    fn at_signal(&self, clients: usize) -> DrainWish {
        let DrainWish { over, elsewhere } = super::settings::drain(&self.config);
        let clients = u64::try_from(clients).unwrap_or(u64::MAX);
        let fastest = Duration::from_millis(clients.saturating_mul(1000) / PER_SECOND);
        let grace = self.config.limits.drain_grace / 4 * 3;
        DrainWish {
            over: over.min(fastest).min(grace),
            elsewhere,
        }
    }
}

/// How many of so many are to have been told after a time.
fn due(all: usize, elapsed: Duration, over: Duration) -> usize {
    // The first one at once, the last one at the end.
    let share = (elapsed + DRAIN_CHECK).as_micros() * all as u128;
    let due = match over.as_micros() {
        0 => u128::MAX,
        over => share.div_ceil(over),
    };
    usize::try_from(due).unwrap_or(all).min(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_byes_are_spread_evenly_and_end_in_time() {
        let over = Duration::from_secs(10);
        assert_eq!(due(1000, Duration::ZERO, over), 2);
        assert_eq!(due(1000, over / 2, over), 502);
        assert_eq!(due(1000, over, over), 1000);
        assert_eq!(due(0, Duration::ZERO, over), 0);
        assert_eq!(due(3, Duration::ZERO, over), 1);
        assert_eq!(due(7, Duration::ZERO, Duration::ZERO), 7);
    }
}

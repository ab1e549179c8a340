//! What is counted of TLS and of those who are kept out.

use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::RwLock;

use super::metrics::Text;
use super::{Counter, Gauge};

/// Handshakes and certificates.
#[derive(Debug, Default)]
pub struct TlsMetrics {
    /// Handshakes that went well.
    pub handshakes: Counter,
    /// Times that a certificate was read again and is in use.
    pub reloads: Counter,
    /// Times that it could not be used.
    pub reloads_failed: Counter,
    /// Connections that were closed because their records carried next to nothing.
    pub floods: Counter,
    /// Handshakes that failed, by reason.
    failed: RwLock<Vec<(&'static str, Counter)>>,
    /// When the certificate ends, in seconds since the epoch; 0 without one.
    expires_at: AtomicI64,
}

/// Who is kept out, and who is slowed down.
#[derive(Debug, Default)]
pub struct ProtectionMetrics {
    /// Bans that hold.
    pub bans: Gauge,
    /// Bans because of flapping.
    pub flapping: Gauge,
    /// Bans because of failed logins.
    pub failed_logins: Gauge,
    /// Connections without a login.
    pub half_open: Gauge,
    /// Bytes that came on them.
    pub unauthenticated_bytes: Gauge,
    /// Times that a client was not read from because of its rate of messages.
    pub messages_slowed: Counter,
    /// The same because of its rate of bytes.
    pub bytes_slowed: Counter,
    /// Connections without a login that were closed to make room.
    pub dismissed: Gauge,
}

impl TlsMetrics {
    /// A handshake did not come to its end.
    pub fn handshake_failed(&self, reason: &'static str) {
        let found = |failed: &[(&'static str, Counter)]| {
            let known = failed.iter().find(|(known, _)| *known == reason);
            known.map(|(_, counter)| counter.inc())
        };
        if found(&self.failed.read()).is_some() {
            return;
        }
        let mut failed = self.failed.write();
        if found(&failed).is_none() {
            let counter = Counter::default();
            counter.inc();
            failed.push((reason, counter));
        }
    }

    /// When the certificate in use ends, in seconds since the epoch.
    pub fn set_expiry(&self, at: Option<i64>) {
        self.expires_at.store(at.unwrap_or(0), Ordering::Relaxed);
    }

    /// Writes them in Prometheus' text format.
    pub(super) fn render(&self, text: &mut Text) {
        let name = "tls_handshakes_total";
        text.family(name, "counter", "TLS handshakes that went well.");
        text.sample(name, &[], self.handshakes.value());
        let name = "tls_handshakes_failed_total";
        text.family(name, "counter", "TLS handshakes that failed.");
        for (reason, counter) in self.failed.read().iter() {
            text.sample(name, &[("reason", reason)], counter.value());
        }
        let name = "tls_floods_total";
        let help =
            "Connections that were closed because their TLS records carried next to nothing.";
        text.family(name, "counter", help);
        text.sample(name, &[], self.floods.value());
        let name = "tls_reloads_total";
        text.family(
            name,
            "counter",
            "Times that the certificate was read again.",
        );
        for (result, counter) in [("ok", &self.reloads), ("failed", &self.reloads_failed)] {
            text.sample(name, &[("result", result)], counter.value());
        }
        let name = "cert_expiry_timestamp_seconds";
        let help = "When the certificate in use ends, in seconds since 1970.";
        text.family(name, "gauge", help);
        let at = self.expires_at.load(Ordering::Relaxed);
        if at != 0 {
            text.sample(name, &[], at);
        }
    }
}

impl ProtectionMetrics {
    /// Writes them in Prometheus' text format.
    pub(super) fn render(&self, text: &mut Text) {
        for (name, help, gauge) in [
            ("bans", "Bans that hold.", &self.bans),
            (
                "half_open_connections",
                "Connections without a login.",
                &self.half_open,
            ),
            (
                "unauthenticated_bytes",
                "Bytes that connections without a login have sent.",
                &self.unauthenticated_bytes,
            ),
        ] {
            text.family(name, "gauge", help);
            text.sample(name, &[], gauge.value());
        }
        let name = "banned_total";
        text.family(name, "counter", "Bans that the broker made by itself.");
        for (reason, gauge) in [
            ("flapping", &self.flapping),
            ("failed_logins", &self.failed_logins),
        ] {
            text.sample(name, &[("reason", reason)], gauge.value());
        }
        let name = "rate_limited_total";
        let help = "Times that a client was not read from because it sent too fast.";
        text.family(name, "counter", help);
        for (limit, counter) in [
            ("messages", &self.messages_slowed),
            ("bytes", &self.bytes_slowed),
        ] {
            text.sample(name, &[("limit", limit)], counter.value());
        }
        let name = "half_open_dismissed_total";
        let help = "Connections without a login that were closed to make room.";
        text.family(name, "counter", help);
        text.sample(name, &[], self.dismissed.value());
    }
}

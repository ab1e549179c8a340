//! TLS: certificates, their reload, and the handshake.
//!
//! [`Tls`] holds what new connections shake hands with; a reload replaces it and leaves those that
//! exist alone. [`watch`] looks whether the files have changed; [`accept`] is the first part of
//! the task of an encrypted connection. What comes behind the handshake knows nothing of TLS.

mod accept;
mod certificate;
mod files;
mod raw;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use protocols::model::Timestamp;
use rustls::ServerConfig;

pub(super) use accept::accept;
use files::{Loaded, Stamp};
pub(super) use raw::Raw;

use super::Net;
use crate::clock::Clock;

/// Time before the end of a certificate from when on the log warns of it, each day.
const WARN_BEFORE: Duration = Duration::from_hours(30 * 24);

/// Time between two warnings of the same.
const WARN_EVERY: Duration = Duration::from_hours(24);

/// How TLS is spoken, from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities of clients' certificates.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of those authorities.
    pub client_crl: Option<PathBuf>,
    /// Whether clients are asked for one.
    pub client_auth: ClientAuth,
    /// Whether a client's user is an alternative name instead of the common name.
    pub alternative_name: bool,
    /// Whether TLS 1.2 is spoken too.
    pub old_version: bool,
    /// Time for the handshake.
    pub handshake: Duration,
    /// How often the files are looked at.
    pub reload: Duration,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not.
    #[default]
    None,
    /// They may show one.
    Optional,
    /// They must.
    Required,
}

/// What is spoken inside: chooses the name that is agreed on (ALPN). A client that offers others
/// only is refused, so that nobody can be led to speak one protocol to a port of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alpn {
    /// `mqtt`
    Mqtt,
    /// `stomp`
    Stomp,
    /// `http/1.1`
    Http,
}

impl Alpn {
    /// The name of a protocol of the registry.
    pub(super) fn of(protocol: &str) -> Self {
        match protocol {
            "stomp" => Self::Stomp,
            _ => Self::Mqtt,
        }
    }
}

/// What new connections shake hands with.
#[derive(Debug)]
pub struct Tls {
    state: ArcSwapOption<State>,
    /// One reload at a time.
    reloading: Mutex<Watched>,
}

#[derive(Debug)]
struct State {
    settings: TlsSettings,
    loaded: Loaded,
}

#[derive(Debug, Default)]
struct Watched {
    /// What was to be read last, whether that went well or not, and the files as they were then.
    wanted: Option<(TlsSettings, Stamp)>,
    warned: Option<Timestamp>,
}

impl Default for Tls {
    /// Without certificates: nobody can shake hands.
    fn default() -> Self {
        Self {
            state: ArcSwapOption::empty(),
            reloading: Mutex::default(),
        }
    }
}

impl Tls {
    /// Reads the files and uses them from now on. If anything is wrong with them, says what, and
    /// the old ones stay in use. Reads files: not for a task of a connection.
    pub fn load(&self, settings: &TlsSettings) -> Result<(), String> {
        let mut watched = self.reloading.lock();
        // Taken before the files are read: what changes meanwhile is seen the next time.
        watched.wanted = Some((settings.clone(), Stamp::of(settings)));
        let loaded = files::load(settings)?;
        watched.warned = None;
        self.state.store(Some(Arc::new(State {
            settings: settings.clone(),
            loaded,
        })));
        Ok(())
    }

    /// Whether the files have changed since they were last read.
    fn has_changed(&self) -> Option<TlsSettings> {
        let (settings, stamp) = self.reloading.lock().wanted.clone()?;
        (Stamp::of(&settings) != stamp).then_some(settings)
    }

    /// When the certificate ends, in seconds since the epoch.
    pub fn expires_at(&self) -> Option<i64> {
        self.state
            .load()
            .as_ref()
            .map(|state| state.loaded.expires_at)
    }

    /// Warns, once a day, of a certificate that ends soon.
    fn warn_of_expiry(&self, now: Timestamp) {
        let Some(state) = self.state.load_full() else {
            return;
        };
        let end = u64::try_from(state.loaded.expires_at).unwrap_or(0) * 1000;
        if now + WARN_BEFORE < Timestamp(end) {
            return;
        }
        let mut watched = self.reloading.lock();
        if watched.warned.is_some_and(|at| now < at + WARN_EVERY) {
            return;
        }
        watched.warned = Some(now);
        let file = state.settings.certificate.display();
        let days = Timestamp(end).since(now).as_secs() / (24 * 3600);
        if now < Timestamp(end) {
            tracing::warn!(days, "the certificate in {file} ends in {days} days");
        } else {
            tracing::error!("the certificate in {file} has expired: clients will refuse it");
        }
    }

    fn config(&self, alpn: Alpn) -> Option<Arc<ServerConfig>> {
        let state = self.state.load();
        let configs = &state.as_ref()?.loaded.configs;
        Some(Arc::clone(&configs[alpn as usize]))
    }

    fn handshake(&self) -> Duration {
        let state = self.state.load();
        state
            .as_ref()
            .map_or(Duration::ZERO, |state| state.settings.handshake)
    }

    fn reload_interval(&self) -> Option<Duration> {
        let state = self.state.load();
        state.as_ref().map(|state| state.settings.reload)
    }

    fn uses_alternative_name(&self) -> bool {
        let state = self.state.load();
        state
            .as_ref()
            .is_some_and(|state| state.settings.alternative_name)
    }
}

/// Reads the files again and says in the log and the metrics how that went.
pub(crate) fn reload(net: &Net, settings: &TlsSettings) {
    let metrics = &net.hub.metrics.tls;
    match net.tls.load(settings) {
        Ok(()) => {
            metrics.reloads.inc();
            tracing::info!(
                "the certificate in {} is in use from now on",
                settings.certificate.display()
            );
        }
        Err(wrong) => {
            metrics.reloads_failed.inc();
            tracing::error!("the certificate stays as it was: {wrong}");
        }
    }
    metrics.set_expiry(net.tls.expires_at());
}

/// Looks from time to time whether the files have changed, until it is dropped.
pub(crate) async fn watch(net: Arc<Net>, clock: Clock) {
    while let Some(every) = net.tls.reload_interval() {
        let looked = Arc::clone(&net);
        // Files may be on a disk that is slow.
        let look = tokio::task::spawn_blocking(move || {
            if let Some(settings) = looked.tls.has_changed() {
                reload(&looked, &settings);
            }
            looked.tls.warn_of_expiry(clock.now());
        });
        if let Err(error) = look.await {
            tracing::error!(%error, "the certificate could not be looked after");
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests;

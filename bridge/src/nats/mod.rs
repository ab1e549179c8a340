//! What the NATS source and the NATS sink share: the connection, and subjects for topics.

mod subject;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tracing::{info, warn};

pub(crate) use subject::{subject_of, topic_of};

use crate::config::{Secret, Section};
use crate::metrics::FlowMetrics;
use crate::retry::Backoff;
use crate::source::SourceError;
use crate::tls;

/// Messages that a core subscription holds before it drops; each drop is counted.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// How to connect, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    servers: Vec<ServerAddr>,
    credentials_file: Option<PathBuf>,
    nkey_seed: Option<Secret>,
    token: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl Settings {
    /// Reads them.
    pub(crate) fn read(section: &mut Section) -> Self {
        let default = || vec!["nats://127.0.0.1:4222".to_owned()];
        let mut servers = Vec::new();
        for text in section.texts("servers").unwrap_or_else(default) {
            match text.parse() {
                Ok(server) => servers.push(server),
                Err(error) => section.problem("servers", format!("\"{text}\": {error}")),
            }
        }
        Self {
            tls: read_tls(section, &servers),
            servers,
            credentials_file: section.path("credentials_file"),
            nkey_seed: section.secret("nkey_seed"),
            token: section.secret("token"),
            username: section.text("username"),
            password: section.secret("password"),
        }
    }

    /// Connects. Afterwards the connection comes back by itself for ever.
    pub(crate) async fn connect(
        &self,
        name: &str,
        metrics: Arc<FlowMetrics>,
    ) -> Result<Client, SourceError> {
        let mut options = ConnectOptions::new()
            .name(format!("polycast-bridge {name}"))
            .max_reconnects(None)
            .reconnect_delay_callback(|attempts| {
                let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
                (0..attempts.min(20))
                    .map(|_| backoff.pause())
                    .last()
                    .unwrap_or_default()
            })
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .event_callback({
                let name = name.to_owned();
                move |event| {
                    note(&event, &name, &metrics);
                    std::future::ready(())
                }
            });
        if let Some(tls) = &self.tls {
            options = options
                .tls_client_config(rustls::ClientConfig::clone(tls))
                .require_tls(true);
        }
        if let Some(seed) = &self.nkey_seed {
            options = options.nkey(seed.reveal().to_owned());
        }
        if let Some(token) = &self.token {
            options = options.token(token.reveal().to_owned());
        }
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            options = options.user_and_password(username.clone(), password.reveal().to_owned());
        }
        if let Some(file) = &self.credentials_file {
            options = options
                .credentials_file(file)
                .await
                .map_err(SourceError::new)?;
        }
        options
            .connect(self.servers.clone())
            .await
            .map_err(SourceError::new)
    }
}

fn read_tls(section: &mut Section, servers: &[ServerAddr]) -> Option<Arc<rustls::ClientConfig>> {
    let ca_file = section.path("ca_file");
    let own = (section.path("cert_file"), section.path("key_file"));
    let wanted =
        ca_file.is_some() || own.0.is_some() || servers.iter().any(ServerAddr::tls_required);
    if !wanted {
        return None;
    }
    let config = tls::client(ca_file.as_deref(), &own);
    config
        .map_err(|error| section.problem("ca_file", error.to_string()))
        .ok()
}

fn note(event: &Event, name: &str, metrics: &FlowMetrics) {
    match event {
        Event::Connected => info!(%name, "connected to NATS"),
        Event::SlowConsumer(_) => {
            // What a core subscription could not hold is gone; JetStream keeps it.
            metrics.errors.add(1);
            warn!(%name, "NATS messages were dropped: more than the bridge could hold");
        }
        event => warn!(%name, %event, "NATS"),
    }
}

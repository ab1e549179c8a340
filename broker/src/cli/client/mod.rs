//! Clients of the command line: one trait, one file a protocol.
//!
//! They speak to Polycast and to other brokers of the same protocols. [`connect`] takes a URL
//! apart ([`target`]), opens the way ([`wire`], [`tls`]) and logs in; after that, `publish` and
//! `subscribe` see a [`Client`] and no protocol. A client reads and writes only while one of its
//! methods is awaited, and each of them may be cancelled at any time and called again.

mod json;
mod mqtt;
mod stomp;
mod target;
#[cfg(test)]
mod tests;
pub(super) mod tls;
mod wire;

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use protocols::connection::RetainHandling;
use protocols::model::{Properties, QoS};
use protocols::mqtt::Version;

pub(super) use target::{Protocol, Target};
use wire::Wire;

/// The longest that connecting and logging in may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the largest packet or frame that is accepted from a broker.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// Messages with an answer outstanding, if the broker names no bound.
const WINDOW: usize = 20;

/// Who to be, as far as the protocol has words for it.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) client_id: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    /// The version of MQTT.
    pub(super) version: Version,
    /// Silence after which the client shows that it is alive; zero for never.
    pub(super) keep_alive: Duration,
    /// Whether to forget an older session of this client identifier.
    pub(super) clean_start: bool,
    /// How long the session outlives the connection, in seconds.
    pub(super) session_expiry_secs: u32,
    pub(super) will: Option<Outgoing>,
}

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    /// Certificates to trust instead of the system's, in PEM.
    pub(super) ca_file: Option<PathBuf>,
    /// The certificate to show and its key, in PEM.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// Whether to trust anyone.
    pub(super) insecure: bool,
}

/// A message to publish.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) properties: Properties,
    pub(super) expiry_secs: Option<u32>,
}

/// A message that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Incoming {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// `None` where the protocol does not say.
    pub(super) qos: Option<QoS>,
    pub(super) retained: bool,
    pub(super) redelivered: bool,
    pub(super) properties: Properties,
    /// Seconds that it still has.
    pub(super) expiry_secs: Option<u64>,
}

/// What to subscribe to.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) filter: String,
    pub(super) qos: QoS,
    pub(super) no_local: bool,
    pub(super) retained: RetainHandling,
}

/// A connection to a broker, logged in.
pub(super) trait Client: Send {
    /// Publishes. At QoS 0 the message is written; above, it is on its way, and
    /// [`Client::settle`] waits for the broker's answer.
    fn publish(&mut self, message: Outgoing) -> BoxFuture<'_, Result<()>>;

    /// Waits until the broker has answered for everything that was published.
    fn settle(&mut self) -> BoxFuture<'_, Result<()>>;

    /// Subscribes; fails if the broker refuses any of the filters.
    fn subscribe(&mut self, subscriptions: Vec<Subscription>) -> BoxFuture<'_, Result<()>>;

    /// The next message. The one before it is acknowledged by the call, since it was dealt with.
    fn next(&mut self) -> BoxFuture<'_, Result<Incoming>>;

    /// Keeps the connection alive while there is nothing to do; ends when the connection does.
    fn idle(&mut self) -> BoxFuture<'_, Result<Infallible>>;

    /// Acknowledges what was dealt with and says good-bye.
    fn close(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// Connects and logs in.
pub(super) async fn connect(
    target: &Target,
    login: &Login,
    trust: &Trust,
) -> Result<Box<dyn Client>> {
    let connecting = async {
        let wire = Wire::connect(target, trust).await?;
        let client: Box<dyn Client> = match target.protocol {
            Protocol::Mqtt => Box::new(mqtt::Mqtt::login(wire, login).await?),
            Protocol::Stomp => Box::new(stomp::Stomp::login(wire, login, &target.host).await?),
            Protocol::Json => Box::new(json::Json::login(wire, login).await?),
        };
        Ok::<_, anyhow::Error>(client)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| {
            let secs = CONNECT_TIMEOUT.as_secs();
            Err(anyhow::anyhow!("no answer within {secs} s"))
        })
        .with_context(|| {
            format!(
                "cannot connect to {target} ({})",
                target.protocol.as_str().to_uppercase()
            )
        })
}

/// The error for what a broker should not have sent.
fn unexpected(what: impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("the broker sent what it should not: {what}")
}

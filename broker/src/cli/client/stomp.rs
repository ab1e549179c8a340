//! STOMP 1.0 to 1.2, the client's side.
//!
//! A topic that begins with `/` is a destination as it stands (`/queue/orders`); any other is
//! `/topic/` and the topic.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use protocols::connection::RetainHandling;
use protocols::model::{Properties, QoS};
use protocols::stomp::{Bounds, Decoded, Decoder, Frame, FrameWriter, Version};
use tokio::time::Instant;

use super::wire::Wire;
use super::{Client, Incoming, Login, MAX_BYTES, Outgoing, Subscription, WINDOW, unexpected};
use crate::telemetry::Untrusted;

const BOUNDS: Bounds = Bounds {
    frame_bytes: MAX_BYTES,
    headers: 1000,
    line_bytes: 1024 * 1024,
    head_bytes: 4 * 1024 * 1024,
};

/// Headers of MESSAGE that are not the publisher's own.
const RESERVED: [&str; 16] = [
    "ack",
    "content-length",
    "content-type",
    "correlation-id",
    "delivery-count",
    "destination",
    "expires",
    "message-id",
    "persistent",
    "priority",
    "redelivered",
    "reply-to",
    "retained",
    "server",
    "subscription",
    "timestamp",
];

/// A connection that speaks STOMP.
pub(super) struct Stomp {
    wire: Wire,
    decoder: Decoder,
    version: Version,
    /// How often the broker wants to hear something; zero for never.
    beat: Duration,
    written: Instant,
    last_receipt: u64,
    /// Receipts that were asked for and did not come yet.
    receipts: BTreeSet<u64>,
    /// Whether messages are acknowledged: not with `ack:auto`.
    acknowledges: bool,
    incoming: VecDeque<(Incoming, Option<Vec<u8>>)>,
    /// The frame that acknowledges the message that was handed out last.
    unacknowledged: Option<Vec<u8>>,
}

/// What comes before and at the end of a login.
enum Greeting {
    NeedMore,
    HeartBeats(usize),
    Connected {
        version: Version,
        beat: Duration,
        /// Bytes of the frame.
        used: usize,
    },
}

impl Stomp {
    /// Logs in.
    pub(super) async fn login(wire: Wire, login: &Login, host: &str) -> Result<Self> {
        ensure!(
            login.will.is_none(),
            "STOMP has no will; use MQTT for --will-topic"
        );
        let mut this = Self {
            wire,
            decoder: Decoder::new(),
            version: Version::V1_2,
            beat: Duration::ZERO,
            written: Instant::now(),
            last_receipt: 0,
            receipts: BTreeSet::new(),
            acknowledges: false,
            incoming: VecDeque::new(),
            unacknowledged: None,
        };
        let session = (!login.clean_start && login.client_id.is_some())
            .then(|| login.session_expiry_secs.to_string());
        let frame = FrameWriter::new("CONNECT", None)
            .header("accept-version", "1.0,1.1,1.2")
            .header("host", host)
            .header("heart-beat", &format!("{},0", login.keep_alive.as_millis()))
            .header_if("login", login.username.as_deref())
            .header_if("passcode", login.password.as_deref())
            .header_if("client-id", login.client_id.as_deref())
            .header_if("session-expiry", session.as_deref())
            .end();
        this.put(&frame)?;
        this.wire.flush().await?;
        this.await_connected(login)
            .await
            .context("the broker did not accept the login")?;
        Ok(this)
    }

    async fn await_connected(&mut self, login: &Login) -> Result<()> {
        loop {
            match self.greeting(login)? {
                Greeting::NeedMore => self.wire.fill().await?,
                Greeting::HeartBeats(ends) => self.wire.input.advance(ends),
                Greeting::Connected {
                    version,
                    beat,
                    used,
                } => {
                    self.wire.input.advance(used);
                    self.version = version;
                    self.beat = beat;
                    self.decoder.set_version(version);
                    return Ok(());
                }
            }
        }
    }

    fn greeting(&mut self, login: &Login) -> Result<Greeting> {
        let frame = match self.decoder.decode(&self.wire.input, &BOUNDS)? {
            Decoded::Incomplete => return Ok(Greeting::NeedMore),
            Decoded::HeartBeats(ends) => return Ok(Greeting::HeartBeats(ends)),
            Decoded::Frame(frame) => frame,
        };
        if frame.command() != "CONNECTED" {
            return Err(error(&frame));
        }
        let version = match frame.header("version").as_deref() {
            None => Version::V1_0,
            Some(text) => Version::parse(text)
                .ok_or_else(|| unexpected(format!("version {}", Untrusted(text))))?,
        };
        Ok(Greeting::Connected {
            version,
            beat: beat(&frame, login.keep_alive),
            used: frame.raw().len(),
        })
    }

    fn put(&mut self, frame: &[u8]) -> Result<()> {
        self.written = Instant::now();
        self.wire.put(frame)
    }

    fn frame(&self, command: &str) -> FrameWriter {
        FrameWriter::new(command, Some(self.version))
    }

    fn receipt(&mut self) -> String {
        self.last_receipt += 1;
        self.receipts.insert(self.last_receipt);
        self.last_receipt.to_string()
    }

    /// Writes, waits for one frame (or for the time to beat) and deals with it.
    async fn step(&mut self) -> Result<()> {
        self.wire.flush().await?;
        match self.handle()? {
            Some(used) => {
                self.wire.input.advance(used);
                Ok(())
            }
            None => self.wait().await,
        }
    }

    /// Deals with what came first and returns how many bytes it had; `None` if more must come.
    fn handle(&mut self) -> Result<Option<usize>> {
        let frame = match self.decoder.decode(&self.wire.input, &BOUNDS)? {
            Decoded::Incomplete => return Ok(None),
            Decoded::HeartBeats(ends) => return Ok(Some(ends)),
            Decoded::Frame(frame) => frame,
        };
        match frame.command() {
            "MESSAGE" => {
                let ack = self
                    .acknowledges
                    .then(|| acknowledgement(&frame, self.version));
                self.incoming.push_back((incoming(&frame), ack.flatten()));
            }
            "RECEIPT" => {
                let id = frame.header("receipt-id").unwrap_or_default();
                if !id.parse().is_ok_and(|id| self.receipts.remove(&id)) {
                    return Err(unexpected("a RECEIPT that nobody asked for"));
                }
            }
            _ => return Err(error(&frame)),
        }
        Ok(Some(frame.raw().len()))
    }

    async fn wait(&mut self) -> Result<()> {
        if self.beat.is_zero() {
            return self.wire.fill().await;
        }
        tokio::select! {
            filled = self.wire.fill() => return filled,
            () = tokio::time::sleep_until(self.written + self.beat) => {}
        }
        self.put(b"\n")?;
        self.wire.flush().await
    }

    fn put_send(&mut self, message: &Outgoing) -> Result<()> {
        let receipt = (message.qos != QoS::AtMostOnce).then(|| self.receipt());
        let properties = &message.properties;
        let correlation = properties
            .correlation
            .as_deref()
            .map(std::str::from_utf8)
            .transpose()
            .context("over STOMP, --correlation must be text")?;
        let expires = message.expiry_secs.map(expires_at);
        let mut frame = self
            .frame("SEND")
            .header("destination", &destination(&message.topic))
            .header_if("receipt", receipt.as_deref())
            .header_if("retain", message.retain.then_some("true"))
            .header_if("content-type", properties.content_type.as_deref())
            .header_if("reply-to", properties.reply_to.as_deref())
            .header_if("correlation-id", correlation)
            .header_if("expires", expires.as_deref());
        if message.qos == QoS::ExactlyOnce {
            frame = frame.header("qos", "2");
        }
        for (name, value) in &properties.user {
            frame = frame.header(name, value);
        }
        self.put(&frame.body(&message.payload))
    }

    fn put_subscribe(&mut self, number: usize, subscription: &Subscription) -> Result<()> {
        let retained = match subscription.retained {
            RetainHandling::Send => None,
            RetainHandling::SendIfNew => Some("1"),
            RetainHandling::DoNotSend => Some("2"),
        };
        let ack = match (subscription.qos, self.version) {
            (QoS::AtMostOnce, _) => "auto",
            (_, Version::V1_0) => "client",
            _ => "client-individual",
        };
        self.acknowledges |= ack != "auto";
        let receipt = self.receipt();
        let frame = self
            .frame("SUBSCRIBE")
            .header("id", &number.to_string())
            .header("destination", &destination(&subscription.filter))
            .header("ack", ack)
            .header("receipt", &receipt)
            .header_if("no-local", subscription.no_local.then_some("true"))
            .header_if("retain-handling", retained)
            .end();
        self.put(&frame)
    }

    fn acknowledge(&mut self) -> Result<()> {
        match self.unacknowledged.take() {
            Some(frame) => self.put(&frame),
            None => Ok(()),
        }
    }

    async fn await_receipts(&mut self) -> Result<()> {
        while !self.receipts.is_empty() {
            self.step().await?;
        }
        self.wire.flush().await
    }
}

impl Client for Stomp {
    fn publish(&mut self, message: Outgoing) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            while message.qos != QoS::AtMostOnce && self.receipts.len() >= WINDOW {
                self.step().await?;
            }
            self.put_send(&message)?;
            self.wire.flush().await
        })
    }

    fn settle(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.await_receipts())
    }

    fn subscribe(&mut self, subscriptions: Vec<Subscription>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            for (number, subscription) in subscriptions.iter().enumerate() {
                self.put_subscribe(number, subscription)?;
                self.await_receipts().await.with_context(|| {
                    let filter = Untrusted(&subscription.filter);
                    format!("the broker refused the subscription to {filter}")
                })?;
            }
            Ok(())
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Incoming>> {
        Box::pin(async {
            self.acknowledge()?;
            loop {
                if let Some((message, ack)) = self.incoming.pop_front() {
                    self.unacknowledged = ack;
                    return Ok(message);
                }
                self.step().await?;
            }
        })
    }

    fn idle(&mut self) -> BoxFuture<'_, Result<Infallible>> {
        Box::pin(async {
            loop {
                self.step().await?;
            }
        })
    }

    fn close(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            self.acknowledge()?;
            let receipt = self.receipt();
            let frame = self.frame("DISCONNECT").header("receipt", &receipt).end();
            self.put(&frame)?;
            // Only now is it known that the broker has seen all of it.
            self.await_receipts().await?;
            self.wire.close().await
        })
    }
}

fn destination(topic: &str) -> String {
    if topic.starts_with('/') {
        topic.to_owned()
    } else {
        format!("/topic/{topic}")
    }
}

fn topic(destination: &str) -> &str {
    destination.strip_prefix("/topic/").unwrap_or(destination)
}

/// The moment in milliseconds since 1970, as the `expires` header wants it.
fn expires_at(secs: u32) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    (now + Duration::from_secs(secs.into()))
        .as_millis()
        .to_string()
}

/// How often the client beats: as often as both ends want (STOMP 1.2 §Heart-beating), a little
/// earlier so as not to be late.
fn beat(connected: &Frame<'_>, offered: Duration) -> Duration {
    let wanted = connected.header("heart-beat").and_then(|header| {
        let (_, wanted) = header.split_once(',')?;
        wanted.trim().parse().ok()
    });
    match wanted {
        None | Some(0) => Duration::ZERO,
        Some(_) if offered.is_zero() => Duration::ZERO,
        Some(wanted) => offered.max(Duration::from_millis(wanted)) / 10 * 8,
    }
}

/// The frame that acknowledges a MESSAGE, if the broker waits for one.
fn acknowledgement(message: &Frame<'_>, version: Version) -> Option<Vec<u8>> {
    let frame = FrameWriter::new("ACK", Some(version));
    if version == Version::V1_2 {
        let id = message.header("ack")?;
        return Some(frame.header("id", &id).end());
    }
    let id = message.header("message-id")?;
    let subscription = message.header("subscription");
    Some(
        frame
            .header("message-id", &id)
            .header_if("subscription", subscription.as_deref())
            .end(),
    )
}

fn incoming(message: &Frame<'_>) -> Incoming {
    let text = |name| message.header(name);
    let is = |name: &str| message.header(name).as_deref() == Some("true");
    let own = |name: &str| !RESERVED.contains(&name);
    Incoming {
        topic: topic(&text("destination").unwrap_or_default()).to_owned(),
        payload: Bytes::copy_from_slice(message.body()),
        qos: None,
        retained: is("retained"),
        redelivered: is("redelivered"),
        properties: Properties {
            content_type: text("content-type").map(|text| text.into_owned().into()),
            reply_to: text("reply-to").map(|text| text.into_owned().into()),
            correlation: text("correlation-id").map(|text| Bytes::from(text.into_owned())),
            user: message
                .headers()
                .filter(|(name, _)| own(name))
                .map(|(name, value)| (name.into_owned().into(), value.into_owned().into()))
                .collect(),
        },
        expiry_secs: None,
    }
}

/// An ERROR frame, or one that a client should not get, as an error.
fn error(frame: &Frame<'_>) -> anyhow::Error {
    if frame.command() != "ERROR" {
        return unexpected(Untrusted(frame.command()));
    }
    let message = frame.header("message").unwrap_or_default();
    let body = String::from_utf8_lossy(frame.body());
    let body = body.trim();
    if body.is_empty() || body == message {
        anyhow!("the broker answers: {}", Untrusted(&message))
    } else {
        anyhow!(
            "the broker answers: {}: {}",
            Untrusted(&message),
            Untrusted(body)
        )
    }
}

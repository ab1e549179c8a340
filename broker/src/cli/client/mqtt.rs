//! MQTT 3.1.1 and 5, the client's side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use protocols::connection::RetainHandling;
use protocols::model::{Properties, QoS};
use protocols::mqtt::list::List;
use protocols::mqtt::packet::{
    Ack, Connect, Disconnect, Publish, Subscribe, Subscription as Filter, Will,
};
use protocols::mqtt::properties::{
    ConnectProperties, PublishProperties, SubscribeProperties, WillProperties,
};
use protocols::mqtt::{Decoded, Packet, PacketId, ReasonCode, Side, Version, decode, encode};
use tokio::time::Instant;

use super::wire::Wire;
use super::{Client, Incoming, Login, MAX_BYTES, Outgoing, Subscription, WINDOW, unexpected};
use crate::telemetry::Untrusted;

/// How long a good-bye waits for the end of QoS 2 handshakes.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that speaks MQTT.
pub(super) struct Mqtt {
    wire: Wire,
    version: Version,
    keep_alive: Duration,
    /// When something was last heard or asked.
    active: Instant,
    pinged: bool,
    /// What the broker takes.
    accepts: Accepts,
    last_id: u16,
    /// Own publishes without their last answer.
    outgoing: BTreeMap<PacketId, Step>,
    /// Refusals of own publishes that nobody was told yet.
    refused: Option<String>,
    /// Messages that nobody asked for yet, with what is to be said about each.
    incoming: VecDeque<(Incoming, Option<(PacketId, QoS)>)>,
    /// What is to be said about the message that was handed out last.
    unacknowledged: Option<(PacketId, QoS)>,
    /// QoS 2 messages that were received and not released `[MQTT-4.3.3-10]`.
    received: BTreeSet<PacketId>,
    /// The SUBSCRIBE that waits for its answer, and the answer.
    subscribing: Option<PacketId>,
    granted: Option<Vec<ReasonCode>>,
}

/// The answer that an own publish waits for: PUBACK, PUBREC or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Ack,
    Rec,
    Comp,
}

/// What the broker announced in CONNACK.
struct Accepts {
    window: usize,
    maximum_qos: QoS,
    retain: bool,
    packet_bytes: usize,
}

impl Mqtt {
    /// Logs in.
    pub(super) async fn login(wire: Wire, login: &Login) -> Result<Self> {
        let mut this = Self {
            wire,
            version: login.version,
            keep_alive: login.keep_alive,
            active: Instant::now(),
            pinged: false,
            accepts: Accepts {
                window: WINDOW,
                maximum_qos: QoS::ExactlyOnce,
                retain: true,
                packet_bytes: MAX_BYTES,
            },
            last_id: 0,
            outgoing: BTreeMap::new(),
            refused: None,
            incoming: VecDeque::new(),
            unacknowledged: None,
            received: BTreeSet::new(),
            subscribing: None,
            granted: None,
        };
        this.connect(login)?;
        this.wire.flush().await?;
        this.await_connack()
            .await
            .context("the broker did not accept the login")?;
        Ok(this)
    }

    fn connect(&mut self, login: &Login) -> Result<()> {
        let v5 = self.version == Version::V5;
        let will = login.will.as_ref();
        let will_user = will.map(|will| user(&will.properties)).unwrap_or_default();
        let connect = Connect {
            version: self.version,
            clean_start: login.clean_start,
            keep_alive_secs: u16::try_from(login.keep_alive.as_secs()).unwrap_or(u16::MAX),
            client_id: login.client_id.as_deref().unwrap_or_default(),
            will: will.map(|will| Will {
                topic: &will.topic,
                payload: &will.payload,
                qos: will.qos,
                retain: will.retain,
                properties: WillProperties {
                    message_expiry_secs: will.expiry_secs,
                    content_type: will.properties.content_type.as_deref(),
                    response_topic: will.properties.reply_to.as_deref(),
                    correlation_data: will.properties.correlation.as_deref(),
                    user: List::new(&will_user),
                    ..WillProperties::default()
                },
            }),
            username: login.username.as_deref(),
            password: login.password.as_deref().map(str::as_bytes),
            properties: ConnectProperties {
                session_expiry_secs: v5.then_some(login.session_expiry_secs),
                ..ConnectProperties::default()
            },
        };
        self.put(&Packet::Connect(Box::new(connect)))
    }

    async fn await_connack(&mut self) -> Result<()> {
        loop {
            let decoded = decode(&self.wire.input, self.version, Side::Client, MAX_BYTES)
                .context("what answers there does not seem to speak MQTT")?;
            let Decoded::Packet { packet, consumed } = decoded else {
                self.wire.fill().await?;
                continue;
            };
            let Packet::ConnAck(ack) = packet else {
                return Err(unexpected(format!(
                    "{} before CONNACK",
                    packet.packet_type().as_str()
                )));
            };
            if ack.reason.is_error() {
                let why = ack.properties.reason_string.unwrap_or_default();
                bail!(refusal(ack.reason, why));
            }
            let told = &ack.properties;
            if let Some(most) = told.receive_maximum {
                self.accepts.window = usize::from(most.get());
            }
            self.accepts.maximum_qos = told.maximum_qos.unwrap_or(QoS::ExactlyOnce);
            self.accepts.retain = told.retain_available.unwrap_or(true);
            if let Some(most) = told.maximum_packet_size {
                self.accepts.packet_bytes = usize::try_from(most.get()).unwrap_or(MAX_BYTES);
            }
            if let Some(secs) = told.server_keep_alive_secs {
                self.keep_alive = Duration::from_secs(secs.into());
            }
            self.wire.input.advance(consumed);
            return Ok(());
        }
    }

    fn put(&mut self, packet: &Packet<'_>) -> Result<()> {
        let mut bytes = Vec::new();
        encode(packet, self.version, &mut bytes)?;
        ensure!(
            bytes.len() <= self.accepts.packet_bytes,
            "the broker takes packets of at most {} bytes, this one has {}",
            self.accepts.packet_bytes,
            bytes.len()
        );
        self.wire.put(&bytes)?;
        self.active = Instant::now();
        Ok(())
    }

    fn put_publish(&mut self, message: &Outgoing) -> Result<()> {
        let accepts = &self.accepts;
        ensure!(
            message.qos <= accepts.maximum_qos,
            "the broker takes QoS {} at most",
            accepts.maximum_qos as u8
        );
        ensure!(
            !message.retain || accepts.retain,
            "the broker keeps no retained messages"
        );
        let packet_id = match message.qos {
            QoS::AtMostOnce => None,
            _ => Some(self.free_id()),
        };
        let user = user(&message.properties);
        let publish = Publish {
            dup: false,
            qos: message.qos,
            retain: message.retain,
            topic: &message.topic,
            packet_id,
            properties: PublishProperties {
                message_expiry_secs: message.expiry_secs,
                content_type: message.properties.content_type.as_deref(),
                response_topic: message.properties.reply_to.as_deref(),
                correlation_data: message.properties.correlation.as_deref(),
                user: List::new(&user),
                ..PublishProperties::default()
            },
            payload: &message.payload,
        };
        let topic = Untrusted(&message.topic);
        self.put(&Packet::Publish(publish))
            .with_context(|| format!("cannot publish to {topic}"))?;
        if let Some(id) = packet_id {
            let step = match message.qos {
                QoS::ExactlyOnce => Step::Rec,
                _ => Step::Ack,
            };
            self.outgoing.insert(id, step);
        }
        Ok(())
    }

    /// A packet identifier that is not in use; there are more of them than a window is wide.
    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && !self.outgoing.contains_key(&id)
                && self.subscribing != Some(id)
            {
                return id;
            }
        }
    }

    /// Writes, waits for one packet (or for the time to ping) and deals with it.
    async fn step(&mut self) -> Result<()> {
        self.wire.flush().await?;
        let decoded = decode(&self.wire.input, self.version, Side::Client, MAX_BYTES)?;
        let Decoded::Packet { consumed, .. } = decoded else {
            return self.wait().await;
        };
        self.active = Instant::now();
        self.pinged = false;
        let bytes = self.wire.input.split_to(consumed).freeze();
        let decoded = decode(&bytes, self.version, Side::Client, MAX_BYTES)?;
        match decoded {
            Decoded::Packet { packet, .. } => self.handle(&packet, &bytes),
            Decoded::NeedMore { .. } => Ok(()),
        }
    }

    async fn wait(&mut self) -> Result<()> {
        let silence = self.keep_alive / 4 * 3;
        if silence.is_zero() {
            return self.wire.fill().await;
        }
        tokio::select! {
            filled = self.wire.fill() => return filled,
            () = tokio::time::sleep_until(self.active + silence) => {}
        }
        ensure!(!self.pinged, "the broker has fallen silent");
        self.put(&Packet::PingReq)?;
        self.pinged = true;
        self.wire.flush().await
    }

    fn handle(&mut self, packet: &Packet<'_>, bytes: &Bytes) -> Result<()> {
        match packet {
            Packet::Publish(publish) => self.handle_publish(publish, bytes),
            Packet::PubAck(ack) => self.handle_answer(Step::Ack, ack),
            Packet::PubRec(ack) => self.handle_answer(Step::Rec, ack),
            Packet::PubComp(ack) => self.handle_answer(Step::Comp, ack),
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_id);
                self.put(&Packet::PubComp(Ack::new(
                    ack.packet_id,
                    ReasonCode::Success,
                )))
            }
            Packet::SubAck(ack) if self.subscribing == Some(ack.packet_id) => {
                self.subscribing = None;
                self.granted = Some(ack.codes.iter().collect());
                Ok(())
            }
            Packet::PingResp => Ok(()),
            Packet::Disconnect(bye) => {
                let why = bye.properties.reason_string.unwrap_or_default();
                Err(anyhow!(refusal(bye.reason, why)).context("the broker ended the connection"))
            }
            other => Err(unexpected(other.packet_type().as_str())),
        }
    }

    fn handle_publish(&mut self, publish: &Publish<'_>, bytes: &Bytes) -> Result<()> {
        let answer = publish.packet_id.map(|id| (id, publish.qos));
        if let Some((id, QoS::ExactlyOnce)) = answer
            && !self.received.insert(id)
        {
            // The same message again: answered, not handed out.
            return self.put(&Packet::PubRec(Ack::new(id, ReasonCode::Success)));
        }
        let properties = &publish.properties;
        let message = Incoming {
            topic: publish.topic.to_owned(),
            payload: bytes.slice_ref(publish.payload),
            qos: Some(publish.qos),
            retained: publish.retain,
            redelivered: publish.dup,
            properties: Properties {
                content_type: properties.content_type.map(Into::into),
                reply_to: properties.response_topic.map(Into::into),
                correlation: properties.correlation_data.map(Bytes::copy_from_slice),
                user: properties
                    .user
                    .iter()
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect(),
            },
            expiry_secs: properties.message_expiry_secs.map(Into::into),
        };
        self.incoming.push_back((message, answer));
        Ok(())
    }

    fn handle_answer(&mut self, step: Step, ack: &Ack<'_>) -> Result<()> {
        let id = ack.packet_id;
        if self.outgoing.get(&id) != Some(&step) {
            return Err(unexpected(format!("an answer for {id}, which is not open")));
        }
        if ack.reason.is_error() {
            let why = ack.properties.reason_string.unwrap_or_default();
            self.refused.get_or_insert(refusal(ack.reason, why));
            self.outgoing.remove(&id);
            return Ok(());
        }
        if step == Step::Rec {
            self.outgoing.insert(id, Step::Comp);
            return self.put(&Packet::PubRel(Ack::new(id, ReasonCode::Success)));
        }
        self.outgoing.remove(&id);
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<()> {
        let Some((id, qos)) = self.unacknowledged.take() else {
            return Ok(());
        };
        let ack = Ack::new(id, ReasonCode::Success);
        self.put(&match qos {
            QoS::ExactlyOnce => Packet::PubRec(ack),
            _ => Packet::PubAck(ack),
        })
    }

    /// Waits until the broker has released all QoS 2 messages that it knows to be here.
    async fn await_release(&mut self) -> Result<()> {
        let waiting = |this: &Self, id| {
            let mut answers = this.incoming.iter().map(|(_, answer)| answer);
            answers.any(|answer| answer.is_some_and(|(other, _)| other == id))
        };
        while self.received.iter().any(|id| !waiting(self, *id)) {
            self.step().await?;
        }
        Ok(())
    }

    fn check_refused(&mut self) -> Result<()> {
        match self.refused.take() {
            Some(why) => Err(anyhow!(why).context("the broker refused a message")),
            None => Ok(()),
        }
    }
}

impl Client for Mqtt {
    fn publish(&mut self, message: Outgoing) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            while message.qos != QoS::AtMostOnce && self.outgoing.len() >= self.accepts.window {
                self.step().await?;
            }
            self.check_refused()?;
            self.put_publish(&message)?;
            self.wire.flush().await
        })
    }

    fn settle(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            while !self.outgoing.is_empty() {
                self.step().await?;
            }
            self.check_refused()?;
            self.wire.flush().await
        })
    }

    fn subscribe(&mut self, subscriptions: Vec<Subscription>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let v5 = self.version == Version::V5;
            let filters: Vec<_> = subscriptions
                .iter()
                .map(|subscription| Filter {
                    no_local: subscription.no_local && v5,
                    retain_handling: if v5 {
                        subscription.retained
                    } else {
                        RetainHandling::default()
                    },
                    ..Filter::new(&subscription.filter, subscription.qos)
                })
                .collect();
            let packet_id = self.free_id();
            self.put(&Packet::Subscribe(Subscribe {
                packet_id,
                properties: SubscribeProperties::default(),
                filters: List::new(&filters),
            }))?;
            self.subscribing = Some(packet_id);
            let granted = loop {
                if let Some(granted) = self.granted.take() {
                    break granted;
                }
                self.step().await?;
            };
            for (subscription, code) in subscriptions.iter().zip(granted) {
                ensure!(
                    !code.is_error(),
                    "the broker refused the subscription to {}: {}",
                    Untrusted(&subscription.filter),
                    code.text()
                );
            }
            Ok(())
        })
    }

    fn next(&mut self) -> BoxFuture<'_, Result<Incoming>> {
        Box::pin(async {
            self.acknowledge()?;
            loop {
                if let Some((message, answer)) = self.incoming.pop_front() {
                    self.unacknowledged = answer;
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
            // A broker that does not finish in time finishes with the session's next connection.
            let _ = tokio::time::timeout(RELEASE_TIMEOUT, self.await_release()).await;
            self.put(&Packet::Disconnect(Disconnect::new(ReasonCode::Success)))?;
            self.wire.close().await
        })
    }
}

fn user(properties: &Properties) -> Vec<(&str, &str)> {
    properties
        .user
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect()
}

/// A reason code and the broker's own explanation.
fn refusal(reason: ReasonCode, why: &str) -> String {
    let code = format!("{} (0x{:02x})", reason.text(), reason.as_u8());
    if why.is_empty() {
        code
    } else {
        format!("{code}: {}", Untrusted(why))
    }
}

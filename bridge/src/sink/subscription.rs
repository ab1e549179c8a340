//! The run loop of all sinks: a durable shared session, batches, acknowledgements.
//!
//! The broker keeps what was not acknowledged and sends it again on the next connection; its receive
//! maximum is our window, so a slow target slows the broker's deliveries and nothing else.
//! PUBACKs leave in the order of the messages `[MQTT-4.6.0-2]`. What happens to a message between the
//! two is in `sending.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{
    Disconnect, DisconnectReasonCode, Filter, Packet, PubAck, Publish, Subscribe,
    SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::SinkConfig;
use super::sending::{Parcel, Sender, pause_or_stop, reached};
use crate::config::Broker;
use crate::event::Event;
use crate::mapping::VIA_PROPERTY;
use crate::metrics::FlowMetrics;
use crate::publisher::{Client, ConnectError, connect};
use crate::retry::Backoff;
use crate::run::{Phase, Shared};

struct Sink {
    broker: Arc<Broker>,
    sender: Arc<Sender>,
}

/// Runs a sink until the bridge stops.
pub async fn run(
    config: SinkConfig,
    broker: Arc<Broker>,
    shared: Shared,
    metrics: Arc<FlowMetrics>,
) {
    let mut backoff = Backoff::new(config.retry_min, config.retry_max);
    let target = loop {
        match config
            .kind
            .open(config.name.clone(), Arc::clone(&metrics))
            .await
        {
            Ok(target) => break target,
            Err(error) => {
                metrics.errors.add(1);
                let pause = backoff.pause();
                warn!(sink = config.name, %error, retry_in = ?pause, "cannot open");
                if pause_or_stop(pause, &shared).await {
                    return;
                }
            }
        }
    };
    let sender = Arc::new(Sender::new(config, shared, metrics, target));
    let sink = Sink { broker, sender };
    let name = &sink.sender.config.name;
    let mut backoff = Backoff::new(sink.broker.reconnect_min, sink.broker.reconnect_max);
    loop {
        let error = match sink.subscribe().await {
            Ok(client) => match serve(&sink, client, &mut backoff).await {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) => error,
        };
        let pause = backoff.pause();
        warn!(sink = name, %error, retry_in = ?pause, "no connection");
        if pause_or_stop(pause, &sink.sender.shared).await {
            return;
        }
    }
}

impl Sink {
    async fn subscribe(&self) -> Result<Client, ConnectError> {
        let config = &self.sender.config;
        let client_id = format!("{}-{}", self.broker.client_id, config.name);
        let session_secs = u32::try_from(config.session_expiry.as_secs()).unwrap_or(u32::MAX);
        let packet = connect(&self.broker, &client_id, session_secs, config.max_in_flight);
        let (mut client, _) = Client::open(&self.broker, &packet).await?;
        let filters = config.filters.iter().map(|filter| {
            Filter::new(
                format!("$share/{}/{filter}", config.share),
                WireQoS::AtLeastOnce,
            )
        });
        let mut subscribe = Subscribe::new_many(filters, None);
        subscribe.pkid = 1;
        client.write(&Packet::Subscribe(subscribe))?;
        Ok(client)
    }

    /// The message of a PUBLISH; none if it has been through this bridge.
    fn event(&self, publish: &Publish) -> Option<Event> {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        let properties = publish.properties.clone().unwrap_or_default();
        let mut attributes = properties.user_properties;
        let bridge = &*self.sender.shared.bridge;
        let mut via = attributes.iter().filter(|(name, _)| name == VIA_PROPERTY);
        if via.any(|(_, names)| names.split(',').any(|name| name.trim() == bridge)) {
            return None;
        }
        attributes.push((VIA_PROPERTY.to_owned(), bridge.to_owned()));
        let mut event = Event {
            attributes,
            body: publish.payload.clone(),
            content_type: properties.content_type,
            ..Event::default()
        }
        .with_meta("topic", topic.clone());
        event.topic = Some(topic);
        if let Some(response_topic) = properties.response_topic {
            event = event.with_meta("response-topic", response_topic);
        }
        if let Some(correlation) = properties.correlation_data {
            event = event.with_meta("correlation-data", String::from_utf8_lossy(&correlation));
        }
        Some(event)
    }
}

/// Serves one connection; `Ok` once the bridge stops and what was being sent is done or has no time
/// left.
async fn serve(sink: &Sink, mut client: Client, backoff: &mut Backoff) -> Result<(), ConnectError> {
    // The broker keeps to the receive maximum: the channels are never longer than that.
    let (parcels, waiting) = mpsc::channel(usize::from(sink.sender.config.max_in_flight));
    let (done, mut finished) = mpsc::unbounded_channel();
    let mut sending = JoinSet::new();
    sending.spawn(Arc::clone(&sink.sender).run(waiting, done));
    let mut open: VecDeque<(u16, bool)> = VecDeque::new();
    loop {
        sink.sender.metrics.in_flight.set(open.len() as u64);
        tokio::select! {
            packet = client.drive() => match packet? {
                Some(Packet::Publish(publish)) => {
                    let Some(parcel) = take(sink, &publish, &mut open) else {
                        acknowledge(&mut client, &mut open, sink)?;
                        continue;
                    };
                    if let Err(TrySendError::Full(_)) = parcels.try_send(parcel) {
                        return Err(ConnectError::Unexpected);
                    }
                }
                Some(Packet::SubAck(ack)) => {
                    check_granted(&ack.return_codes)?;
                    info!(sink = sink.sender.config.name, "subscribed");
                    backoff.reset();
                }
                Some(_) => return Err(ConnectError::Unexpected),
                None => {}
            },
            packet_ids = finished.recv() => match packet_ids {
                Some(packet_ids) => {
                    for packet_id in packet_ids {
                        settle(&mut open, packet_id);
                    }
                    acknowledge(&mut client, &mut open, sink)?;
                }
                None if sink.sender.stops() => return leave(client).await,
                None => return Err(ConnectError::Unexpected),
            },
            () = reached(&sink.sender.shared, Phase::Releasing) => return leave(client).await,
        }
    }
}

/// Says goodbye, behind the last acknowledgements. The broker keeps what has none.
async fn leave(mut client: Client) -> Result<(), ConnectError> {
    let bye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
    client.write(&Packet::Disconnect(bye))?;
    Ok(client.close().await?)
}

fn check_granted(codes: &[SubscribeReasonCode]) -> Result<(), ConnectError> {
    for code in codes {
        if !matches!(code, SubscribeReasonCode::Success(_)) {
            return Err(ConnectError::Disconnected(format!(
                "the subscription is refused: {code:?}"
            )));
        }
    }
    Ok(())
}

/// A message that is to be sent; none if it is not.
fn take(sink: &Sink, publish: &Publish, open: &mut VecDeque<(u16, bool)>) -> Option<Parcel> {
    sink.sender.metrics.received.add(1);
    let event = sink.event(publish);
    if event.is_none() {
        sink.sender.metrics.skipped.add(1);
    }
    if publish.qos != WireQoS::AtMostOnce {
        open.push_back((publish.pkid, event.is_none()));
    }
    Some(Parcel {
        packet_id: publish.pkid,
        event: event?,
        since: Instant::now(),
    })
}

fn settle(open: &mut VecDeque<(u16, bool)>, packet_id: u16) {
    if let Some(entry) = open.iter_mut().find(|(id, done)| *id == packet_id && !done) {
        entry.1 = true;
    }
}

fn acknowledge(
    client: &mut Client,
    open: &mut VecDeque<(u16, bool)>,
    sink: &Sink,
) -> Result<(), ConnectError> {
    while let Some((packet_id, true)) = open.front() {
        client.write(&Packet::PubAck(PubAck::new(*packet_id, None)))?;
        sink.sender.metrics.acknowledged.add(1);
        open.pop_front();
    }
    Ok(())
}

//! The run loop of all sinks: a durable shared session, batches, acknowledgements.
//!
//! The broker keeps what was not acknowledged and sends it again on the next connection; its receive
//! maximum is our window, so a slow target slows the broker's deliveries and nothing else.
//! PUBACKs leave in the order of the messages `[MQTT-4.6.0-2]`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use protocols::model::QoS;
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{
    Disconnect, DisconnectReasonCode, Filter, Packet, PubAck, Publish, Subscribe,
    SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::{Sent, SinkConfig, Target};
use crate::config::Broker;
use crate::event::Event;
use crate::mapping::{Publication, VIA_PROPERTY};
use crate::metrics::FlowMetrics;
use crate::publisher::{Client, ConnectError, Verdict, connect};
use crate::retry::Backoff;
use crate::run::{Phase, Shared};

/// A message on its way to the target.
#[derive(Debug)]
struct Parcel {
    packet_id: u16,
    event: Event,
    since: Instant,
}

struct Sink {
    config: SinkConfig,
    broker: Arc<Broker>,
    shared: Shared,
    metrics: Arc<FlowMetrics>,
    target: Box<dyn Target>,
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
    let sink = Arc::new(Sink {
        config,
        broker,
        shared,
        metrics,
        target,
    });
    let mut backoff = Backoff::new(sink.broker.reconnect_min, sink.broker.reconnect_max);
    loop {
        let error = match sink.subscribe().await {
            Ok(client) => {
                info!(sink = sink.config.name, "subscribed");
                backoff.reset();
                match serve(&sink, client).await {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let pause = backoff.pause();
        warn!(sink = sink.config.name, %error, retry_in = ?pause, "no connection");
        if pause_or_stop(pause, &sink.shared).await {
            return;
        }
    }
}

/// Whether the bridge stops.
async fn pause_or_stop(pause: std::time::Duration, shared: &Shared) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => false,
        () = draining(shared) => true,
    }
}

async fn draining(shared: &Shared) {
    let mut phase = shared.phase.clone();
    // The sender is gone only when the process ends.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
}

impl Sink {
    async fn subscribe(&self) -> Result<Client, ConnectError> {
        let config = &self.config;
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
        let bridge = &*self.shared.bridge;
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

    /// Sends a batch until the target has, or will never have, each of its messages.
    async fn deliver(&self, mut batch: Vec<Parcel>) -> Vec<u16> {
        let all = batch.iter().map(|parcel| parcel.packet_id).collect();
        let mut backoff = Backoff::new(self.config.retry_min, self.config.retry_max);
        while !batch.is_empty() {
            let events: Vec<_> = batch.iter().map(|parcel| parcel.event.clone()).collect();
            let results = self.target.send(&events).await;
            debug_assert_eq!(results.len(), batch.len());
            let mut again = Vec::new();
            for (parcel, sent) in batch.into_iter().zip(results) {
                match sent {
                    Sent::Accepted => {
                        self.metrics.published.add(1);
                        self.metrics.time_to_publish.note(parcel.since.elapsed());
                    }
                    Sent::Retry(reason) => {
                        warn!(
                            sink = self.config.name,
                            topic = parcel.event.topic,
                            reason,
                            "not sent"
                        );
                        self.metrics.retried.add(1);
                        again.push(parcel);
                    }
                    Sent::Refused(reason) => self.bury(&parcel.event, &reason).await,
                }
            }
            batch = again;
            if !batch.is_empty() {
                tokio::time::sleep(backoff.pause()).await;
            }
        }
        all
    }

    /// Publishes what the target refuses to the topic of dead letters; that is tried for ever.
    async fn bury(&self, event: &Event, reason: &str) {
        error!(
            sink = self.config.name,
            topic = event.topic,
            reason,
            "refused"
        );
        self.metrics.dead_lettered.add(1);
        let mut user_properties = event.attributes.clone();
        for (name, value) in [
            ("dead-letter-sink", self.config.name.as_str()),
            (
                "dead-letter-topic",
                event.topic.as_deref().unwrap_or_default(),
            ),
            ("dead-letter-reason", reason),
        ] {
            user_properties.push((name.to_owned(), value.to_owned()));
        }
        let publication = Publication {
            topic: self.config.dead_letter_topic.clone(),
            payload: event.body.clone(),
            qos: QoS::AtLeastOnce,
            retain: false,
            expiry_secs: None,
            content_type: event.content_type.clone(),
            response_topic: None,
            correlation: None,
            user_properties,
        };
        let mut backoff = Backoff::new(self.config.retry_min, self.config.retry_max);
        loop {
            match self.shared.publisher.publish(publication.clone()).await {
                Ok(Verdict::Accepted) => return,
                Ok(Verdict::Refused { reason, .. }) => {
                    error!(sink = self.config.name, reason, "no dead letter");
                }
                // The bridge stops: it must not look as if it had been buried.
                Err(_) => std::future::pending().await,
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }
}

/// Serves one connection; `Ok` once the bridge stops.
async fn serve(sink: &Arc<Sink>, mut client: Client) -> Result<(), ConnectError> {
    // The broker keeps to the receive maximum: the channels are never longer than that.
    let (parcels, waiting) = mpsc::channel(usize::from(sink.config.max_in_flight));
    let (done, mut finished) = mpsc::unbounded_channel();
    let mut sending = JoinSet::new();
    sending.spawn(send_batches(Arc::clone(sink), waiting, done));
    let mut open: VecDeque<(u16, bool)> = VecDeque::new();
    loop {
        sink.metrics.in_flight.set(open.len() as u64);
        tokio::select! {
            packet = client.drive() => match packet? {
                Some(Packet::Publish(publish)) => {
                    let Some(parcel) = take(sink, &publish, &mut open) else {
                        acknowledge(&mut client, &mut open, sink)?;
                        continue;
                    };
                    if parcels.try_send(parcel).is_err() {
                        return Err(ConnectError::Unexpected);
                    }
                }
                Some(Packet::SubAck(ack)) => check_granted(&ack.return_codes)?,
                Some(_) => return Err(ConnectError::Unexpected),
                None => {}
            },
            Some(packet_ids) = finished.recv() => {
                for packet_id in packet_ids {
                    settle(&mut open, packet_id);
                }
                acknowledge(&mut client, &mut open, sink)?;
            }
            () = draining(&sink.shared) => {
                let bye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
                client.write(&Packet::Disconnect(bye))?;
                return Ok(client.close().await?);
            }
        }
    }
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
    sink.metrics.received.add(1);
    let event = sink.event(publish);
    if event.is_none() {
        sink.metrics.skipped.add(1);
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
        sink.metrics.acknowledged.add(1);
        open.pop_front();
    }
    Ok(())
}

/// Makes batches and sends as many at a time as the settings say. With one at a time the order is
/// kept.
async fn send_batches(
    sink: Arc<Sink>,
    mut waiting: mpsc::Receiver<Parcel>,
    done: mpsc::UnboundedSender<Vec<u16>>,
) {
    let mut sending = JoinSet::new();
    while let Some(first) = waiting.recv().await {
        let mut batch = vec![first];
        let until = tokio::time::Instant::now() + sink.config.linger;
        while batch.len() < sink.target.max_batch() {
            match tokio::time::timeout_at(until, waiting.recv()).await {
                Ok(Some(parcel)) => batch.push(parcel),
                _ => break,
            }
        }
        while sending.len() >= sink.config.concurrency {
            sending.join_next().await;
        }
        let (sink, done) = (Arc::clone(&sink), done.clone());
        sending.spawn(async move {
            let packet_ids = sink.deliver(batch).await;
            // The connection may be gone: the broker sends it again then.
            let _ = done.send(packet_ids);
        });
    }
}

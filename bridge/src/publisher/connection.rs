//! The publisher's task: connects for ever, writes what the window says, reads acknowledgements.

use std::sync::Arc;

use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Disconnect, DisconnectReasonCode, Packet, PubCompReason, PubRel,
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::client::{Client, ConnectError};
use super::packets::{self, verdict_of_puback, verdict_of_pubcomp, verdict_of_pubrec};
use super::window::Next;
use super::{Answer, Job, Verdict, Window};
use crate::config::Broker;
use crate::metrics::BrokerMetrics;
use crate::retry::Backoff;

type Tickets = Window<Answer>;

/// Runs until all publishers are gone and everything they handed over has its verdict.
pub(super) async fn run(
    broker: Arc<Broker>,
    mut jobs: mpsc::UnboundedReceiver<Vec<Job>>,
    state: watch::Sender<bool>,
    metrics: Arc<BrokerMetrics>,
) {
    let mut window = Tickets::default();
    let mut backoff = Backoff::new(broker.reconnect_min, broker.reconnect_max);
    loop {
        if jobs.is_closed() && jobs.is_empty() && window.is_empty() {
            return;
        }
        let error = match open(&broker).await {
            Ok((client, connack)) => {
                info!(broker = %broker.url, "connected");
                backoff.reset();
                metrics.connects.add(1);
                metrics.connected.set(1);
                let _ = state.send(true);
                let served = serve(client, &connack, &mut window, &mut jobs, &metrics).await;
                metrics.connected.set(0);
                let _ = state.send(false);
                match served {
                    Ok(()) => return,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        window.lost();
        let pause = backoff.pause();
        warn!(broker = %broker.url, %error, retry_in = ?pause, "no connection");
        tokio::time::sleep(pause).await;
    }
}

async fn open(broker: &Broker) -> Result<(Client, ConnAck), ConnectError> {
    let connect = packets::connect(broker, &broker.client_id, 0, u16::MAX);
    let (client, connack) = Client::open(broker, &connect).await?;
    let max_qos = connack
        .properties
        .as_ref()
        .and_then(|properties| properties.max_qos);
    if max_qos == Some(0) {
        return Err(ConnectError::NoQos1);
    }
    Ok((client, connack))
}

/// Serves one connection; `Ok` once nobody publishes any more and all is acknowledged.
async fn serve(
    mut client: Client,
    connack: &ConnAck,
    window: &mut Tickets,
    jobs: &mut mpsc::UnboundedReceiver<Vec<Job>>,
    metrics: &BrokerMetrics,
) -> Result<(), ConnectError> {
    let properties = connack.properties.as_ref();
    let receive_maximum = properties.and_then(|properties| properties.receive_max);
    window.connected(receive_maximum.unwrap_or(u16::MAX));
    let mut open = true;
    loop {
        write(&mut client, window);
        metrics.in_flight.set(window.len() as u64);
        if !open && window.is_empty() {
            let bye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
            client.write(&Packet::Disconnect(bye))?;
            return Ok(client.close().await?);
        }
        tokio::select! {
            packet = client.drive() => {
                let mut next = packet?;
                while let Some(packet) = next {
                    handle(packet, &mut client, window)?;
                    next = client.next_packet()?;
                }
            },
            batch = jobs.recv(), if open => match batch {
                Some(batch) => {
                    take_in(batch, window);
                    // All that is there goes into the same write.
                    while let Ok(batch) = jobs.try_recv() {
                        take_in(batch, window);
                    }
                }
                None => open = false,
            },
        }
    }
}

fn take_in(batch: Vec<Job>, window: &mut Tickets) {
    for job in batch {
        window.push(job.publication, job.answer);
    }
}

/// Writes as much as fits into one go.
fn write(client: &mut Client, window: &mut Tickets) {
    while client.has_room() {
        let next = window.next(|outgoing| {
            let packet = packets::publish(outgoing);
            client.write(&packet).map_err(|error| error.to_string())
        });
        match next {
            Next::Done(answer, verdict) => answer.tell(verdict),
            Next::Written => {}
            Next::Nothing => return,
        }
    }
}

fn handle(packet: Packet, client: &mut Client, window: &mut Tickets) -> Result<(), ConnectError> {
    let (packet_id, verdict) = match packet {
        Packet::PubAck(ack) => (ack.pkid, verdict_of_puback(ack.reason)),
        Packet::PubComp(ack) if window.is_released(ack.pkid) => {
            (ack.pkid, verdict_of_pubcomp(ack.reason))
        }
        Packet::PubComp(ack) if ack.reason == PubCompReason::PacketIdentifierNotFound => {
            return Ok(());
        }
        Packet::PubRec(ack) => match verdict_of_pubrec(ack.reason) {
            Verdict::Accepted if window.received(ack.pkid) => {
                return Ok(client.write(&Packet::PubRel(PubRel::new(ack.pkid, None)))?);
            }
            Verdict::Accepted => return Err(ConnectError::Unexpected),
            verdict @ Verdict::Refused { .. } => (ack.pkid, verdict),
        },
        _ => return Err(ConnectError::Unexpected),
    };
    let done = window.finish(packet_id, verdict);
    let (answer, verdict) = done.ok_or(ConnectError::Unexpected)?;
    answer.tell(verdict);
    Ok(())
}

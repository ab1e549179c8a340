//! The publisher's connections: each connects for ever, takes from the queue what the broker lets it
//! have open, writes what its window says, and reads acknowledgements.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Disconnect, DisconnectReasonCode, Packet, PubCompReason, PubRel,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::client::{Client, ConnectError};
use super::packets::{self, verdict_of_puback, verdict_of_pubcomp, verdict_of_pubrec};
use super::queue::Queue;
use super::window::Next;
use super::{Answer, Telling, Verdict, Window};
use crate::config::Broker;
use crate::metrics::BrokerMetrics;
use crate::retry::Backoff;

type Tickets = Window<Answer>;

/// Pauses between one connection more and the next: the first may be enough.
const MORE_EVERY: Duration = Duration::from_millis(1);

/// What the connections share.
struct Connections {
    broker: Arc<Broker>,
    queue: Arc<Queue>,
    state: watch::Sender<bool>,
    metrics: Arc<BrokerMetrics>,
    /// How many there are just now.
    count: AtomicUsize,
}

/// Runs until all publishers are gone and everything they handed over has its verdict. There is one
/// connection, and one more each time that is `asked` for, up to the configured number.
pub(super) async fn run(
    broker: Arc<Broker>,
    queue: Arc<Queue>,
    mut asked: mpsc::Receiver<()>,
    state: watch::Sender<bool>,
    metrics: Arc<BrokerMetrics>,
) {
    let most = broker.connections;
    let connections = Arc::new(Connections {
        broker,
        queue,
        state,
        metrics,
        count: AtomicUsize::new(0),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&connections).keep(0));
    let mut started = 1;
    loop {
        tokio::select! {
            _ = tasks.join_next() => if tasks.is_empty() {
                return;
            },
            Some(()) = asked.recv(), if started < most => {
                tasks.spawn(Arc::clone(&connections).keep(started));
                started += 1;
                tokio::time::sleep(MORE_EVERY).await;
            }
        }
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl Connections {
    /// Keeps a connection, for as long as there is something to do.
    async fn keep(self: Arc<Self>, index: usize) {
        let broker = &self.broker;
        let mut window = Tickets::default();
        let mut backoff = Backoff::new(broker.reconnect_min, broker.reconnect_max);
        while !self.queue.is_over() {
            let error = match open(broker, index).await {
                Ok((client, connack)) => {
                    info!(broker = %broker.url, connection = index + 1, "connected");
                    backoff.reset();
                    self.metrics.connects.add(1);
                    self.note(1);
                    let served = self.serve(client, &connack, &mut window, index == 0).await;
                    self.note(-1);
                    match served {
                        Ok(()) => return,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.queue.put_back(window.lost());
            let pause = backoff.pause();
            warn!(broker = %broker.url, connection = index + 1, %error, retry_in = ?pause, "no connection");
            tokio::time::sleep(pause).await;
        }
    }

    fn note(&self, change: isize) {
        let before = self.count.fetch_add(change.cast_unsigned(), Relaxed);
        let is_any = before.wrapping_add_signed(change) > 0;
        self.metrics.connected.set(u64::from(is_any));
        self.state.send_replace(is_any);
    }

    /// Serves one connection; `Ok` once nobody publishes any more and all is acknowledged.
    async fn serve(
        &self,
        mut client: Client,
        connack: &ConnAck,
        window: &mut Tickets,
        is_first: bool,
    ) -> Result<(), ConnectError> {
        let properties = connack.properties.as_ref();
        let receive_maximum = properties.and_then(|properties| properties.receive_max);
        window.connected(receive_maximum.unwrap_or(u16::MAX));
        loop {
            self.take_in(window, is_first);
            self.queue.settled(write(&mut client, window));
            self.metrics.in_flight.set(self.queue.len() as u64);
            if self.queue.is_over() {
                let bye = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
                client.write(&Packet::Disconnect(bye))?;
                return Ok(client.close().await?);
            }
            tokio::select! {
                packet = client.drive() => {
                    let mut telling = Telling::default();
                    let handled = handle_all(packet?, &mut client, window, &mut telling);
                    telling.send();
                    self.queue.settled(telling.count);
                    handled?;
                },
                () = self.queue.changed(is_first), if window.room() > 0 => {}
            }
        }
    }

    fn take_in(&self, window: &mut Tickets, is_first: bool) {
        let room = window.room();
        if room == 0 {
            return;
        }
        self.queue.take(room, is_first, |job| window.push(job));
    }
}

async fn open(broker: &Broker, index: usize) -> Result<(Client, ConnAck), ConnectError> {
    let client_id = match index {
        0 => broker.client_id.clone(),
        more => format!("{}.{}", broker.client_id, more + 1),
    };
    let connect = packets::connect(broker, &client_id, 0, u16::MAX);
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

/// Writes as much as fits into one go. Says how many have their verdict by that.
fn write(client: &mut Client, window: &mut Tickets) -> usize {
    let mut telling = Telling::default();
    while client.has_room() {
        let next = window.next(|packet| client.write(packet).map_err(|error| error.to_string()));
        match next {
            Next::Done(answer, verdict) => {
                telling.tell(answer, verdict);
            }
            Next::Written => {}
            Next::Nothing => break,
        }
    }
    telling.count
}

/// Handles a packet and all that came with it.
fn handle_all(
    mut next: Option<Packet>,
    client: &mut Client,
    window: &mut Tickets,
    telling: &mut Telling,
) -> Result<(), ConnectError> {
    while let Some(packet) = next {
        handle(packet, client, window, telling)?;
        next = client.next_packet()?;
    }
    Ok(())
}

/// Handles a packet, and tells the verdict that it is.
fn handle(
    packet: Packet,
    client: &mut Client,
    window: &mut Tickets,
    telling: &mut Telling,
) -> Result<(), ConnectError> {
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
                client.write(&Packet::PubRel(PubRel::new(ack.pkid, None)))?;
                return Ok(());
            }
            Verdict::Accepted => return Err(ConnectError::Unexpected),
            verdict @ Verdict::Refused { .. } => (ack.pkid, verdict),
        },
        _ => return Err(ConnectError::Unexpected),
    };
    let done = window.finish(packet_id, verdict);
    let (answer, verdict) = done.ok_or(ConnectError::Unexpected)?;
    telling.tell(answer, verdict);
    Ok(())
}

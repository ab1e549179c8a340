//! The publisher against a broker that is a few lines of these tests.

use std::collections::BTreeMap;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAck, PubAckReason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use protocols::model::QoS;

/// Success, with Receive Maximum 2: MQTT 5 §3.2.2.3.3.
const CONNACK: [u8; 8] = [0x20, 6, 0, 0, 3, 0x21, 0, 2];

/// What comes to the broker: a connection with its client identifier, or a PUBLISH.
#[derive(Debug)]
enum Came {
    Client(String, OwnedWriteHalf),
    Publish {
        client: String,
        topic: String,
        packet_id: u16,
    },
}

/// A broker that lets each connection have two publications open, and answers none by itself.
struct Broker {
    came: mpsc::UnboundedReceiver<Came>,
    writers: BTreeMap<String, OwnedWriteHalf>,
}

impl Broker {
    async fn start() -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, came) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, sender.clone()));
            }
        });
        let writers = BTreeMap::new();
        (Self { came, writers }, port)
    }

    /// The next so many publications, with what they came by.
    async fn publishes(&mut self, count: usize) -> Vec<(String, String, u16)> {
        let mut found = Vec::new();
        while found.len() < count {
            match self.came.recv().await.unwrap() {
                Came::Client(client, writer) => {
                    self.writers.insert(client, writer);
                }
                Came::Publish {
                    client,
                    topic,
                    packet_id,
                } => found.push((client, topic, packet_id)),
            }
        }
        found
    }

    async fn acknowledge(&mut self, client: &str, packet_id: u16) {
        let ack = PubAck {
            pkid: packet_id,
            reason: PubAckReason::Success,
            properties: None,
        };
        let mut bytes = BytesMut::new();
        Packet::PubAck(ack).write(&mut bytes, None).unwrap();
        let writer = self.writers.get_mut(client).unwrap();
        writer.write_all(&bytes).await.unwrap();
    }
}

async fn serve(socket: TcpStream, came: mpsc::UnboundedSender<Came>) {
    let (mut reader, mut writer) = socket.into_split();
    let mut bytes = BytesMut::new();
    let Some(Packet::Connect(connect, ..)) = read(&mut reader, &mut bytes).await else {
        return;
    };
    writer.write_all(&CONNACK).await.unwrap();
    let client = connect.client_id;
    let _ = came.send(Came::Client(client.clone(), writer));
    while let Some(packet) = read(&mut reader, &mut bytes).await {
        if let Packet::Publish(publish) = packet {
            let _ = came.send(Came::Publish {
                client: client.clone(),
                topic: packets::topic(&publish).to_owned(),
                packet_id: publish.pkid,
            });
        }
    }
}

async fn read(reader: &mut OwnedReadHalf, bytes: &mut BytesMut) -> Option<Packet> {
    loop {
        match Packet::read(bytes, None) {
            Ok(packet) => return Some(packet),
            Err(Error::InsufficientBytes(_)) => {}
            Err(error) => panic!("{error}"),
        }
        if reader.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn start(port: u16, connections: usize) -> (Publisher, Task) {
    let text = format!(
        "[broker]\nurl = \"mqtt://127.0.0.1:{port}\"\nclient_id = \"b\"\nreconnect_min = \"1ms\"\nconnections = {connections}\n\
         [sources.s]\nkind = \"nats\"\nservers = [\"nats://127.0.0.1:1\"]\nsubjects = [\"s\"]\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bridge.toml");
    std::fs::write(&file, text).unwrap();
    let config = crate::config::Config::load(&file).unwrap();
    Publisher::start(config.broker, Arc::default())
}

fn publication(topic: &str, qos: QoS) -> Publication {
    Publication {
        topic: topic.to_owned(),
        payload: "x".into(),
        qos,
        retain: false,
        expiry_secs: None,
        content_type: None,
        response_topic: None,
        correlation: None,
        user_properties: Vec::new(),
    }
}

fn publish_all(
    publisher: &Publisher,
    names: std::ops::Range<u64>,
    qos: QoS,
) -> mpsc::UnboundedReceiver<(u64, Verdict)> {
    let (sender, mut together) = mpsc::unbounded_channel();
    let (alone, verdicts) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(some) = together.recv().await {
            for verdict in some {
                let _ = alone.send(verdict);
            }
        }
    });
    let publications = names.map(|name| (name, Box::new(publication(&name.to_string(), qos))));
    publisher.publish_all(publications.collect(), &Arc::new(sender));
    verdicts
}

#[tokio::test]
async fn more_connections_are_opened_where_one_may_have_too_little_open() {
    let (mut broker, port) = Broker::start().await;
    let (publisher, task) = start(port, 3);
    let mut verdicts = publish_all(&publisher, 0..7, QoS::AtLeastOnce);
    // Nothing was acknowledged: two of each connection, and no fourth connection.
    let open = broker.publishes(6).await;
    let clients: Vec<_> = broker.writers.keys().cloned().collect();
    assert_eq!(clients, ["b", "b.2", "b.3"]);
    for client in &clients {
        assert_eq!(open.iter().filter(|(by, ..)| by == client).count(), 2);
    }
    let (client, topic, packet_id) = &open[3];
    broker.acknowledge(client, *packet_id).await;
    let (name, verdict) = verdicts.recv().await.unwrap();
    assert_eq!((&name.to_string(), verdict), (topic, Verdict::Accepted));
    let last = broker.publishes(1).await;
    assert_eq!((&last[0].0, last[0].1.as_str()), (client, "6"));
    drop(publisher);
    for (client, topic, packet_id) in open.iter().chain(&last) {
        if *topic != name.to_string() {
            broker.acknowledge(client, *packet_id).await;
        }
    }
    for _ in 0..6 {
        assert_eq!(verdicts.recv().await.unwrap().1, Verdict::Accepted);
    }
    task.await.unwrap();
}

#[tokio::test]
async fn what_a_lost_connection_had_is_published_again_before_all_else() {
    let (mut broker, port) = Broker::start().await;
    let (publisher, task) = start(port, 1);
    let mut verdicts = publish_all(&publisher, 0..4, QoS::AtLeastOnce);
    let open = broker.publishes(2).await;
    broker.acknowledge("b", open[1].2).await;
    assert_eq!(verdicts.recv().await.unwrap().0, 1);
    let next = broker.publishes(1).await;
    assert_eq!(next[0].1, "2");
    broker.writers.remove("b");
    let again = broker.publishes(2).await;
    let topics: Vec<_> = again.iter().map(|(_, topic, _)| topic.as_str()).collect();
    assert_eq!(topics, ["0", "2"]);
    for (client, _, packet_id) in again {
        broker.acknowledge(&client, packet_id).await;
    }
    let last = broker.publishes(1).await;
    broker.acknowledge("b", last[0].2).await;
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(verdicts.recv().await.unwrap().0);
    }
    assert_eq!(names, [0, 2, 3]);
    drop(publisher);
    task.await.unwrap();
}

/// Nothing says when one has arrived: on two connections they would overtake each other.
#[tokio::test]
async fn what_is_not_acknowledged_goes_by_one_connection() {
    let (mut broker, port) = Broker::start().await;
    let (publisher, task) = start(port, 3);
    let mut acknowledged = publish_all(&publisher, 0..6, QoS::AtLeastOnce);
    let open = broker.publishes(6).await;
    let mut unconfirmed = publish_all(&publisher, 0..20, QoS::AtMostOnce);
    for (client, _, packet_id) in open {
        broker.acknowledge(&client, packet_id).await;
    }
    let came = broker.publishes(20).await;
    for (at, (client, topic, _)) in came.iter().enumerate() {
        assert_eq!((client.as_str(), topic), ("b", &at.to_string()));
    }
    for _ in 0..6 {
        assert_eq!(acknowledged.recv().await.unwrap().1, Verdict::Accepted);
    }
    for _ in 0..20 {
        assert_eq!(unconfirmed.recv().await.unwrap().1, Verdict::Accepted);
    }
    drop(publisher);
    task.await.unwrap();
}

#[tokio::test]
async fn who_publishes_when_all_is_over_is_told() {
    let (_broker, port) = Broker::start().await;
    let (publisher, task) = start(port, 1);
    publisher.connected().await;
    task.abort();
    let _ = task.await;
    let stopped = publisher.publish(publication("late", QoS::AtLeastOnce));
    assert_eq!(stopped.await, Err(Stopped));
}

//! The Rust client rumqttc, 3.1.1 and 5, against a broker process.
//!
//! The program is `polycast` in the target directory, or what `POLYCAST_BIN` names; build it
//! first with `cargo build -p broker`. The same features are tested byte by byte in
//! `tests/e2e`; here it is whether this client, as its users call it, gets along.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are not seen as tests"
)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5 as packet5;
use rumqttc::{AsyncClient, Event, EventLoop, LastWill, MqttOptions, Packet, Publish, QoS, v5};
use tokio::time::{sleep, timeout};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker of the test's own; it is stopped when dropped.
struct Broker {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Broker {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child = launch(folder.path(), &log).unwrap();
        let mut broker = Self {
            child,
            port: 0,
            _folder: folder,
        };
        broker.port = timeout(PATIENCE, broker.read_port(&log))
            .await
            .expect("the broker says where it listens");
        broker
    }

    async fn read_port(&mut self, log: &Path) -> u16 {
        loop {
            let text = fs::read_to_string(log).unwrap();
            if let Some(port) = port_in(&text) {
                return port;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the broker did not start:\n{text}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn options(&self, client_id: &str) -> MqttOptions {
        let mut options = MqttOptions::new(client_id, "127.0.0.1", self.port);
        options.set_inflight(100);
        options
    }

    fn options_v5(&self, client_id: &str) -> v5::MqttOptions {
        v5::MqttOptions::new(client_id, "127.0.0.1", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn launch(folder: &Path, log: &Path) -> io::Result<Child> {
    let out = File::create(log)?;
    Command::new(program())
        .args(["serve", "--mqtt", "127.0.0.1:0", "--stomp", "off"])
        .args(["--http", "off", "--data-dir"])
        .arg(folder.join("data"))
        // To the broker it would be an unknown setting.
        .env_remove("POLYCAST_BIN")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
}

fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("POLYCAST_BIN") {
        return program.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let program = target.join("debug/polycast");
    assert!(program.exists(), "cargo build -p broker comes first");
    program
}

fn port_in(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("mqtt://127.0.0.1:")?;
    let (digits, _) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
    digits.parse().ok()
}

/// The next event that `pick` takes.
async fn next<T>(events: &mut EventLoop, mut pick: impl FnMut(Packet) -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && let Some(picked) = pick(packet)
            {
                return picked;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("it comes in time")
}

async fn next_v5<T>(
    events: &mut v5::EventLoop,
    mut pick: impl FnMut(v5::Incoming) -> Option<T>,
) -> T {
    let wait = async {
        loop {
            if let v5::Event::Incoming(packet) = events.poll().await.unwrap()
                && let Some(picked) = pick(packet)
            {
                return picked;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("it comes in time")
}

fn publish(packet: Packet) -> Option<Publish> {
    match packet {
        Packet::Publish(publish) => Some(publish),
        _ => None,
    }
}

fn publish_v5(packet: v5::Incoming) -> Option<packet5::Publish> {
    match packet {
        v5::Incoming::Publish(publish) => Some(publish),
        _ => None,
    }
}

async fn subscribed(client: &AsyncClient, events: &mut EventLoop, filter: &str, qos: QoS) {
    client.subscribe(filter, qos).await.unwrap();
    next(events, |packet| {
        matches!(packet, Packet::SubAck(_)).then_some(())
    })
    .await;
}

async fn subscribed_v5(client: &v5::AsyncClient, events: &mut v5::EventLoop, filter: &str) {
    client.subscribe(filter, QoS5::ExactlyOnce).await.unwrap();
    next_v5(events, |packet| {
        matches!(packet, v5::Incoming::SubAck(_)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_qos_in_3_1_1() {
    let broker = Broker::start().await;
    let (client, mut events) = AsyncClient::new(broker.options("every"), 10);
    subscribed(&client, &mut events, "t", QoS::ExactlyOnce).await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("t", qos, false, "body").await.unwrap();
        let message = next(&mut events, publish).await;
        assert_eq!((message.qos, &message.payload[..]), (qos, &b"body"[..]));
    }
}

#[tokio::test]
async fn every_qos_in_5() {
    let broker = Broker::start().await;
    let (client, mut events) = v5::AsyncClient::new(broker.options_v5("every"), 10);
    subscribed_v5(&client, &mut events, "t").await;
    for qos in [QoS5::AtMostOnce, QoS5::AtLeastOnce, QoS5::ExactlyOnce] {
        client.publish("t", qos, false, "body").await.unwrap();
        let message = next_v5(&mut events, publish_v5).await;
        assert_eq!((message.qos, &message.payload[..]), (qos, &b"body"[..]));
    }
}

#[tokio::test]
async fn more_than_the_window_open_at_qos_2_arrives_in_order() {
    const COUNT: usize = 500;
    let broker = Broker::start().await;
    let (receiver, mut arriving) = AsyncClient::new(broker.options("receiver"), 10);
    subscribed(&receiver, &mut arriving, "t", QoS::ExactlyOnce).await;
    let (sender, mut events) = AsyncClient::new(broker.options("sender"), COUNT);
    for number in 0..COUNT {
        let body = number.to_string();
        sender
            .publish("t", QoS::ExactlyOnce, false, body)
            .await
            .unwrap();
    }
    let sending = tokio::spawn(async move {
        let mut left = COUNT;
        while left > 0 {
            next(&mut events, |packet| {
                matches!(packet, Packet::PubComp(_)).then_some(())
            })
            .await;
            left -= 1;
        }
    });
    for number in 0..COUNT {
        let message = next(&mut arriving, publish).await;
        assert_eq!(message.payload, number.to_string());
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn retained_in_both_versions() {
    let broker = Broker::start().await;
    let (sender, mut events) = AsyncClient::new(broker.options("sender"), 10);
    sender
        .publish("t", QoS::AtLeastOnce, true, "kept")
        .await
        .unwrap();
    next(&mut events, |packet| {
        matches!(packet, Packet::PubAck(_)).then_some(())
    })
    .await;
    let (old, mut old_events) = AsyncClient::new(broker.options("old"), 10);
    old.subscribe("t", QoS::AtMostOnce).await.unwrap();
    assert!(next(&mut old_events, publish).await.retain);
    let (new, mut new_events) = v5::AsyncClient::new(broker.options_v5("new"), 10);
    new.subscribe("t", QoS5::AtMostOnce).await.unwrap();
    assert!(next_v5(&mut new_events, publish_v5).await.retain);
}

#[tokio::test]
async fn will_is_published_when_the_client_is_dropped() {
    let broker = Broker::start().await;
    let (watcher, mut arriving) = AsyncClient::new(broker.options("watcher"), 10);
    subscribed(&watcher, &mut arriving, "will", QoS::AtLeastOnce).await;
    let mut options = broker.options("lost");
    options.set_last_will(LastWill::new("will", "gone", QoS::AtLeastOnce, false));
    let (_lost, mut events) = AsyncClient::new(options, 10);
    next(&mut events, |packet| {
        matches!(packet, Packet::ConnAck(_)).then_some(())
    })
    .await;
    drop(events);
    assert_eq!(next(&mut arriving, publish).await.payload, "gone");
}

#[tokio::test]
async fn session_keeps_messages_while_away() {
    let broker = Broker::start().await;
    let mut options = broker.options("lasting");
    options.set_clean_session(false);
    let (first, mut events) = AsyncClient::new(options.clone(), 10);
    subscribed(&first, &mut events, "t", QoS::AtLeastOnce).await;
    drop((first, events));
    let (sender, mut events) = AsyncClient::new(broker.options("sender"), 10);
    sender
        .publish("t", QoS::AtLeastOnce, false, "while away")
        .await
        .unwrap();
    next(&mut events, |packet| {
        matches!(packet, Packet::PubAck(_)).then_some(())
    })
    .await;
    let (_second, mut events) = AsyncClient::new(options, 10);
    let present = next(&mut events, |packet| match packet {
        Packet::ConnAck(connack) => Some(connack.session_present),
        _ => None,
    })
    .await;
    assert!(present);
    assert_eq!(next(&mut events, publish).await.payload, "while away");
}

#[tokio::test]
async fn properties_are_passed_on() {
    let broker = Broker::start().await;
    let (client, mut events) = v5::AsyncClient::new(broker.options_v5("properties"), 10);
    subscribed_v5(&client, &mut events, "t").await;
    let sent = packet5::PublishProperties {
        payload_format_indicator: Some(1),
        content_type: Some("text/plain".into()),
        response_topic: Some("answers".into()),
        correlation_data: Some(b"\0\xff"[..].into()),
        user_properties: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        ..Default::default()
    };
    client
        .publish_with_properties("t", QoS5::AtLeastOnce, false, "x", sent.clone())
        .await
        .unwrap();
    let got = next_v5(&mut events, publish_v5).await;
    assert_eq!(got.properties, Some(sent));
}

#[tokio::test]
async fn outgoing_topic_aliases_are_understood() {
    let broker = Broker::start().await;
    let mut options = broker.options_v5("aliases");
    options.set_topic_alias_max(Some(2));
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    subscribed_v5(&client, &mut events, "long/topic/#").await;
    for number in 0..6 {
        let topic = format!("long/topic/{}", number % 3);
        client
            .publish(topic.as_str(), QoS5::AtMostOnce, false, "x")
            .await
            .unwrap();
        let message = next_v5(&mut events, publish_v5).await;
        assert_eq!(message.topic, topic);
    }
}

#[tokio::test]
async fn shared_subscription_divides_the_messages() {
    const COUNT: usize = 40;
    let broker = Broker::start().await;
    let (one, mut one_events) = AsyncClient::new(broker.options("one"), 10);
    subscribed(&one, &mut one_events, "$share/g/t", QoS::AtMostOnce).await;
    let (two, mut two_events) = AsyncClient::new(broker.options("two"), 10);
    subscribed(&two, &mut two_events, "$share/g/t", QoS::AtMostOnce).await;
    let (sender, mut events) = AsyncClient::new(broker.options("sender"), COUNT);
    for number in 0..COUNT {
        let body = number.to_string();
        sender
            .publish("t", QoS::AtLeastOnce, false, body)
            .await
            .unwrap();
    }
    let mut got = Vec::new();
    let mut acknowledged = 0;
    while got.len() < COUNT || acknowledged < COUNT {
        let event = timeout(PATIENCE, async {
            tokio::select! {
                event = one_events.poll() => event,
                event = two_events.poll() => event,
                event = events.poll() => event,
            }
        });
        match event.await.expect("it comes in time").unwrap() {
            Event::Incoming(Packet::Publish(message)) => got.push(message.payload),
            Event::Incoming(Packet::PubAck(_)) => acknowledged += 1,
            _ => {}
        }
    }
    got.sort_by_key(|body| (body.len(), body.clone()));
    let expected: Vec<_> = (0..COUNT).map(|number| number.to_string()).collect();
    assert_eq!(got, expected);
}

//! What a connection costs for each message: `cargo bench -p protocols --bench connection`.
//!
//! Prints wall time per operation, the best of some rounds. With a name and a number, as in
//! `-- receive-qos0 1000`, it does just that so often, for a count of instructions
//! (`bench/README.md` says how). A run without `--bench` only shows that it works.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use protocols::connection::{
    Connected, Connection, Matched, Open, Output, Protocol, SubscriptionId, WebSocketUse,
};
use protocols::model::{Message, QoS, Timestamp, Topic};
use protocols::registry::PROTOCOLS;
use protocols::{Command, Delivery, Limits, Outbox, Reply};

const ROUNDS: usize = 7;
const TIMES: u32 = 20_000;
const PAYLOAD: [u8; 128] = [b'x'; 128];
const NOW: Timestamp = Timestamp(1_000_000);

/// CONNECT of MQTT 3.1.1 with a clean session.
const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c";
const CONNECT_JSON: &[u8] = br#"{"type":"connect","clientId":"c"}"#;

type Step = Box<dyn FnMut()>;

/// A step and what prepares it.
type Named = (&'static str, fn() -> Step);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let names: [Named; 8] = [
        ("receive-qos0", || receive(QoS::AtMostOnce)),
        ("receive-qos1", || receive(QoS::AtLeastOnce)),
        ("deliver-qos0", || deliver(QoS::AtMostOnce)),
        ("deliver-qos1", || deliver(QoS::AtLeastOnce)),
        ("encode", || encode(Client::mqtt())),
        ("receive-json-qos0", || receive_json(QoS::AtMostOnce)),
        ("receive-json-qos1", || receive_json(QoS::AtLeastOnce)),
        ("encode-json", || encode(Client::json())),
    ];
    if let [name, times, ..] = arguments.as_slice()
        && let Some((_, step)) = names.iter().find(|(known, _)| known == name)
    {
        let mut step = step();
        for _ in 0..times.parse().unwrap_or(0) {
            step();
        }
        return;
    }
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let times = if is_bench { TIMES } else { 10 };
    for (name, step) in names {
        best(name, times, step());
    }
}

fn best(name: &str, times: u32, mut step: Step) {
    let rounds = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        for _ in 0..times {
            step();
        }
        began.elapsed()
    });
    let best = rounds.min().unwrap_or_default();
    println!(
        "{name:<18} {:>8.1} ns",
        best.as_secs_f64() * 1e9 / f64::from(times)
    );
}

/// A connection that is logged in.
struct Client {
    connection: Box<dyn Connection>,
    outbox: Outbox,
    commands: Vec<Command>,
}

impl Client {
    fn mqtt() -> Self {
        Self::new("mqtt", CONNECT, Outbox::new())
    }

    fn json() -> Self {
        let outbox = Outbox::web_socket(WebSocketUse::TextMessages);
        Self::new("json", CONNECT_JSON, outbox)
    }

    fn new(protocol: &str, connect: &[u8], outbox: Outbox) -> Self {
        let spoken = PROTOCOLS.iter().find(|known| known.name() == protocol);
        let spoken: &dyn Protocol = *spoken.expect("a protocol that is spoken");
        let mut client = Self {
            connection: spoken.open(Open {
                subprotocol: None,
                connection_id: "c".into(),
                limits: Arc::new(Limits::default()),
                now: NOW,
            }),
            outbox,
            commands: Vec::new(),
        };
        client.receive(connect);
        assert_eq!(client.commands.len(), 1, "a login");
        client.reply(Reply::Connected(Connected {
            client_id: "c".into(),
            ..Connected::default()
        }));
        client.commands.clear();
        client.outbox.take();
        client
    }

    fn receive(&mut self, input: &[u8]) {
        let used = self.drive(|connection, out| connection.receive(input, NOW, out));
        assert_eq!(used, input.len());
    }

    fn reply(&mut self, reply: Reply) {
        self.drive(|connection, out| connection.reply(reply, NOW, out));
    }

    fn drive<R>(&mut self, step: impl FnOnce(&mut dyn Connection, &mut Output<'_>) -> R) -> R {
        let mut close = None;
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut self.commands,
            close: &mut close,
        };
        let result = step(self.connection.as_mut(), &mut out);
        assert!(close.is_none(), "{close:?}");
        result
    }
}

/// A PUBLISH is read; at QoS 1 it is answered too.
fn receive(qos: QoS) -> Step {
    let client = Client::mqtt();
    let topic: [u8; 24] = *b"site/7/device/12345/stat";
    let mut body = vec![0, 24];
    body.extend_from_slice(&topic);
    if qos > QoS::AtMostOnce {
        body.extend_from_slice(&[0, 1]);
    }
    body.extend_from_slice(&PAYLOAD);
    let mut frame = vec![0x30 | (u8::from(qos > QoS::AtMostOnce) << 1)];
    // The length in base 128, which has two digits here.
    let (low, high) = (body.len() % 128 + 128, body.len() / 128);
    frame.extend([low, high].map(|digit| u8::try_from(digit).expect("two digits")));
    frame.extend_from_slice(&body);
    answered(client, frame)
}

/// The same as a JSON text.
fn receive_json(qos: QoS) -> Step {
    let id = match qos {
        QoS::AtMostOnce => "",
        _ => r#""id":"1","qos":1,"#,
    };
    let payload = String::from_utf8_lossy(&PAYLOAD);
    let topic = "site/7/device/12345/stat";
    let frame = format!(r#"{{"type":"publish",{id}"topic":"{topic}","data":"{payload}"}}"#);
    answered(Client::json(), frame.into_bytes())
}

/// A publish is received and, if it asks for that, answered.
fn answered(mut client: Client, frame: Vec<u8>) -> Step {
    Box::new(move || {
        client.receive(&frame);
        if let Some(Command::Publish(publish)) = client.commands.pop()
            && let Some(token) = publish.token
        {
            client.reply(Reply::Published {
                token,
                result: Ok(1),
            });
            black_box(client.outbox.take());
        }
    })
}

fn message() -> Arc<Message> {
    let topic = Topic::parse("site/7/device/1234/state".into(), 100, 10);
    Arc::new(Message::new(
        topic.expect("a topic"),
        Bytes::from_static(&PAYLOAD),
        QoS::AtLeastOnce,
        false,
    ))
}

/// A message that was encoded before goes into an outbox, which is taken after each eighth.
fn deliver(qos: QoS) -> Step {
    let mut client = Client::mqtt();
    let message = message();
    let mut position = 0;
    Box::new(move || {
        give(&mut client, &message, qos, position);
        position += 1;
        if position % 8 == 0 {
            black_box(client.outbox.take());
        }
    })
}

/// A new message for its only receiver.
fn encode(mut client: Client) -> Step {
    Box::new(move || {
        let message = message();
        message.set_for_one();
        give(&mut client, &message, QoS::AtMostOnce, 0);
        black_box(client.outbox.take());
    })
}

fn give(client: &mut Client, message: &Arc<Message>, qos: QoS, position: u64) {
    let matched = [Matched {
        id: SubscriptionId(1),
        identifier: None,
    }];
    let delivery = Delivery {
        message,
        qos,
        retain: false,
        position: (qos > QoS::AtMostOnce).then_some(position),
        attempts: 0,
        matched: &matched,
    };
    let delivered = client
        .connection
        .deliver(&delivery, NOW, &mut client.outbox);
    let _ = black_box(delivered);
}

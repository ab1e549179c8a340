//! What a message looks like to a client of a protocol, in the words of the protocol itself: a
//! connection that nobody holds is led through a login and a subscription, and writes it.

use std::fmt::Write as _;
use std::sync::Arc;

use protocols::connection::{
    Connected, Connection, Granted, Matched, Open, Subscribe, SubscriptionId,
};
use protocols::model::{Message, QoS, Timestamp};
use protocols::mqtt::{self, Decoded, Packet, Side, Version};
use protocols::registry::PROTOCOLS;
use protocols::{Command, Delivery, Limits, Outbox, Output, Reply};
use serde_json::json;

/// CONNECT of MQTT 5 with a clean start and an empty client identifier.
const MQTT_CONNECT: &[u8] = &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0, 0, 0];
/// Bytes of a frame that are shown.
const SHOWN: usize = 4096;

/// The frame as people can read it; `None` if nobody speaks such a protocol, or it has no words for
/// the message.
pub(super) fn shown(
    protocol: &str,
    message: &Arc<Message>,
    qos: QoS,
    limits: &Arc<Limits>,
) -> Option<String> {
    let bytes = written(protocol, message, qos, limits)?;
    if protocol == "mqtt" {
        return packet(&bytes);
    }
    let text = String::from_utf8_lossy(&bytes).replace('\0', "^@");
    Some(text.chars().take(SHOWN).collect())
}

fn written(
    protocol: &str,
    message: &Arc<Message>,
    qos: QoS,
    limits: &Arc<Limits>,
) -> Option<Vec<u8>> {
    let found = PROTOCOLS.iter().find(|found| found.name() == protocol)?;
    let now = Timestamp(0);
    let mut connection = found.open(Open {
        subprotocol: found.subprotocols().last().copied(),
        connection_id: "explain".into(),
        limits: Arc::clone(limits),
        now,
    });
    let (login, subscribe) = opening(protocol, message.topic.as_str(), qos);
    let mut talk = Talk {
        connection: connection.as_mut(),
        outbox: Outbox::new(),
    };
    talk.say(&login, now);
    talk.reply(Reply::Connected(Connected::default()), now);
    for command in talk.say(&subscribe, now) {
        if let Command::Subscribe(subscribe) = command {
            let Subscribe { token, requests } = *subscribe;
            let granted = Granted {
                id: SubscriptionId(1),
                qos,
            };
            let results = requests.iter().map(|_| Ok(granted)).collect();
            talk.reply(Reply::Subscribed { token, results }, now);
        }
    }
    talk.deliver(message, qos, now)
}

/// What a client says before it gets a message: its login, and its subscription if the protocol
/// must know of one.
fn opening(protocol: &str, topic: &str, qos: QoS) -> (Vec<u8>, Vec<u8>) {
    match protocol {
        "mqtt" => (MQTT_CONNECT.to_vec(), Vec::new()),
        "stomp" => {
            let topic = escaped(topic);
            let ack = match qos {
                QoS::AtMostOnce => "auto",
                _ => "client-individual",
            };
            let subscribe = format!("SUBSCRIBE\nid:0\ndestination:/topic/{topic}\nack:{ack}\n\n\0");
            let connect = "CONNECT\naccept-version:1.2\nhost:explain\n\n\0";
            (connect.into(), subscribe.into())
        }
        _ => {
            let qos = qos.min(QoS::AtLeastOnce) as u8;
            let subscribe = json!({"type": "subscribe", "id": 1, "topic": topic, "qos": qos});
            (
                json!({"type": "connect"}).to_string().into(),
                subscribe.to_string().into(),
            )
        }
    }
}

/// STOMP 1.2 §Value Encoding.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\r', "\\r")
        .replace('\n', "\\n")
        .replace(':', "\\c")
}

struct Talk<'a> {
    connection: &'a mut dyn Connection,
    outbox: Outbox,
}

impl Talk<'_> {
    fn say(&mut self, bytes: &[u8], now: Timestamp) -> Vec<Command> {
        let mut commands = Vec::new();
        if !bytes.is_empty() {
            let mut out = Output {
                outbox: &mut self.outbox,
                commands: &mut commands,
                close: &mut None,
            };
            self.connection.receive(bytes, now, &mut out);
        }
        commands
    }

    /// The bytes of a message, if there are any.
    fn deliver(&mut self, message: &Arc<Message>, qos: QoS, now: Timestamp) -> Option<Vec<u8>> {
        // What was answered until now is not asked for.
        let _ = self.outbox.take();
        let delivery = Delivery {
            message,
            qos,
            retain: false,
            position: (qos > QoS::AtMostOnce).then_some(0),
            attempts: 0,
            matched: &[Matched {
                id: SubscriptionId(1),
                identifier: None,
            }],
        };
        // A protocol that has no words for it writes nothing.
        let _ = self.connection.deliver(&delivery, now, &mut self.outbox);
        let bytes: Vec<u8> = self.outbox.take().into_iter().flatten().collect();
        (!bytes.is_empty()).then_some(bytes)
    }

    fn reply(&mut self, reply: Reply, now: Timestamp) {
        let mut out = Output {
            outbox: &mut self.outbox,
            commands: &mut Vec::new(),
            close: &mut None,
        };
        self.connection.reply(reply, now, &mut out);
    }
}

/// A PUBLISH in words, since its bytes are not for reading.
fn packet(bytes: &[u8]) -> Option<String> {
    let decoded = mqtt::decode(bytes, Version::V5, Side::Client, usize::MAX).ok()?;
    let Decoded::Packet {
        packet: Packet::Publish(publish),
        ..
    } = decoded
    else {
        return None;
    };
    let mut text = format!(
        "PUBLISH topic {:?}, QoS {}",
        publish.topic, publish.qos as u8
    );
    // Writing into a string does not fail.
    let _ = write!(text, ", retain {}", u8::from(publish.retain));
    if let Some(id) = publish.packet_id {
        let _ = write!(text, ", packet identifier {id} for example");
    }
    let _ = write!(text, ", payload of {} bytes", publish.payload.len());
    Some(text)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocols::model::Topic;

    use super::*;

    #[test]
    fn each_protocol_has_its_own_words() {
        let limits = Arc::new(Limits::default());
        let topic = Topic::parse("a:b/c".into(), 64, 8).unwrap();
        let payload = Bytes::from_static(b"example");
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let message = Message::new(topic.clone(), payload.clone(), qos, false);
            let message = Arc::new(message);
            let said = |protocol| shown(protocol, &message, qos, &limits);
            let mqtt = said("mqtt").unwrap();
            assert!(mqtt.starts_with("PUBLISH topic \"a:b/c\", QoS"), "{mqtt}");
            let stomp = said("stomp").unwrap();
            assert!(
                stomp.starts_with("MESSAGE\n") && stomp.ends_with("example^@"),
                "{stomp}"
            );
            let json: serde_json::Value = serde_json::from_str(&said("json").unwrap()).unwrap();
            assert_eq!(
                (&json["topic"], &json["data"]),
                (&json!("a:b/c"), &json!("example"))
            );
            assert_eq!(said("gopher"), None);
        }
    }
}

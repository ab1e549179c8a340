//! Messages in the bytes of each protocol: written as a client writes them, read as one reads
//! them.

use std::num::NonZeroU16;

use protocols::connection::Protocol;
use protocols::model::{PayloadFormat, QoS};
use protocols::mqtt::list::{List, UserProperty};
use protocols::mqtt::packet::{Ack, Connect, Packet, Publish, Subscribe, Subscription as Filter};
use protocols::mqtt::properties::PublishProperties;
use protocols::mqtt::{self, Decoded, ReasonCode, Side, Version};
use protocols::registry::PROTOCOLS;
use protocols::stomp::{self, Bounds};

use crate::table::{Answer, EXPIRY, Level, Place, Prop, REDELIVERED, RETAINED, Row, Subscription};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tongue {
    Mqtt5,
    Mqtt311,
    Stomp,
    Json,
}

use Tongue::{Json, Mqtt5, Mqtt311, Stomp};

/// All of them: three protocols, one in two versions.
pub(crate) const TONGUES: [Tongue; 4] = [Mqtt5, Mqtt311, Stomp, Json];

/// A message to publish, or one that is expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) place: &'a Place,
    pub(crate) row: &'a Row,
    pub(crate) level: &'a Level,
    pub(crate) retain: bool,
    /// Seconds to live.
    pub(crate) expiry_secs: Option<u32>,
    /// The same as a moment in milliseconds.
    pub(crate) expires_at: u64,
    pub(crate) format: Option<PayloadFormat>,
}

/// What is expected of one delivery, beside the message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    /// The highest QoS of the subscription.
    pub(crate) qos_max: u8,
    pub(crate) retained: bool,
    pub(crate) redelivered: bool,
    /// Seconds that are left.
    pub(crate) expires_in: Option<u32>,
}

/// Headers of MESSAGE that say something about the delivery.
const STOMP_MARKS: [&str; 5] = [
    "retained:",
    "redelivered:",
    "delivery-count:",
    "expires:",
    "persistent:",
];

/// What an MQTT client reads.
#[derive(Debug)]
#[expect(dead_code, reason = "compared in its printed form")]
struct Seen<'a> {
    topic: &'a str,
    qos: u8,
    retain: bool,
    dup: bool,
    payload: &'a [u8],
    format: Option<PayloadFormat>,
    expiry_secs: Option<u32>,
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    correlation: Option<&'a [u8]>,
    user: Vec<UserProperty<'a>>,
}

impl Tongue {
    pub(crate) fn protocol(self) -> &'static dyn Protocol {
        let name = match self {
            Mqtt5 | Mqtt311 => "mqtt",
            Stomp => "stomp",
            Json => "json",
        };
        let mut all = PROTOCOLS.iter();
        *all.find(|protocol| protocol.name() == name).unwrap()
    }

    /// The highest QoS that it can publish with.
    pub(crate) fn publishes_up_to(self) -> u8 {
        if self == Json { 1 } else { 2 }
    }

    /// The highest QoS that it can subscribe with.
    pub(crate) fn subscribes_up_to(self) -> u8 {
        match self {
            Mqtt5 | Mqtt311 => 2,
            Stomp | Json => 1,
        }
    }

    pub(crate) fn login(self, name: &str) -> Vec<u8> {
        match self {
            Mqtt5 | Mqtt311 => self.packet(&Packet::Connect(Box::new(Connect {
                version: self.version(),
                clean_start: true,
                keep_alive_secs: 0,
                client_id: name,
                will: None,
                username: Some("ann"),
                password: None,
                properties: mqtt::properties::ConnectProperties::default(),
            }))),
            Stomp => b"CONNECT\naccept-version:1.2\nhost:x\nlogin:ann\n\n\0".to_vec(),
            Json => {
                format!(r#"{{"type":"connect","clientId":"{name}","username":"ann"}}"#).into_bytes()
            }
        }
    }

    /// A subscription with at most this QoS; `number` is its own.
    pub(crate) fn subscribe(self, to: &Subscription, qos: u8, number: u16) -> Vec<u8> {
        match self {
            Mqtt5 | Mqtt311 => {
                let filters = [Filter::new(to.mqtt, QoS::from_u8(qos).unwrap())];
                self.packet(&Packet::Subscribe(Subscribe {
                    packet_id: NonZeroU16::new(number).unwrap(),
                    properties: mqtt::properties::SubscribeProperties::default(),
                    filters: List::new(&filters),
                }))
            }
            Stomp => {
                let ack = ["auto", "client-individual"][usize::from(qos)];
                let headers = to.stomp.join("\n");
                format!("SUBSCRIBE\nid:{number}\nack:{ack}\n{headers}\n\n\0").into_bytes()
            }
            Json => format!(r#"{{{},"qos":{qos}}}"#, to.json).into_bytes(),
        }
    }

    /// The bytes that publish a message; `number` is its own.
    pub(crate) fn publish(self, said: &Said<'_>, number: u16) -> Vec<u8> {
        match self {
            Mqtt5 | Mqtt311 => self.publish_mqtt(said, number),
            Stomp => publish_stomp(said),
            Json => publish_json(said),
        }
    }

    fn publish_mqtt(self, said: &Said<'_>, number: u16) -> Vec<u8> {
        let user = user_of(said.row.mqtt);
        let qos = QoS::from_u8(said.level.qos).unwrap();
        let mut properties = PublishProperties {
            payload_format: said.format,
            message_expiry_secs: said.expiry_secs,
            user: List::new(&user),
            ..PublishProperties::default()
        };
        for prop in said.row.mqtt {
            match prop {
                Prop::ContentType(text) => properties.content_type = Some(text),
                Prop::ResponseTopic(text) => properties.response_topic = Some(text),
                Prop::Correlation(bytes) => properties.correlation_data = Some(bytes),
                Prop::User(..) => {}
            }
        }
        self.packet(&Packet::Publish(Publish {
            dup: false,
            qos,
            retain: said.retain,
            topic: said.place.topic,
            packet_id: NonZeroU16::new(number).filter(|_| qos > QoS::AtMostOnce),
            properties,
            payload: said.row.payload,
        }))
    }

    fn packet(self, packet: &Packet<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        mqtt::encode(packet, self.version(), &mut bytes).unwrap();
        bytes
    }

    fn version(self) -> Version {
        if self == Mqtt311 {
            Version::V311
        } else {
            Version::V5
        }
    }

    /// The messages among the bytes that a client was sent, in a form to compare.
    pub(crate) fn read(self, bytes: &[u8]) -> Vec<String> {
        match self {
            Mqtt5 | Mqtt311 => self.read_mqtt(bytes),
            Stomp => read_stomp(bytes),
            Json => read_json(std::str::from_utf8(bytes).unwrap()),
        }
    }

    fn read_mqtt(self, mut bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        while !bytes.is_empty() {
            let decoded = mqtt::decode(bytes, self.version(), Side::Client, usize::MAX).unwrap();
            let Decoded::Packet { packet, consumed } = decoded else {
                panic!("half of a packet");
            };
            bytes = &bytes[consumed..];
            match packet {
                Packet::Publish(publish) => seen.push(Seen::of(&publish).to_string()),
                Packet::Disconnect(other) => panic!("{other:?}"),
                _ => {}
            }
        }
        seen
    }

    /// The answer to the one message among the bytes that a client was sent; `None` if the tongue
    /// has no word for it.
    pub(crate) fn answer(self, bytes: &[u8], answer: &Answer) -> Option<Vec<u8>> {
        match self {
            Mqtt5 | Mqtt311 => answer.mqtt.then(|| self.puback(bytes)),
            Stomp => {
                let mut decoder = stomp::Decoder::with_version(stomp::Version::V1_2);
                let bounds = Bounds::after_login(&protocols::Limits::default());
                let Ok(stomp::Decoded::Frame(frame)) = decoder.decode(bytes, &bounds) else {
                    panic!("no frame");
                };
                let id = frame.header("ack").unwrap();
                Some(format!("{}\n\n\0", answer.stomp.replace("ID", &id)).into_bytes())
            }
            Json => {
                let frame: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                let id = frame["ackId"].to_string();
                Some(answer.json.replace("ID", &id).into_bytes())
            }
        }
    }

    fn puback(self, bytes: &[u8]) -> Vec<u8> {
        let decoded = mqtt::decode(bytes, self.version(), Side::Client, usize::MAX).unwrap();
        match decoded {
            Decoded::Packet {
                packet: Packet::Publish(publish),
                ..
            } => self.packet(&Packet::PubAck(Ack::new(
                publish.packet_id.unwrap(),
                ReasonCode::Success,
            ))),
            other => panic!("{other:?}"),
        }
    }

    /// What a client of this tongue must read of a message that one of the other published.
    pub(crate) fn expected(self, said: &Said<'_>, publisher: Tongue, marks: Marks) -> String {
        match self {
            Mqtt5 => expected_mqtt(said, publisher, marks),
            Mqtt311 => {
                let bare = Row {
                    mqtt: &[],
                    ..*said.row
                };
                let said = Said {
                    row: &bare,
                    ..*said
                };
                let marks = Marks {
                    expires_in: None,
                    ..marks
                };
                expected_mqtt(&said, Mqtt311, marks)
            }
            Stomp => expected_stomp(said, publisher, marks),
            Json => expected_json(said, publisher, marks),
        }
    }
}

impl<'a> Seen<'a> {
    fn of(publish: &Publish<'a>) -> Self {
        let properties = &publish.properties;
        Self {
            topic: publish.topic,
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            payload: publish.payload,
            format: properties.payload_format,
            expiry_secs: properties.message_expiry_secs,
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation: properties.correlation_data,
            user: properties.user.iter().collect(),
        }
    }
}

impl std::fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The words with the number that `N` stands for.
fn with_number(words: &str, number: impl std::fmt::Display) -> String {
    words.replace('N', &number.to_string())
}

fn user_of(props: &[Prop]) -> Vec<UserProperty<'static>> {
    props
        .iter()
        .filter_map(|prop| match prop {
            Prop::User(name, value) => Some((*name, *value)),
            _ => None,
        })
        .collect()
}

fn publish_stomp(said: &Said<'_>) -> Vec<u8> {
    let mut head = format!("SEND\ndestination:{}\n", said.place.stomp);
    let expires = said
        .expiry_secs
        .map(|_| with_number(EXPIRY.stomp, said.expires_at));
    let retain = said.retain.then_some(RETAINED.stomp);
    let mut lines = vec![said.level.stomp];
    lines.extend(expires.as_deref());
    lines.extend(retain);
    lines.extend(said.row.stomp);
    for line in lines {
        head += line;
        head.push('\n');
    }
    let length = format!("content-length:{}\n\n", said.row.payload.len());
    [head.as_bytes(), length.as_bytes(), said.row.payload, b"\0"].concat()
}

fn publish_json(said: &Said<'_>) -> Vec<u8> {
    let kind = if said.place.json.is_empty() {
        r#""type":"broadcast""#.to_owned()
    } else {
        format!(r#""type":"publish",{}"#, said.place.json)
    };
    let mut frame = format!("{{{kind},{}{}", said.row.data, said.row.json);
    frame += said.level.json.unwrap();
    if said.retain {
        frame += RETAINED.json;
    }
    if let Some(secs) = said.expiry_secs {
        frame += &with_number(EXPIRY.json, secs);
    }
    (frame + "}").into_bytes()
}

/// What was said about the delivery comes first, then the rest in its order, then the body.
fn read_stomp(mut bytes: &[u8]) -> Vec<String> {
    // The version is what CONNECTED says; it is not escaped and stands alone.
    let mut decoder = stomp::Decoder::with_version(stomp::Version::V1_2);
    let bounds = Bounds::after_login(&protocols::Limits::default());
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        match decoder.decode(bytes, &bounds).unwrap() {
            stomp::Decoded::Incomplete => panic!("half of a frame"),
            stomp::Decoded::HeartBeats(count) => bytes = &bytes[count..],
            stomp::Decoded::Frame(frame) => {
                bytes = &bytes[frame.raw().len()..];
                match frame.command() {
                    "MESSAGE" => seen.push(stomp_text(&frame)),
                    "ERROR" => panic!("{}", String::from_utf8_lossy(frame.raw())),
                    _ => {}
                }
            }
        }
    }
    seen
}

fn stomp_text(frame: &stomp::Frame<'_>) -> String {
    let head = &frame.raw()[..frame.raw().len() - frame.body().len() - 1];
    let own = ["subscription:", "message-id:", "ack:"];
    let lines: Vec<&str> = std::str::from_utf8(head)
        .unwrap()
        .split('\n')
        .skip(1)
        .filter(|line| !line.is_empty())
        .filter(|line| !own.iter().any(|name| line.starts_with(name)))
        .collect();
    let is_mark = |line: &&str| STOMP_MARKS.iter().any(|name| line.starts_with(name));
    let (marks, rest): (Vec<&str>, Vec<&str>) = lines.into_iter().partition(is_mark);
    format!("{marks:?} {rest:?} {:?}", frame.body())
}

fn read_json(text: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let mut frames = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    let mut start = 0;
    while let Some(frame) = frames.next() {
        let frame = frame.unwrap();
        let text = &text[start..frames.byte_offset()];
        start = frames.byte_offset();
        match frame["type"].as_str().unwrap() {
            "message" => seen.push(match frame.get("ackId") {
                None => text.to_owned(),
                Some(id) => text.replacen(&format!(r#""ackId":{id},"#), r#""ackId":N,"#, 1),
            }),
            "error" | "disconnect" => panic!("{text}"),
            _ => {}
        }
    }
    seen
}

fn expected_mqtt(said: &Said<'_>, publisher: Tongue, marks: Marks) -> String {
    let props = if publisher == Mqtt311 {
        &[]
    } else {
        said.row.mqtt
    };
    let format = match publisher {
        Mqtt5 => said.format,
        // A JSON client's text is text.
        Json if !said.row.data.contains(r#""base64""#) => Some(PayloadFormat::Utf8),
        Mqtt311 | Stomp | Json => None,
    };
    let mut seen = Seen {
        topic: said.place.topic,
        qos: said.level.qos.min(marks.qos_max),
        retain: marks.retained,
        dup: marks.redelivered,
        payload: said.row.payload,
        format,
        expiry_secs: marks.expires_in,
        content_type: None,
        response_topic: None,
        correlation: None,
        user: user_of(props),
    };
    for prop in props {
        match prop {
            Prop::ContentType(text) => seen.content_type = Some(text),
            Prop::ResponseTopic(text) => seen.response_topic = Some(text),
            Prop::Correlation(bytes) => seen.correlation = Some(bytes),
            Prop::User(..) => {}
        }
    }
    seen.to_string()
}

fn expected_stomp(said: &Said<'_>, publisher: Tongue, marks: Marks) -> String {
    let lines = [
        (marks.retained, RETAINED.stomp_seen),
        (marks.redelivered, REDELIVERED.stomp_seen),
        (marks.expires_in.is_some(), EXPIRY.stomp_seen),
        (true, said.level.stomp_seen),
    ];
    let first: Vec<String> = lines
        .into_iter()
        .filter(|(is_said, _)| *is_said)
        .flat_map(|(_, lines)| lines)
        .map(|line| with_number(line, said.expires_at))
        .collect();
    let mut rest = vec![format!("destination:{}", said.place.stomp)];
    if publisher != Mqtt311 {
        rest.extend(said.row.stomp.iter().map(|&line| line.into()));
    }
    rest.push(format!("content-length:{}", said.row.payload.len()));
    format!("{first:?} {rest:?} {:?}", said.row.payload)
}

fn expected_json(said: &Said<'_>, publisher: Tongue, marks: Marks) -> String {
    let mut frame = r#"{"type":"message","#.to_owned();
    if marks.qos_max > 0 {
        frame += said.level.json_seen;
    }
    if marks.retained {
        frame += RETAINED.json_seen;
    }
    if marks.redelivered {
        frame += REDELIVERED.json_seen;
    }
    if let Some(secs) = marks.expires_in {
        frame += &with_number(EXPIRY.json_seen, secs);
    }
    frame += said.place.json_seen;
    frame.push(',');
    frame += &match publisher {
        Mqtt311 => said.row.bare.to_owned(),
        _ => [said.row.data, said.row.json].concat(),
    };
    frame + "}"
}

//! MQTT 3.1.1 and 5 as their clients see them, written without the broker's own codec.

use protocols::connection::Cause;

use super::dialect::{Answer, Dialect, Event, Publish};
use crate::telemetry::Transport;

const SUBSCRIBE_ID: [u8; 2] = [0, 1];
const PUBLISH_ID: [u8; 2] = [0, 2];

/// See the module.
pub(super) struct Mqtt {
    /// Protocol level: 4 or 5.
    pub(super) version: u8,
}

impl Mqtt {
    fn is_5(&self) -> bool {
        self.version == 5
    }

    /// An empty list of properties, where the version has one.
    fn properties(&self) -> &'static [u8] {
        if self.is_5() { &[0] } else { &[] }
    }

    /// DISCONNECT of the server, which 3.1.1 does not have.
    fn disconnect(&self, code: &str) -> Vec<Event> {
        if self.is_5() {
            vec![Event::last_words(code)]
        } else {
            Vec::new()
        }
    }

    fn skip_properties<'a>(&self, input: &'a [u8]) -> &'a [u8] {
        if !self.is_5() {
            return input;
        }
        let (length, size) = read_varint(input).expect("properties");
        &input[size + length..]
    }

    fn event(&self, first: u8, body: &[u8]) -> Event {
        match first >> 4 {
            2 if body[1] == 0 => Event::Connected,
            2 => Event::refused(hex(body[1])),
            3 => self.message(first, body),
            // 3.1.1 and success have no code.
            4 => match body.get(2) {
                Some(&code) if code >= 0x80 => Event::refused(hex(code)),
                _ => Event::Published,
            },
            9 => match self.skip_properties(&body[2..]) {
                [code] if *code >= 0x80 => Event::refused(hex(*code)),
                [_] => Event::Subscribed,
                other => Event::Other(format!("SUBACK {other:02x?}")),
            },
            14 => Event::last_words(hex(body.first().copied().unwrap_or(0))),
            _ => Event::Other(format!("{first:#04x} {body:02x?}")),
        }
    }

    fn message(&self, first: u8, body: &[u8]) -> Event {
        assert_eq!(first & 0b110, 0, "no more than QoS 0 was asked for");
        let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let (topic, rest) = body[2..].split_at(length);
        Event::Message {
            topic: String::from_utf8_lossy(topic).into_owned(),
            payload: String::from_utf8_lossy(self.skip_properties(rest)).into_owned(),
            retained: first & 1 == 1,
        }
    }
}

impl Dialect for Mqtt {
    fn name(&self) -> &'static str {
        if self.is_5() { "mqtt 5" } else { "mqtt 3.1.1" }
    }

    fn protocol(&self) -> &'static str {
        "mqtt"
    }

    fn transports(&self) -> &'static [Transport] {
        &[Transport::Tcp, Transport::WebSocket]
    }

    fn connect(&self, client_id: &str, padding: usize) -> Vec<u8> {
        // Clean start; the padding is the payload of a will.
        let flags = if padding > 0 { 0b110 } else { 0b10 };
        let mut body = string("MQTT");
        body.extend([self.version, flags, 0, 0]);
        body.extend(self.properties());
        body.extend(string(client_id));
        if padding > 0 {
            body.extend(self.properties());
            body.extend(string("will"));
            body.extend(string(&"x".repeat(padding)));
        }
        packet(0x10, &body)
    }

    fn subscribe(&self, filter: &str) -> Vec<u8> {
        let mut body = SUBSCRIBE_ID.to_vec();
        body.extend(self.properties());
        body.extend(string(filter));
        body.push(0);
        packet(0x82, &body)
    }

    fn publish(&self, publish: Publish<'_>) -> Vec<u8> {
        let mut body = string(publish.topic);
        if publish.asks {
            body.extend(PUBLISH_ID);
        }
        body.extend(self.properties());
        body.extend(publish.payload.as_bytes());
        let first = 0x30 | u8::from(publish.asks) << 1 | u8::from(publish.retain);
        packet(first, &body)
    }

    fn good_bye(&self) -> Vec<u8> {
        vec![0xe0, 0]
    }

    /// Packets of the forbidden type 0 `[MQTT-2.1.2]`.
    fn garbage(&self) -> Vec<Vec<u8>> {
        vec![vec![0; 16]]
    }

    fn parse(&self, input: &[u8]) -> Option<(Event, usize)> {
        let (&first, rest) = input.split_first()?;
        let (length, size) = read_varint(rest)?;
        let body = rest[size..].get(..length)?;
        Some((self.event(first, body), 1 + size + length))
    }

    /// 3.1.1 has no word for it: acknowledged and dropped `[MQTT-3.3.5-2]`.
    fn refused_publish(&self) -> Answer {
        if self.is_5() {
            Answer::stays(Event::refused("0x87"))
        } else {
            Answer::stays(Event::Published)
        }
    }

    fn refused_subscribe(&self) -> Answer {
        let code = if self.is_5() { "0x8f" } else { "0x80" };
        Answer::stays(Event::refused(code))
    }

    fn answer_to_good_bye(&self) -> Vec<Event> {
        Vec::new()
    }

    fn answer_to_garbage(&self, logged_in: bool) -> Answer {
        if logged_in {
            Answer::ends(self.disconnect("0x81"), Cause::Malformed)
        } else {
            // Nobody knows what the other side would understand.
            Answer::ends(Vec::new(), Cause::ProtocolError)
        }
    }

    fn answer_to_large(&self, logged_in: bool) -> Vec<Event> {
        match (logged_in, self.is_5()) {
            (true, _) => self.disconnect("0x95"),
            (false, true) => vec![Event::refused("0x95")],
            (false, false) => Vec::new(),
        }
    }

    fn last_words(&self, cause: Cause, logged_in: bool) -> Vec<Event> {
        match cause {
            _ if !logged_in => Vec::new(),
            Cause::TakenOver => self.disconnect("0x8e"),
            Cause::Shutdown => self.disconnect("0x8b"),
            Cause::Expired => self.disconnect("0xa0"),
            Cause::Unauthorized => self.disconnect("0x87"),
            other => panic!("no story ends so: {other:?}"),
        }
    }

    fn tells_gaps(&self) -> bool {
        false
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length % 128).expect("seven bits");
        length /= 128;
        packet.push(low | u8::from(length > 0) << 7);
        if length == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// A number and how many bytes it has.
fn read_varint(input: &[u8]) -> Option<(usize, usize)> {
    let end = input.iter().position(|byte| byte & 0x80 == 0)?;
    let digits = input[..=end].iter().rev();
    let number = digits.fold(0, |high, byte| high * 128 + usize::from(byte & 0x7f));
    Some((number, end + 1))
}

fn string(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short text");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

fn hex(code: u8) -> String {
    format!("{code:#04x}")
}

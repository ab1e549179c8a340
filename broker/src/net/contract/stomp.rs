//! STOMP 1.2 as its clients see it.

use protocols::connection::Cause;

use super::dialect::{Answer, Dialect, Event, Publish};
use crate::telemetry::Transport;

/// See the module.
pub(super) struct Stomp;

impl Dialect for Stomp {
    fn name(&self) -> &'static str {
        "stomp 1.2"
    }

    fn protocol(&self) -> &'static str {
        "stomp"
    }

    fn transports(&self) -> &'static [Transport] {
        &[Transport::Tcp, Transport::WebSocket]
    }

    fn connect(&self, client_id: &str, padding: usize) -> Vec<u8> {
        let padding = "x".repeat(padding);
        let expiry = "session-expiry:0";
        frame(&format!(
            "CONNECT\naccept-version:1.2\nhost:x\nclient-id:{client_id}\n{expiry}\n\
             heart-beat:0,0\npadding:{padding}\n\n"
        ))
    }

    fn subscribe(&self, filter: &str) -> Vec<u8> {
        frame(&format!(
            "SUBSCRIBE\nid:{filter}\ndestination:/topic/{filter}\nreceipt:subscribed\n\n"
        ))
    }

    fn publish(&self, publish: Publish<'_>) -> Vec<u8> {
        let (topic, payload) = (publish.topic, publish.payload);
        let retain = if publish.retain { "retain:true\n" } else { "" };
        let receipt = if publish.asks {
            "receipt:published\n"
        } else {
            ""
        };
        frame(&format!(
            "SEND\ndestination:/topic/{topic}\n{retain}{receipt}\n{payload}"
        ))
    }

    fn good_bye(&self) -> Vec<u8> {
        frame("DISCONNECT\nreceipt:good-bye\n\n")
    }

    /// A header line without a colon (STOMP 1.2 §Augmented BNF).
    fn garbage(&self) -> Vec<Vec<u8>> {
        vec![frame("SEND\nno colon\n\n")]
    }

    fn parse(&self, input: &[u8]) -> Option<(Event, usize)> {
        let head_bytes = input.windows(2).position(|two| two == b"\n\n")? + 2;
        let head = std::str::from_utf8(&input[..head_bytes]).expect("UTF-8");
        let mut lines = head.trim_end().lines();
        let command = lines.next().unwrap_or_default();
        let headers: Vec<_> = lines.filter_map(|line| line.split_once(':')).collect();
        let header = |wanted| {
            let found = headers.iter().find(|(name, _)| *name == wanted);
            found.map_or("", |(_, value)| value)
        };
        let body = &input[head_bytes..];
        let length = match header("content-length").parse() {
            Ok(length) => length,
            Err(_) => body.iter().position(|&byte| byte == 0)?,
        };
        if *body.get(length)? != 0 {
            return Some((Event::Other("no NUL".to_owned()), input.len()));
        }
        let event = match (command, header("receipt-id")) {
            ("CONNECTED", _) => Event::Connected,
            ("RECEIPT", "subscribed") => Event::Subscribed,
            ("RECEIPT", "published") => Event::Published,
            ("RECEIPT", "good-bye") => Event::GoodBye,
            ("ERROR", _) => Event::last_words(header("message")),
            ("MESSAGE", _) => Event::Message {
                topic: header("destination").replacen("/topic/", "", 1),
                payload: String::from_utf8_lossy(&body[..length]).into_owned(),
                retained: header("retained") == "true",
            },
            _ => Event::Other(head.to_owned()),
        };
        Some((event, head_bytes + length + 1))
    }

    /// STOMP has no refusal that does not end the connection (STOMP 1.2 §ERROR).
    fn refused_publish(&self) -> Answer {
        Answer::ends(vec![Event::last_words("Not authorized")], Cause::Refused)
    }

    fn refused_subscribe(&self) -> Answer {
        let says = vec![Event::last_words("Invalid destination")];
        Answer::ends(says, Cause::ProtocolError)
    }

    fn answer_to_good_bye(&self) -> Vec<Event> {
        vec![Event::GoodBye]
    }

    fn answer_to_garbage(&self, _logged_in: bool) -> Answer {
        Answer::ends(vec![Event::last_words("Malformed frame")], Cause::Malformed)
    }

    fn answer_to_large(&self, _logged_in: bool) -> Vec<Event> {
        vec![Event::last_words("Frame too large")]
    }

    fn last_words(&self, cause: Cause, _logged_in: bool) -> Vec<Event> {
        let message = match cause {
            Cause::LoginTimeout => "Login timeout",
            Cause::TakenOver => "Session taken over",
            Cause::Shutdown => "Server shutting down",
            Cause::Expired => "Credentials expired",
            Cause::Unauthorized => "Access refused",
            other => panic!("no story ends so: {other:?}"),
        };
        vec![Event::last_words(message)]
    }

    fn tells_gaps(&self) -> bool {
        false
    }
}

fn frame(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

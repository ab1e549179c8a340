//! The JSON subprotocol as its clients see it.

use protocols::connection::Cause;
use serde_json::{Value, json};

use super::dialect::{Answer, Dialect, Event, Publish};
use crate::telemetry::Transport;

/// Frames that are not JSON which a connection survives, and the one that ends it.
const MALFORMED: usize = 8;

/// See the module.
pub(super) struct Json;

impl Dialect for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn protocol(&self) -> &'static str {
        "json"
    }

    fn transports(&self) -> &'static [Transport] {
        &[Transport::WebSocket]
    }

    fn connect(&self, client_id: &str, padding: usize) -> Vec<u8> {
        let padding = "x".repeat(padding);
        frame(&json!({"type": "connect", "clientId": client_id, "padding": padding}))
    }

    fn subscribe(&self, filter: &str) -> Vec<u8> {
        frame(&json!({"type": "subscribe", "id": "subscribed", "topic": filter}))
    }

    fn publish(&self, publish: Publish<'_>) -> Vec<u8> {
        let mut object = json!({
            "type": "publish",
            "topic": publish.topic,
            "data": publish.payload,
            "retain": publish.retain,
        });
        if publish.asks {
            object["id"] = json!("published");
        }
        frame(&object)
    }

    fn good_bye(&self) -> Vec<u8> {
        frame(&json!({"type": "disconnect"}))
    }

    fn garbage(&self) -> Vec<Vec<u8>> {
        vec![b"garbage".to_vec(); MALFORMED]
    }

    /// The input is one message.
    fn parse(&self, input: &[u8]) -> Option<(Event, usize)> {
        let value: Value = serde_json::from_slice(input).expect("JSON");
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let event = match (&*text("type"), &*text("id")) {
            ("connected", _) => Event::Connected,
            ("ack", "subscribed") => Event::Subscribed,
            ("ack", "published") => Event::Published,
            ("error", _) => Event::Refused(text("code")),
            ("disconnect", _) => Event::LastWords(text("reason")),
            ("gap", _) => Event::Gap(value["dropped"].as_u64().unwrap_or_default()),
            ("message", _) => Event::Message {
                topic: text("topic"),
                payload: text("data"),
                retained: value["retained"] == true,
            },
            _ => Event::Other(value.to_string()),
        };
        Some((event, input.len()))
    }

    fn refused_publish(&self) -> Answer {
        Answer::stays(Event::refused("notAuthorized"))
    }

    fn refused_subscribe(&self) -> Answer {
        Answer::stays(Event::refused("filterInvalid"))
    }

    fn answer_to_good_bye(&self) -> Vec<Event> {
        vec![Event::last_words("normal")]
    }

    /// A person at a console may mistype, but not for ever.
    fn answer_to_garbage(&self, _logged_in: bool) -> Answer {
        let mut says = vec![Event::refused("malformed"); MALFORMED];
        says.push(Event::last_words("malformed"));
        Answer::ends(says, Cause::Malformed)
    }

    /// WebSocket's own close frame says it: the message is not read at all.
    fn answer_to_large(&self, _logged_in: bool) -> Vec<Event> {
        Vec::new()
    }

    fn last_words(&self, cause: Cause, _logged_in: bool) -> Vec<Event> {
        let reason = match cause {
            Cause::LoginTimeout => "loginTimeout",
            Cause::TakenOver => "takenOver",
            Cause::Shutdown => "shutdown",
            Cause::Expired => "expired",
            Cause::Unauthorized => "unauthorized",
            other => panic!("no story ends so: {other:?}"),
        };
        vec![Event::last_words(reason)]
    }

    fn tells_gaps(&self) -> bool {
        true
    }
}

fn frame(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

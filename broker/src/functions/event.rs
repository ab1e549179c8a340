//! Events as functions get them: those of WebSocket clients as API Gateway writes them, messages of
//! topic rules, and clients that come and go.

use std::borrow::Cow;
use std::net::SocketAddr;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use bytestring::ByteString;
use http::HeaderMap;
use protocols::connection::Cause;
use protocols::model::{Message, Timestamp};
use serde_json::{Map, Value, json};

use crate::http::moment;

/// The name of this API in events.
const API_ID: &str = "polycast";

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    /// What happened: `connect`, `message`, `disconnect`, `authorize`, `topic`, `connected` or
    /// `disconnected`.
    pub kind: Cow<'static, str>,
    /// Its own name, the same at each attempt.
    pub id: String,
    /// The connection, topic or client that it is about.
    pub subject: String,
    /// When it happened.
    pub time: Timestamp,
    /// The event.
    pub body: Value,
    /// What CloudEvents carry instead of the event, if that is something else.
    pub content: Option<Content>,
}

/// Bytes and their type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// The bytes.
    pub bytes: Bytes,
    /// Their type, if it is known.
    pub kind: Option<ByteString>,
}

impl Event {
    /// What is kept of an event that waits on disk.
    pub(super) fn to_record(&self) -> Value {
        json!({
            "kind": self.kind, "id": self.id, "subject": self.subject, "time": self.time.0,
            "event": self.body,
        })
    }

    /// The same at another moment.
    pub(super) fn at(mut self, now: Timestamp) -> Self {
        self.time = now;
        if let Some(timestamp) = self.body.get_mut("timestamp") {
            *timestamp = now.0.into();
        }
        if let Some(Value::Object(context)) = self.body.get_mut("requestContext") {
            context.insert("requestTime".to_owned(), request_time(now).into());
            context.insert("requestTimeEpoch".to_owned(), now.0.into());
        }
        self
    }

    /// The event that was kept.
    pub(super) fn of_record(record: &Value) -> Option<Self> {
        let text = |name: &str| record.get(name)?.as_str().map(str::to_owned);
        Some(Self {
            kind: text("kind")?.into(),
            id: text("id")?,
            subject: text("subject")?,
            time: Timestamp(record.get("time")?.as_u64()?),
            body: record.get("event")?.clone(),
            content: None,
        })
    }
}

/// A name that no other event has, in the shape of API Gateway's.
pub(super) fn new_id() -> String {
    let mut bytes = [0; 11];
    // Without randomness the system is broken; an identifier of zeros breaks nothing more.
    let _ = rand::fill(&mut bytes);
    URL_SAFE.encode(bytes)
}

/// What is known of a WebSocket client from its upgrade on.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// The connection's name.
    pub connection_id: ByteString,
    /// When it was opened.
    pub connected_at: Timestamp,
    /// Where its functions call back.
    pub domain: String,
    /// The stage.
    pub stage: String,
    /// The client's address.
    pub peer: SocketAddr,
    /// Its `User-Agent`.
    pub user_agent: Option<String>,
    /// What the authorizer said.
    pub authorizer: Option<Map<String, Value>>,
}

/// An upgrade request, as its events show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgrade {
    /// Names, as clients write them, and values.
    pub headers: Vec<(String, String)>,
    /// Names and values, decoded.
    pub query: Vec<(String, String)>,
}

impl Upgrade {
    /// Of a request.
    pub fn new(headers: &HeaderMap, query: Option<&str>) -> Self {
        let headers = headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (usual_spelling(name.as_str()), value)
        });
        let query = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self {
            headers: headers.collect(),
            query: query.into_owned().collect(),
        }
    }

    /// The first value of a header, whatever its spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The last value of a name in the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// `sec-websocket-key` as `Sec-WebSocket-Key`: the spelling on the wire is not known any more.
fn usual_spelling(name: &str) -> String {
    let words = name.split('-').map(|word| match word {
        "websocket" => "WebSocket".to_owned(),
        _ => {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        }
    });
    words.collect::<Vec<_>>().join("-")
}

/// What a WebSocket client's event says beside its context.
pub(super) struct About<'a> {
    pub(super) route: &'a str,
    /// `CONNECT`, `MESSAGE` or `DISCONNECT`.
    pub(super) kind: &'static str,
    pub(super) state: &'a Value,
    pub(super) now: Timestamp,
}

impl Caller {
    fn context(&self, about: &About<'_>, id: &str) -> Map<String, Value> {
        let mut identity = Map::new();
        identity.insert(
            "sourceIp".into(),
            self.peer.ip().to_canonical().to_string().into(),
        );
        if let Some(agent) = &self.user_agent {
            identity.insert("userAgent".into(), agent.clone().into());
        }
        let mut context = Map::new();
        let fields = [
            ("routeKey", json!(about.route)),
            ("eventType", json!(about.kind)),
            ("extendedRequestId", json!(id)),
            ("requestTime", json!(request_time(about.now))),
            ("messageDirection", json!("IN")),
            ("stage", json!(self.stage)),
            ("connectedAt", json!(self.connected_at.0)),
            ("requestTimeEpoch", json!(about.now.0)),
            ("identity", Value::Object(identity)),
            ("requestId", json!(id)),
            ("domainName", json!(self.domain)),
            ("connectionId", json!(&*self.connection_id)),
            ("apiId", json!(API_ID)),
        ];
        context.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        if let Some(authorizer) = &self.authorizer {
            context.insert("authorizer".into(), Value::Object(authorizer.clone()));
        }
        if !about.state.is_null() {
            context.insert("state".into(), about.state.clone());
        }
        context
    }

    fn event(&self, kind: &'static str, id: String, now: Timestamp, body: Value) -> Event {
        Event {
            kind: kind.into(),
            id,
            subject: self.connection_id.to_string(),
            time: now,
            body,
            content: None,
        }
    }

    /// `$connect`.
    pub(super) fn connect(&self, upgrade: &Upgrade, is_tls: bool, now: Timestamp) -> Event {
        let id = new_id();
        let about = About {
            route: "$connect",
            kind: "CONNECT",
            state: &Value::Null,
            now,
        };
        let hidden = |name: &str| matches!(name, "Connection" | "Upgrade" | "Content-Length");
        let mut headers: Vec<_> = upgrade.headers.clone();
        headers.retain(|(name, _)| !hidden(name));
        self.add_forwarded(&mut headers, is_tls);
        let mut body = Self::with_request(&headers, &upgrade.query);
        body.insert("requestContext".into(), self.context(&about, &id).into());
        body.insert("isBase64Encoded".into(), false.into());
        self.event("connect", id, now, body.into())
    }

    /// The question to an authorizer of the type REQUEST.
    pub(super) fn authorize(&self, upgrade: &Upgrade, is_tls: bool, now: Timestamp) -> Event {
        let id = new_id();
        let about = About {
            route: "$connect",
            kind: "CONNECT",
            state: &Value::Null,
            now,
        };
        let mut headers = upgrade.headers.clone();
        self.add_forwarded(&mut headers, is_tls);
        let mut body = Self::with_request(&headers, &upgrade.query);
        body.insert("type".into(), "REQUEST".into());
        body.insert("methodArn".into(), self.method_arn().into());
        body.insert("requestContext".into(), self.context(&about, &id).into());
        self.event("authorize", id, now, body.into())
    }

    /// What the authorizer's policy must allow.
    pub(super) fn method_arn(&self) -> String {
        let stage = &self.stage;
        format!("arn:aws:execute-api:us-east-1:000000000000:{API_ID}/{stage}/$connect")
    }

    /// A message; `$default` and own routes.
    pub(super) fn message(&self, about: &About<'_>, text: &str) -> Event {
        let id = new_id();
        let mut context = self.context(about, &id);
        context.insert("messageId".into(), new_id().into());
        let body = json!({
            "requestContext": context,
            "body": text,
            "isBase64Encoded": false,
        });
        self.event("message", id, about.now, body)
    }

    /// `$disconnect`.
    pub(super) fn disconnect(&self, state: &Value, end: (u16, &str), now: Timestamp) -> Event {
        let id = new_id();
        let about = About {
            route: "$disconnect",
            kind: "DISCONNECT",
            state,
            now,
        };
        let mut context = self.context(&about, &id);
        context.insert("disconnectStatusCode".into(), end.0.into());
        context.insert("disconnectReason".into(), end.1.into());
        let headers = [
            ("Host", self.domain.as_str()),
            ("x-api-key", ""),
            ("X-Forwarded-For", ""),
            ("x-restapi", ""),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut body = Self::with_request(&headers, &[]);
        body.insert("requestContext".into(), context.into());
        body.insert("isBase64Encoded".into(), false.into());
        self.event("disconnect", id, now, body.into())
    }

    fn with_request(
        headers: &[(String, String)],
        query: &[(String, String)],
    ) -> Map<String, Value> {
        let mut body = Map::new();
        let (last, all) = both(headers);
        body.insert("headers".into(), last.into());
        body.insert("multiValueHeaders".into(), all.into());
        if !query.is_empty() {
            let (last, all) = both(query);
            body.insert("queryStringParameters".into(), last.into());
            body.insert("multiValueQueryStringParameters".into(), all.into());
        }
        body
    }

    fn add_forwarded(&self, headers: &mut Vec<(String, String)>, is_tls: bool) {
        let (scheme, usual) = if is_tls {
            ("https", "443")
        } else {
            ("http", "80")
        };
        let port = self.domain.rsplit_once(':').map(|(_, port)| port);
        let port = port.filter(|port| port.parse::<u16>().is_ok());
        // A client's own word about where it comes from counts for nothing.
        headers.retain(|(name, _)| !name.starts_with("X-Forwarded-"));
        let address = self.peer.ip().to_canonical().to_string();
        for (name, value) in [
            ("X-Forwarded-For", address.as_str()),
            ("X-Forwarded-Port", port.unwrap_or(usual)),
            ("X-Forwarded-Proto", scheme),
        ] {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// Names with their last value, and with all.
fn both(pairs: &[(String, String)]) -> (Map<String, Value>, Map<String, Value>) {
    let (mut last, mut all) = (Map::new(), Map::new());
    for (name, value) in pairs {
        last.insert(name.clone(), value.clone().into());
        let values = all.entry(name.clone()).or_insert_with(|| json!([]));
        if let Value::Array(values) = values {
            values.push(value.clone().into());
        }
    }
    (last, all)
}

/// A moment as logs of web servers write it: `09/Feb/2024:18:23:28 +0000`.
fn request_time(at: Timestamp) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let text = moment(at);
    let month: usize = text[5..7].parse().unwrap_or(1);
    let name = MONTHS[(month - 1) % 12];
    format!(
        "{}/{name}/{}:{} +0000",
        &text[8..10],
        &text[..4],
        &text[11..19]
    )
}

/// The status code and reason of `$disconnect` for an end.
pub(super) fn status_of(cause: Cause) -> (u16, &'static str) {
    match cause {
        Cause::Normal => (1000, "Connection Closed Normally"),
        Cause::Lost | Cause::Io => (1005, "Client-side close frame status not set"),
        Cause::Shutdown => (1001, "Going away"),
        Cause::TooLarge => (1009, "Message too big"),
        Cause::WrongType => (1003, "Unsupported data"),
        Cause::NotUtf8 => (1007, "Invalid payload data"),
        Cause::Malformed | Cause::ProtocolError => (1002, "Protocol error"),
        Cause::KeepAliveTimeout => (1001, "Idle timeout"),
        Cause::Internal => (1011, "Internal server error"),
        Cause::Unavailable => (1013, "Try again later"),
        Cause::Administrative => (1000, "Closed by the server"),
        _ => (1008, "Policy violation"),
    }
}

/// A message of a topic rule: JSON stays JSON, text a text; other bytes go as base64.
pub(super) fn of_message(
    message: &Message,
    (rule, target_stage): (&str, &str),
    qos: u8,
    now: Timestamp,
) -> Event {
    let properties = message.properties.as_deref();
    let content_type = properties.and_then(|more| more.content_type.clone());
    let text = std::str::from_utf8(&message.payload);
    let is_json = content_type
        .as_deref()
        .is_none_or(|kind| kind.contains("json"));
    let parsed = text.ok().filter(|_| is_json);
    let parsed = parsed.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (kind, data) = match (parsed, text) {
        (Some(value), _) => ("json", value),
        (None, Ok(text)) => ("text", json!(text)),
        (None, Err(_)) => ("base64", json!(STANDARD.encode(&message.payload))),
    };
    let correlation = properties.and_then(|more| more.correlation.as_ref());
    let correlation = correlation.map(|bytes| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => STANDARD.encode(bytes),
    });
    let user: Vec<_> = properties
        .map(|more| {
            more.user
                .iter()
                .map(|(name, value)| json!([&**name, &**value]))
                .collect()
        })
        .unwrap_or_default();
    let id = new_id();
    let body = json!({
        "topic": message.topic.as_str(),
        "dataType": kind,
        "data": data,
        "contentType": content_type.as_deref(),
        "replyTo": properties.and_then(|more| more.reply_to.as_deref()),
        "correlationId": correlation,
        "userProperties": user,
        "qos": qos,
        "retain": message.retain,
        "requestContext": {
            "routeKey": rule, "eventType": "TOPIC", "requestId": id, "stage": target_stage,
            "requestTime": request_time(now), "requestTimeEpoch": now.0, "apiId": API_ID,
        },
    });
    Event {
        kind: "topic".into(),
        id,
        subject: message.topic.as_str().to_owned(),
        time: now,
        body,
        content: Some(Content {
            bytes: message.payload.clone(),
            kind: content_type,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocols::model::{QoS, Topic};

    fn caller() -> Caller {
        Caller {
            connection_id: "abc-1".into(),
            connected_at: Timestamp(1_707_503_008_000),
            domain: "broker.test:8080".to_owned(),
            stage: "prod".to_owned(),
            peer: ([192, 0, 2, 1], 5).into(),
            user_agent: None,
            authorizer: None,
        }
    }

    const NOW: Timestamp = Timestamp(1_707_503_008_141);

    #[test]
    fn connect_shows_the_request_as_api_gateway_does() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "broker.test:8080"),
            ("sec-websocket-key", "k"),
            ("connection", "Upgrade"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-forwarded-for", "10.0.0.1"),
        ] {
            headers.append(name, http::HeaderValue::from_static(value));
        }
        let upgrade = Upgrade::new(&headers, Some("a=1&a=2&b=%20"));
        let event = caller().connect(&upgrade, false, NOW).body;
        assert_eq!(
            event["headers"],
            json!({"Host": "broker.test:8080", "Sec-WebSocket-Key": "k", "Cookie": "b=2",
                   "X-Forwarded-For": "192.0.2.1", "X-Forwarded-Port": "8080",
                   "X-Forwarded-Proto": "http"})
        );
        assert_eq!(event["multiValueHeaders"]["Cookie"], json!(["a=1", "b=2"]));
        assert_eq!(event["queryStringParameters"], json!({"a": "2", "b": " "}));
        assert_eq!(
            event["multiValueQueryStringParameters"],
            json!({"a": ["1", "2"], "b": [" "]})
        );
        assert_eq!(event["isBase64Encoded"], false);
        assert!(event.get("body").is_none());
        let context = &event["requestContext"];
        assert_eq!(context["requestTime"], "09/Feb/2024:18:23:28 +0000");
        assert_eq!(context["requestTimeEpoch"], NOW.0);
        assert_eq!(context["eventType"], "CONNECT");
        assert_eq!(context["requestId"], context["extendedRequestId"]);
        assert_eq!(context["identity"], json!({"sourceIp": "192.0.2.1"}));
        assert!(context.get("authorizer").is_none() && context.get("messageId").is_none());
        let asked = caller().authorize(&upgrade, true, NOW).body;
        assert_eq!(asked["headers"]["Connection"], "Upgrade");
        assert_eq!(asked["headers"]["X-Forwarded-Proto"], "https");
        assert_eq!(
            (&asked["type"], &asked["methodArn"]),
            (
                &json!("REQUEST"),
                &json!("arn:aws:execute-api:us-east-1:000000000000:polycast/prod/$connect")
            )
        );
    }

    #[test]
    fn messages_and_ends_have_what_is_theirs() {
        let state = json!({"room": 1});
        let about = About {
            route: "send",
            kind: "MESSAGE",
            state: &state,
            now: NOW,
        };
        let event = caller().message(&about, "{\"a\":1}").body;
        assert_eq!(event["body"], "{\"a\":1}");
        assert_eq!(event["requestContext"]["routeKey"], "send");
        assert_eq!(event["requestContext"]["state"], state);
        assert!(event["requestContext"]["messageId"].is_string());
        assert!(event.get("headers").is_none());
        let event = caller().disconnect(&state, status_of(Cause::Lost), NOW);
        let context = &event.body["requestContext"];
        assert_eq!(context["disconnectStatusCode"], 1005);
        assert_eq!(event.body["headers"]["x-restapi"], "");
        assert_eq!(Event::of_record(&event.to_record()), Some(event));
    }

    #[test]
    fn data_of_a_topic_has_its_type() {
        let shown = |payload: &'static [u8]| {
            let topic = Topic::parse("t".into(), 10, 10).unwrap();
            let message = Message::new(topic, payload.into(), QoS::AtMostOnce, false);
            let body = of_message(&message, ("r", "prod"), 0, NOW).body;
            (body["dataType"].clone(), body["data"].clone())
        };
        assert_eq!(shown(b"{\"a\":1}"), (json!("json"), json!({"a": 1})));
        assert_eq!(shown(b"{\"a\""), (json!("text"), json!("{\"a\"")));
        assert_eq!(shown(b"\xff"), (json!("base64"), json!("/w==")));
    }
}

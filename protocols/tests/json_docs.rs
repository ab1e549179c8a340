//! Every example of `docs/json-protocol.md`, sent to and received from a real connection.
//!
//! Blocks marked `json client` are sent, one frame a line; blocks marked `json server` must be
//! what was written since. Comments in the page begin connections and make things happen.

mod json_support;

use bytes::Bytes;
use json_support::{Client, How, message};
use protocols::connection::{Cause, CloseReason, Notice};
use protocols::model::{Properties, Timestamp};
use serde_json::{Deserializer, Value};

const PAGE: &str = include_str!("../../docs/json-protocol.md");

#[test]
fn every_example_is_true() {
    let mut client = Client::new();
    let mut lines = PAGE.lines().enumerate();
    let mut checked = 0;
    while let Some((number, line)) = lines.next() {
        let place = number + 1;
        if let Some(what) = comment(line, "connection") {
            assert_quiet(&mut client, place);
            client = connection(what);
        } else if let Some(what) = comment(line, "event") {
            happen(&mut client, what);
        } else if let Some(side) = line.strip_prefix("```json ") {
            let block: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| *line != "```")
                .collect();
            match side {
                "client" => {
                    for frame in block {
                        client.send(frame);
                        client.obey();
                    }
                }
                "server" => {
                    assert_eq!(
                        values(&client.frames().concat()),
                        values(&block.concat()),
                        "line {place}"
                    );
                }
                other => panic!("line {place}: a block of {other}"),
            }
            checked += 1;
        }
    }
    assert_quiet(&mut client, PAGE.lines().count());
    assert!(checked > 25, "only {checked} examples were found");
}

#[test]
fn every_code_and_reason_is_on_the_page() {
    let source = include_str!("../src/json/error.rs");
    let codes: Vec<&str> = source
        .lines()
        .filter_map(|line| line.split_once("=> \"")?.1.strip_suffix("\","))
        .collect();
    assert!(codes.len() > 35, "{codes:?}");
    for code in codes {
        assert!(PAGE.contains(&format!("`{code}`")), "{code} is missing");
    }
}

fn comment<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    line.strip_prefix("<!-- ")?
        .strip_prefix(kind)?
        .strip_prefix(": ")?
        .strip_suffix(" -->")
}

fn values(text: &str) -> Vec<Value> {
    Deserializer::from_str(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn assert_quiet(client: &mut Client, place: usize) {
    let rest = client.frames();
    assert!(rest.is_empty(), "before line {place}: {rest:?}");
}

fn connection(what: &str) -> Client {
    match what {
        "anonymous" | "a login" | "a wrong token" => Client::new(),
        "logged in" => Client::logged_in(),
        other => panic!("no such connection: {other}"),
    }
}

fn happen(client: &mut Client, what: &str) {
    let at_once = How::default();
    match what {
        "a reading arrives" => {
            let _ = client.deliver(message("sensors/kitchen", b"21.5"), &at_once);
        }
        "an order arrives with QoS 1" => deliver_order(client),
        "a request comes again" => deliver_request(client),
        "messages for the group, the user and everyone" => {
            for (topic, payload) in [
                ("$group/chat", "hello"),
                ("$user/ann/mail", "2 unread"),
                ("$broadcast", "good night"),
            ] {
                let _ = client.deliver(message(topic, payload.as_bytes()), &at_once);
            }
        }
        "the ping interval passes" => client.time_out(),
        "12 messages were dropped" => client.notify(&Notice::Gap { dropped: 12 }),
        "the token ends soon" => {
            let at = Timestamp(client.now.0 + 60_000);
            client.notify(&Notice::Expiring { at });
        }
        "the token ends" => {
            let reason = CloseReason::new(Cause::Expired, "the token has expired");
            client.connection.close(&reason, &mut client.outbox);
        }
        "the broker stops" => {
            let reason = CloseReason::new(Cause::Shutdown, "the broker stops");
            client.connection.close(&reason, &mut client.outbox);
        }
        other => panic!("no such event: {other}"),
    }
}

fn deliver_order(client: &mut Client) {
    let mut order = message("orders/7", br#"{"total":12.50,"paid":true}"#);
    order.properties = Some(Box::new(Properties {
        content_type: Some("application/json".into()),
        user: [("tag", "new"), ("trace", "4bf9"), ("tag", "eu")]
            .map(|(name, value)| (name.into(), value.into()))
            .to_vec(),
        ..Properties::default()
    }));
    let how = How {
        position: Some(17),
        ..How::default()
    };
    let _ = client.deliver(order, &how);
}

fn deliver_request(client: &mut Client) {
    let mut request = message("jobs/1", &[0, 0xff]);
    request.expires_at = Some(Timestamp(client.now.0 + 59_001));
    request.properties = Some(Box::new(Properties {
        correlation: Some(Bytes::from_static(&[0xff])),
        reply_to: Some("answers/1".into()),
        ..Properties::default()
    }));
    let how = How {
        position: Some(18),
        retain: true,
        attempts: 2,
    };
    let _ = client.deliver(request, &how);
}

//! The JSON subprotocol told as stories: each frame, each refusal, the clock, the limits.

mod json_support;

use std::sync::Arc;

use bytes::Bytes;
use json_support::{Client, How, message};
use protocols::connection::{
    Cause, CloseReason, Command, Connect, Delivered, Delivery, Lane, Notice, Overlap, Position,
    Protocol, Publish, Refusal, RefusalCode, Reply, RetainHandling, Secret, Settle,
    SubscribeRequest, Token, WebSocketUse,
};
use protocols::json::Json;
use protocols::limits::Limits;
use protocols::model::{PayloadFormat, Properties, QoS, Timestamp};

fn connect(frame: &str) -> Connect {
    let mut client = Client::new();
    client.send(frame);
    match client.take() {
        Command::Connect(connect) => *connect,
        other => panic!("{other:?}"),
    }
}

fn publish(frame: &str) -> Publish {
    let mut client = Client::logged_in();
    client.send(frame);
    assert_eq!(client.frames(), [""; 0]);
    match client.take() {
        Command::Publish(publish) => publish,
        other => panic!("{other:?}"),
    }
}

fn subscribe(frame: &str) -> Vec<Result<SubscribeRequest, Refusal>> {
    let mut client = Client::logged_in();
    client.send(frame);
    match client.take() {
        Command::Subscribe(subscribe) => subscribe.requests.into_vec(),
        other => panic!("{other:?}"),
    }
}

/// What a logged in client is told about a frame that asks for nothing.
fn answer(frame: &str) -> String {
    let mut client = Client::logged_in();
    client.send(frame);
    assert!(client.commands.is_empty(), "{:?}", client.commands);
    assert_eq!(client.closed, None);
    client.frame()
}

fn invalid(frame: &str, detail: &str) {
    let expected = format!(r#"{{"type":"error","code":"invalidFrame","message":"{detail}"}}"#);
    assert_eq!(answer(frame), expected, "{frame}");
}

#[test]
fn what_is_refused_is_counted() {
    for (frame, reason) in [
        ("nonsense", "malformed"),
        ("{}", "invalid_frame"),
        (r#"{"type":"nonsense"}"#, "unknown_type"),
        (r#"{"type":"connect"}"#, "already_connected"),
        (r#"{"type":"publish","topic":"a/#"}"#, "topic_invalid"),
        (r#"{"type":"ping"}"#, ""),
    ] {
        let mut client = Client::logged_in();
        client.send(frame);
        assert_eq!(client.refused.unwrap_or_default(), reason, "{frame}");
    }
}

#[test]
fn the_protocol_names_itself() {
    assert_eq!(Json.name(), "json");
    assert_eq!(Json.subprotocols(), ["polycast.json.v1", "json"]);
    assert_eq!(Json.web_socket_use(), WebSocketUse::TextMessages);
}

#[test]
fn connect_without_fields_is_anonymous() {
    let login = connect(r#"{"type":"connect"}"#);
    assert_eq!(login.client_id, None);
    assert_eq!((login.username, login.password), (None, None));
    assert!(login.clean_start && login.auto_subscribe);
    assert_eq!((login.session_expiry_secs, login.in_flight), (0, 32));
    assert_eq!(login.overlap, Overlap::Merge);
    assert_eq!(login.protocol, "json 1");
    assert_eq!(login.keep_alive_secs, 35);
}

#[test]
fn connect_is_kept_within_the_limits() {
    let login = connect(
        r#"{"type":"connect","clientId":"c","username":"u","password":"p","inFlight":99999,
            "session":{"expiry":4294967296}}"#,
    );
    assert_eq!(login.client_id.as_deref(), Some("c"));
    assert_eq!(login.username.as_deref(), Some("u"));
    assert_eq!(login.password.as_deref(), Some(&b"p"[..]));
    assert_eq!(login.in_flight, 1024);
    assert_eq!(login.session_expiry_secs, 7 * 24 * 3600);
    assert!(!login.clean_start, "who asks for a session wants it back");
    let login = connect(r#"{"type":"connect","cleanStart":true,"session":{"expiry":60}}"#);
    assert!(login.clean_start);
    let login = connect(r#"{"type":"connect","clientId":"","token":"jwt"}"#);
    assert_eq!(login.client_id, None);
    assert_eq!(login.password, None);
    assert_eq!(login.token, Some(Secret(Bytes::from_static(b"jwt"))));
    assert!(!format!("{login:?}").contains("jwt"), "{login:?}");
}

#[test]
fn a_bad_connect_can_be_corrected() {
    let mut client = Client::new();
    for (frame, code) in [
        (
            r#"{"type":"connect","token":"a","password":"b"}"#,
            "invalidFrame",
        ),
        (r#"{"type":"connect","inFlight":0}"#, "invalidFrame"),
        (r#"{"type":"connect","session":60}"#, "invalidFrame"),
        (
            r#"{"type":"connect","session":{"expiry":-1}}"#,
            "invalidFrame",
        ),
        (r#"{"type":"connect","clientId":7}"#, "invalidFrame"),
        (r#"{"type":"connect","clientId":"a\nb"}"#, "clientIdInvalid"),
        (
            &format!(r#"{{"type":"connect","clientId":"{}"}}"#, "x".repeat(257)),
            "clientIdInvalid",
        ),
    ] {
        client.send(frame);
        let expected = format!(r#"{{"type":"error","code":"{code}","message":"#);
        let told = client.frame();
        assert!(told.starts_with(&expected), "{told}");
        assert!(client.commands.is_empty() && client.closed.is_none());
    }
    client.send(r#"{"type":"connect"}"#);
    assert!(matches!(client.take(), Command::Connect(_)));
}

#[test]
fn the_first_request_logs_in_by_itself() {
    let mut client = Client::new();
    client.send(r#"{"type":"ping","id":7}"#);
    assert!(matches!(client.take(), Command::Connect(_)));
    assert_eq!(client.frames(), [""; 0], "connected comes first");
    client.let_in();
    let frames = client.frames();
    assert!(
        frames[0].starts_with(r#"{"type":"connected","connectionId":"c-1","#),
        "{frames:?}"
    );
    assert_eq!(frames[1], r#"{"type":"pong","id":7}"#);
    client.send(r#"{"type":"connect","id":8}"#);
    assert_eq!(
        client.frame(),
        r#"{"type":"error","id":8,"code":"alreadyConnected","message":"this connection is logged in already"}"#
    );
}

#[test]
fn a_refused_login_ends_the_connection() {
    let mut client = Client::new();
    client.send(r#"{"type":"connect","id":"l"}"#);
    client.reply(Reply::Refused(Refusal::new(
        RefusalCode::Banned,
        "come back tomorrow",
    )));
    assert_eq!(
        client.frames(),
        [
            r#"{"type":"error","id":"l","code":"banned","message":"come back tomorrow"}"#,
            r#"{"type":"disconnect","reason":"refused","message":"come back tomorrow","reconnect":false}"#,
        ]
    );
    let expected = CloseReason::new(Cause::Refused, "come back tomorrow");
    assert_eq!(client.closed, Some(expected));
    assert_eq!(client.connection.next_timeout(), None);
}

#[test]
fn nothing_is_done_before_the_login_is_answered() {
    let mut client = Client::new();
    client.send(r#"{"type":"connect"}"#);
    client.take();
    client.send(r#"{"type":"publish","topic":"a","data":1}"#);
    assert!(client.commands.is_empty());
    assert!(client.frame().contains(r#""code":"busy""#));
}

#[test]
fn a_login_that_does_not_come_times_out() {
    for first in ["", "nonsense", r#"{"type":"connect"}"#] {
        let mut client = Client::new();
        if !first.is_empty() {
            client.send(first);
            client.frames();
        }
        assert_eq!(client.connection.next_timeout(), Some(Timestamp(1_010_000)));
        client.now = Timestamp(1_009_999);
        client.drive(|connection, now, out| connection.handle_timeout(now, out));
        assert_eq!(client.closed, None);
        client.time_out();
        assert_eq!(
            client.closed.as_ref().map(|reason| reason.cause),
            Some(Cause::LoginTimeout)
        );
        assert!(client.frame().contains(r#""reason":"loginTimeout""#));
    }
}

#[test]
fn payloads_by_hand_mean_what_they_look_like() {
    for (fields, payload, content_type, format) in [
        (
            r#""data":"21.5""#,
            &b"21.5"[..],
            None,
            Some(PayloadFormat::Utf8),
        ),
        (
            r#""data":21.50"#,
            b"21.50",
            Some("application/json"),
            Some(PayloadFormat::Utf8),
        ),
        (
            r#""data": {"a" : [1]} "#,
            br#"{"a" : [1]}"#,
            Some("application/json"),
            Some(PayloadFormat::Utf8),
        ),
        (
            r#""data":null"#,
            b"null",
            Some("application/json"),
            Some(PayloadFormat::Utf8),
        ),
        (
            r#""data":"x","dataType":"json""#,
            br#""x""#,
            Some("application/json"),
            Some(PayloadFormat::Utf8),
        ),
        (
            r#""data":"\u00e4\n","dataType":"text""#,
            "ä\n".as_bytes(),
            None,
            Some(PayloadFormat::Utf8),
        ),
        (
            r#""data":"AAH/","dataType":"base64""#,
            &[0, 1, 255],
            Some("application/octet-stream"),
            None,
        ),
        (
            r#""data":"AA","dataType":"base64""#,
            &[0],
            Some("application/octet-stream"),
            None,
        ),
        (r#""qos":0"#, b"", None, Some(PayloadFormat::Utf8)),
        (
            r#""data":"x","contentType":"text/html""#,
            b"x",
            Some("text/html"),
            Some(PayloadFormat::Utf8),
        ),
    ] {
        let message = publish(&format!(r#"{{"type":"publish","topic":"a",{fields}}}"#)).message;
        assert_eq!(message.payload, payload, "{fields}");
        let properties = message.properties.as_deref();
        let said = properties.and_then(|properties| properties.content_type.as_deref());
        assert_eq!(said, content_type, "{fields}");
        assert_eq!(message.payload_format, format, "{fields}");
    }
    for fields in [
        r#""data":1,"dataType":"text""#,
        r#""data":"*","dataType":"base64""#,
        r#""data":"x","dataType":"xml""#,
        r#""dataType":"json""#,
    ] {
        let told = answer(&format!(r#"{{"type":"publish","topic":"a",{fields}}}"#));
        assert!(told.contains(r#""code":"invalidFrame""#), "{told}");
    }
}

#[test]
fn publish_carries_every_property() {
    let request = publish(
        r#"{"type":"publish","id":1,"topic":"a/b","data":"x","retain":true,"idempotencyKey":"k",
            "headers":{"b":["1","2"],"a":"3"},"correlationId":"c","replyTo":"r/1","expiresIn":1.5}"#,
    );
    assert_eq!(request.idempotency_key.as_deref(), Some("k"));
    assert_eq!(request.exactly_once, None);
    assert!(request.token.is_some());
    let message = request.message;
    assert_eq!(message.topic.as_str(), "a/b");
    assert!(message.retain);
    assert_eq!(message.qos, QoS::AtLeastOnce, "an id asks for a promise");
    assert_eq!(message.expires_at, Some(Timestamp(1_001_500)));
    let properties = *message.properties.clone().unwrap();
    assert_eq!(message.payload_format, Some(PayloadFormat::Utf8));
    assert_eq!(
        properties,
        Properties {
            content_type: None,
            reply_to: Some("r/1".into()),
            correlation: Some("c".into()),
            user: [("b", "1"), ("b", "2"), ("a", "3")]
                .map(|(name, value)| (name.into(), value.into()))
                .to_vec(),
        }
    );
    let message =
        publish(r#"{"type":"publish","topic":"a","expiresAt":5,"correlationIdBase64":"/w"}"#)
            .message;
    assert_eq!(message.expires_at, Some(Timestamp(5)));
    assert_eq!(
        message.properties.clone().unwrap().correlation.as_deref(),
        Some(&[0xff][..])
    );
    assert_eq!(message.qos, QoS::AtMostOnce);
    assert_eq!(
        publish(r#"{"type":"publish","id":1,"topic":"a","qos":0}"#)
            .message
            .qos,
        QoS::AtMostOnce
    );
    assert_eq!(
        publish(r#"{"type":"publish","topic":"a","qos":1}"#)
            .message
            .qos,
        QoS::AtLeastOnce
    );
}

#[test]
fn a_large_payload_does_not_hang_on_its_topic() {
    let text = "x".repeat(5000);
    let message = publish(&format!(
        r#"{{"type":"publish","topic":"a","data":"{text}"}}"#
    ))
    .message;
    assert_eq!(message.payload, text);
    let topic = message.topic.text().as_ptr() as usize;
    let payload = message.payload.as_ptr() as usize;
    assert!(topic.abs_diff(payload) > 1, "they are two allocations");
}

#[test]
fn targets_are_topics() {
    for (frame, topic) in [
        (r#"{"type":"publish","group":"g","data":1}"#, "$group/g"),
        (r#"{"type":"publish","user":"bob","data":1}"#, "$user/bob"),
        (
            r#"{"type":"publish","user":"bob","topic":"a/b","data":1}"#,
            "$user/bob/a/b",
        ),
        (r#"{"type":"broadcast","data":1}"#, "$broadcast"),
        (
            r#"{"type":"publish","topic":"$queue/jobs","data":1}"#,
            "$queue/jobs",
        ),
    ] {
        assert_eq!(publish(frame).message.topic.as_str(), topic);
    }
    let detail = r#"exactly one of \"topic\", \"group\" and \"user\" must be there (\"user\" may have a \"topic\" beside it)"#;
    invalid(r#"{"type":"publish","data":1}"#, detail);
    invalid(r#"{"type":"publish","topic":"a","group":"g"}"#, detail);
    invalid(r#"{"type":"publish","user":"u","group":"g"}"#, detail);
    for frame in [
        r#"{"type":"publish","group":"a/b","data":1}"#,
        r#"{"type":"publish","user":"+","data":1}"#,
        r#"{"type":"publish","user":"","data":1}"#,
        r#"{"type":"publish","topic":"","data":1}"#,
        r#"{"type":"publish","topic":"a/#","data":1}"#,
        r#"{"type":"publish","topic":"a\u0000","data":1}"#,
        r#"{"type":"publish","topic":"a","replyTo":"+"}"#,
        r#"{"type":"join","group":"a/b"}"#,
        r#"{"type":"leave","group":""}"#,
    ] {
        assert!(
            answer(frame).contains(r#""code":"topicInvalid""#),
            "{frame}"
        );
    }
}

#[test]
fn what_cannot_be_published_is_refused() {
    invalid(
        r#"{"type":"publish","topic":"a","qos":2}"#,
        r#"\"qos\" must be 0 or 1"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","retain":1}"#,
        r#"\"retain\" must be true or false"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","expiresIn":-1}"#,
        r#"\"expiresIn\" must be a number of seconds, not negative"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","expiresIn":1,"expiresAt":1}"#,
        r#"\"expiresIn\" and \"expiresAt\" exclude each other"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","correlationId":"a","correlationIdBase64":"AA"}"#,
        r#"\"correlationId\" and \"correlationIdBase64\" exclude each other"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","headers":{"a":1}}"#,
        r#"\"headers\" must be an object of strings and arrays of strings"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","headers":{"a":"\u0000"}}"#,
        r#"\"headers\" contains the NUL character"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","headers":{"a":"1","\u0061":"2"}}"#,
        r#"a header comes twice in \"headers\": repeats are an array of strings"#,
    );
    invalid(
        r#"{"type":"publish","topic":"a","idempotencyKey":""}"#,
        r#"\"idempotencyKey\" must have 1 to 256 bytes"#,
    );
}

#[test]
fn settings_of_the_broker_are_kept_and_told() {
    let mut client = Client::with(Limits {
        maximum_qos: QoS::AtMostOnce,
        retain_available: false,
        json_ping_ms: 0,
        ..Limits::default()
    });
    client.send(r#"{"type":"connect"}"#);
    client.let_in();
    let told = client.frame();
    assert!(
        told.contains(r#""pingIntervalMs":0,"pongTimeoutMs":10000,"qos":0,"retain":false"#),
        "{told}"
    );
    assert_eq!(client.connection.next_timeout(), None, "no pings");
    client.take();
    client.send(r#"{"type":"publish","id":1,"topic":"a"}"#);
    let Command::Publish(publish) = client.take() else {
        panic!("no publish")
    };
    assert_eq!(publish.message.qos, QoS::AtMostOnce);
    for frame in [
        r#"{"type":"publish","topic":"a","qos":1}"#,
        r#"{"type":"publish","topic":"a","retain":true}"#,
    ] {
        client.send(frame);
        assert!(client.frame().contains(r#""code":"notSupported""#));
    }
    client.send(r#"{"type":"subscribe","topic":"a","qos":1}"#);
    let Command::Subscribe(subscribe) = client.take() else {
        panic!("no subscribe")
    };
    let request = subscribe.requests[0].as_ref().unwrap();
    assert_eq!(
        (request.qos, request.retain_handling),
        (QoS::AtMostOnce, RetainHandling::DoNotSend)
    );
}

#[test]
fn publishes_are_answered_if_they_ask_or_fail() {
    let mut client = Client::logged_in();
    client.send(r#"{"type":"publish","id":1.0,"topic":"a"}"#);
    client.send(r#"{"type":"publish","topic":"b"}"#);
    client.send(r#"{"type":"publish","topic":"c"}"#);
    client.send(r#"{"type":"broadcast","id":"\u0041","data":1}"#);
    let tokens: Vec<Token> = std::iter::from_fn(|| match client.commands.pop_front()? {
        Command::Publish(publish) => publish.token,
        other => panic!("{other:?}"),
    })
    .collect();
    let refuse = || Err(Refusal::new(RefusalCode::NotAuthorized, "no"));
    let results = [Ok(2), Ok(1), refuse(), refuse()];
    for (token, result) in tokens.into_iter().zip(results) {
        client.reply(Reply::Published { token, result });
    }
    assert_eq!(
        client.frames(),
        [
            r#"{"type":"ack","id":1.0,"receivers":2}"#,
            r#"{"type":"error","code":"notAuthorized","message":"no"}"#,
            r#"{"type":"error","id":"\u0041","code":"notAuthorized","message":"no"}"#,
        ]
    );
}

#[test]
fn subscribe_with_every_option() {
    let requests = subscribe(
        r#"{"type":"subscribe","topics":["a/+","$queue/q"],"qos":1,"noLocal":true,"retained":"new"}"#,
    );
    let request = requests[0].as_ref().unwrap();
    assert_eq!(request.key, "a/+");
    assert_eq!(request.filter.as_str(), "a/+");
    assert_eq!(request.qos, QoS::AtLeastOnce);
    assert!(request.no_local && request.durable && !request.retain_as_published);
    assert_eq!(request.retain_handling, RetainHandling::SendIfNew);
    assert_eq!((request.lane, request.identifier), (Lane::Session, None));
    assert_eq!(requests[1].as_ref().unwrap().key, "$queue/q");

    let requests = subscribe(r#"{"type":"subscribe","topic":"a","share":"g","retained":"none"}"#);
    let request = requests[0].as_ref().unwrap();
    assert_eq!(request.key, "$share/g/a");
    assert_eq!(request.qos, QoS::AtMostOnce);
    assert_eq!(request.retain_handling, RetainHandling::DoNotSend);

    let requests = subscribe(r#"{"type":"join","group":"g","qos":1}"#);
    assert_eq!(requests[0].as_ref().unwrap().key, "$group/g");
}

#[test]
fn filters_that_are_none_keep_their_place() {
    for frame in [
        r#"{"type":"subscribe","topic":"a#"}"#,
        r#"{"type":"subscribe","topic":""}"#,
        r#"{"type":"subscribe","topic":"a","share":""}"#,
        r#"{"type":"subscribe","topic":"b/c","share":"g/a"}"#,
        r#"{"type":"subscribe","topic":"$share/h/a","share":"g"}"#,
        r#"{"type":"subscribe","topic":"a","share":"g","noLocal":true}"#,
        r#"{"type":"subscribe","topic":"$share/g/a","noLocal":true}"#,
    ] {
        let refusal = subscribe(frame).remove(0).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::FilterInvalid, "{frame}");
    }
    let both = r#"exactly one of \"topic\" and \"topics\" must be there"#;
    invalid(r#"{"type":"subscribe","topic":"a","topics":["b"]}"#, both);
    invalid(r#"{"type":"unsubscribe"}"#, both);
    invalid(
        r#"{"type":"subscribe","topics":[]}"#,
        r#"\"topics\" must be an array with at least one element"#,
    );
    invalid(
        r#"{"type":"subscribe","topics":"a"}"#,
        r#"\"topics\" must be an array"#,
    );
    invalid(
        r#"{"type":"subscribe","topics":[1]}"#,
        r#"\"topics\" must be a string"#,
    );
    invalid(
        r#"{"type":"subscribe","topic":"a","retained":"all"}"#,
        r#"\"retained\" must be \"send\", \"new\" or \"none\""#,
    );
    invalid(r#"{"type":"join"}"#, r#"\"group\" is missing"#);
    let many = vec!["\"a\""; 101].join(",");
    let told = answer(&format!(r#"{{"type":"subscribe","topics":[{many}]}}"#));
    assert_eq!(
        told,
        r#"{"type":"error","code":"tooLarge","message":"\"topics\" has more than 100 elements"}"#
    );
}

#[test]
fn unsubscribe_names_what_subscribe_named() {
    let mut client = Client::logged_in();
    client.send(r#"{"type":"unsubscribe","topics":["a","b"],"share":"g"}"#);
    client.send(r#"{"type":"leave","group":"g"}"#);
    for expected in [vec!["$share/g/a", "$share/g/b"], vec!["$group/g"]] {
        let Command::Unsubscribe { keys, token } = client.take() else {
            panic!("no unsubscribe")
        };
        assert_eq!(keys.to_vec(), expected);
        let existed = keys.iter().map(|_| true).collect();
        client.reply(Reply::Unsubscribed { token, existed });
    }
    assert_eq!(
        client.frames(),
        [
            r#"{"type":"ack","results":[{"topic":"a","share":"g","existed":true},{"topic":"b","share":"g","existed":true}]}"#,
            r#"{"type":"ack","results":[{"group":"g","existed":true}]}"#,
        ]
    );
}

#[test]
fn messages_are_settled() {
    let settled = |frame: &str| {
        let mut client = Client::logged_in();
        client.send(frame);
        assert_eq!(client.frames(), [""; 0]);
        let settles: Vec<(bool, Settle)> =
            std::iter::from_fn(|| match client.commands.pop_front()? {
                Command::Settle { token, settle } => Some((token.is_some(), settle)),
                other => panic!("{other:?}"),
            })
            .collect();
        settles
    };
    let rejected = |position: Position, requeue| Settle::Rejected { position, requeue };
    assert_eq!(
        settled(r#"{"type":"ack","ackId":0}"#),
        [(false, Settle::Done(0))]
    );
    assert_eq!(
        settled(r#"{"type":"ack","ackId":7,"id":1}"#),
        [(true, Settle::Done(7))]
    );
    let largest = format!(r#"{{"type":"ack","ackId":"{}"}}"#, u64::MAX);
    assert_eq!(settled(&largest), [(false, Settle::Done(u64::MAX))]);
    assert_eq!(
        settled(r#"{"type":"ack","ackIds":[1,"2"]}"#),
        [(false, Settle::Done(1)), (false, Settle::Done(2))]
    );
    assert_eq!(
        settled(r#"{"type":"nack","ackId":3}"#),
        [(false, rejected(3, true))]
    );
    assert_eq!(
        settled(r#"{"type":"nack","ackId":3,"requeue":false}"#),
        [(false, rejected(3, false))]
    );
    let mut client = Client::logged_in();
    client.send(r#"{"type":"nack","ackIds":[1,2],"id":1}"#);
    let Command::Transaction { commands, .. } = client.take() else {
        panic!("no transaction")
    };
    assert_eq!(commands.len(), 2);
    let wrong = r#"\"ackId\" must be what a message gave as its \"ackId\""#;
    for id in ["-1", "1.5", "true", "\"x\"", "[1]"] {
        invalid(&format!(r#"{{"type":"ack","ackId":{id}}}"#), wrong);
    }
    invalid(
        r#"{"type":"ack"}"#,
        r#"exactly one of \"ackId\" and \"ackIds\" must be there"#,
    );
    let many = vec!["1"; 1025].join(",");
    assert!(answer(&format!(r#"{{"type":"ack","ackIds":[{many}]}}"#)).contains("tooLarge"));
}

#[test]
fn a_client_that_never_gets_answers_is_bounded() {
    let mut client = Client::logged_in();
    for _ in 0..4096 {
        client.send(r#"{"type":"publish","id":1,"topic":"a"}"#);
    }
    assert_eq!(client.frames(), [""; 0]);
    client.commands.clear();
    client.send(r#"{"type":"publish","id":2,"topic":"a"}"#);
    assert!(client.frame().contains(r#""id":2,"code":"quotaExceeded""#));
    assert!(client.commands.is_empty());
}

#[test]
fn silence_is_asked_about_and_then_ended() {
    let mut client = Client::logged_in();
    assert_eq!(client.connection.next_timeout(), Some(Timestamp(1_025_000)));
    client.now = Timestamp(1_020_000);
    client.send(r#"{"type":"pong"}"#);
    assert_eq!(client.connection.next_timeout(), Some(Timestamp(1_045_000)));
    client.time_out();
    assert_eq!(client.frame(), r#"{"type":"ping"}"#);
    assert_eq!(client.connection.next_timeout(), Some(Timestamp(1_055_000)));
    client.now = Timestamp(1_054_999);
    client.send(r#"{"type":"ack","ackId":1}"#);
    assert_eq!(
        client.connection.next_timeout(),
        Some(Timestamp(1_079_999)),
        "any frame will do"
    );
    client.time_out();
    client.frames();
    client.time_out();
    assert_eq!(
        client.frame(),
        r#"{"type":"disconnect","reason":"pingTimeout","message":"a ping was not answered","reconnect":true}"#
    );
    assert_eq!(
        client.closed.as_ref().map(|reason| reason.cause),
        Some(Cause::KeepAliveTimeout)
    );
}

#[test]
fn goodbye_takes_the_session_along_if_asked() {
    let mut client = Client::logged_in();
    client.send(r#"{"type":"disconnect","session":{"expiry":0}}"#);
    assert!(matches!(
        client.take(),
        Command::Disconnect {
            publish_will: false,
            session_expiry_secs: Some(0)
        }
    ));
    assert_eq!(
        client.closed.as_ref().map(|reason| reason.cause),
        Some(Cause::Normal)
    );
    let mut stranger = Client::new();
    stranger.send(r#"{"type":"disconnect"}"#);
    assert!(stranger.commands.is_empty() && stranger.closed.is_some());
}

#[test]
fn after_the_end_there_is_silence() {
    let mut client = Client::logged_in();
    let reason = CloseReason::new(Cause::TakenOver, "\"ann-1\" came again");
    client.connection.close(&reason, &mut client.outbox);
    assert_eq!(
        client.frame(),
        r#"{"type":"disconnect","reason":"takenOver","message":"\"ann-1\" came again","reconnect":false}"#
    );
    client.send(r#"{"type":"ping"}"#);
    client.notify(&Notice::Gap { dropped: 1 });
    client.reply(Reply::Settled {
        token: Token(1),
        result: Ok(()),
    });
    let delivered = client.deliver(message("a", b""), &How::default());
    assert_eq!(delivered, Delivered::NotSubscribed);
    client.connection.close(&reason, &mut client.outbox);
    assert_eq!(client.frames(), [""; 0]);
    assert_eq!(client.connection.next_timeout(), None);
}

#[test]
fn payloads_are_shown_as_what_they_are() {
    for (payload, content_type, expected) in [
        (
            &b"{\"a\":1}"[..],
            None,
            r#""dataType":"text","data":"{\"a\":1}""#,
        ),
        (
            b" [1e2] ",
            Some("application/json; charset=utf-8"),
            r#""dataType":"json","data":[1e2]"#,
        ),
        (
            b"1",
            Some("application/cloudevents+JSON"),
            r#""dataType":"json","data":1"#,
        ),
        (
            b"{oops",
            Some("application/json"),
            r#""dataType":"text","data":"{oops""#,
        ),
        (
            b"1e400",
            Some("application/json"),
            r#""dataType":"text","data":"1e400""#,
        ),
        (
            br#""\ud800""#,
            Some("application/json"),
            r#""dataType":"text","data":"\"\\ud800\"""#,
        ),
        (
            b"",
            Some("application/json"),
            r#""dataType":"text","data":"""#,
        ),
        (
            b"\xff",
            Some("application/json"),
            r#""dataType":"base64","data":"/w==""#,
        ),
        (
            b"text",
            Some("application/octet-stream"),
            r#""dataType":"base64","data":"dGV4dA==""#,
        ),
        (
            "\u{2028}\u{1}".as_bytes(),
            None,
            r#""dataType":"text","data":"\u2028\u0001""#,
        ),
    ] {
        let mut message = message("t", payload);
        message.properties = content_type.map(|content_type| {
            Box::new(Properties {
                content_type: Some(content_type.into()),
                ..Properties::default()
            })
        });
        let mut client = Client::logged_in();
        assert_eq!(client.deliver(message, &How::default()), Delivered::Written);
        let frame = client.frame();
        let start = format!(r#"{{"type":"message","topic":"t",{expected}"#);
        assert!(frame.starts_with(&start), "{frame} is not {start}");
        assert!(
            serde_json::from_str::<serde_json::Value>(&frame).is_ok(),
            "{frame}"
        );
    }
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let mut message = message("t", deep.as_bytes());
    message.properties = Some(Box::new(Properties {
        content_type: Some("application/json".into()),
        ..Properties::default()
    }));
    let mut client = Client::logged_in();
    let _ = client.deliver(message, &How::default());
    assert!(client.frame().contains(r#""dataType":"text""#));
}

#[test]
fn nothing_from_other_protocols_breaks_out_of_its_string() {
    let mut message = message("a\"},\n{\"\\/\u{1b}[31m", b"x");
    message.properties = Some(Box::new(Properties {
        user: vec![("n\"\r\n".into(), "v\":\0\u{2028}".into())],
        content_type: Some("t\"".into()),
        reply_to: Some("r\"".into()),
        correlation: Some("c\"".into()),
    }));
    let mut client = Client::logged_in();
    let _ = client.deliver(message, &How::default());
    assert_eq!(
        client.frame(),
        concat!(
            r#"{"type":"message","topic":"a\"},\n{\"\\/\u001b[31m","dataType":"text","data":"x","#,
            r#""contentType":"t\"","correlationId":"c\"","replyTo":"r\"","#,
            r#""headers":{"n\"\r\n":"v\":\u0000\u2028"}}"#
        )
    );
}

#[test]
fn the_body_is_written_once_for_all_receivers() {
    let message = Arc::new(message("t", &vec![b'x'; 8192]));
    let mut outboxes = Vec::new();
    for position in [None, None, Some(1 << 53)] {
        let mut client = Client::logged_in();
        let delivery = Delivery {
            message: &message,
            qos: position.map_or(QoS::AtMostOnce, |_| QoS::AtLeastOnce),
            retain: false,
            position,
            attempts: 0,
            matched: &[],
        };
        let written = client
            .connection
            .deliver(&delivery, client.now, &mut client.outbox);
        assert_eq!(written, Delivered::Written);
        outboxes.push(client.outbox.take());
    }
    assert_eq!(outboxes[0][1].as_ptr(), outboxes[1][1].as_ptr());
    assert_eq!(outboxes[0][1].as_ptr(), outboxes[2][1].as_ptr());
    let head = std::str::from_utf8(&outboxes[2][0][4..]).unwrap();
    assert!(
        head.ends_with(r#"{"type":"message","qos":1,"ackId":"9007199254740992","#),
        "{head}"
    );
}

/// A topic is the same bytes in every protocol, and its marks are only marks.
#[test]
fn marks_follow_from_the_topic() {
    for (topic, mark) in [
        ("$group/g", r#""group":"g","#),
        ("$group/a/b", ""),
        ("$user/u", r#""user":"u","#),
        ("$user/u/a/b", r#""user":"u","#),
        ("$broadcast", r#""broadcast":true,"#),
        ("$broadcast/x", ""),
    ] {
        let mut client = Client::logged_in();
        let _ = client.deliver(message(topic, b""), &How::default());
        assert_eq!(
            client.frame(),
            format!(r#"{{"type":"message","topic":"{topic}",{mark}"dataType":"text","data":""}}"#)
        );
    }
}

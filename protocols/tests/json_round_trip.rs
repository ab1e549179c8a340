//! What is written is read back: frames to the server, messages to a client.

mod json_support;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use json_support::{Client, How, message};
use proptest::prelude::*;
use protocols::connection::{Command, RetainHandling};
use protocols::json::client::{self, ServerFrame};
use protocols::json::{
    ClientFrame, ConnectRequest, Content, Data, Expiry, Header, Id, Options, PublishRequest,
    Request, SubscribeRequest, Target,
};
use protocols::limits::Limits;
use protocols::model::{Properties, QoS, Timestamp};

type Text = Cow<'static, str>;

fn text() -> impl Strategy<Value = Text> {
    prop_oneof!["\\PC{0,12}", any::<String>()].prop_map(Cow::Owned)
}

/// Text that every protocol can carry.
fn portable() -> impl Strategy<Value = Text> {
    text().prop_map(|text| text.replace('\0', "").into())
}

fn json() -> impl Strategy<Value = Text> {
    prop_oneof![
        Just("null"),
        Just("-1.50e+3"),
        Just("[1, {\"a\":[]} ]"),
        Just("\"\\u0041\""),
    ]
    .prop_map(Cow::Borrowed)
}

fn bytes() -> impl Strategy<Value = Cow<'static, [u8]>> {
    prop::collection::vec(any::<u8>(), 0..12).prop_map(Cow::Owned)
}

fn data() -> impl Strategy<Value = Data<'static>> {
    prop_oneof![
        json().prop_map(Data::Json),
        text().prop_map(Data::Text),
        bytes().prop_map(Data::Binary),
    ]
}

/// Headers as they come back: repeats stand together.
fn headers() -> impl Strategy<Value = Vec<Header<'static>>> {
    let values = prop::collection::vec(portable(), 1..3);
    prop::collection::btree_map(portable(), values, 0..4).prop_map(|headers| {
        headers
            .into_iter()
            .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)))
            .collect()
    })
}

fn expiry() -> impl Strategy<Value = Expiry> {
    prop_oneof![
        (0..100_000_000u64).prop_map(|millis| Expiry::In(Duration::from_millis(millis))),
        any::<u64>().prop_map(|at| Expiry::At(Timestamp(at))),
    ]
}

fn content() -> impl Strategy<Value = Content<'static>> {
    let optional = prop::option::of::<BoxedStrategy<Text>>;
    (
        data(),
        optional(portable().boxed()),
        prop::option::of(bytes()),
        optional(portable().boxed()),
        headers(),
        prop::option::of(expiry()),
    )
        .prop_map(
            |(data, content_type, correlation, reply_to, headers, expiry)| Content {
                data,
                content_type,
                correlation,
                reply_to,
                headers,
                expiry,
            },
        )
}

fn target() -> impl Strategy<Value = Target<'static>> {
    prop_oneof![
        text().prop_map(Target::Topic),
        text().prop_map(Target::Group),
        (text(), prop::option::of(text())).prop_map(|(user, topic)| Target::User { user, topic }),
        Just(Target::Everyone),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let retained = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend),
    ];
    (0..2u8, any::<bool>(), retained).prop_map(|(qos, no_local, retained)| Options {
        qos,
        no_local,
        retained,
    })
}

fn connect() -> impl Strategy<Value = ConnectRequest<'static>> {
    let optional = || prop::option::of(text());
    (
        (optional(), optional(), optional(), optional()),
        prop::option::of(any::<bool>()),
        prop::option::of(any::<u32>()),
        prop::option::of(any::<u64>()),
    )
        .prop_map(|(words, clean_start, session_expiry_secs, in_flight)| {
            let (client_id, token, username, password) = words;
            ConnectRequest {
                client_id,
                token,
                username,
                password,
                clean_start,
                session_expiry_secs,
                in_flight,
            }
        })
}

fn publish() -> impl Strategy<Value = PublishRequest<'static>> {
    (
        target(),
        content(),
        prop::option::of(0..2u8),
        any::<bool>(),
        prop::option::of(text()),
    )
        .prop_map(
            |(target, content, qos, retain, idempotency_key)| PublishRequest {
                target,
                content,
                qos,
                retain,
                idempotency_key,
            },
        )
}

fn request() -> impl Strategy<Value = Request<'static>> {
    let topics = || prop::collection::vec(text(), 1..4);
    let share = || prop::option::of(text());
    let positions = || prop::collection::vec(any::<u64>(), 1..4);
    prop_oneof![
        connect().prop_map(|connect| Request::Connect(Box::new(connect))),
        (topics(), share(), options()).prop_map(|(topics, share, options)| {
            Request::Subscribe(SubscribeRequest {
                topics,
                share,
                options,
            })
        }),
        (topics(), share()).prop_map(|(topics, share)| Request::Unsubscribe { topics, share }),
        publish().prop_map(|publish| Request::Publish(Box::new(publish))),
        positions().prop_map(|positions| Request::Ack { positions }),
        (positions(), any::<bool>())
            .prop_map(|(positions, requeue)| Request::Nack { positions, requeue }),
        (text(), options()).prop_map(|(group, options)| Request::Join { group, options }),
        text().prop_map(|group| Request::Leave { group }),
        Just(Request::Ping),
        Just(Request::Pong),
        prop::option::of(any::<u32>()).prop_map(|session_expiry_secs| Request::Disconnect {
            session_expiry_secs
        }),
    ]
}

fn id() -> impl Strategy<Value = Id> {
    prop_oneof![
        any::<u64>().prop_map(Id::number),
        "\\PC{0,8}".prop_map(|text| Id::text(&text)),
    ]
}

/// The level a payload is delivered on again: declared JSON stays JSON, bytes stay bytes, text
/// stays text unless it says that it is something else.
fn natural(mut content: Content<'static>) -> Content<'static> {
    content.content_type = match content.data {
        Data::Json(_) => Some("application/json".into()),
        Data::Binary(_) => Some("application/octet-stream".into()),
        Data::Text(_) => None,
    };
    content.reply_to = content.reply_to.map(|_| "r".into());
    content.expiry = None;
    content
}

proptest! {
    #[test]
    fn client_frames_come_back(id in prop::option::of(id()), request in request()) {
        let frame = ClientFrame { id, request };
        let written = frame.to_json();
        let value: Result<serde_json::Value, _> = serde_json::from_str(&written);
        prop_assert!(value.is_ok(), "{}", written);
        prop_assert_eq!(ClientFrame::parse(&written, &Limits::default()), Ok(frame));
    }

    #[test]
    fn a_message_reaches_another_json_client_as_it_was(
        content in content().prop_map(natural),
        position in prop::option::of(any::<u64>()),
        (retain, attempts) in (any::<bool>(), 0..5u32),
    ) {
        let mut publisher = Client::logged_in();
        let request = PublishRequest {
            target: Target::Topic("a/b".into()),
            content: content.clone(),
            qos: None,
            retain: false,
            idempotency_key: None,
        };
        let request = Request::Publish(Box::new(request));
        publisher.send(&ClientFrame { id: None, request }.to_json());
        let Command::Publish(publish) = publisher.take() else { panic!("no publish") };

        let mut reader = Client::logged_in();
        let _ = reader.deliver(publish.message.copy(), &How { position, retain, attempts });
        let frame = reader.frame();
        let Ok(ServerFrame::Message(message)) = ServerFrame::parse(&frame) else {
            panic!("{frame}")
        };
        prop_assert_eq!(message.topic, "a/b");
        prop_assert_eq!(message.content, content);
        prop_assert_eq!(message.ack_id, position);
        prop_assert_eq!(message.retained, retain);
        prop_assert_eq!(message.delivery_count, u64::from(attempts) + 1);
    }

    #[test]
    fn any_message_is_one_frame_that_can_be_read(
        topic in "[^+#\\x00]{1,20}",
        payload in prop::collection::vec(any::<u8>(), 0..40),
        content_type in prop::option::of(text()),
        headers in prop::collection::vec((text(), text()), 0..4),
        correlation in prop::option::of(bytes()),
    ) {
        let mut sent = message(&topic, &payload);
        sent.properties = Some(Box::new(Properties {
            content_type: content_type.as_deref().map(Into::into),
            correlation: correlation.map(|bytes| Bytes::from(bytes.into_owned())),
            user: headers.iter().map(|(n, v)| (n.as_ref().into(), v.as_ref().into())).collect(),
            ..Properties::default()
        }));
        let mut reader = Client::logged_in();
        let _ = reader.deliver(sent, &How::default());
        let frame = reader.frame();
        let value: serde_json::Value = serde_json::from_str(&frame).expect(&frame);
        prop_assert_eq!(value["topic"].as_str(), Some(topic.as_str()));
    }

    #[test]
    fn no_answer_panics_a_client(frame in any::<String>()) {
        let _ = ServerFrame::parse(&frame);
    }
}

#[test]
fn a_client_reads_every_answer() {
    let mut server = Client::new();
    server.send(r#"{"type":"connect","id":1,"token":"t","session":{"expiry":60}}"#);
    server.obey();
    server.send(&client::subscribe(2, "a/#", Options::default()));
    server.send(&client::subscribe(3, "secret/x", Options::default()));
    server.send(r#"{"type":"subscribe","id":4,"topics":["a","secret/x"]}"#);
    server.send(&client::publish(
        Some(5),
        "a",
        Data::Text("x".into()).into(),
        1,
        false,
    ));
    server.send(&client::publish(
        None,
        "a",
        Data::Json("{}".into()).into(),
        0,
        true,
    ));
    server.send(r#"{"type":"ping","id":"p"}"#);
    server.send(&client::ack(9));
    server.send(&client::pong(None));
    server.obey();
    server.send(&client::disconnect());
    let frames = server.frames();
    let read: Vec<_> = frames
        .iter()
        .map(|frame| ServerFrame::parse(frame).unwrap())
        .collect();
    let ServerFrame::Connected(connected) = &read[0] else {
        panic!("{:?}", read[0])
    };
    assert_eq!(
        (connected.session_expiry_secs, connected.ping_interval_ms),
        (60, 25_000)
    );
    assert_eq!(connected.user.as_deref(), Some("ann"));
    assert_eq!(
        read[1],
        ServerFrame::Pong {
            id: Some(Id::text("p"))
        }
    );
    assert!(matches!(&read[2], ServerFrame::Ack { id, results, .. }
        if *id == Some(Id::number(2)) && results[0].name == "a/#" && results[0].error.is_none()));
    assert!(matches!(&read[3], ServerFrame::Error { id, code, .. }
        if *id == Some(Id::number(3)) && code == "notAuthorized"));
    assert!(matches!(&read[4], ServerFrame::Ack { results, .. }
        if results[1].error.as_ref().is_some_and(|(code, _)| code == "notAuthorized")));
    assert!(matches!(
        &read[5],
        ServerFrame::Ack {
            receivers: Some(3),
            ..
        }
    ));
    assert!(
        matches!(&read[6], ServerFrame::Disconnect { reason, reconnect: false, .. }
        if reason == "normal")
    );
    assert_eq!(read.len(), 7);
    let parse = |frame| ServerFrame::parse(frame).unwrap();
    assert_eq!(
        parse(r#"{"type":"gap","dropped":2}"#),
        ServerFrame::Gap { dropped: 2 }
    );
    assert_eq!(parse(r#"{"type":"ping"}"#), ServerFrame::Ping { id: None });
    assert_eq!(
        parse(r#"{"type":"news"}"#),
        ServerFrame::Other {
            kind: "news".into()
        }
    );
    assert!(
        matches!(parse(r#"{"type":"message","topic":"a","data":1,"expiresIn":3}"#),
        ServerFrame::Message(message) if message.content.expiry == Some(Expiry::In(Duration::from_secs(3))))
    );
}

#[test]
fn publishes_of_the_client_are_what_they_say() {
    let mut server = Client::logged_in();
    server.send(&client::publish(
        None,
        "a",
        Data::Binary(vec![0, 255].into()).into(),
        1,
        true,
    ));
    let Command::Publish(publish) = server.take() else {
        panic!("no publish")
    };
    assert_eq!(publish.message.qos, QoS::AtLeastOnce);
    assert!(publish.message.retain);
    assert_eq!(publish.message.payload, &[0, 255][..]);
}

#[test]
fn the_largest_correlation_comes_back() {
    for byte in [0, b'x', 0xff] {
        let mut sent = message("a", b"");
        sent.properties = Some(Box::new(Properties {
            correlation: Some(Bytes::from(vec![byte; 65_535])),
            ..Properties::default()
        }));
        let mut reader = Client::logged_in();
        let _ = reader.deliver(sent, &How::default());
        let frame = reader.frame();
        let Ok(ServerFrame::Message(message)) = ServerFrame::parse(&frame) else {
            panic!("{byte}")
        };
        assert_eq!(
            message.content.correlation.map(|bytes| bytes.len()),
            Some(65_535)
        );
    }
}

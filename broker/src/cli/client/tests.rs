//! Clients against brokers that play a script over a real socket.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use protocols::connection::RetainHandling;
use protocols::model::{Properties, QoS};
use protocols::mqtt::Version;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::*;

/// A broker's end of a byte stream.
struct Peer {
    socket: TcpStream,
    input: BytesMut,
}

impl Peer {
    /// Reads exactly these bytes.
    async fn expect(&mut self, bytes: &[u8]) {
        while self.input.len() < bytes.len() {
            let read = self.socket.read_buf(&mut self.input).await.unwrap();
            assert_ne!(read, 0, "closed, with {:?} left", self.input);
        }
        let got = self.input.split_to(bytes.len());
        assert_eq!(Bytes::from(got), Bytes::copy_from_slice(bytes));
    }

    /// Reads up to and including a byte.
    async fn until(&mut self, end: u8) -> String {
        loop {
            if let Some(at) = self.input.iter().position(|byte| *byte == end) {
                return String::from_utf8(self.input.split_to(at + 1).to_vec()).unwrap();
            }
            let read = self.socket.read_buf(&mut self.input).await.unwrap();
            assert_ne!(read, 0, "closed, with {:?} left", self.input);
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }
}

/// A broker that plays a script to its first client, and its URL.
async fn broker<F>(
    scheme: &str,
    script: impl FnOnce(Peer) -> F + Send + 'static,
) -> (String, JoinHandle<()>)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let playing = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let input = BytesMut::new();
        script(Peer { socket, input }).await;
    });
    (url, playing)
}

fn login() -> Login {
    Login {
        client_id: Some("me".to_owned()),
        username: None,
        password: None,
        version: Version::V311,
        keep_alive: Duration::from_mins(1),
        clean_start: true,
        session_expiry_secs: 0,
        will: None,
    }
}

async fn open(url: &str, login: &Login) -> Result<Box<dyn Client>> {
    let target = Target::parse(url, None).unwrap();
    connect(&target, login, &Trust::default()).await
}

fn message(qos: QoS) -> Outgoing {
    Outgoing {
        topic: "t".to_owned(),
        payload: Bytes::from_static(b"x"),
        qos,
        retain: false,
        properties: Properties::default(),
        expiry_secs: None,
    }
}

fn subscription(qos: QoS) -> Vec<Subscription> {
    vec![Subscription {
        filter: "t".to_owned(),
        qos,
        no_local: false,
        retained: RetainHandling::Send,
    }]
}

const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me";
const CONNACK: &[u8] = b"\x20\x02\x00\x00";

#[tokio::test]
async fn mqtt_publishes_at_every_level() {
    let (url, playing) = broker("mqtt", |mut peer| async move {
        peer.expect(CONNECT).await;
        peer.send(CONNACK).await;
        peer.expect(b"\x30\x04\x00\x01tx").await;
        peer.expect(b"\x32\x06\x00\x01t\x00\x01x").await;
        peer.expect(b"\x34\x06\x00\x01t\x00\x02x").await;
        peer.send(b"\x50\x02\x00\x02\x40\x02\x00\x01").await;
        peer.expect(b"\x62\x02\x00\x02").await;
        peer.send(b"\x70\x02\x00\x02").await;
        peer.expect(b"\xe0\x00").await;
    })
    .await;
    let mut client = open(&url, &login()).await.unwrap();
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish(message(qos)).await.unwrap();
    }
    client.settle().await.unwrap();
    client.close().await.unwrap();
    playing.await.unwrap();
}

#[tokio::test]
async fn mqtt_acknowledges_what_was_dealt_with_and_hands_nothing_out_twice() {
    let (url, playing) = broker("mqtt", |mut peer| async move {
        peer.expect(CONNECT).await;
        peer.send(CONNACK).await;
        peer.expect(b"\x82\x06\x00\x01\x00\x01t\x02").await;
        peer.send(b"\x90\x03\x00\x01\x02").await;
        // QoS 2, the same again, QoS 1.
        peer.send(b"\x34\x06\x00\x01t\x00\x07a").await;
        peer.send(b"\x3c\x06\x00\x01t\x00\x07a").await;
        peer.send(b"\x33\x06\x00\x01t\x00\x08b").await;
        peer.expect(b"\x50\x02\x00\x07\x50\x02\x00\x07").await;
        peer.expect(b"\x40\x02\x00\x08").await;
        peer.send(b"\x62\x02\x00\x07").await;
        peer.expect(b"\x70\x02\x00\x07\xe0\x00").await;
    })
    .await;
    let mut client = open(&url, &login()).await.unwrap();
    client
        .subscribe(subscription(QoS::ExactlyOnce))
        .await
        .unwrap();
    let first = client.next().await.unwrap();
    let second = client.next().await.unwrap();
    assert_eq!((&first.payload[..], first.retained), (&b"a"[..], false));
    assert_eq!((&second.payload[..], second.retained), (&b"b"[..], true));
    assert_eq!(second.qos, Some(QoS::AtLeastOnce));
    client.close().await.unwrap();
    playing.await.unwrap();
}

#[tokio::test]
async fn mqtt_5_keeps_to_what_the_broker_announces() {
    let mut login = login();
    login.version = Version::V5;
    let (url, _playing) = broker("mqtt", |mut peer| async move {
        peer.until(b'e').await;
        // Maximum QoS 1, receive maximum 1, maximum packet size 32.
        peer.send(b"\x20\x0d\x00\x00\x0a\x24\x01\x21\x00\x01\x27\x00\x00\x00\x20")
            .await;
        peer.expect(b"\x32\x07\x00\x01t\x00\x01\x00x").await;
        peer.send(b"\x40\x03\x00\x01\x97").await;
        peer.until(0xe0).await;
    })
    .await;
    let mut client = open(&url, &login).await.unwrap();
    let wrong = client.publish(message(QoS::ExactlyOnce)).await.unwrap_err();
    assert_eq!(wrong.to_string(), "the broker takes QoS 1 at most");
    let mut large = message(QoS::AtMostOnce);
    large.payload = Bytes::from_static(&[0; 64]);
    let wrong = client.publish(large).await.unwrap_err();
    assert_eq!(
        format!("{wrong:#}"),
        "cannot publish to t: the broker takes packets of at most 32 bytes, this one has 70"
    );
    client.publish(message(QoS::AtLeastOnce)).await.unwrap();
    let refused = client.publish(message(QoS::AtLeastOnce)).await.unwrap_err();
    assert_eq!(
        format!("{refused:#}"),
        "the broker refused a message: Quota exceeded (0x97)"
    );
}

#[tokio::test]
async fn mqtt_shows_that_it_is_alive() {
    let mut login = login();
    login.keep_alive = Duration::from_secs(1);
    let (url, playing) = broker("mqtt", |mut peer| async move {
        peer.expect(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x01\x00\x02me")
            .await;
        peer.send(CONNACK).await;
        peer.expect(b"\xc0\x00").await;
        peer.send(b"\xd0\x00").await;
        peer.expect(b"\xc0\x00").await;
    })
    .await;
    let mut client = open(&url, &login).await.unwrap();
    let ended = client.idle().await.unwrap_err();
    assert_eq!(ended.to_string(), "the broker closed the connection");
    playing.await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_told_in_the_brokers_words() {
    let (url, _playing) = broker("mqtt", |mut peer| async move {
        peer.expect(CONNECT).await;
        peer.send(b"\x20\x02\x00\x05").await;
    })
    .await;
    let Err(refused) = open(&url, &login()).await else {
        panic!("let in");
    };
    let place = url.trim_start_matches("mqtt://");
    assert_eq!(
        format!("{refused:#}"),
        format!(
            "cannot connect to {place} (MQTT): the broker did not accept the login: \
             Not authorized (0x87)"
        )
    );
    let (url, _playing) = broker("mqtt", |mut peer| async move {
        peer.send(b"HTTP/1.1 400 Bad Request\r\n").await;
        peer.until(b'e').await;
    })
    .await;
    let Err(refused) = open(&url, &login()).await else {
        panic!("let in");
    };
    assert!(format!("{refused:#}").contains("does not seem to speak MQTT"));
}

#[tokio::test]
async fn nobody_there_is_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("stomp://{}", listener.local_addr().unwrap());
    drop(listener);
    let Err(refused) = open(&url, &login()).await else {
        panic!("let in");
    };
    let text = format!("{refused:#}");
    assert!(text.contains("(STOMP): nothing listens there"), "{text}");
    assert!(text.contains("`polycast serve` starts one"), "{text}");
}

#[tokio::test]
async fn stomp_subscribes_and_acknowledges_by_version() {
    for (version, ack) in [
        ("1.2", "ACK\nid:a7\n\n\0"),
        ("1.1", "ACK\nmessage-id:m7\nsubscription:0\n\n\0"),
    ] {
        let (url, playing) = broker("stomp", move |mut peer| async move {
            let connect = peer.until(0).await;
            assert!(connect.starts_with("CONNECT\naccept-version:1.0,1.1,1.2\nhost:127.0.0.1\n"));
            let connected = format!("CONNECTED\nversion:{version}\nheart-beat:0,0\n\n\0\n");
            peer.send(connected.as_bytes()).await;
            let subscribe = peer.until(0).await;
            assert_eq!(
                subscribe,
                "SUBSCRIBE\nid:0\ndestination:/topic/t\nack:client-individual\nreceipt:1\n\n\0"
            );
            peer.send(b"RECEIPT\nreceipt-id:1\n\n\0").await;
            peer.send(
                b"MESSAGE\ndestination:/topic/t\nmessage-id:m7\nsubscription:0\nack:a7\n\
                  x:1\nx:2\ncontent-length:3\n\na\0b\0",
            )
            .await;
            assert_eq!(peer.until(0).await, ack);
            assert_eq!(peer.until(0).await, "DISCONNECT\nreceipt:2\n\n\0");
            peer.send(b"RECEIPT\nreceipt-id:2\n\n\0").await;
        })
        .await;
        let mut client = open(&url, &login()).await.unwrap();
        client
            .subscribe(subscription(QoS::AtLeastOnce))
            .await
            .unwrap();
        let message = client.next().await.unwrap();
        assert_eq!(
            (message.topic.as_str(), &message.payload[..]),
            ("t", &b"a\0b"[..])
        );
        assert_eq!(message.properties.user.len(), 2);
        client.close().await.unwrap();
        playing.await.unwrap();
    }
}

#[tokio::test]
async fn stomp_waits_for_receipts_and_tells_errors() {
    let (url, _playing) = broker("stomp", |mut peer| async move {
        peer.until(0).await;
        peer.send(b"CONNECTED\nversion:1.2\n\n\0").await;
        let send = peer.until(0).await;
        assert_eq!(
            send,
            "SEND\ndestination:/queue/q\nreceipt:1\ncontent-length:1\n\nx\0"
        );
        peer.send(b"ERROR\nmessage:no\nreceipt-id:1\n\nyou may not\0")
            .await;
    })
    .await;
    let mut client = open(&url, &login()).await.unwrap();
    let mut message = message(QoS::AtLeastOnce);
    message.topic = "/queue/q".to_owned();
    client.publish(message).await.unwrap();
    let refused = client.settle().await.unwrap_err();
    assert_eq!(refused.to_string(), "the broker answers: no: you may not");
}

#[tokio::test]
async fn json_speaks_over_web_socket() {
    let (url, playing) = broker("ws", |peer| async move {
        #[expect(clippy::result_large_err, reason = "the signature is the library's")]
        let offered = |request: &Request, mut response: Response| {
            assert_eq!(
                request.headers()["sec-websocket-protocol"],
                "polycast.json.v1"
            );
            response.headers_mut().insert(
                "sec-websocket-protocol",
                HeaderValue::from_static("polycast.json.v1"),
            );
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(peer.socket, offered)
            .await
            .unwrap();
        for (want, answer) in [
            (
                "\"type\":\"connect\"",
                r#"{"type":"connected","connectionId":"c"}"#,
            ),
            ("\"type\":\"subscribe\"", r#"{"type":"ack","id":1}"#),
        ] {
            let frame = socket.next().await.unwrap().unwrap().into_text().unwrap();
            assert!(frame.contains(want), "{frame}");
            socket.send(Message::text(answer)).await.unwrap();
        }
        for answer in [
            r#"{"type":"ping","id":9}"#,
            r#"{"type":"message","topic":"t","data":{"a":1},"ackId":5}"#,
        ] {
            socket.send(Message::text(answer)).await.unwrap();
        }
        for want in ["\"pong\"", "\"ack\"", "\"disconnect\""] {
            let frame = socket.next().await.unwrap().unwrap().into_text().unwrap();
            assert!(frame.contains(want), "{frame}");
        }
    })
    .await;
    let mut client = open(&url, &login()).await.unwrap();
    client
        .subscribe(subscription(QoS::AtLeastOnce))
        .await
        .unwrap();
    let message = client.next().await.unwrap();
    assert_eq!(&message.payload[..], br#"{"a":1}"#);
    client.close().await.unwrap();
    playing.await.unwrap();
}

#[tokio::test]
async fn a_refused_web_socket_is_told_with_its_body() {
    let (url, _playing) = broker("ws", |mut peer| async move {
        while !peer.until(b'\n').await.trim().is_empty() {}
        peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length:4\r\n\r\nnope")
            .await;
    })
    .await;
    let Err(refused) = open(&url, &login()).await else {
        panic!("let in");
    };
    let text = format!("{refused:#}");
    assert!(
        text.ends_with("(JSON): the server refused the WebSocket: 400 Bad Request nope"),
        "{text}"
    );
}

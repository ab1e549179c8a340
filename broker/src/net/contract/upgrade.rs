//! Stories of the first request on the HTTP port. These need sockets, but no timing.

use std::time::Duration;

use protocols::connection::{Cause, CloseReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::world::{LOGIN, World, until};
use crate::net::socket::Socket;
use crate::net::{Ends, greeting};

/// A handshake of RFC 6455 §1.3, without its last line.
const UPGRADE: &str = "GET /any HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n";

const ACCEPT: &str = "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

/// A CONNECT of MQTT 3.1.1 in a frame whose mask is zero.
const LOG_IN: &[u8] = b"\x82\x8f\0\0\0\0\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01a";
const LOGGED_IN: &[u8] = b"\x82\x04\x20\x02\0\0";

/// A connection to the HTTP port, and its task.
async fn connect(world: &World) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).await.unwrap();
    let (socket, peer) = listener.accept().await.unwrap();
    let permit = world.net.admission.admit(peer.ip()).unwrap();
    let ends = Ends {
        peer,
        is_local: true,
        on_loopback: true,
        is_tls: false,
        certificate_user: None,
    };
    let meeting = greeting::meet(world.net.clone(), Socket::Plain(socket), ends, permit);
    (client, tokio::spawn(meeting))
}

/// Reads so many bytes, or up to the end.
async fn read(client: &mut TcpStream, most: usize) -> Vec<u8> {
    let mut all = vec![0; most];
    let mut length = 0;
    while length < most {
        match client.read(&mut all[length..]).await {
            Ok(bytes) if bytes > 0 => length += bytes,
            _ => break,
        }
    }
    all.truncate(length);
    all
}

async fn read_head(client: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_plain_upgrade_is_answered_in_whatever_pieces_it_comes() {
    for at in [0, 1, 40, UPGRADE.len()] {
        let world = World::new();
        let (mut client, meeting) = connect(&world).await;
        client.write_all(&UPGRADE.as_bytes()[..at]).await.unwrap();
        if at > 0 {
            until("it waits", || !world.net.timers.is_empty()).await;
        }
        client.write_all(&UPGRADE.as_bytes()[at..]).await.unwrap();
        // What comes behind it is the connection's.
        client.write_all(b"\r\n").await.unwrap();
        client.write_all(LOG_IN).await.unwrap();
        let head = read_head(&mut client).await;
        let begin = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\
            connection: Upgrade\r\n";
        let end = "sec-websocket-protocol: mqtt\r\n\r\n";
        assert_eq!(head, format!("{begin}{ACCEPT}{end}"));
        assert_eq!(read(&mut client, LOGGED_IN.len()).await, LOGGED_IN);
        meeting.await.unwrap();
        let counted = "ws_negotiation_total{offered=\"mqtt\",result=\"accepted\"}";
        assert_eq!(world.count(counted), 1);
        assert_eq!(world.net.admission.connections(), 1);
        assert_eq!(world.net.admission.half_open(), (0, 0));
        drop(client);
        until("its place is free", || {
            world.net.admission.connections() == 0
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_no_plain_upgrade_is_answered_as_ever() {
    let much = "X: y\r\n".repeat(40);
    let bad = UPGRADE.replace("mqtt", "none");
    let elsewhere = format!("{UPGRADE}Origin: http://elsewhere.test\r\n");
    let old = UPGRADE.replace("HTTP/1.1", "HTTP/1.0");
    let cases = [
        ("GET /healthz HTTP/1.1\r\nHost: a\r\n".to_owned(), "200 OK"),
        (UPGRADE.replace("/any", "/any?a=b"), "101 Switching"),
        (
            format!("{UPGRADE}Authorization: Bearer a\r\n"),
            "101 Switching",
        ),
        (format!("{UPGRADE}{much}"), "101 Switching"),
        (bad, "400 Bad Request"),
        (elsewhere, "403 Forbidden"),
        (old, "400 Bad Request"),
        (UPGRADE.replace("GET", "POST"), "405 Method"),
        ("nonsense\r\n".to_owned(), "400 Bad Request"),
    ];
    for (request, answer) in cases {
        let world = World::new();
        let (mut client, _meeting) = connect(&world).await;
        let request = format!("{request}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut client).await;
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .or(head.strip_prefix("HTTP/1.0 "));
        let status = status.unwrap_or_else(|| panic!("{head}"));
        assert!(status.starts_with(answer), "{request}: {head}");
    }
}

#[tokio::test]
async fn requests_that_come_together_are_all_answered() {
    let world = World::new();
    let (mut client, _meeting) = connect(&world).await;
    let asked = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\nGET /none HTTP/1.1\r\nHost: a\r\n\
        Connection: close\r\n\r\n";
    client.write_all(asked.as_bytes()).await.unwrap();
    let answers = String::from_utf8(read(&mut client, 1 << 20).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 2, "{answers}");
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    for begun in ["", "GET /any HT"] {
        let world = World::new();
        let (mut client, meeting) = connect(&world).await;
        client.write_all(begun.as_bytes()).await.unwrap();
        until("it waits", || !world.net.timers.is_empty()).await;
        assert_eq!(world.net.admission.half_open().0, 1);
        world.pass(LOGIN / 2);
        assert!(!meeting.is_finished());
        world.pass(LOGIN / 2 + Duration::from_millis(200));
        meeting.await.unwrap();
        assert!(read(&mut client, 1).await.is_empty());
        assert_eq!(world.count("connections_refused_total{reason=\"http\"}"), 1);
        assert_eq!(world.net.admission.connections(), 0);
        assert!(world.net.timers.is_empty());
    }
}

#[tokio::test]
async fn who_has_asked_nothing_makes_room_and_is_not_waited_for_at_a_stop() {
    let world = World::new();
    let (mut client, meeting) = connect(&world).await;
    until("it waits", || !world.net.timers.is_empty()).await;
    world.net.stop(&CloseReason::new(Cause::Shutdown, ""));
    meeting.await.unwrap();
    assert!(read(&mut client, 1).await.is_empty());
    assert!(world.net.timers.is_empty());
}

#[tokio::test]
async fn who_has_gone_before_asking_leaves_nothing() {
    let world = World::new();
    let (client, meeting) = connect(&world).await;
    drop(client);
    meeting.await.unwrap();
    assert_eq!(world.net.admission.connections(), 0);
    assert_eq!(world.net.admission.half_open(), (0, 0));
    assert!(world.net.timers.is_empty());
    assert_eq!(world.count("connections_refused_total{reason=\"http\"}"), 0);
}

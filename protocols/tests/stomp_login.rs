//! Stories of STOMP logins and heart-beats, with byte arrays and a pretended clock.

mod stomp_support;

use protocols::Limits;
use protocols::connection::{Cause, Command, Connected, Overlap, Refusal, RefusalCode, Reply};
use protocols::model::Timestamp;
use stomp_support::{Peer, START, message};

const SERVER: &str = concat!("server:polycast/", env!("CARGO_PKG_VERSION"));

#[test]
fn the_highest_common_version_is_negotiated() {
    for (subprotocol, accept, version) in [
        (None, "accept-version:1.0,1.1,1.2\n", "1.2"),
        (None, "accept-version:1.1, 1.0,2.0\n", "1.1"),
        (None, "", "1.0"),
        (Some("stomp"), "accept-version:1.1\n", "1.1"),
        (Some("v11.stomp"), "accept-version:1.0,1.1,1.2\n", "1.1"),
        (Some("v10.stomp"), "", "1.0"),
    ] {
        let mut peer = Peer::open(subprotocol, Limits::default());
        peer.send(&format!("CONNECT\n{accept}host:h\n\n^@"));
        assert_eq!(peer.connect().protocol, format!("stomp {version}"));
        peer.reply(Reply::Connected(Connected::default()));
        let sent = peer.sent();
        let start = format!("CONNECTED\nversion:{version}\n{SERVER}\nsession:c1\n");
        assert!(sent.starts_with(&start), "{sent}");
        assert_eq!(sent.contains("heart-beat:"), version != "1.0", "{sent}");
    }
}

#[test]
fn without_a_common_version_the_supported_ones_are_told() {
    for (subprotocol, accept, list) in [
        (None, "accept-version:2.0,1.3\n", "version:1.0,1.1,1.2"),
        (Some("v12.stomp"), "accept-version:1.0,1.1\n", "version:1.2"),
        (Some("v12.stomp"), "", "version:1.2"),
    ] {
        let mut peer = Peer::open(subprotocol, Limits::default());
        peer.send(&format!("STOMP\n{accept}\n^@"));
        peer.assert_error(Cause::ProtocolError, &["message:Unsupported version", list]);
    }
}

#[test]
fn the_login_carries_what_the_client_said() {
    let mut peer = Peer::new();
    peer.send(
        "STOMP\r\naccept-version:1.2\r\nhost:h\r\nlogin:u\r\npasscode:a\\tb:c\r\n\
         heart-beat:4000,0\r\n\r\n^@\r\n\n",
    );
    let connect = peer.connect();
    assert_eq!(connect.username.as_deref(), Some("u"));
    assert_eq!(
        connect.password.as_deref(),
        Some(&b"a\\tb:c"[..]),
        "not unescaped"
    );
    assert_eq!(connect.host.as_deref(), Some("h"));
    assert_eq!(connect.client_id, None);
    assert_eq!(
        (connect.clean_start, connect.session_expiry_secs),
        (true, 0)
    );
    assert_eq!(connect.overlap, Overlap::Each);
    assert_eq!(connect.keep_alive_secs, 10);
    assert_eq!(peer.unread(), 3, "what follows waits for the broker");
    peer.reply(Reply::Connected(Connected {
        user: Some("u\nevil:1".into()),
        ..Connected::default()
    }));
    assert_eq!(
        peer.sent(),
        format!(
            "CONNECTED\nversion:1.2\n{SERVER}\nsession:c1\nuser-name:u evil:1\n\
             heart-beat:1000,10000\n\n^@"
        )
    );
    assert_eq!(peer.unread(), 0);
}

#[test]
fn a_client_id_makes_the_session_durable() {
    for (header, expiry) in [
        ("", 7200),
        ("session-expiry:60\n", 60),
        ("session-expiry:4294967295\n", 7 * 24 * 3600),
    ] {
        let mut peer = Peer::new();
        peer.send(&format!(
            "CONNECT\naccept-version:1.2\nclient-id:me\n{header}\n^@"
        ));
        let connect = peer.connect();
        assert_eq!(connect.client_id.as_deref(), Some("me"));
        assert_eq!(
            (connect.clean_start, connect.session_expiry_secs),
            (false, expiry)
        );
        peer.reply(Reply::Connected(Connected {
            session_present: true,
            ..Connected::default()
        }));
        assert!(peer.sent().contains("\nsession-present:true\n"));
    }
    let mut peer = Peer::new();
    peer.send(&format!("CONNECT\nclient-id:{}\n\n^@", "x".repeat(257)));
    peer.assert_error(Cause::Refused, &["message:Client identifier not valid"]);
}

#[test]
fn a_1_0_login_may_have_spaces_behind_the_colon() {
    let mut peer = Peer::new();
    peer.send("CONNECT\nlogin: u\npasscode: p\n\n^@");
    let connect = peer.connect();
    assert_eq!(connect.username.as_deref(), Some("u"));
    assert_eq!(connect.password.as_deref(), Some(&b"p"[..]));
}

#[test]
fn a_refused_login_is_an_error() {
    let mut peer = Peer::new();
    peer.send("CONNECT\naccept-version:1.2\n\n^@");
    peer.commands.clear();
    peer.reply(Reply::Refused(Refusal::new(
        RefusalCode::BadCredentials,
        "unknown user or wrong passcode",
    )));
    assert_eq!(
        peer.sent(),
        "ERROR\nmessage:Bad credentials\ncontent-type:text/plain\ncontent-length:31\n\n\
         unknown user or wrong passcode\n^@"
    );
    assert_eq!(peer.close.unwrap().cause, Cause::Unauthorized);
}

#[test]
fn s1_nothing_but_connect_comes_first() {
    for frame in [
        "SEND\ndestination:/topic/a\nreceipt:r1\n\nx^@",
        "SUBSCRIBE\nid:1\ndestination:/topic/a\nreceipt:r1\n\n^@",
        "DISCONNECT\nreceipt:r1\n\n^@",
    ] {
        let mut peer = Peer::new();
        peer.send(frame);
        let lines = ["message:Not connected", "receipt-id:r1"];
        peer.assert_error(Cause::ProtocolError, &lines);
    }
}

#[test]
fn s2_no_room_is_made_for_a_claimed_length() {
    let mut peer = Peer::new();
    peer.send("SEND\ndestination:/topic/a\ncontent-length:268435455\n\n");
    peer.assert_error(Cause::TooLarge, &["message:Frame too large"]);
}

#[test]
fn bytes_of_another_protocol_end_the_connection_at_once() {
    for bytes in [
        &b"\x10\x0c\x00\x04MQTT"[..],
        b"\x16\x03\x01\x02",
        b"GET ",
        b"{\"type\"",
        b"CONNECTAGAIN",
    ] {
        let mut peer = Peer::new();
        peer.send_bytes(bytes);
        peer.assert_error(Cause::Malformed, &["message:Malformed frame"]);
    }
}

#[test]
fn the_login_has_a_deadline_in_total() {
    let mut peer = Peer::new();
    for _ in 0..9 {
        peer.pass(1000);
        peer.send("\n");
    }
    peer.send("CONNECT\n");
    assert_eq!(
        peer.connection.next_timeout(),
        Some(Timestamp(START + 10_000))
    );
    peer.pass(1000);
    peer.assert_error(Cause::LoginTimeout, &["message:Login timeout"]);
}

#[test]
fn login_mistakes_are_errors() {
    for (headers, message) in [
        ("receipt:1\n", "message:Receipt not allowed"),
        ("heart-beat:1\n", "message:Invalid header"),
        ("heart-beat:-1,0\n", "message:Invalid header"),
        ("client-id:a\nsession-expiry:x\n", "message:Invalid header"),
    ] {
        let mut peer = Peer::new();
        peer.send(&format!("CONNECT\naccept-version:1.2\n{headers}\n^@"));
        peer.assert_error(Cause::ProtocolError, &[message]);
    }
    let mut peer = Peer::connected("1.2");
    peer.send("CONNECT\naccept-version:1.2\n\n^@");
    peer.assert_error(Cause::ProtocolError, &["message:Already connected"]);
}

#[test]
fn a_beat_is_sent_only_if_nothing_else_was() {
    let mut peer = Peer::connected_with("1.1", "heart-beat:0,4000\n", Limits::default());
    peer.subscribe("id:1\ndestination:/topic/a", 1);
    peer.pass(2999);
    assert_eq!(peer.sent(), "");
    peer.deliver(message("a", "x"), 1, None);
    peer.pass(2999);
    assert_eq!(peer.sent(), "", "the message was as good");
    peer.pass(1);
    assert_eq!(peer.sent(), "\n");
    peer.pass(8_999);
    assert_eq!(
        peer.sent(),
        "\n",
        "one waits to be written: no more are piled up"
    );
    assert!(peer.close.is_none());
}

#[test]
fn no_beats_faster_than_the_floor_and_none_if_not_wanted() {
    let mut peer = Peer::connected_with("1.2", "heart-beat:0,1\n", Limits::default());
    assert_eq!(peer.connection.next_timeout(), Some(Timestamp(START + 750)));
    for headers in ["", "heart-beat:0,0\n"] {
        peer = Peer::connected_with("1.2", headers, Limits::default());
        assert_eq!(peer.connection.next_timeout(), None);
    }
    peer = Peer::connected_with("1.0", "heart-beat:5,5\n", Limits::default());
    assert_eq!(peer.connection.next_timeout(), None, "1.0 has none");
}

#[test]
fn a_silent_client_is_closed_after_twice_the_interval() {
    let mut peer = Peer::connected_with("1.2", "heart-beat:15000,0\n", Limits::default());
    for _ in 0..5 {
        peer.pass(29_999);
        peer.send("\n");
    }
    peer.pass(29_999);
    peer.send("SEN");
    assert!(peer.close.is_none(), "part of a frame is a sign of life");
    peer.pass(30_000);
    peer.assert_error(Cause::KeepAliveTimeout, &["message:Heart-beat timeout"]);
}

#[test]
fn the_servers_wish_is_the_longer_interval() {
    let peer = Peer::connected_with("1.2", "heart-beat:4000,0\n", Limits::default());
    assert_eq!(
        peer.connection.next_timeout(),
        Some(Timestamp(START + 20_000))
    );
}

// Clients of others.

#[test]
fn what_stompjs_sends_is_understood() {
    let mut peer = Peer::open(Some("v12.stomp"), Limits::default());
    peer.send("CONNECT\nlogin:u\naccept-version:1.2,1.1,1.0\nheart-beat:10000,10000\n\n^@");
    assert_eq!(peer.connect().host, None);
    peer.reply(Reply::Connected(Connected::default()));
    peer.sent();
    for _ in 0..3 {
        peer.pass(7500);
        assert_eq!(peer.sent(), "\n");
        peer.send("\n");
    }
    peer.subscribe("id:sub-0\ndestination:/topic/a\nack:client-individual", 1);
    peer.send("SEND\ndestination:/topic/a\ncontent-length:2\n\nhi^@");
    assert_eq!(peer.publish().message.payload, "hi");
    peer.deliver(stomp_support::message("a", "hi"), 1, Some(0));
    peer.send("ACK\nid:1-0\nsubscription:sub-0\n\n^@");
    assert!(matches!(peer.command(), Command::Settle { .. }));
}

#[test]
fn what_stomp_py_sends_is_understood() {
    let mut peer = Peer::new();
    peer.send(
        "STOMP\naccept-version:1.1\nheart-beat:4000,4000\nhost:localhost\npasscode:a:b\n\n^@",
    );
    let connect = peer.connect();
    assert_eq!(connect.password.as_deref(), Some(&b"a:b"[..]));
    peer.reply(Reply::Connected(Connected::default()));
    peer.sent();
    peer.subscribe("ack:client\ndestination:/queue/q\nid:1", 1);
    peer.send("SEND\ncontent-length:2\ndestination:/queue/q\npersistent:True\n\nhi^@");
    peer.commands.clear();
    peer.send("\n");
    peer.send("ACK\nmessage-id:1-0\nsubscription:1\n\n^@");
    assert!(matches!(peer.command(), Command::Settle { .. }));
    peer.send("UNSUBSCRIBE\nid:1\n\n^@DISCONNECT\nreceipt:d6c5\n\n^@");
    assert!(peer.close.is_none(), "the receipt waits for all before it");
}

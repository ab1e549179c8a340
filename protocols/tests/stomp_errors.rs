//! Stories of RECEIPT, DISCONNECT and ERROR, with byte arrays.

mod stomp_support;

use protocols::connection::{Cause, CloseReason, Command, Delivered, Reply, Token};
use protocols::{Limits, Outbox};
use stomp_support::{Peer, message, published};

#[test]
fn receipts_come_in_the_order_of_the_frames() {
    let mut peer = Peer::connected("1.2");
    peer.send(
        "SEND\ndestination:/topic/a\nreceipt:1\n\nx^@BEGIN\ntransaction:t\nreceipt:2\n\n^@\
         SEND\ndestination:/topic/a\n\nx^@DISCONNECT\nreceipt:3\n\n^@",
    );
    assert_eq!(peer.sent(), "", "the second waits for the first");
    let second = match peer.commands.remove(1) {
        Command::Publish(publish) => publish,
        other => panic!("{other:?}"),
    };
    let first = peer.publish();
    peer.reply(published(&first, Ok(1)));
    assert_eq!(
        peer.sent(),
        "RECEIPT\nreceipt-id:1\n\n^@RECEIPT\nreceipt-id:2\n\n^@"
    );
    assert!(peer.close.is_none());
    peer.reply(published(&second, Ok(1)));
    assert_eq!(peer.sent(), "RECEIPT\nreceipt-id:3\n\n^@");
    assert!(matches!(
        peer.command(),
        Command::Disconnect {
            publish_will: false,
            ..
        }
    ));
    assert_eq!(peer.close.unwrap().cause, Cause::Normal);
}

#[test]
fn nothing_is_read_or_written_after_disconnect() {
    let mut peer = Peer::connected("1.1");
    peer.subscribe("id:1\ndestination:/topic/a", 1);
    peer.send("SEND\ndestination:/topic/a\n\nx^@DISCONNECT\n\n^@SEND\ndestination:/topic/a\n\nx^@");
    let publish = peer.publish();
    assert_eq!(peer.unread(), 0);
    let (delivered, _) = peer.deliver_as(message("a", "x"), 1, None, false, 0);
    assert_eq!(delivered, Delivered::NotSubscribed, "it would be lost");
    peer.reply(published(&publish, Ok(0)));
    assert!(matches!(peer.command(), Command::Disconnect { .. }));
    assert_eq!(peer.sent(), "");
}

#[test]
fn unanswered_frames_are_bounded() {
    let limits = Limits {
        packet_bytes: 10_000,
        ..Limits::default()
    };
    let mut peer = Peer::connected_with("1.2", "", limits);
    for _ in 0..10 {
        peer.send(&format!(
            "SEND\ndestination:a\nreceipt:{}\n\n^@",
            "r".repeat(2000)
        ));
        if peer.close.is_some() {
            break;
        }
    }
    peer.commands.clear();
    peer.assert_error(Cause::Quota, &["message:Quota exceeded"]);
}

#[test]
fn frames_that_are_not_allowed_are_errors() {
    for (frame, message) in [
        ("MESSAGE\n\n^@", "message:Unknown command"),
        ("CONNECTED\nversion:1.2\n\n^@", "message:Unknown command"),
        ("HELLO\n\n^@", "message:Unknown command"),
        ("BEGIN\ntransaction:t\n\nbody^@", "message:Body not allowed"),
    ] {
        let mut peer = Peer::connected("1.2");
        peer.send(frame);
        peer.assert_error(Cause::ProtocolError, &[message]);
    }
    let mut peer = Peer::connected("1.2");
    peer.send("BEGIN\ntransaction:t\nreceipt:1\n\n\n^@");
    assert_eq!(
        peer.sent(),
        "RECEIPT\nreceipt-id:1\n\n^@",
        "line ends are no body"
    );
}

#[test]
fn s16_hostile_frames_are_errors() {
    let long = "x".repeat(8 * 1024 + 1);
    let endless = "a:".to_owned() + &"x".repeat(8 * 1024);
    let many = "a:1\n".repeat(10_000);
    let body = "x".repeat(1024 * 1024);
    for (frame, cause, message) in [
        (long, Cause::TooLarge, "message:Frame too large"),
        (
            format!("SEND\n{endless}"),
            Cause::TooLarge,
            "message:Frame too large",
        ),
        (
            format!("SEND\n{many}\n^@"),
            Cause::TooLarge,
            "message:Frame too large",
        ),
        (
            format!("SEND\n\n{body}"),
            Cause::TooLarge,
            "message:Frame too large",
        ),
        (
            "SEND\ncontent-length:10737418240\n\n".into(),
            Cause::TooLarge,
            "message:Frame too large",
        ),
        (
            "SEND\ncontent-length:-1\n\n".into(),
            Cause::Malformed,
            "message:Malformed frame",
        ),
        (
            "SEND\ncontent-length:abc\n\n".into(),
            Cause::Malformed,
            "message:Malformed frame",
        ),
        (
            "SEND\ncontent-length:18446744073709551617\n\n".into(),
            Cause::Malformed,
            "message:Malformed frame",
        ),
        (
            "SEND\ncontent-length:1\n\nabc^@".into(),
            Cause::Malformed,
            "message:Malformed frame",
        ),
        (
            "SEND\nx:\\t\n\n^@".into(),
            Cause::Malformed,
            "message:Malformed frame",
        ),
        (
            "SEND\nnocolon\n\n^@".into(),
            Cause::Malformed,
            "message:Malformed frame",
        ),
    ] {
        let mut peer = Peer::connected("1.2");
        peer.send(&frame);
        peer.assert_error(cause, &[message]);
    }
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\nx:\\t\nreceipt:r\n\n^@");
    peer.assert_error(Cause::Malformed, &["receipt-id:r"]);
}

#[test]
fn before_login_frames_are_small() {
    let mut peer = Peer::new();
    peer.send(&format!("CONNECT\n\n{}", "x".repeat(64 * 1024)));
    peer.assert_error(Cause::TooLarge, &["message:Frame too large"]);
}

#[test]
fn the_broker_ends_a_connection_with_its_reason() {
    for (cause, message) in [
        (Cause::TakenOver, "Session taken over"),
        (Cause::Shutdown, "Server shutting down"),
        (Cause::SlowConsumer, "Slow consumer"),
        (Cause::Administrative, "Closed by administrator"),
        (Cause::Expired, "Credentials expired"),
        (Cause::WrongType, "Wrong WebSocket message type"),
    ] {
        let mut peer = Peer::connected("1.2");
        peer.connection
            .close(&CloseReason::new(cause, "why"), &mut peer.outbox);
        assert_eq!(
            peer.sent(),
            format!(
                "ERROR\nmessage:{message}\ncontent-type:text/plain\ncontent-length:4\n\nwhy\n^@"
            )
        );
        let mut again = Outbox::new();
        let reason = CloseReason::new(Cause::Shutdown, "");
        peer.connection.close(&reason, &mut again);
        assert!(again.is_empty(), "the last words are the last");
    }
    let mut peer = Peer::connected("1.2");
    let lost = CloseReason::new(Cause::Lost, "");
    peer.connection.close(&lost, &mut peer.outbox);
    assert_eq!(peer.sent(), "");
}

#[test]
fn late_answers_change_nothing() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:a\nreceipt:1\n\nx^@BAD\n\n^@");
    let publish = peer.publish();
    peer.assert_error(Cause::ProtocolError, &["message:Unknown command"]);
    peer.reply(published(&publish, Ok(1)));
    assert_eq!(peer.sent(), "");
    peer.reply(Reply::Settled {
        token: Token(99),
        result: Ok(()),
    });
    assert_eq!(peer.sent(), "");
}

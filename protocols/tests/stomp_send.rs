//! Stories of SEND and of STOMP transactions, with byte arrays.

mod stomp_support;

use bytestring::ByteString;
use protocols::Limits;
use protocols::connection::{Cause, Command, Refusal, RefusalCode, Reply, Settle};
use protocols::model::{Properties, QoS, Timestamp};
use stomp_support::{Peer, published};

#[test]
fn send_publishes_with_all_that_it_says() {
    let mut peer = Peer::connected("1.2");
    peer.send(
        "SEND\ndestination:/topic/a/b\ncontent-type:text/plain\ncorrelation-id:7\n\
         reply-to:/topic/r\nexpires:5000\nretain:true\nqos:2\nidempotency-key:k\n\
         x:1\nx:a\\nevil\\c1\nuser-ack:9\ncontent-length:3\n\na^@b^@",
    );
    let publish = peer.publish();
    assert!(publish.token.is_some());
    assert_eq!(publish.idempotency_key.as_deref(), Some("k"));
    let message = &publish.message;
    assert_eq!(message.topic.as_str(), "a/b");
    assert_eq!(message.payload, &b"a\0b"[..]);
    assert_eq!((message.qos, message.retain), (QoS::ExactlyOnce, true));
    assert_eq!(message.expires_at, Some(Timestamp(5000)));
    let user: Vec<(ByteString, ByteString)> = vec![
        ("x".into(), "1".into()),
        ("x".into(), "a\nevil:1".into()),
        ("ack".into(), "9".into()),
    ];
    assert_eq!(
        message.properties.as_deref(),
        Some(&Properties {
            content_type: Some("text/plain".into()),
            reply_to: Some("r".into()),
            correlation: Some("7".into()),
            user,
        })
    );
    peer.reply(published(&publish, Ok(1)));
    assert_eq!(peer.sent(), "", "no receipt was asked");
}

#[test]
fn the_quality_follows_what_the_sender_cares_for() {
    for (headers, qos) in [
        ("destination:/topic/a\n", QoS::AtMostOnce),
        ("destination:/topic/a\npersistent:True\n", QoS::AtLeastOnce),
        ("destination:/topic/a\nreceipt:1\n", QoS::AtLeastOnce),
        ("destination:/topic/a\nreceipt:1\nqos:0\n", QoS::AtMostOnce),
        ("destination:/queue/a\n", QoS::AtLeastOnce),
    ] {
        let mut peer = Peer::connected("1.1");
        peer.send(&format!("SEND\n{headers}\nx^@"));
        assert_eq!(peer.publish().message.qos, qos, "{headers}");
    }
}

#[test]
fn expiry_zero_is_never() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:a\nexpires:0\n\nx^@");
    let publish = peer.publish();
    assert_eq!(publish.message.expires_at, None);
    assert_eq!(publish.message.properties, None, "nothing to carry");
}

#[test]
fn send_mistakes_are_errors_with_the_receipt() {
    for (headers, message) in [
        ("", "message:Missing header"),
        ("destination:/exchange/x/y\n", "message:Invalid destination"),
        ("destination:/topic/a/+\n", "message:Invalid destination"),
        ("destination:/topic/a\nqos:3\n", "message:Invalid header"),
        (
            "destination:/topic/a\nretain:maybe\n",
            "message:Invalid header",
        ),
        (
            "destination:/topic/a\nexpires:soon\n",
            "message:Invalid header",
        ),
        (
            "destination:/topic/a\nreply-to:/app/x\n",
            "message:Invalid destination",
        ),
        (
            "destination:/topic/a\ntransaction:t\n",
            "message:Unknown transaction",
        ),
    ] {
        let mut peer = Peer::connected("1.2");
        peer.send(&format!("SEND\n{headers}receipt:r\\c1\n\nx^@"));
        peer.assert_error(Cause::ProtocolError, &[message, "receipt-id:r\\c1"]);
    }
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/exchange/x/y\n\n^@");
    assert!(
        peer.sent()
            .contains("/topic/NAME, /queue/NAME, /group/NAME")
    );
}

#[test]
fn user_properties_are_bounded() {
    let limits = Limits {
        user_properties: 2,
        ..Limits::default()
    };
    let mut peer = Peer::connected_with("1.2", "", limits);
    peer.send("SEND\ndestination:/topic/a\na:1\na:2\n\n^@");
    peer.publish();
    peer.send("SEND\ndestination:/topic/a\na:1\na:2\na:3\n\n^@");
    peer.assert_error(Cause::TooLarge, &["message:Frame too large"]);
}

#[test]
fn a_refused_send_is_an_error_with_its_receipt() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/topic/$SYS/x\nreceipt:7\n\nx^@");
    let publish = peer.publish();
    let refusal = Refusal::new(RefusalCode::NotAuthorized, "$SYS is read-only");
    peer.reply(published(&publish, Err(refusal)));
    peer.assert_error(Cause::Refused, &["message:Not authorized", "receipt-id:7"]);
}

#[test]
fn a_transaction_happens_at_commit() {
    let mut peer = Peer::connected("1.2");
    peer.subscribe("id:s\ndestination:/topic/a\nack:client-individual", 1);
    peer.send(
        "BEGIN\ntransaction:t\nreceipt:1\n\n^@\
         SEND\ndestination:/topic/b\ntransaction:t\nreceipt:2\n\nx^@\
         ACK\nid:1-7\ntransaction:t\nreceipt:3\n\n^@\
         NACK\nid:1-8\ntransaction:t\n\n^@",
    );
    assert!(peer.commands.is_empty());
    assert_eq!(
        peer.sent(),
        "RECEIPT\nreceipt-id:1\n\n^@RECEIPT\nreceipt-id:2\n\n^@RECEIPT\nreceipt-id:3\n\n^@"
    );
    peer.send("COMMIT\ntransaction:t\nreceipt:4\n\n^@");
    let Command::Transaction { token, commands } = peer.command() else {
        panic!("not a transaction")
    };
    assert!(matches!(&commands[0], Command::Publish(all) if all.message.topic.as_str() == "b"));
    assert!(matches!(
        &commands[1],
        Command::Settle {
            settle: Settle::Done(7),
            ..
        }
    ));
    assert!(matches!(
        &commands[2],
        Command::Settle {
            settle: Settle::Rejected {
                position: 8,
                requeue: true
            },
            ..
        }
    ));
    assert_eq!(peer.sent(), "");
    peer.reply(Reply::Committed {
        token,
        result: Ok(()),
    });
    assert_eq!(peer.sent(), "RECEIPT\nreceipt-id:4\n\n^@");
    peer.send("COMMIT\ntransaction:t\n\n^@");
    peer.assert_error(Cause::ProtocolError, &["message:Unknown transaction"]);
}

#[test]
fn an_aborted_transaction_never_happens() {
    let mut peer = Peer::connected("1.1");
    peer.send(
        "BEGIN\ntransaction:t\n\n^@SEND\ndestination:/topic/b\ntransaction:t\n\nx^@\
         ABORT\ntransaction:t\nreceipt:1\n\n^@BEGIN\ntransaction:t\n\n^@\
         COMMIT\ntransaction:t\nreceipt:2\n\n^@",
    );
    assert!(
        peer.commands.is_empty(),
        "an empty transaction asks for nothing"
    );
    assert_eq!(
        peer.sent(),
        "RECEIPT\nreceipt-id:1\n\n^@RECEIPT\nreceipt-id:2\n\n^@"
    );
}

#[test]
fn transactions_are_bounded_and_named() {
    let limits = Limits {
        stomp_transactions: 2,
        stomp_transaction_bytes: 1000,
        ..Limits::default()
    };
    let large = format!(
        "SEND\ndestination:/topic/b\ntransaction:t\n\n{}^@",
        "x".repeat(1000)
    );
    for (frame, cause, message) in [
        (
            "BEGIN\ntransaction:t\n\n^@",
            Cause::ProtocolError,
            "message:Duplicate transaction",
        ),
        (
            "BEGIN\n\n^@",
            Cause::ProtocolError,
            "message:Missing header",
        ),
        (
            "ABORT\ntransaction:x\n\n^@",
            Cause::ProtocolError,
            "message:Unknown transaction",
        ),
        (
            "BEGIN\ntransaction:2\n\n^@BEGIN\ntransaction:3\n\n^@",
            Cause::Quota,
            "message:Quota exceeded",
        ),
        (&large, Cause::Quota, "message:Quota exceeded"),
    ] {
        let mut peer = Peer::connected_with("1.2", "", limits.clone());
        peer.send("BEGIN\ntransaction:t\n\n^@");
        peer.send(frame);
        peer.assert_error(cause, &[message]);
    }
}

#[test]
fn many_small_acknowledgements_in_a_transaction_are_bounded_too() {
    let limits = Limits {
        stomp_transaction_bytes: 10_000,
        ..Limits::default()
    };
    let mut peer = Peer::connected_with("1.2", "", limits);
    peer.subscribe("id:s\ndestination:/topic/a\nack:client", 1);
    peer.send("BEGIN\ntransaction:t\n\n^@");
    for _ in 0..1000 {
        peer.send("ACK\nid:1-7\ntransaction:t\n\n^@");
        if peer.close.is_some() {
            break;
        }
    }
    peer.assert_error(Cause::Quota, &["message:Quota exceeded"]);
}

#[test]
fn a_refused_commit_is_an_error() {
    let mut peer = Peer::connected("1.2");
    peer.send(
        "BEGIN\ntransaction:t\n\n^@SEND\ndestination:/topic/b\ntransaction:t\n\nx^@\
         COMMIT\ntransaction:t\nreceipt:c\n\n^@",
    );
    let Command::Transaction { token, .. } = peer.command() else {
        panic!("not a transaction")
    };
    peer.reply(Reply::Committed {
        token,
        result: Err(Refusal::new(RefusalCode::NotAuthorized, "no")),
    });
    peer.assert_error(Cause::Refused, &["message:Not authorized", "receipt-id:c"]);
}

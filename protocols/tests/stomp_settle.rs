//! Stories of ACK and NACK, with byte arrays.

mod stomp_support;

use protocols::connection::{Cause, Command, Refusal, RefusalCode, Reply, Settle, SubscriptionId};
use stomp_support::{Peer, message};

#[test]
fn acknowledgements_follow_the_version_and_the_mode() {
    let through = |position| Settle::DoneThrough(SubscriptionId(1), position);
    let refused = |position| Settle::RejectedThrough(SubscriptionId(1), position);
    let single = |position, requeue| Settle::Rejected { position, requeue };
    for (version, mode, frame, expected) in [
        ("1.2", "client", "ACK\nid:1-7", through(7)),
        ("1.2", "client", "NACK\nid:1-7", refused(7)),
        (
            "1.2",
            "client",
            "NACK\nid:1-7\nrequeue:false",
            single(7, false),
        ),
        ("1.2", "client-individual", "ACK\nid:1-7", Settle::Done(7)),
        ("1.2", "client-individual", "NACK\nid:1-7", single(7, true)),
        (
            "1.2",
            "client-individual",
            "NACK\nid:1-7\nrequeue:false",
            single(7, false),
        ),
        (
            "1.1",
            "client",
            "ACK\nmessage-id:1-7\nsubscription:s",
            through(7),
        ),
        (
            "1.1",
            "client-individual",
            "NACK\nmessage-id:1-7\nsubscription:s",
            single(7, true),
        ),
        ("1.0", "client", "ACK\nmessage-id:1-7", through(7)),
        (
            "1.0",
            "client",
            "ACK\nmessage-id:1-7\nsubscription:s",
            through(7),
        ),
    ] {
        let mut peer = Peer::connected(version);
        peer.subscribe(&format!("id:s\ndestination:/topic/a\nack:{mode}"), 1);
        peer.deliver(message("a", "x"), 1, Some(7));
        peer.send(&format!("{frame}\nreceipt:r\n\n^@"));
        let Command::Settle { token, settle } = peer.command() else {
            panic!("not a settlement")
        };
        assert_eq!(settle, expected, "{version} {frame}");
        peer.reply(Reply::Settled {
            token: token.unwrap(),
            result: Ok(()),
        });
        assert_eq!(peer.sent(), "RECEIPT\nreceipt-id:r\n\n^@");
    }
}

#[test]
fn unknown_messages_cannot_be_acknowledged() {
    for (version, frame, message) in [
        ("1.2", "ACK\nid:9-7", "message:Unknown message"),
        ("1.2", "ACK\nid:nonsense", "message:Unknown message"),
        (
            "1.2",
            "ACK\nmessage-id:1-7\nsubscription:s",
            "message:Missing header",
        ),
        ("1.2", "ACK\nid:2-0-0", "message:Unexpected acknowledgement"),
        ("1.1", "ACK\nmessage-id:1-7", "message:Missing header"),
        (
            "1.1",
            "ACK\nmessage-id:1-7\nsubscription:auto",
            "message:Unknown message",
        ),
        ("1.0", "NACK\nmessage-id:1-7", "message:Unknown command"),
        (
            "1.2",
            "ACK\nid:1-7\ntransaction:t",
            "message:Unknown transaction",
        ),
    ] {
        let mut peer = Peer::connected(version);
        peer.subscribe("id:s\ndestination:/topic/a\nack:client", 1);
        peer.subscribe("id:auto\ndestination:/topic/a", 2);
        peer.send(&format!("{frame}\nreceipt:r\n\n^@"));
        peer.assert_error(Cause::ProtocolError, &[message, "receipt-id:r"]);
    }
}

#[test]
fn the_broker_knows_what_is_open() {
    let mut peer = Peer::connected("1.2");
    peer.subscribe("id:s\ndestination:/topic/a\nack:client-individual", 1);
    peer.send("ACK\nid:1-7\nreceipt:r\n\n^@");
    let Command::Settle { token, .. } = peer.command() else {
        panic!("not a settlement")
    };
    peer.reply(Reply::Settled {
        token: token.unwrap(),
        result: Err(Refusal::new(RefusalCode::Unknown, "not open")),
    });
    peer.assert_error(
        Cause::ProtocolError,
        &["message:Unknown message", "receipt-id:r"],
    );
}

#[test]
fn messages_of_quality_0_may_be_acknowledged_all_the_same() {
    let mut peer = Peer::connected("1.2");
    peer.subscribe("id:s\ndestination:/topic/a\nack:client", 1);
    peer.deliver(message("a", "x"), 1, Some(7));
    let sent = peer.deliver(message("a", "y"), 1, None);
    assert!(sent.contains("\nack:1-8-1\n"), "{sent}");
    peer.send("ACK\nid:1-8-1\nreceipt:r\n\n^@");
    let Command::Settle { token, settle } = peer.command() else {
        panic!("not a settlement")
    };
    assert_eq!(settle, Settle::DoneThrough(SubscriptionId(1), 7));
    peer.reply(Reply::Settled {
        token: token.unwrap(),
        result: Err(Refusal::new(RefusalCode::Unknown, "done before")),
    });
    assert_eq!(peer.sent(), "RECEIPT\nreceipt-id:r\n\n^@");

    peer.subscribe("id:i\ndestination:/topic/a\nack:client-individual", 2);
    peer.deliver(message("a", "y"), 2, None);
    peer.send("ACK\nid:2-0-2\nreceipt:q\n\n^@");
    assert!(peer.commands.is_empty());
    assert_eq!(peer.sent(), "RECEIPT\nreceipt-id:q\n\n^@");
}

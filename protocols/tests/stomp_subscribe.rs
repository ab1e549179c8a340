//! Stories of SUBSCRIBE, MESSAGE and temporary queues, with byte arrays.

mod stomp_support;

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use protocols::connection::{
    Cause, Command, Delivered, Delivery, Lane, Matched, Protocol, Refusal, RefusalCode, Reply,
    RetainHandling, Settle, SubscriptionId,
};
use protocols::model::{Properties, QoS};
use protocols::outbox::SHARE_BYTES;
use protocols::stomp::Stomp;
use protocols::{Limits, Outbox};
use stomp_support::{Peer, granted, message, published, subscribe_request};

#[test]
fn a_subscription_asks_for_what_its_headers_say() {
    let mut peer = Peer::connected_with("1.2", "client-id:me\n", Limits::default());
    let request = peer.subscribe("id:1\ndestination:/topic/a/#", 1);
    assert_eq!((&*request.key, request.filter.as_str()), ("1", "a/#"));
    assert_eq!(
        (request.qos, request.lane),
        (QoS::AtMostOnce, Lane::Session)
    );
    assert!(!request.durable && !request.no_local);
    let request = peer.subscribe(
        "id:2\ndestination:a/+\nack:client\nprefetch-count:5\ndurable:true\nshare:g\nno-local:true\n\
         retain-handling:2",
        2,
    );
    assert_eq!(request.filter.as_str(), "$share/g/a/+");
    assert_eq!(
        (request.qos, request.lane),
        (QoS::AtLeastOnce, Lane::Own { in_flight: 5 })
    );
    assert!(request.durable && request.no_local);
    assert_eq!(request.retain_handling, RetainHandling::DoNotSend);
    for (count, in_flight) in [
        ("", 32),
        ("\nprefetch-count:0", 1024),
        ("\nprefetch-count:99999", 1024),
    ] {
        let mut peer = Peer::connected("1.1");
        let headers = format!("id:3\ndestination:/queue/q\nack:client-individual{count}");
        let request = peer.subscribe(&headers, 3);
        assert_eq!(request.filter.as_str(), "$queue/q");
        assert_eq!(request.lane, Lane::Own { in_flight });
    }
}

#[test]
fn subscribe_mistakes_are_errors() {
    for (headers, message) in [
        ("destination:/topic/a\n", "message:Missing header"),
        ("id:1\n", "message:Missing header"),
        (
            "id:0\ndestination:/topic/b\n",
            "message:Duplicate subscription",
        ),
        (
            "id:1\ndestination:/topic/a\nack:maybe\n",
            "message:Invalid header",
        ),
        (
            "id:1\ndestination:/topic/a\nprefetch-count:x\n",
            "message:Invalid header",
        ),
        (
            "id:1\ndestination:/topic/a\ndurable:true\n",
            "message:Session not durable",
        ),
        (
            "id:1\ndestination:/topic/a\nshare:x/y\n",
            "message:Invalid header",
        ),
        (
            "id:1\ndestination:/topic/a\nretain-handling:3\n",
            "message:Invalid header",
        ),
        (
            "id:1\ndestination:/queue/+\n",
            "message:Invalid destination",
        ),
        (
            "id:1\ndestination:/topic/a+\n",
            "message:Invalid destination",
        ),
    ] {
        let mut peer = Peer::connected("1.1");
        peer.subscribe("id:0\ndestination:/topic/a", 1);
        peer.send(&format!("SUBSCRIBE\n{headers}receipt:r\n\n^@"));
        peer.assert_error(Cause::ProtocolError, &[message, "receipt-id:r"]);
    }
}

#[test]
fn a_refused_subscription_is_an_error() {
    let mut peer = Peer::connected("1.2");
    peer.send("SUBSCRIBE\nid:1\ndestination:/topic/secret\nreceipt:r\n\n^@");
    let (token, _) = peer.request();
    let refusal = Refusal::new(RefusalCode::NotAuthorized, "no");
    peer.reply(Reply::Subscribed {
        token,
        results: [Err(refusal)].into_iter().collect(),
    });
    peer.assert_error(Cause::Refused, &["message:Not authorized", "receipt-id:r"]);
}

#[test]
fn subscriptions_are_bounded() {
    let limits = Limits {
        subscriptions_per_session: 1,
        ..Limits::default()
    };
    let mut peer = Peer::connected_with("1.2", "", limits);
    peer.subscribe("id:1\ndestination:/topic/a", 1);
    peer.send("SUBSCRIBE\nid:2\ndestination:/topic/b\n\n^@");
    peer.assert_error(Cause::Quota, &["message:Quota exceeded"]);
}

#[test]
fn a_message_names_its_subscription_and_destination() {
    let mut peer = Peer::connected("1.2");
    peer.subscribe("id:s\\c1\ndestination:/topic/#", 4);
    peer.subscribe("id:bare\ndestination:a/+\nack:client", 5);
    assert_eq!(
        peer.deliver(message("a/b", "hi"), 4, None),
        "MESSAGE\nsubscription:s\\c1\nmessage-id:4-0-0\ndestination:/topic/a/b\n\
         content-length:2\n\nhi^@"
    );
    let (_, sent) = peer.deliver_as(message("a/b:c", "hi"), 5, Some(9), true, 2);
    assert_eq!(
        sent,
        "MESSAGE\nsubscription:bare\nmessage-id:5-9\nack:5-9\ndestination:a/b\\cc\n\
         retained:true\nredelivered:true\ndelivery-count:3\ncontent-length:2\n\nhi^@"
    );
}

#[test]
fn message_ids_are_never_the_same() {
    let mut peer = Peer::connected("1.1");
    peer.subscribe("id:1\ndestination:/topic/a", 1);
    let first = peer.deliver(message("a", "x"), 1, None);
    let second = peer.deliver(message("a", "x"), 1, None);
    assert_ne!(first, second);
}

#[test]
fn in_1_0_the_destination_names_a_subscription_without_id() {
    let mut peer = Peer::connected("1.0");
    let request = peer.subscribe("destination: /queue/q\nack:client", 1);
    assert_eq!(request.key, "/queue/q");
    assert_eq!(
        peer.deliver(message("$queue/q", "x"), 1, Some(0)),
        "MESSAGE\nmessage-id:1-0\ndestination:/queue/q\ncontent-length:1\n\nx^@"
    );
    peer.send("ACK\nmessage-id:1-0\n\n^@");
    let Command::Settle { settle, .. } = peer.command() else {
        panic!("not a settlement")
    };
    assert_eq!(settle, Settle::DoneThrough(SubscriptionId(1), 0));
    peer.send("UNSUBSCRIBE\ndestination:/queue/q\n\n^@");
    assert!(matches!(peer.command(), Command::Unsubscribe { keys, .. } if keys[0] == "/queue/q"));
}

#[test]
fn unsubscribing_ends_it_at_once() {
    let mut peer = Peer::connected("1.2");
    peer.subscribe("id:1\ndestination:/topic/a", 1);
    peer.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n^@");
    let Command::Unsubscribe { token, keys } = peer.command() else {
        panic!("not an UNSUBSCRIBE")
    };
    assert_eq!(keys[0], "1");
    let (delivered, sent) = peer.deliver_as(message("a", "x"), 1, None, false, 0);
    assert_eq!((delivered, &*sent), (Delivered::NotSubscribed, ""));
    peer.reply(Reply::Unsubscribed {
        token,
        existed: [true].into_iter().collect(),
    });
    assert_eq!(peer.sent(), "RECEIPT\nreceipt-id:u\n\n^@");
    peer.send("UNSUBSCRIBE\nid:1\n\n^@");
    peer.assert_error(Cause::ProtocolError, &["message:Unknown subscription"]);
}

#[test]
fn subscriptions_made_in_its_place_have_names_of_their_own() {
    let mut peer = Peer::connected("1.2");
    let given = |number| Matched {
        id: SubscriptionId(9),
        identifier: NonZeroU32::new(number),
    };
    let message = Arc::new(message("a/b", "hi"));
    let delivery = |matched, retain, position| Delivery {
        message: &message,
        qos: QoS::AtMostOnce,
        retain,
        position,
        attempts: 0,
        matched,
    };
    let (third, unknown) = ([given(3)], [given(0)]);
    let mut put = |delivery: Delivery<'_>| {
        let delivered = peer
            .connection
            .deliver(&delivery, peer.now, &mut peer.outbox);
        (delivered, peer.sent())
    };
    let (delivered, sent) = put(delivery(&third, true, None));
    assert_eq!(delivered, Delivered::Written);
    assert_eq!(
        sent,
        "MESSAGE\nsubscription:server-3\nmessage-id:0\ndestination:a/b\nretained:true\n\
         content-length:2\n\nhi^@"
    );
    // Nothing could acknowledge it; and one that was unsubscribed a moment ago is not given.
    for delivery in [
        delivery(&third, false, Some(4)),
        delivery(&unknown, false, None),
    ] {
        assert_eq!(put(delivery), (Delivered::NotSubscribed, String::new()));
    }
    peer.send("UNSUBSCRIBE\nid:server-3\n\n^@");
    assert!(matches!(peer.command(), Command::Unsubscribe { keys, .. } if keys[0] == "server-3"));
    peer.send("UNSUBSCRIBE\nid:server-x\n\n^@");
    peer.assert_error(Cause::ProtocolError, &["message:Unknown subscription"]);
}

#[test]
fn an_id_may_be_used_again_before_the_broker_answered() {
    let mut peer = Peer::connected("1.2");
    peer.send(
        "SUBSCRIBE\nid:1\ndestination:/topic/a\n\n^@UNSUBSCRIBE\nid:1\n\n^@\
         SUBSCRIBE\nid:1\ndestination:b\n\n^@",
    );
    let commands = std::mem::take(&mut peer.commands);
    let [first, second, third] = <[Command; 3]>::try_from(commands).unwrap();
    let Command::Unsubscribe { token, .. } = second else {
        panic!("not an UNSUBSCRIBE")
    };
    peer.reply(granted(subscribe_request(first).0, 1, QoS::AtMostOnce));
    peer.reply(Reply::Unsubscribed {
        token,
        existed: [true].into_iter().collect(),
    });
    let (delivered, _) = peer.deliver_as(message("a", "x"), 1, None, false, 0);
    assert_eq!(delivered, Delivered::NotSubscribed);
    peer.reply(granted(subscribe_request(third).0, 2, QoS::AtMostOnce));
    assert!(
        peer.deliver(message("b", "x"), 2, None)
            .contains("\ndestination:b\n")
    );
}

#[test]
fn a_resumed_subscription_waits_until_it_is_renewed() {
    let mut peer = Peer::connected_with("1.2", "client-id:me\n", Limits::default());
    let (delivered, sent) = peer.deliver_as(message("a", "x"), 3, Some(0), false, 1);
    assert_eq!((delivered, &*sent), (Delivered::NotSubscribed, ""));
    peer.subscribe("id:1\ndestination:/topic/a\nack:client\ndurable:true", 3);
    assert!(
        peer.deliver(message("a", "x"), 3, Some(0))
            .contains("\nack:3-0\n")
    );
}

#[test]
fn s17_s18_no_text_brings_a_header_of_its_own() {
    let hostile = "a\nevil:1\r\n\n\0b";
    let mut message = message("t\nevil:1", "x");
    message.properties = Some(Box::new(Properties {
        content_type: Some(hostile.into()),
        reply_to: Some(hostile.into()),
        user: vec![
            (hostile.into(), hostile.into()),
            ("message-id".into(), "1".into()),
        ],
        ..Properties::default()
    }));
    for (version, expected) in [
        (
            "1.0",
            "MESSAGE\nsubscription:1\nmessage-id:1-0-0\ndestination:/topic/t evil:1\n\
             content-type:a evil:1    b\nreply-to:/topic/a evil:1    b\n\
             a_evil_1____b:a evil:1    b\nuser-message-id:1\ncontent-length:1\n\nx^@",
        ),
        (
            "1.1",
            "MESSAGE\nsubscription:1\nmessage-id:1-0-0\ndestination:/topic/t\\nevil\\c1\n\
             content-type:a\\nevil\\c1 \\n\\n b\nreply-to:/topic/a\\nevil\\c1 \\n\\n b\n\
             a\\nevil\\c1_\\n\\n_b:a\\nevil\\c1 \\n\\n b\nuser-message-id:1\n\
             content-length:1\n\nx^@",
        ),
        (
            "1.2",
            "MESSAGE\nsubscription:1\nmessage-id:1-0-0\ndestination:/topic/t\\nevil\\c1\n\
             content-type:a\\nevil\\c1\\r\\n\\n b\nreply-to:/topic/a\\nevil\\c1\\r\\n\\n b\n\
             a\\nevil\\c1\\r\\n\\n_b:a\\nevil\\c1\\r\\n\\n b\nuser-message-id:1\n\
             content-length:1\n\nx^@",
        ),
    ] {
        let mut peer = Peer::connected(version);
        peer.subscribe("id:1\ndestination:/topic/#", 1);
        assert_eq!(peer.deliver(message.copy(), 1, None), expected, "{version}");
    }
}

#[test]
fn answers_come_to_a_temporary_queue_without_subscribing() {
    let mut peer = Peer::connected("1.2");
    peer.send("SEND\ndestination:/queue/service\nreply-to:/temp-queue/r\n\nx^@");
    assert_eq!(peer.commands.len(), 2, "a subscription, then the message");
    let (token, request) = subscribe_request(peer.commands.remove(0));
    assert_eq!(request.filter.as_str(), "$queue/temp/c1/r");
    assert_eq!(request.qos, QoS::AtMostOnce);
    let publish = peer.publish();
    peer.reply(granted(token, 8, QoS::AtMostOnce));
    peer.reply(published(&publish, Ok(1)));

    let mut service = Peer::connected("1.2");
    service.subscribe("id:1\ndestination:/queue/service", 1);
    let sent = service.deliver(publish.message.copy(), 1, None);
    assert!(sent.contains("\nreply-to:/queue/temp/c1/r\n"), "{sent}");

    service.send("SEND\ndestination:/queue/temp/c1/r\n\nanswer^@");
    let answer = service.publish().message;
    assert_eq!(answer.topic.as_str(), "$queue/temp/c1/r");
    let sent = peer.deliver(answer.copy(), 8, None);
    assert!(sent.contains("\nsubscription:/temp-queue/r\n"), "{sent}");
    assert!(sent.contains("\ndestination:/temp-queue/r\n"), "{sent}");

    peer.send("SEND\ndestination:/queue/service\nreply-to:/temp-queue/r\n\nx^@");
    peer.publish();
}

#[test]
fn a_temporary_queue_is_private() {
    let mut peer = Peer::connected("1.2");
    let request = peer.subscribe("id:1\ndestination:/temp-queue/mine", 1);
    assert_eq!(request.filter.as_str(), "$queue/temp/c1/mine");
    peer.send("SUBSCRIBE\nid:2\ndestination:/queue/temp/c2/theirs\n\n^@");
    peer.assert_error(Cause::Refused, &["message:Not authorized"]);
}

// The wire.

#[test]
fn a_large_body_is_shared_by_its_receivers() {
    let message = Arc::new(message("a", &"x".repeat(SHARE_BYTES)));
    for version in ["1.0", "1.2"] {
        let mut peer = Peer::connected(version);
        peer.subscribe("id:1\ndestination:/topic/a", 1);
        let delivered = peer.put(&message, 1, None, false, 0);
        assert_eq!(delivered, Delivered::Written);
        let pieces = peer.outbox.take();
        assert_eq!(pieces[1].as_ptr(), message.payload.as_ptr());
        assert_eq!(pieces[2], &b"\0"[..]);
    }
}

#[test]
fn on_websocket_a_frame_is_text_only_if_it_is_utf_8() {
    let mut peer = Peer::connected("1.2");
    peer.subscribe("id:1\ndestination:/topic/a", 1);
    let mut binary = message("a", "");
    binary.payload = Bytes::from_static(b"\xff");
    for (message, opcode) in [(message("a", "é"), 0x81), (binary, 0x82)] {
        peer.outbox = Outbox::web_socket(Stomp.web_socket_use());
        let message = Arc::new(message);
        let delivered = peer.put(&message, 1, None, false, 0);
        assert_eq!(delivered, Delivered::Written);
        assert_eq!(peer.outbox.take()[0][0], opcode);
    }
}

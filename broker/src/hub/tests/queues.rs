//! Queues: they keep messages without consumers, within their bounds.

use super::*;

#[test]
fn a_queue_keeps_messages_before_anybody_comes_and_after_all_have_gone() {
    let mut story = Story::new();
    assert_eq!(
        story.publish(message("$queue/jobs", "1", QoS::AtMostOnce)),
        1
    );
    let passing = || Connect {
        session_expiry_secs: 0,
        ..lasting("c")
    };
    let client = story.connect(passing());
    story.subscribe(&client, request("$queue/jobs", QoS::AtLeastOnce));
    assert_eq!(client.payloads(), ["1"]);
    story.leave(&client);
    story.publish(message("$queue/jobs", "2", QoS::AtLeastOnce));
    let back = story.connect(passing());
    story.subscribe(&back, request("$queue/jobs", QoS::AtLeastOnce));
    assert_eq!(back.payloads(), ["2"]);
}

#[test]
fn a_queue_gets_back_what_its_last_consumer_did_not_settle() {
    let mut story = Story::new();
    let passing = || Connect {
        session_expiry_secs: 0,
        ..lasting("c")
    };
    let client = story.connect(passing());
    story.subscribe(&client, request("$queue/jobs", QoS::AtLeastOnce));
    story.publish(message("$queue/jobs", "1", QoS::AtLeastOnce));
    assert_eq!(client.payloads(), ["1"]);
    story.leave(&client);
    let back = story.connect(passing());
    story.subscribe(&back, request("$queue/jobs", QoS::AtLeastOnce));
    assert_eq!(back.payloads(), ["1"]);
}

#[test]
fn a_message_that_a_consumer_rejects_goes_to_another() {
    let mut story = Story::new();
    let (one, two) = (story.connect(lasting("one")), story.connect(lasting("two")));
    for client in [&one, &two] {
        story.subscribe(client, request("$queue/jobs", QoS::AtLeastOnce));
    }
    // The second message went to two, so one would be asked first.
    for payload in ["1", "2"] {
        story.publish(message("$queue/jobs", payload, QoS::AtLeastOnce));
    }
    assert_eq!(
        (one.payloads(), two.payloads()),
        (vec!["1".into()], vec!["2".into()])
    );
    let again = Settle::Rejected {
        position: 0,
        requeue: true,
    };
    assert!(story.settle(&one, again));
    assert!(one.payloads().is_empty());
    assert_eq!(two.payloads(), ["1"]);
}

#[test]
fn a_queue_goes_on_when_a_consumer_that_never_acknowledges_has_read() {
    for (qos, auto_settle) in [(QoS::AtMostOnce, false), (QoS::AtLeastOnce, true)] {
        let mut story = Story::with(HubBounds {
            group: GroupBounds {
                memory_bytes: 1 << 16,
                stored_messages: 10,
                stored_bytes: 1 << 20,
                messages: 1000,
                bytes: 1 << 20,
                total_bytes: 1 << 24,
            },
            ..bounds()
        });
        let client = story.connect(lasting("c"));
        let lane = Lane::Own { in_flight: 4 };
        story.subscribe(
            &client,
            SubscribeRequest {
                lane,
                auto_settle,
                ..request("$queue/jobs", qos)
            },
        );
        for _ in 0..150 {
            story.publish(message("$queue/jobs", "x", QoS::AtLeastOnce));
        }
        assert_eq!(client.payloads().len(), 101, "what the outbox takes");
        assert!(
            client.session.lock().has_more(),
            "its task asks for more after a write"
        );
        client.reads(&mut story);
        assert_eq!(client.payloads().len(), 49);
        client.reads(&mut story);
        assert!(!client.session.lock().has_more());
    }
}

#[test]
fn a_message_too_large_for_a_consumer_holds_up_no_other() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("$queue/jobs", QoS::AtMostOnce));
    for payload in ["1", TOO_LARGE, "2"] {
        story.publish(message("$queue/jobs", payload, QoS::AtLeastOnce));
    }
    assert_eq!(client.payloads(), ["1", "2"]);
}

#[test]
fn a_temporary_queue_ends_with_its_connection_and_all_that_it_held() {
    let mut story = Story::new();
    let client = story.connect(Connect {
        session_expiry_secs: 0,
        ..lasting("c")
    });
    let queue = format!(
        "$queue/temp/{}/answers",
        crate::session::connection_id(client.link)
    );
    assert_eq!(story.publish(message(&queue, "early", QoS::AtLeastOnce)), 0);
    story.subscribe(&client, request(&queue, QoS::AtLeastOnce));
    for payload in ["1", "2", "3", "4", "5"] {
        assert_eq!(story.publish(message(&queue, payload, QoS::AtLeastOnce)), 1);
    }
    assert_eq!(client.payloads(), ["1", "2", "3", "4"]);
    story.leave(&client);
    assert!(story.hub.groups.lock().by_name.is_empty());
    assert_eq!(story.publish(message(&queue, "late", QoS::AtLeastOnce)), 0);
    assert!(
        story.hub.groups.lock().by_name.is_empty(),
        "nobody could ever read it"
    );
    assert_eq!(story.hub.backlog_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn queues_are_bounded_together() {
    let size = message("$queue/0", "x", QoS::AtLeastOnce).size();
    let mut story = Story::with(HubBounds {
        group: GroupBounds {
            memory_bytes: 1 << 16,
            stored_messages: 10,
            stored_bytes: 1 << 20,
            messages: 10,
            bytes: 3 * size,
            total_bytes: 4 * size,
        },
        ..bounds()
    });
    for queue in ["$queue/0", "$queue/0", "$queue/0", "$queue/1"] {
        assert_eq!(story.publish(message(queue, "x", QoS::AtLeastOnce)), 1);
    }
    for queue in ["$queue/1", "$queue/2"] {
        let next = message(queue, "x", QoS::AtLeastOnce);
        let refused = story.hub.publish(next, &mut story.batch).unwrap_err();
        assert_eq!(refused.code, RefusalCode::Quota);
    }
    assert_eq!(
        story.hub.groups.lock().by_name.len(),
        2,
        "an empty queue is forgotten"
    );
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("$queue/0", QoS::AtMostOnce));
    assert_eq!(story.hub.backlog_bytes.load(Ordering::Relaxed), size);
    assert_eq!(story.publish(message("$queue/2", "x", QoS::AtLeastOnce)), 1);
}

#[test]
fn what_is_too_old_makes_room_in_a_full_queue() {
    let mut story = Story::new();
    for number in 0..10 {
        let mut short = message("$queue/jobs", "short", QoS::AtLeastOnce);
        short.expires_at = (number != 0).then(|| story.batch.now.plus_secs(5));
        story.publish(short);
    }
    story.wait(6);
    assert_eq!(
        story.publish(message("$queue/jobs", "new", QoS::AtLeastOnce)),
        1
    );
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("$queue/jobs", QoS::AtLeastOnce));
    assert_eq!(client.payloads(), ["short", "new"]);
}

#[test]
fn a_queue_keeps_no_retained_message() {
    let mut story = Story::new();
    let mut kept = message("$queue/jobs", "x", QoS::AtLeastOnce);
    kept.retain = true;
    assert_eq!(story.publish(kept), 1);
    assert_eq!(story.hub.retained.stats().messages, 0);
}

#[test]
fn a_queue_gets_back_what_a_client_held_that_had_unsubscribed() {
    let mut story = Story::new();
    let client = story.connect(Connect {
        session_expiry_secs: 0,
        ..lasting("c")
    });
    story.subscribe(&client, request("$queue/jobs", QoS::AtLeastOnce));
    story.publish(message("$queue/jobs", "1", QoS::AtLeastOnce));
    let keys = ["$queue/jobs"];
    story
        .hub
        .unsubscribe(&client.session, &keys, &mut story.batch);
    story.leave(&client);
    let next = story.connect(lasting("next"));
    story.subscribe(&next, request("$queue/jobs", QoS::AtLeastOnce));
    assert_eq!(next.payloads(), ["1"]);
}

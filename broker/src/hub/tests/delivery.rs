//! What reaches a subscriber: which copies, in which order, and what waits or is left out.

use super::*;

#[test]
fn a_message_reaches_its_subscribers_and_nobody_else() {
    let mut story = Story::new();
    let (one, two) = (story.connect(lasting("one")), story.connect(lasting("two")));
    story.subscribe(&one, request("a/+", QoS::AtLeastOnce));
    story.subscribe(&two, request("b", QoS::AtLeastOnce));
    assert_eq!(story.publish(message("a/x", "1", QoS::AtMostOnce)), 1);
    assert_eq!(one.payloads(), ["1"]);
    assert!(two.payloads().is_empty());
    story
        .hub
        .unsubscribe(&one.session, &["a/+"], &mut story.batch);
    assert_eq!(story.publish(message("a/x", "2", QoS::AtMostOnce)), 0);
    assert!(one.payloads().is_empty());
}

#[test]
fn overlapping_subscriptions_give_one_copy_at_the_highest_level() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("a/#", QoS::AtMostOnce));
    story.subscribe(&client, request("a/b", QoS::ExactlyOnce));
    client.seen();
    story.publish(message("a/b", "x", QoS::AtLeastOnce));
    let seen = client.seen();
    assert!(
        matches!(&seen[..], [Seen::Message { qos: 1, ids: 2, .. }]),
        "one copy with both identifiers: {seen:?}"
    );
}

#[test]
fn what_waits_comes_in_order_and_says_that_it_was_sent_before() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("a", QoS::AtLeastOnce));
    for payload in ["1", "2"] {
        story.publish(message("a", payload, QoS::AtLeastOnce));
    }
    story.settle(&client, Settle::Done(0));
    story.leave(&client);
    story.publish(message("a", "3", QoS::AtLeastOnce));
    story.publish(message("a", "lost", QoS::AtMostOnce));
    let back = story.connect(lasting("c"));
    let seen = back.seen();
    assert_eq!(seen[0], Seen::Connected { present: true });
    let rest: Vec<_> = seen[1..]
        .iter()
        .map(|seen| match seen {
            Seen::Message {
                payload,
                attempts,
                position,
                ..
            } => (payload.as_str(), *attempts, position.unwrap()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(rest, [("2", 1, 1), ("3", 0, 2)]);
}

#[test]
fn a_received_message_is_not_sent_again_but_released() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("a", QoS::ExactlyOnce));
    story.publish(message("a", "1", QoS::ExactlyOnce));
    assert!(story.settle(&client, Settle::Received(0)));
    story.leave(&client);
    let back = story.connect(lasting("c"));
    assert_eq!(
        back.seen(),
        [Seen::Connected { present: true }, Seen::Released(0)]
    );
    assert!(story.settle(&back, Settle::Done(0)));
    assert!(!story.settle(&back, Settle::Done(0)), "only once");
}

#[test]
fn a_rejected_message_comes_again_or_goes() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    let lane = Lane::Own { in_flight: 2 };
    story.subscribe(
        &client,
        SubscribeRequest {
            lane,
            ..request("a", QoS::AtLeastOnce)
        },
    );
    story.publish(message("a", "1", QoS::AtMostOnce));
    let again = Settle::Rejected {
        position: 0,
        requeue: true,
    };
    assert!(story.settle(&client, again));
    assert_eq!(client.payloads(), ["1", "1"]);
    assert!(story.settle(
        &client,
        Settle::Rejected {
            position: 0,
            requeue: false
        }
    ));
    assert!(client.payloads().is_empty());
    assert_eq!(client.session.lock().queued(), (0, 0));
}

#[test]
fn a_slow_reader_loses_messages_at_most_once_and_is_told_how_many() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("a", QoS::AtMostOnce));
    client.seen();
    for _ in 0..150 {
        story.publish(message("a", "x", QoS::AtMostOnce));
    }
    let written = client.seen().len();
    assert_eq!(written, 101, "until the outbox holds more than its bound");
    client.reads(&mut story);
    assert_eq!(
        client.seen(),
        [Seen::Gap(49)],
        "as soon as it has read the rest"
    );
}

#[test]
fn acknowledged_messages_wait_for_a_slow_reader_within_bounds() {
    let mut story = Story::new();
    let client = story.connect(Connect {
        in_flight: 100,
        ..lasting("c")
    });
    story.subscribe(&client, request("a", QoS::AtLeastOnce));
    let mut accepted = 0;
    for _ in 0..20 {
        accepted += story.publish(message("a", "x", QoS::AtLeastOnce));
    }
    assert_eq!(accepted, 10, "the queue's bound");
    assert_eq!(client.session.lock().queued().0, 10);
}

#[test]
fn expired_messages_are_not_delivered() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("a", QoS::AtLeastOnce));
    story.leave(&client);
    let mut short = message("a", "short", QoS::AtLeastOnce);
    short.expires_at = Some(story.batch.now.plus_secs(5));
    story.publish(short);
    story.publish(message("a", "long", QoS::AtLeastOnce));
    story.wait(6);
    let back = story.connect(lasting("c"));
    assert_eq!(back.payloads(), ["long"]);
}

#[test]
fn a_batch_that_is_dropped_wakes_whom_it_was_to_wake() {
    struct Flag(std::sync::atomic::AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let flag = Arc::new(Flag(false.into()));
    let mut batch = Batch::new(Timestamp(0));
    batch.wake(Arc::clone(&flag).into());
    drop(batch);
    assert!(flag.0.load(Ordering::SeqCst));
}

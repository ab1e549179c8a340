//! Retained messages: what new subscriptions are given, and in which order.

use super::*;

#[test]
fn retained_messages_come_first_and_are_marked() {
    let mut story = Story::new();
    for (topic, payload) in [("r/1", "one"), ("r/2", "two")] {
        let mut message = message(topic, payload, QoS::AtLeastOnce);
        message.retain = true;
        story.publish(message);
    }
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("r/+", QoS::AtLeastOnce));
    let retained = client
        .seen()
        .into_iter()
        .filter(|seen| matches!(seen, Seen::Message { retain: true, .. }));
    assert_eq!(retained.count(), 2);
    let mut gone = message("r/1", "", QoS::AtMostOnce);
    gone.retain = true;
    story.publish(gone);
    client.seen();
    let if_new = SubscribeRequest {
        retain_handling: RetainHandling::SendIfNew,
        ..request("r/+", QoS::AtLeastOnce)
    };
    story.subscribe(&client, if_new);
    assert!(client.payloads().is_empty(), "it was there before");
    story.subscribe(&client, request("r/#", QoS::AtMostOnce));
    assert_eq!(client.payloads(), ["two"]);
}

#[test]
fn many_retained_messages_follow_the_window() {
    let mut story = Story::new();
    for number in 0..50 {
        let mut message = message(
            &format!("r/{number:02}"),
            &number.to_string(),
            QoS::AtLeastOnce,
        );
        message.retain = true;
        story.publish(message);
    }
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("r/#", QoS::AtMostOnce));
    let mut all = client.payloads();
    while all.len() < 50 {
        client.reads(&mut story);
        let more = client.payloads();
        assert!(!more.is_empty(), "stuck at {}", all.len());
        all.extend(more);
    }
    assert_eq!(all.len(), 50);
}

#[test]
fn retained_messages_that_were_promised_come_after_a_return() {
    let mut story = Story::new();
    for number in 0..8 {
        let mut message = message(
            &format!("r/{number}"),
            &number.to_string(),
            QoS::AtLeastOnce,
        );
        message.retain = true;
        story.publish(message);
    }
    let client = story.connect(lasting("c"));
    client.session.with_link(client.link, |link| {
        link.outbox.frame(FrameType::Binary, &[&[0; 600]]);
    });
    story.subscribe(&client, request("r/#", QoS::AtLeastOnce));
    assert!(
        client.payloads().is_empty(),
        "it has not read what is before"
    );
    story.leave(&client);
    let back = story.connect(lasting("c"));
    let mut all = back.payloads();
    for position in 0..8 {
        story.settle(&back, Settle::Done(position));
        all.extend(back.payloads());
    }
    assert_eq!(all, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[test]
fn retained_messages_wait_for_the_outbox_and_the_queue() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let mut story = Story::new();
        for number in 0..30 {
            let mut message = message(&format!("r/{number:02}"), &number.to_string(), qos);
            message.retain = true;
            story.publish(message);
        }
        story.frame_bytes = 400;
        let client = story.connect(lasting("c"));
        story.subscribe(&client, request("r/#", qos));
        let mut all = Vec::new();
        for position in 0..30 {
            client.reads(&mut story);
            all.extend(client.payloads());
            if qos > QoS::AtMostOnce {
                story.settle(&client, Settle::Done(position));
                all.extend(client.payloads());
            }
        }
        assert_eq!(all.len(), 30, "{qos:?}: {all:?}");
    }
}

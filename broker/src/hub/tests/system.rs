//! Stories of what the broker says about itself, and of what is counted on the way.

use std::time::Duration;

use super::*;
use crate::telemetry::Drop as DropReason;

fn values() -> Vec<(String, String)> {
    [("uptime", "7 seconds"), ("version", "x")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

#[test]
fn only_those_who_subscribed_are_told() {
    let mut story = Story::new();
    let (one, all) = (story.connect(lasting("one")), story.connect(lasting("all")));
    story.subscribe(&all, request("#", QoS::AtMostOnce));
    assert!(!story.hub.take_system_wanted());
    assert!(!story.hub.publish_system(values(), &mut story.batch));
    story.subscribe(&one, request("$SYS/broker/uptime", QoS::AtLeastOnce));
    assert!(story.hub.take_system_wanted());
    assert!(!story.hub.take_system_wanted(), "asked for once");
    assert!(story.hub.publish_system(values(), &mut story.batch));
    assert_eq!(one.payloads(), ["7 seconds"]);
    assert!(all.payloads().is_empty(), "# is not for $-topics");
    story.batch.finish(&story.hub.metrics);
    let dropped = story.hub.metrics.dropped(DropReason::NoSubscribers);
    assert_eq!(dropped.value(), 0, "what nobody wants is not published");
}

#[test]
fn acknowledged_and_redelivered_are_counted() {
    let mut story = Story::new();
    let client = story.connect(lasting("one"));
    story.subscribe(&client, request("a", QoS::AtLeastOnce));
    story.publish(message("a", "1", QoS::AtLeastOnce));
    story.publish(message("a", "2", QoS::AtLeastOnce));
    assert!(story.settle(&client, Settle::Done(0)));
    assert!(!story.settle(&client, Settle::Done(0)), "only once");
    story.leave(&client);
    let again = story.connect(lasting("one"));
    assert_eq!(again.payloads(), ["2"]);
    story
        .hub
        .settle_all(&again.session, &[1, 7], &mut story.batch);
    let counted = story.hub.metrics.protocol("test");
    assert_eq!(counted.redelivered.value(), 1);
    assert_eq!(counted.acknowledged.value(), 2);
    story.hub.gauge();
    assert_eq!(story.hub.metrics.sessions_connected.value(), 1);
}

#[test]
fn the_time_of_a_message_in_the_broker_is_counted_once_for_each_write() {
    let mut story = Story::new();
    let client = story.connect(lasting("one"));
    let mut kept = message("a", "kept", QoS::AtMostOnce);
    kept.retain = true;
    story.publish(kept);
    story.subscribe(&client, request("a", QoS::AtMostOnce));
    let oldest = |client: &Client| {
        let read = |link: &mut Link| (link.oldest_us, link.handed_over());
        client.session.with_link(client.link, read).unwrap().0
    };
    assert_eq!(client.payloads(), ["kept"]);
    assert_eq!(oldest(&client), 0, "it waited for a subscriber");
    let first = story.batch.moment_us;
    story.publish(message("a", "1", QoS::AtMostOnce));
    story.batch.moment_us += u64::try_from(Duration::from_secs(9).as_micros()).unwrap();
    story.publish(message("a", "2", QoS::AtMostOnce));
    assert_eq!(oldest(&client), first);
    assert_eq!(oldest(&client), 0, "all is written");
    let text = story.hub.metrics.render();
    let line = "polycast_publish_to_delivery_seconds_count{protocol=\"test\"} 1";
    assert!(text.contains(line), "{text}");
}

#[test]
fn without_memory_nobody_is_let_in_and_nothing_is_promised() {
    use crate::guard::MemoryBounds;
    let mut story = Story::new();
    let client = story.connect(lasting("one"));
    story.subscribe(&client, request("a", QoS::AtLeastOnce));
    let bounds = MemoryBounds { high: 10, max: 20 };
    story.hub.guard.memory.observe(25, bounds);
    let (refused, _, _) = story.try_connect(lasting("two"));
    assert_eq!(refused.unwrap_err().code, RefusalCode::Quota);
    let publish = |story: &mut Story, qos| {
        let publish = Publish {
            token: None,
            exactly_once: None,
            idempotency_key: None,
            message: message("a", "x", qos).into(),
        };
        story
            .hub
            .publish_for(&client.session, publish, &mut story.batch)
            .map_err(|refusal| refusal.code)
    };
    assert_eq!(
        publish(&mut story, QoS::AtLeastOnce),
        Err(RefusalCode::Quota)
    );
    assert_eq!(publish(&mut story, QoS::AtMostOnce), Ok(1));
    story.hub.guard.memory.observe(5, bounds);
    assert_eq!(publish(&mut story, QoS::AtLeastOnce), Ok(1));
    assert!(story.try_connect(lasting("two")).0.is_ok());
}

//! What groups and queues keep: which message is whose when members leave, die and come back, and
//! when the broker does.

use super::*;
use crate::auth::access::{Policy, Rule};

#[test]
fn a_queue_keeps_its_messages_and_gets_back_what_was_not_settled() {
    let mut world = Durable::new();
    let queue = |payload: &str| message("$queue/jobs", payload, QoS::AtLeastOnce);
    let passing = |name: &str| Connect {
        session_expiry_secs: 0,
        ..lasting(name)
    };
    for payload in ["1", "2", "3"] {
        world.story.publish(queue(payload));
    }
    world.sync(&[]);
    world.crash();
    let own = SubscribeRequest {
        lane: Lane::Own { in_flight: 2 },
        ..request("$queue/jobs", QoS::AtLeastOnce)
    };
    let worker = world.connect(passing("w"));
    world.story.subscribe(&worker, own.clone());
    world.sync(&[&worker]);
    let got = worker.deliveries();
    assert_eq!(got.len(), 2);
    assert_eq!((&*got[0].0, &*got[1].0), ("1", "2"));
    assert!(world.story.settle(&worker, Settle::Done(got[0].1)));
    world.sync(&[&worker]);
    world.store.commit();
    world.crash();
    let worker = world.connect(passing("v"));
    let wide = SubscribeRequest {
        lane: Lane::Own { in_flight: 9 },
        ..own
    };
    world.story.subscribe(&worker, wide);
    world.sync(&[&worker]);
    assert_eq!(worker.payloads(), ["2", "3"]);
}

#[test]
fn a_message_that_comes_back_before_it_is_on_disk_goes_on_when_it_is() {
    let mut world = Durable::new();
    let passing = |name: &str| Connect {
        session_expiry_secs: 0,
        ..lasting(name)
    };
    // As each client's task has a batch of its own.
    let next_batch = |world: &mut Durable| {
        let now = world.story.batch.now;
        world.story.batch = Batch::new(now);
    };
    let (one, two) = (world.connect(passing("1")), world.connect(passing("2")));
    for client in [&one, &two] {
        world.subscribe(client, "$queue/jobs", QoS::AtLeastOnce);
    }
    next_batch(&mut world);
    world.publish("$queue/jobs", "x", QoS::AtLeastOnce);
    // It was given to a consumer that ends while the disk still writes it.
    next_batch(&mut world);
    world.story.leave(&one);
    next_batch(&mut world);
    assert!(two.payloads().is_empty(), "it is not on disk yet");
    world.sync(&[&two]);
    assert_eq!(two.payloads(), ["x"]);
}

#[test]
fn a_shared_message_that_a_stored_member_has_taken_stays_its_own() {
    let mut world = Durable::new();
    let (one, two) = (world.connect(lasting("1")), world.connect(lasting("2")));
    for client in [&one, &two] {
        world.subscribe(client, "$share/g/a", QoS::ExactlyOnce);
    }
    for payload in ["x", "y"] {
        world.publish("a", payload, QoS::ExactlyOnce);
    }
    world.sync(&[&one, &two]);
    let first = one.deliveries();
    assert_eq!((first.len(), two.deliveries().len()), (1, 1));
    assert!(world.story.settle(&one, Settle::Received(first[0].1)));
    world.sync(&[&one, &two]);
    world.crash();
    let (two, one) = (world.connect(lasting("2")), world.connect(lasting("1")));
    world.sync(&[&one, &two]);
    assert_eq!(two.payloads(), ["y"]);
    assert_eq!(one.seen()[1..], [Seen::Released(first[0].1)]);
}

#[test]
fn a_group_keeps_messages_while_its_stored_members_are_away() {
    let mut world = Durable::new();
    let one = world.connect(lasting("1"));
    world.subscribe(&one, "$share/g/a", QoS::AtLeastOnce);
    world.story.leave(&one);
    for payload in ["1", "2", "3"] {
        world.publish("a", payload, QoS::AtLeastOnce);
    }
    world.sync(&[]);
    world.crash();
    let one = world.connect(lasting("1"));
    world.sync(&[&one]);
    assert_eq!(one.payloads(), ["1", "2", "3"]);
    // Its session ends with the messages open: they wait for the next member.
    let two = world.connect(lasting("2"));
    world.subscribe(&two, "$share/g/a", QoS::AtLeastOnce);
    world.story.leave(&two);
    let Story { hub, batch, .. } = &mut world.story;
    hub.end(&one.session, batch);
    world.sync(&[]);
    world.crash();
    let two = world.connect(lasting("2"));
    world.sync(&[&two]);
    assert_eq!(two.payloads(), ["1", "2", "3"]);
}

#[test]
fn what_a_dead_session_held_returns_to_its_group_even_after_a_crash() {
    let mut world = Durable::new();
    let (one, two) = (world.connect(lasting("1")), world.connect(lasting("2")));
    world.subscribe(&one, "$share/g/a", QoS::AtLeastOnce);
    world.publish("a", "x", QoS::AtLeastOnce);
    world.sync(&[&one]);
    assert_eq!(one.payloads(), ["x"]);
    world.subscribe(&two, "$share/g/a", QoS::AtLeastOnce);
    world.sync(&[&one, &two]);
    world.crash();
    let two = world.connect(lasting("2"));
    assert!(two.payloads().is_empty());
    world.story.wait(61);
    world.sync(&[&two]);
    assert_eq!(two.payloads(), ["x"]);
}

#[test]
fn what_sessions_have_taken_does_not_share_a_place_with_what_comes() {
    let mut world = Durable::new();
    let one = world.connect(lasting("1"));
    world.subscribe(&one, "$share/g/a", QoS::AtLeastOnce);
    for payload in ["1", "2"] {
        world.publish("a", payload, QoS::AtLeastOnce);
    }
    world.sync(&[&one]);
    world.crash();
    // The group is empty, but its member holds messages that may come back to it.
    for payload in ["3", "4", "5"] {
        world.publish("a", payload, QoS::AtLeastOnce);
    }
    world.sync(&[]);
    let two = world.connect(lasting("2"));
    world.subscribe(&two, "$share/g/a", QoS::AtLeastOnce);
    let session = world.story.hub.session("1").unwrap();
    let Story { hub, batch, .. } = &mut world.story;
    hub.end(&session, batch);
    world.sync(&[&two]);
    let mut got = two.payloads();
    for position in 0..4 {
        world.story.settle(&two, Settle::Done(position));
    }
    world.sync(&[&two]);
    got.extend(two.payloads());
    got.sort();
    assert_eq!(got, ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_stored_message_of_a_queue_goes_on_when_its_holder_comes_back_with_fewer_rights() {
    let policy = |rules: serde_json::Value| Policy {
        rules: rules
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| Rule::from_json(rule).unwrap())
            .collect(),
        unmatched: true,
    };
    let mut durable = Durable::new();
    let now = durable.story.batch.now;
    let one = durable.connect(lasting("one"));
    durable.subscribe(&one, "$queue/jobs", QoS::AtLeastOnce);
    durable.publish("$queue/jobs", "job", QoS::AtLeastOnce);
    durable.sync(&[&one]);
    assert_eq!(one.deliveries().len(), 1);
    durable.story.leave(&one);
    durable.crash();
    let denied = serde_json::json!([{"deny": "all", "topics": ["$queue/#"], "clients": ["one"]}]);
    durable.story.hub.set_policy(policy(denied), now);
    let back = durable.connect(lasting("one"));
    assert!(durable.drain(&back).is_empty());
    let two = durable.connect(lasting("two"));
    durable.subscribe(&two, "$queue/jobs", QoS::AtLeastOnce);
    assert_eq!(durable.drain(&two), ["job"]);
}

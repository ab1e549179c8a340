//! What is there after a restart: queues, subscriptions, retained messages, wills, and deadlines
//! that fell due meanwhile.

use protocols::connection::Overlap;

use super::*;
use crate::auth::access::{Policy, Rule};

#[test]
fn a_queue_survives_with_its_order_and_positions() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a/#", QoS::ExactlyOnce);
    world.story.leave(&reader);
    for payload in ["1", "2", "3", "4", "5", "6"] {
        world.publish("a/b", payload, QoS::AtLeastOnce);
    }
    world.sync(&[]);
    world.crash();
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    let seen = reader.seen();
    assert_eq!(seen[0], Seen::Connected { present: true });
    let first: Vec<_> = seen.iter().skip(1).collect();
    assert_eq!(first.len(), 4, "as many as the window has room for");
    for position in 0..2 {
        assert!(world.story.settle(&reader, Settle::Done(position)));
    }
    world.sync(&[&reader]);
    assert_eq!(reader.deliveries(), [sent("5", 4, 0), sent("6", 5, 0)]);
    world.store.commit();
    world.crash();
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    // What was open comes again and says so.
    let again = reader.deliveries();
    assert_eq!(again[0], sent("3", 2, 1));
    assert_eq!(again.len(), 4);
    world.publish("a/b", "7", QoS::AtLeastOnce);
    for position in 2..6 {
        assert!(world.story.settle(&reader, Settle::Done(position)));
    }
    world.sync(&[&reader]);
    assert_eq!(reader.deliveries(), [sent("7", 6, 0)]);
}

#[test]
fn subscriptions_and_their_absence_survive() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    world.subscribe(&reader, "b", QoS::AtLeastOnce);
    world
        .story
        .hub
        .unsubscribe(&reader.session, &["b"], &mut world.story.batch);
    world.sync(&[&reader]);
    world.crash();
    world.publish("a", "1", QoS::AtLeastOnce);
    world.publish("b", "2", QoS::AtLeastOnce);
    world.sync(&[]);
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["1"]);
    let granted = world
        .story
        .subscribe(&reader, request("c", QoS::AtLeastOnce));
    assert_eq!(granted.id.0, 3, "numbers are not used twice");
}

#[test]
fn a_clean_start_forgets_the_old_session_for_good() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    world.story.leave(&reader);
    world.publish("a", "1", QoS::AtLeastOnce);
    world.sync(&[]);
    let clean = Connect {
        clean_start: true,
        ..lasting("r")
    };
    world.connect(clean);
    world.crash();
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(reader.seen(), [Seen::Connected { present: true }]);
    assert_eq!(world.store.queued(), 0);
}

#[test]
fn retained_messages_survive_as_they_were_acknowledged() {
    let mut world = Durable::new();
    for (topic, payload) in [("a", "1"), ("a", "2"), ("b", "1"), ("b", "")] {
        let mut message = message(topic, payload, QoS::AtLeastOnce);
        message.retain = true;
        world.story.publish(message);
    }
    world.sync(&[]);
    let since = world.story.batch.now;
    world.crash_for(60);
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "#", QoS::AtLeastOnce);
    assert_eq!(reader.payloads(), ["2"]);
    let kept = world
        .story
        .hub
        .retained_page(None, None, 10, world.story.batch.now);
    let kept: Vec<_> = kept
        .messages
        .iter()
        .map(|message| message.retained_at)
        .collect();
    assert_eq!(kept, [since]);
}

#[test]
fn retained_messages_for_a_subscription_go_on_after_a_crash() {
    let mut world = Durable::new();
    for number in 0..9 {
        let mut message = message(
            &format!("a/{number}"),
            &number.to_string(),
            QoS::AtLeastOnce,
        );
        message.retain = true;
        world.story.publish(message);
    }
    world.sync(&[]);
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a/+", QoS::ExactlyOnce);
    let before = reader.payloads();
    assert!((1..9).contains(&before.len()), "the window is small");
    world.crash();
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    let got = world.drain(&reader);
    let expected: Vec<String> = (0..9).map(|number| number.to_string()).collect();
    assert_eq!(
        got, expected,
        "each once, in order, under their old positions"
    );
}

#[test]
fn wills_and_ends_that_fell_due_meanwhile_are_carried_out_in_order() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "will/#", QoS::AtLeastOnce);
    world.story.leave(&reader);
    for (name, delay) in [("late", 20), ("soon", 10)] {
        let will = Will {
            message: message(&format!("will/{name}"), name, QoS::AtLeastOnce),
            delay_secs: delay,
            expiry_secs: None,
        };
        let client = world.connect(Connect {
            will: Some(Box::new(will)),
            ..lasting(name)
        });
        world.story.leave(&client);
    }
    let short = world.connect(Connect {
        session_expiry_secs: 15,
        ..lasting("short")
    });
    world.story.leave(&short);
    world.sync(&[]);
    world.crash_for(30);
    assert!(world.story.hub.session("short").is_none());
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["soon", "late"]);
    world.crash();
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(
        reader.deliveries().len(),
        2,
        "said once, and not settled yet"
    );
}

#[test]
fn the_will_of_a_client_that_does_not_come_back_after_a_crash_is_said() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "will/#", QoS::AtLeastOnce);
    for name in ["back", "away"] {
        let will = Will {
            message: message(&format!("will/{name}"), name, QoS::AtLeastOnce),
            delay_secs: 0,
            expiry_secs: None,
        };
        world.connect(Connect {
            will: Some(Box::new(will)),
            ..lasting(name)
        });
    }
    world.crash();
    let reader = world.connect(lasting("r"));
    world.connect(lasting("back"));
    world.story.wait(GRACE_SECS + 1);
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["away"]);
}

#[test]
fn separate_lanes_survive_with_their_queues() {
    let mut world = Durable::new();
    let stomp = || Connect {
        overlap: Overlap::Each,
        ..lasting("s")
    };
    let own = |key: &str, filter: &str, durable: bool| SubscribeRequest {
        key: key.to_owned().into(),
        lane: Lane::Own { in_flight: 4 },
        durable,
        ..request(filter, QoS::AtLeastOnce)
    };
    let client = world.connect(stomp());
    world.story.subscribe(&client, own("1", "a", true));
    world.story.subscribe(&client, own("2", "a", true));
    world.story.subscribe(&client, own("3", "a", false));
    world.sync(&[&client]);
    world.story.leave(&client);
    world.publish("a", "x", QoS::AtLeastOnce);
    world.publish("a", "y", QoS::AtLeastOnce);
    world.sync(&[]);
    world.crash();
    let client = world.connect(stomp());
    world.sync(&[&client]);
    assert_eq!(client.payloads(), ["x", "y", "x", "y"]);
    world
        .story
        .hub
        .unsubscribe(&client.session, &["1"], &mut world.story.batch);
    world.sync(&[&client]);
    world.crash();
    let client = world.connect(stomp());
    world.sync(&[&client]);
    assert_eq!(client.payloads(), ["x", "y"]);
}

#[test]
fn expired_messages_stay_expired() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    world.story.leave(&reader);
    for (payload, secs) in [("short", 10), ("long", 50)] {
        let mut message = message("a", payload, QoS::AtLeastOnce);
        message.expires_at = Some(world.story.batch.now.plus_secs(secs));
        world.story.publish(message);
    }
    world.sync(&[]);
    world.crash_for(20);
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["long"]);
}

#[test]
fn a_stop_in_good_order_remembers_what_was_sent() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    world.publish("a", "sent", QoS::AtLeastOnce);
    world.sync(&[&reader]);
    let reason = CloseReason::new(Cause::Shutdown, "");
    world.publish("a", "not sent", QoS::AtLeastOnce);
    let Story { hub, batch, .. } = &mut world.story;
    hub.stop(&reason, batch);
    world.store.commit();
    world.crash_for(1000);
    assert!(
        world.story.hub.session("r").is_some(),
        "it has time to come back"
    );
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(
        reader.deliveries(),
        [sent("sent", 0, 1), sent("not sent", 1, 0)]
    );
}

#[test]
fn what_waits_on_disk_is_looked_at_when_the_client_is_back() {
    let rules = |denied: &str| {
        let rules = serde_json::json!([
            {"allow": "all"},
            {"deny": "all", "topics": [denied], "users": ["u"]},
        ]);
        Policy {
            rules: rules
                .as_array()
                .unwrap()
                .iter()
                .map(|rule| Rule::from_json(rule).unwrap())
                .collect(),
            unmatched: false,
        }
    };
    let user = || Connect {
        username: Some("u".into()),
        ..lasting("u")
    };
    let mut durable = Durable::new();
    let now = durable.story.batch.now;
    durable.story.hub.set_policy(rules("none"), now);
    let client = durable.connect(user());
    durable.subscribe(&client, "a/#", QoS::AtLeastOnce);
    durable.subscribe(&client, "$queue/jobs", QoS::AtLeastOnce);
    durable.story.leave(&client);
    durable.publish("a/secret", "secret", QoS::AtLeastOnce);
    durable.publish("a/open", "open", QoS::AtLeastOnce);
    durable.sync(&[]);
    durable.crash();
    durable.story.hub.set_policy(rules("a/secret"), now);
    let back = durable.connect(user());
    assert_eq!(durable.drain(&back), ["open"]);
    durable.publish("$queue/jobs", "job", QoS::AtLeastOnce);
    durable.sync(&[&back]);
    assert_eq!(durable.drain(&back), ["job"]);
    // Nothing of it is left for another start.
    durable.story.leave(&back);
    durable.store.commit();
    durable.crash();
    let again = durable.connect(user());
    assert!(durable.drain(&again).is_empty());
}

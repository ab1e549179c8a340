//! What is published once, together or not at all.

use super::*;

#[test]
fn exactly_once_inward_publishes_once_until_released() {
    let mut story = Story::new();
    let (publisher, reader) = (story.connect(lasting("p")), story.connect(lasting("r")));
    story.subscribe(&reader, request("a", QoS::AtMostOnce));
    let publish = |payload| Publish {
        token: Some(Token(1)),
        exactly_once: Some(7),
        idempotency_key: None,
        message: message("a", payload, QoS::ExactlyOnce).into(),
    };
    for _ in 0..3 {
        story
            .hub
            .publish_for(&publisher.session, publish("1"), &mut story.batch)
            .unwrap();
    }
    assert_eq!(reader.payloads(), ["1"]);
    assert!(publisher.session.lock().accepted.remove(7));
    story
        .hub
        .publish_for(&publisher.session, publish("2"), &mut story.batch)
        .unwrap();
    assert_eq!(reader.payloads(), ["2"]);
}

#[test]
fn an_idempotency_key_publishes_once() {
    let mut story = Story::new();
    let (publisher, reader) = (story.connect(lasting("p")), story.connect(lasting("r")));
    story.subscribe(&reader, request("a", QoS::AtMostOnce));
    for _ in 0..2 {
        let publish = Publish {
            token: None,
            exactly_once: None,
            idempotency_key: Some("key".into()),
            message: message("a", "1", QoS::AtMostOnce).into(),
        };
        assert_eq!(
            story
                .hub
                .publish_for(&publisher.session, publish, &mut story.batch),
            Ok(1)
        );
    }
    assert_eq!(reader.payloads(), ["1"]);
}

#[test]
fn the_same_idempotency_key_at_the_same_time_publishes_once() {
    let mut story = Story::new();
    let (one, two) = (story.connect(lasting("one")), story.connect(lasting("two")));
    let reader = story.connect(Connect {
        in_flight: 1,
        ..lasting("r")
    });
    story.subscribe(&reader, request("a", QoS::AtMostOnce));
    let (hub, now) = (&story.hub, story.batch.now);
    let meet = std::sync::Barrier::new(2);
    for round in 0..300 {
        let publish = |session: &Arc<Session>| {
            let publish = Publish {
                token: None,
                exactly_once: None,
                idempotency_key: Some(format!("key {round}").into()),
                message: message("a", "x", QoS::AtMostOnce).into(),
            };
            meet.wait();
            hub.publish_for(session, publish, &mut Batch::new(now))
                .unwrap()
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| publish(&one.session));
            assert_eq!(publish(&two.session), 1);
            assert_eq!(other.join().unwrap(), 1);
        });
        assert_eq!(reader.payloads(), ["x"], "round {round}");
        reader
            .session
            .with_link(reader.link, |link| drop(link.outbox.take()));
    }
}

fn publish_command(topic: &str, retain: bool) -> Command {
    let mut message = message(topic, "x", QoS::AtLeastOnce);
    message.retain = retain;
    Command::Publish(Publish {
        token: None,
        exactly_once: None,
        idempotency_key: None,
        message: message.into(),
    })
}

#[test]
fn a_transaction_that_has_no_room_does_nothing() {
    let mut story = Story::new();
    let (publisher, reader) = (story.connect(lasting("p")), story.connect(lasting("r")));
    story.subscribe(&reader, request("a", QoS::AtMostOnce));
    for _ in 0..9 {
        story.publish(message("$queue/full", "x", QoS::AtLeastOnce));
    }
    for number in 0..99 {
        let mut kept = message(&format!("r/{number}"), "x", QoS::AtMostOnce);
        kept.retain = true;
        story.publish(kept);
    }
    let twice = |topic: &str, retain| {
        [
            publish_command("a", false),
            publish_command(topic, retain),
            publish_command(topic, retain),
        ]
    };
    let too_many_queues: Vec<_> = (0..10)
        .map(|number| publish_command(&format!("$queue/{number}"), false))
        .collect();
    let too_much_retained = [
        publish_command("a", false),
        publish_command("r/new", true),
        publish_command("r/newer", true),
    ];
    for commands in [
        Vec::from(twice("$queue/full", false)),
        Vec::from(twice("$SYS/x", false)),
        too_many_queues,
        Vec::from(too_much_retained),
    ] {
        let refused = story
            .hub
            .commit(&publisher.session, commands, &mut story.batch);
        assert!(refused.is_err());
        assert!(reader.payloads().is_empty());
    }
    assert_eq!(story.hub.groups.lock().by_name.len(), 1);
    assert_eq!(story.hub.retained.stats().messages, 99);
    for commands in [twice("$queue/other", false), twice("r/new", true)] {
        story
            .hub
            .commit(&publisher.session, commands.into(), &mut story.batch)
            .unwrap();
        assert_eq!(reader.payloads(), ["x"]);
    }
}

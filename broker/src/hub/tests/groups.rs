//! Shared groups: who gets which message, and what becomes of it when a member goes.

use super::*;

#[test]
fn a_group_shares_and_skips_who_cannot_take() {
    let mut story = Story::new();
    let (one, two) = (story.connect(lasting("one")), story.connect(lasting("two")));
    for client in [&one, &two] {
        story.subscribe(client, request("$share/g/a", QoS::AtLeastOnce));
    }
    for payload in ["1", "2", "3", "4"] {
        story.publish(message("a", payload, QoS::AtLeastOnce));
    }
    assert_eq!(
        (one.payloads(), two.payloads()),
        (vec!["1".into(), "3".into()], vec!["2".into(), "4".into()])
    );
    story.leave(&one);
    for payload in ["5", "6"] {
        story.publish(message("a", payload, QoS::AtLeastOnce));
    }
    assert_eq!(two.payloads(), ["5", "6"]);
}

#[test]
fn a_group_keeps_what_nobody_can_take_and_hands_it_out_in_order() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("$share/g/a", QoS::AtLeastOnce));
    for number in 0..6 {
        story.publish(message("a", &number.to_string(), QoS::AtLeastOnce));
    }
    assert_eq!(
        client.payloads(),
        ["0", "1", "2", "3"],
        "as many as the window takes"
    );
    story.settle(&client, Settle::Done(0));
    assert_eq!(client.payloads(), ["4"]);
    story.leave(&client);
    story.publish(message("a", "6", QoS::AtLeastOnce));
    let back = story.connect(lasting("c"));
    assert_eq!(back.payloads(), ["1", "2", "3", "4"]);
    for position in 1..=4 {
        story.settle(&back, Settle::Done(position));
    }
    assert_eq!(back.payloads(), ["5", "6"]);
}

#[test]
fn a_member_that_ends_gives_its_messages_back() {
    let mut story = Story::new();
    let dies = story.connect(Connect {
        session_expiry_secs: 0,
        ..lasting("dies")
    });
    story.subscribe(&dies, request("$share/g/a", QoS::AtLeastOnce));
    story.publish(message("a", "1", QoS::AtLeastOnce));
    let lives = story.connect(lasting("lives"));
    story.subscribe(&lives, request("$share/g/a", QoS::AtLeastOnce));
    lives.seen();
    story.leave(&dies);
    let seen = lives.seen();
    assert!(
        matches!(&seen[..], [Seen::Message { attempts: 1, .. }]),
        "{seen:?}"
    );
}

#[test]
fn no_message_stays_in_a_group_whose_member_has_room() {
    const ROUNDS: u64 = 1000;
    let mut story = Story::with(HubBounds {
        subscriptions: 2000,
        ..bounds()
    });
    // Members that are asked in vain: they widen the time between question and answer.
    let away = story.connect(lasting("away"));
    for number in 0..2000 {
        let member = SubscribeRequest {
            key: number.to_string().into(),
            ..request("$share/g/a", QoS::AtMostOnce)
        };
        story.subscribe(&away, member);
    }
    story.leave(&away);
    let client = story.connect(Connect {
        in_flight: 1,
        ..lasting("c")
    });
    story.subscribe(&client, request("$share/g/a", QoS::AtLeastOnce));
    story.publish(message("a", "x", QoS::AtLeastOnce));
    let (hub, now) = (&story.hub, story.batch.now);
    let meet = std::sync::Barrier::new(2);
    let mut stuck = None;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                meet.wait();
                let next = message("a", "x", QoS::AtLeastOnce);
                hub.publish(next, &mut Batch::new(now)).unwrap();
                meet.wait();
            }
        });
        for position in 0..ROUNDS {
            client.seen();
            meet.wait();
            for _ in 0..position % 50 * 100 {
                std::hint::spin_loop();
            }
            // The window is full when the other publishes, or it is not: either is fine.
            hub.settle(
                &client.session,
                Settle::Done(position),
                false,
                &mut Batch::new(now),
            );
            meet.wait();
            client
                .session
                .with_link(client.link, |link| drop(link.outbox.take()));
            if client.seen().len() != 1 {
                stuck.get_or_insert(position);
            }
        }
    });
    assert_eq!(stuck, None, "a message stays though there is room");
}

fn refused(story: &mut Story, client: &Client, filter: &str) -> RefusalCode {
    let requests = [Ok(request(filter, QoS::AtLeastOnce))]
        .into_iter()
        .collect();
    let token = Token(0);
    let subscribe = Subscribe { token, requests };
    let results = story
        .hub
        .subscribe(&client.session, subscribe, &mut story.batch);
    results[0].clone().unwrap_err().code
}

#[test]
fn a_refused_subscription_leaves_no_group() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    for number in 0..5 {
        story.subscribe(&client, request(&format!("f/{number}"), QoS::AtMostOnce));
    }
    for number in 0..20 {
        let code = refused(&mut story, &client, &format!("$share/g/{number}"));
        assert_eq!(code, RefusalCode::Quota);
    }
    assert!(story.hub.groups.lock().by_name.is_empty());
}

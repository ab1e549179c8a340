//! Sessions from their beginning to their end: taking over, coming back, expiry, and their bounds.

use super::*;

#[test]
fn taking_over_closes_the_old_connection_and_keeps_the_session() {
    let mut story = Story::new();
    let old = story.connect(lasting("c"));
    story.subscribe(&old, request("a", QoS::AtLeastOnce));
    let new = story.connect(lasting("c"));
    assert_eq!(old.seen().last(), Some(&Seen::Closed(Cause::TakenOver)));
    assert!(
        old.way_back.lock().is_some(),
        "the old task finds its link again"
    );
    assert_eq!(new.seen(), [Seen::Connected { present: true }]);
    story.leave(&old);
    story.publish(message("a", "1", QoS::AtLeastOnce));
    assert_eq!(
        new.payloads(),
        ["1"],
        "the old connection's end does not touch the new one"
    );
    assert_eq!(story.hub.session_count(), 1);
}

#[test]
fn clean_start_forgets() {
    let mut story = Story::new();
    let old = story.connect(lasting("c"));
    story.subscribe(&old, request("a", QoS::AtLeastOnce));
    let new = story.connect(Connect {
        clean_start: true,
        ..lasting("c")
    });
    assert_eq!(new.seen(), [Seen::Connected { present: false }]);
    assert_eq!(story.publish(message("a", "1", QoS::AtLeastOnce)), 0);
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let mut story = Story::new();
    let client = story.connect(lasting("c"));
    story.subscribe(&client, request("a", QoS::AtLeastOnce));
    story.leave(&client);
    story.wait(59);
    assert_eq!(story.hub.session_count(), 1);
    story.wait(1);
    assert_eq!(story.hub.session_count(), 0);
    assert_eq!(story.publish(message("a", "1", QoS::AtLeastOnce)), 0);
}

#[test]
fn limits_are_refused_by_name() {
    let mut story = Story::with(HubBounds {
        sessions: 1,
        ..bounds()
    });
    let client = story.connect(lasting("c"));
    let (refused, log, way_back) = story.try_connect(lasting("d"));
    assert_eq!(refused.unwrap_err().code, RefusalCode::Quota);
    assert_eq!(*log.lock(), [Seen::Refused(RefusalCode::Quota)]);
    assert!(
        way_back
            .lock()
            .as_ref()
            .is_some_and(|link| link.end.is_some())
    );
    for number in 0..5 {
        story.subscribe(&client, request(&format!("f/{number}"), QoS::AtMostOnce));
    }
    let requests = [Ok(request("f/5", QoS::AtMostOnce))].into_iter().collect();
    let results = story.hub.subscribe(
        &client.session,
        Subscribe {
            token: Token(0),
            requests,
        },
        &mut story.batch,
    );
    assert_eq!(results[0].as_ref().unwrap_err().code, RefusalCode::Quota);
    let sys = Publish {
        token: None,
        exactly_once: None,
        idempotency_key: None,
        message: message("$SYS/x", "", QoS::AtMostOnce).into(),
    };
    let refused = story
        .hub
        .publish_for(&client.session, sys, &mut story.batch);
    assert_eq!(refused.unwrap_err().code, RefusalCode::NotAuthorized);
}

#[test]
fn clients_that_come_and_go_leave_one_deadline_each() {
    let mut story = Story::new();
    for round in 0..20 {
        let client = story.connect(with_will("c", 30 - round, 60 + round));
        story.leave(&client);
        story.batch.now = story.batch.now + std::time::Duration::from_millis(10);
    }
    assert_eq!(story.hub.deadlines.lock().len(), 1);
    let reader = story.connect(lasting("r"));
    story.subscribe(&reader, request("will", QoS::AtMostOnce));
    story.wait(11);
    assert_eq!(reader.payloads(), ["c"], "after the delay of the last will");
    story.wait(67);
    assert_eq!(story.hub.session_count(), 2);
    story.wait(1);
    assert_eq!(story.hub.session_count(), 1, "when the last expiry is over");
    assert!(story.hub.deadlines.lock().is_empty());
    let client = story.connect(lasting("c"));
    story.leave(&client);
    story.connect(Connect {
        clean_start: true,
        ..lasting("c")
    });
    assert!(
        story.hub.deadlines.lock().is_empty(),
        "the session that ended is let go"
    );
}

#[test]
fn a_client_that_returns_while_its_old_connection_ends_loses_nothing() {
    let mut story = Story::new();
    let now = story.batch.now;
    for round in 0..300_u32 {
        let old = story.connect(lasting("c"));
        for number in 0..5 {
            let passing = SubscribeRequest {
                durable: false,
                ..request(&format!("f/{number}"), QoS::AtMostOnce)
            };
            story.subscribe(&old, passing);
        }
        let link = old.link;
        let hub = &story.hub;
        let meet = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                meet.wait();
                for _ in 0..round % 30 * 100 {
                    std::hint::spin_loop();
                }
                let batch = &mut Batch::new(now);
                hub.disconnect(&old.session, link, true, None, batch);
            });
            let (new_link, _, _) = Story::link(hub, u64::from(round) + 1_000_000, 10);
            meet.wait();
            let mut batch = Batch::new(now);
            let connect = with_will("c", 10, 60);
            let session = hub
                .connect(
                    connect,
                    Identity::default(),
                    new_link,
                    &mut Vec::new(),
                    &mut batch,
                )
                .unwrap();
            let again = SubscribeRequest {
                durable: false,
                ..request("f/0", QoS::AtMostOnce)
            };
            let requests = [Ok(again)].into_iter().collect();
            let token = Token(0);
            hub.subscribe(
                &session,
                Subscribe { token, requests },
                &mut Batch::new(now),
            );
        });
        let state = old.session.lock();
        assert!(
            state.link.is_some() && state.will().is_some(),
            "round {round}"
        );
        assert!(
            state.will_at().known().is_none() && state.ends_at().known().is_none(),
            "round {round}"
        );
        assert!(state.subscriptions.contains_key("f/0"), "round {round}");
    }
}

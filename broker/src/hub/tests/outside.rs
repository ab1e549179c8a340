//! What is asked of the hub by those who hold no session.

use protocols::connection::Cause;

use super::*;
use crate::store::memory::MemoryStore;

fn reason() -> CloseReason {
    CloseReason::new(Cause::Administrative, "closed by an operator")
}

fn publish(story: &mut Story, topic: &str, payload: &'static str, key: Option<&str>) -> u32 {
    let publish = Publish {
        token: None,
        exactly_once: None,
        idempotency_key: key.map(Into::into),
        message: message(topic, payload, QoS::AtLeastOnce).into(),
    };
    story
        .hub
        .publish_from_outside(publish, &mut story.batch)
        .unwrap()
}

fn message(topic: &str, payload: &'static str, qos: QoS) -> Message {
    let topic = Topic::parse(topic.into(), 64, 8).unwrap();
    Message::new(topic, Bytes::from_static(payload.as_bytes()), qos, false)
}

fn named(id: &str, expiry: u32) -> Connect {
    Connect {
        client_id: Some(id.into()),
        session_expiry_secs: expiry,
        in_flight: 10,
        ..Connect::default()
    }
}

#[test]
fn the_same_key_publishes_once_and_is_answered_alike() {
    let mut story = Story::new();
    let client = story.connect(named("a", 0));
    story.subscribe(&client, request("t", QoS::AtLeastOnce));
    for _ in 0..2 {
        assert_eq!(publish(&mut story, "t", "x", Some("k")), 1);
    }
    assert_eq!(publish(&mut story, "t", "y", None), 1);
    assert_eq!(client.payloads(), ["x", "y"]);
}

#[test]
fn a_publish_promises_what_a_kept_session_gets() {
    let disk = Arc::new(MemoryStore::default());
    let mut story = Story::on(bounds(), Some(Arc::clone(&disk) as Arc<dyn Store>));
    let client = story.connect(named("a", 60));
    story.subscribe(&client, request("t", QoS::AtLeastOnce));
    disk.commit();
    story.batch.take_promised();
    publish(&mut story, "t", "x", None);
    let promised = story.batch.take_promised();
    assert!(!story.hub.is_durable(promised));
    disk.commit();
    assert!(story.hub.is_durable(promised));
}

#[test]
fn a_connection_is_found_by_its_name_while_it_is_there() {
    let mut story = Story::new();
    let client = story.connect(named("a", 60));
    let send = |story: &mut Story| {
        let sent = story.hub.send_to_connection(
            &crate::session::connection_id(1),
            &message("$connection/1", "x", QoS::AtMostOnce).into(),
            Some("key".into()),
            &mut story.batch,
        );
        sent.map(Result::unwrap)
    };
    assert!(
        story
            .hub
            .connection(&crate::session::connection_id(2))
            .is_none()
    );
    assert!(
        story.hub.connection("000000000000-1").is_none(),
        "of another run"
    );
    assert_eq!(send(&mut story), Some(true));
    assert_eq!(client.payloads(), ["x"]);
    assert!(
        story
            .hub
            .kick(&client.session, None, &reason(), &mut story.batch)
    );
    assert!(client.seen().contains(&Seen::Closed(Cause::Administrative)));
    assert!(
        !story
            .hub
            .kick(&client.session, None, &reason(), &mut story.batch)
    );
    assert!(
        story
            .hub
            .connection(&crate::session::connection_id(1))
            .is_none()
    );
    // It was sent under that key once, which stays true.
    assert_eq!(send(&mut story), Some(true));
    assert!(client.payloads().is_empty());
}

#[test]
fn only_the_connection_that_is_meant_is_kicked() {
    let mut story = Story::new();
    story.connect(named("a", 60));
    let back = story.connect(named("a", 60));
    assert!(
        !story
            .hub
            .kick(&back.session, Some(1), &reason(), &mut story.batch)
    );
    assert!(
        story
            .hub
            .kick(&back.session, Some(2), &reason(), &mut story.batch)
    );
}

#[test]
fn a_session_is_ended_once_and_for_all() {
    let mut story = Story::new();
    let client = story.connect(named("a", 60));
    story.subscribe(&client, request("t", QoS::AtLeastOnce));
    story
        .hub
        .end_session(&client.session, &reason(), &mut story.batch);
    story
        .hub
        .end_session(&client.session, &reason(), &mut story.batch);
    assert!(story.hub.session("a").is_none());
    assert!(story.hub.sessions_page(0, 10).rows.is_empty());
    assert_eq!(publish(&mut story, "t", "x", None), 0);
    let again = story.connect(named("a", 60));
    assert_eq!(again.seen()[0], Seen::Connected { present: false });
}

#[test]
fn sessions_and_receivers_come_page_by_page() {
    let mut story = Story::new();
    for n in 0..5 {
        let client = story.connect(named(&format!("c{n}"), 60));
        story.subscribe(&client, request("t", QoS::AtLeastOnce));
        story.subscribe(&client, request("#", QoS::AtLeastOnce));
    }
    let topic = Topic::parse("t".into(), 8, 8).unwrap();
    let ids = |rows: &[Arc<Session>]| -> Vec<String> {
        rows.iter().map(|row| row.client_id.to_string()).collect()
    };
    let (mut sessions, mut receivers) = (Vec::new(), Vec::new());
    let (mut from, mut behind) = (Some(0), Some(0));
    while let Some(after) = from {
        let page = story.hub.sessions_page(after, 2);
        sessions.extend(ids(&page.rows));
        from = page.next;
    }
    while let Some(after) = behind {
        let page = story.hub.receivers_page(&topic, after, 2);
        receivers.extend(ids(&page.rows));
        behind = page.next;
    }
    assert_eq!(sessions, ["c0", "c1", "c2", "c3", "c4"]);
    assert_eq!(receivers, sessions);
}

#[test]
fn retained_messages_are_forgotten_without_a_word() {
    let mut story = Story::new();
    let client = story.connect(named("a", 0));
    story.subscribe(&client, request("t", QoS::AtLeastOnce));
    let mut kept = message("t", "x", QoS::AtLeastOnce);
    kept.retain = true;
    story.publish(kept);
    assert_eq!(client.payloads(), ["x"]);
    let topic = Topic::parse("t".into(), 8, 8).unwrap();
    let now = story.batch.now;
    assert!(story.hub.retained(&topic, now).is_some());
    assert_eq!(
        story.hub.retained_page(None, None, 5, now).messages.len(),
        1
    );
    assert!(story.hub.forget_retained(&topic, &mut story.batch));
    assert!(!story.hub.forget_retained(&topic, &mut story.batch));
    assert!(story.hub.retained(&topic, now).is_none());
    assert!(client.payloads().is_empty());
}

//! Stories of clients on a hub, without sockets, clocks or bytes: a connection that writes down
//! what it is given.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::Mutex;
use protocols::connection::{
    Cause, CloseReason, Connect, Connection, Delivered, Granted, Lane, Notice, Publish, Refusal,
    RefusalCode, RetainHandling, Settle, Subscribe, SubscribeRequest, Token, Will,
};
use protocols::model::{Message, QoS, SubscriptionFilter, Timestamp, Topic};
use protocols::outbox::FrameType;
use protocols::{Command, Delivery, Outbox, Output, Reply};

use super::{Hub, HubBounds};
use crate::auth::Identity;
use crate::router::{CacheLimits, Retained, RetainedLimits, Router};
use crate::session::{Batch, Bounds, GroupBounds, Link, Session, WayBack};
use crate::store::Store;
use crate::telemetry::Metrics;

mod access;
mod durable;
mod outside;
mod owner;
mod quotas;
mod system;

/// A payload that no client takes.
const TOO_LARGE: &str = "too large";

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Connected {
        present: bool,
    },
    Refused(RefusalCode),
    Message {
        topic: String,
        payload: String,
        qos: u8,
        retain: bool,
        attempts: u32,
        position: Option<u64>,
        ids: usize,
    },
    Released(u64),
    Gap(u64),
    Closed(Cause),
}

type Log = Arc<Mutex<Vec<Seen>>>;

struct Recorder {
    log: Log,
    frame_bytes: usize,
    known: Option<HashSet<u32>>,
}

impl Connection for Recorder {
    fn receive(&mut self, input: &[u8], _: Timestamp, _: &mut Output<'_>) -> usize {
        input.len()
    }

    fn reply(&mut self, reply: Reply, _: Timestamp, _: &mut Output<'_>) {
        let seen = match reply {
            Reply::Connected(connected) => Seen::Connected {
                present: connected.session_present,
            },
            Reply::Refused(refusal) => Seen::Refused(refusal.code),
            Reply::Received { position, .. } => Seen::Released(position),
            _ => return,
        };
        self.log.lock().push(seen);
    }

    fn deliver(&mut self, delivery: &Delivery<'_>, _: Timestamp, outbox: &mut Outbox) -> Delivered {
        let unknown = |known: &HashSet<u32>| !known.contains(&delivery.matched[0].id.0);
        if self.known.as_ref().is_some_and(unknown) {
            return Delivered::NotSubscribed;
        }
        if delivery.message.payload == TOO_LARGE {
            return Delivered::TooLarge;
        }
        outbox.frame(FrameType::Binary, &[&vec![0; self.frame_bytes]]);
        self.log.lock().push(Seen::Message {
            topic: delivery.message.topic.to_string(),
            payload: String::from_utf8_lossy(&delivery.message.payload).into_owned(),
            qos: delivery.qos as u8,
            retain: delivery.retain,
            attempts: delivery.attempts,
            position: delivery.position,
            ids: delivery.matched.len(),
        });
        Delivered::Written
    }

    fn notify(&mut self, notice: &Notice, _: Timestamp, _: &mut Outbox) {
        if let Notice::Gap { dropped } = notice {
            self.log.lock().push(Seen::Gap(*dropped));
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }

    fn handle_timeout(&mut self, _: Timestamp, _: &mut Output<'_>) {}

    fn close(&mut self, reason: &CloseReason, _: &mut Outbox) {
        self.log.lock().push(Seen::Closed(reason.cause));
    }
}

/// A client with its log.
struct Client {
    session: Arc<Session>,
    link: u64,
    log: Log,
    way_back: WayBack,
}

struct Story {
    hub: Arc<Hub>,
    batch: Batch,
    links: u64,
    /// Bytes that clients to come are written for each message.
    frame_bytes: usize,
}

fn bounds() -> HubBounds {
    HubBounds {
        session: Bounds {
            queue_messages: 10,
            queue_bytes: 1 << 20,
            outbox_bytes: 1000,
            outbox_hard_bytes: 8000,
            drop_oldest: false,
            memory_bytes: 1 << 16,
        },
        stored_session: Bounds {
            queue_messages: 10,
            queue_bytes: 1 << 20,
            outbox_bytes: 1000,
            outbox_hard_bytes: 8000,
            drop_oldest: false,
            memory_bytes: 1 << 16,
        },
        group: GroupBounds {
            memory_bytes: 1 << 16,
            stored_messages: 10,
            stored_bytes: 1 << 20,
            messages: 10,
            bytes: 1 << 20,
            total_bytes: 1 << 24,
        },
        groups: 10,
        subscriptions: 5,
        sessions: 100,
        sessions_per_user: 0,
        retain_available: true,
        idempotency_keys: 10,
        idempotency_ms: 1000,
    }
}

fn message(topic: &str, payload: &str, qos: QoS) -> Message {
    let topic = Topic::parse(topic.to_owned().into(), 1024, 32).unwrap();
    Message::new(topic, Bytes::from(payload.to_owned()), qos, false)
}

fn request(filter: &str, qos: QoS) -> SubscribeRequest {
    SubscribeRequest {
        key: filter.to_owned().into(),
        filter: SubscriptionFilter::parse(filter.to_owned().into(), 1024, 32).unwrap(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
        identifier: None,
        lane: Lane::Session,
        auto_settle: false,
        durable: true,
    }
}

fn lasting(client_id: &str) -> Connect {
    Connect {
        client_id: Some(client_id.to_owned().into()),
        session_expiry_secs: 60,
        in_flight: 4,
        ..Connect::default()
    }
}

impl Story {
    fn new() -> Self {
        Self::with(bounds())
    }

    fn with(bounds: HubBounds) -> Self {
        Self::on(bounds, None)
    }

    fn on(bounds: HubBounds, store: Option<Arc<dyn Store>>) -> Self {
        let retained = Retained::new(RetainedLimits {
            messages: 100,
            bytes: 1 << 20,
        });
        Self::keeping(bounds, store, retained)
    }

    fn keeping(bounds: HubBounds, store: Option<Arc<dyn Store>>, retained: Retained) -> Self {
        let router = Router::new(CacheLimits::default());
        let metrics = Arc::new(Metrics::new(&["test"]));
        let hub = Hub::new(bounds, router, retained, metrics, store);
        Self {
            hub,
            batch: Batch::new(Timestamp(1_000_000)),
            links: 0,
            frame_bytes: 10,
        }
    }

    fn try_connect(&mut self, connect: Connect) -> (Result<Arc<Session>, Refusal>, Log, WayBack) {
        let identity = Identity {
            user: connect.username.clone(),
            ..Identity::default()
        };
        self.try_connect_as(identity, connect)
    }

    fn try_connect_as(
        &mut self,
        identity: Identity,
        connect: Connect,
    ) -> (Result<Arc<Session>, Refusal>, Log, WayBack) {
        self.links += 1;
        let (link, log, way_back) = Self::link(&self.hub, self.links, self.frame_bytes);
        (
            self.hub
                .connect(connect, identity, link, &mut Vec::new(), &mut self.batch),
            log,
            way_back,
        )
    }

    fn link(hub: &Hub, number: u64, frame_bytes: usize) -> (Box<Link>, Log, WayBack) {
        let log = Log::default();
        let recorder = Recorder {
            log: Arc::clone(&log),
            frame_bytes,
            known: None,
        };
        let way_back = WayBack::default();
        let link = Link::new(
            number,
            hub.metrics.protocol("test"),
            Box::new(recorder),
            Outbox::new(),
            Arc::clone(&way_back),
        );
        (Box::new(link), log, way_back)
    }

    fn connect(&mut self, connect: Connect) -> Client {
        let (result, log, way_back) = self.try_connect(connect);
        Client {
            session: result.unwrap(),
            link: self.links,
            log,
            way_back,
        }
    }

    fn subscribe(&mut self, client: &Client, request: SubscribeRequest) -> Granted {
        let requests = [Ok(request)].into_iter().collect();
        let subscribe = Subscribe {
            token: Token(0),
            requests,
        };
        let results = self
            .hub
            .subscribe(&client.session, subscribe, &mut self.batch);
        self.hub.pump(&client.session, &mut self.batch);
        results[0].clone().unwrap()
    }

    fn publish(&mut self, message: Message) -> u32 {
        self.hub.publish(message, &mut self.batch).unwrap()
    }

    fn leave(&mut self, client: &Client) {
        self.hub
            .disconnect(&client.session, client.link, true, None, &mut self.batch);
    }

    fn settle(&mut self, client: &Client, settle: Settle) -> bool {
        self.hub
            .settle(&client.session, settle, false, &mut self.batch)
    }

    fn wait(&mut self, secs: u32) {
        self.batch.now = self.batch.now.plus_secs(secs);
        self.hub.tick(&mut self.batch);
    }
}

impl Client {
    /// The payloads that came since the last look.
    fn payloads(&self) -> Vec<String> {
        self.seen()
            .into_iter()
            .filter_map(|seen| match seen {
                Seen::Message { payload, .. } => Some(payload),
                _ => None,
            })
            .collect()
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.log.lock())
    }

    /// The client reads all that was written.
    fn reads(&self, story: &mut Story) {
        self.session
            .with_link(self.link, |link| drop(link.outbox.take()));
        story.hub.pump(&self.session, &mut story.batch);
    }
}

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

fn with_will(client_id: &str, delay_secs: u32, expiry_secs: u32) -> Connect {
    let will = Will {
        message: message("will", client_id, QoS::AtMostOnce),
        delay_secs,
        expiry_secs: None,
    };
    Connect {
        will: Some(Box::new(will)),
        session_expiry_secs: expiry_secs,
        ..lasting(client_id)
    }
}

#[test]
fn a_will_is_said_at_once_or_after_its_delay_or_with_the_session() {
    let mut story = Story::new();
    let reader = story.connect(lasting("r"));
    story.subscribe(&reader, request("will", QoS::AtMostOnce));
    for (name, delay, expiry, after) in [
        ("now", 0, 60, 0),
        ("ended", 30, 0, 0),
        ("late", 10, 60, 10),
        ("capped", 90, 20, 20),
    ] {
        let client = story.connect(with_will(name, delay, expiry));
        story.leave(&client);
        if after > 0 {
            story.wait(after - 1);
            assert!(reader.payloads().is_empty(), "{name} was too early");
            story.wait(1);
        }
        assert_eq!(reader.payloads(), [name]);
        reader.reads(&mut story);
    }
}

#[test]
fn a_will_is_not_said_after_a_good_bye_or_a_quick_return() {
    let mut story = Story::new();
    let reader = story.connect(lasting("r"));
    story.subscribe(&reader, request("will", QoS::AtMostOnce));
    let polite = story.connect(with_will("polite", 0, 60));
    story
        .hub
        .disconnect(&polite.session, polite.link, false, None, &mut story.batch);
    let quick = story.connect(with_will("quick", 10, 60));
    story.leave(&quick);
    story.connect(lasting("quick"));
    story.wait(30);
    assert!(reader.payloads().is_empty());
}

#[test]
fn a_will_is_said_when_another_connection_begins_anew() {
    let mut story = Story::new();
    let reader = story.connect(lasting("r"));
    story.subscribe(&reader, request("will", QoS::AtMostOnce));
    story.connect(with_will("c", 10, 60));
    story.connect(Connect {
        clean_start: true,
        ..lasting("c")
    });
    assert_eq!(reader.payloads(), ["c"]);
}

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
            state.link.is_some() && state.will.is_some(),
            "round {round}"
        );
        assert!(
            state.will_at.known().is_none() && state.ends_at.known().is_none(),
            "round {round}"
        );
        assert!(state.subscriptions.contains_key("f/0"), "round {round}");
    }
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

#[test]
fn a_will_is_not_for_the_client_itself_if_it_wants_nothing_of_its_own() {
    let mut story = Story::new();
    let client = story.connect(with_will("c", 0, 60));
    let not_mine = SubscribeRequest {
        no_local: true,
        ..request("will", QoS::AtLeastOnce)
    };
    story.subscribe(&client, not_mine);
    story.leave(&client);
    assert!(story.connect(lasting("c")).payloads().is_empty());
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

//! Stories of clients on a hub whose store is a test's: the disk is as slow as the story wants,
//! and a crash is a call. Here: what waits for the disk, and what is on it. The modules below tell
//! what is there after a restart, and what groups and queues keep.

use super::*;
use crate::session::Restart;
use crate::store::memory::MemoryStore;
use crate::store::{Full, Op, Store};

mod groups;
mod restart;

/// Seconds that clients have to come back before their wills are said.
const GRACE_SECS: u32 = 5;

struct Durable {
    story: Story,
    store: Arc<MemoryStore>,
}

impl Durable {
    fn new() -> Self {
        Self::with(bounds())
    }

    fn with(bounds: HubBounds) -> Self {
        let store = Arc::new(MemoryStore::default());
        Self {
            story: Story::on(bounds, Some(Arc::clone(&store) as Arc<dyn Store>)),
            store,
        }
    }

    /// The disk catches up, and the connections' tasks do what they were woken for.
    fn sync(&mut self, clients: &[&Client]) {
        while self.store.is_urgent() || clients.iter().any(|client| client.is_nudged()) {
            self.store.commit();
            for client in clients {
                if client.take_nudge() {
                    self.story.hub.pump(&client.session, &mut self.story.batch);
                }
            }
        }
    }

    /// The broker dies and is started again so many seconds later.
    fn crash_for(&mut self, secs: u32) {
        let (store, recovered) = self.store.crash();
        let now = self.story.batch.now.plus_secs(secs);
        let bounds = self.story.hub.bounds.load_full().all;
        self.story = Story::on(bounds, Some(Arc::clone(&store) as Arc<dyn Store>));
        self.story.batch.now = now;
        self.store = store;
        let restart = Restart {
            now,
            grace_secs: GRACE_SECS,
        };
        self.story.hub.restore(recovered, restart);
        self.story.hub.tick(&mut self.story.batch);
        self.sync(&[]);
    }

    fn crash(&mut self) {
        self.crash_for(1);
    }

    fn connect(&mut self, connect: Connect) -> Client {
        let client = self.story.connect(connect);
        self.sync(&[&client]);
        client
    }

    fn subscribe(&mut self, client: &Client, filter: &str, qos: QoS) {
        self.story.subscribe(client, request(filter, qos));
        self.sync(&[client]);
    }

    fn publish(&mut self, topic: &str, payload: &str, qos: QoS) {
        self.story.publish(message(topic, payload, qos));
    }

    /// The client takes all that there is for it, and settles each message.
    fn drain(&mut self, client: &Client) -> Vec<String> {
        let mut got = Vec::new();
        loop {
            let deliveries = client.deliveries();
            if deliveries.is_empty() {
                return got;
            }
            for (payload, position, _) in deliveries {
                got.push(payload);
                assert!(self.story.settle(client, Settle::Done(position)));
                client.reads(&mut self.story);
            }
            self.sync(&[client]);
        }
    }

    /// Publishes for a client, and says which unit the answer waits for.
    fn publish_for(&mut self, client: &Client, publish: Publish) -> u64 {
        let Story { hub, batch, .. } = &mut self.story;
        batch.take_promised();
        hub.publish_for(&client.session, publish, batch).unwrap();
        batch.take_promised()
    }
}

impl Client {
    fn is_nudged(&self) -> bool {
        self.session
            .with_link(self.link, |link| link.nudged)
            .unwrap_or_default()
    }

    fn take_nudge(&self) -> bool {
        let nudge = |link: &mut Link| std::mem::take(&mut link.nudged);
        self.session.with_link(self.link, nudge).unwrap_or_default()
    }

    /// What was delivered, with position and attempts.
    fn deliveries(&self) -> Vec<(String, u64, u32)> {
        let seen = self.seen().into_iter();
        seen.filter_map(|seen| match seen {
            Seen::Message {
                payload,
                position,
                attempts,
                ..
            } => Some((payload, position.unwrap_or(u64::MAX), attempts)),
            _ => None,
        })
        .collect()
    }
}

fn exactly_once(packet_id: u16, message: Message) -> Publish {
    Publish {
        token: Some(Token(1)),
        exactly_once: Some(packet_id),
        idempotency_key: None,
        message: message.into(),
    }
}

fn sent(payload: &str, position: u64, attempts: u32) -> (String, u64, u32) {
    (payload.to_owned(), position, attempts)
}

#[test]
fn nothing_is_sent_or_promised_before_it_is_on_disk() {
    let mut world = Durable::new();
    let (publisher, reader) = (world.connect(lasting("p")), world.connect(lasting("r")));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    let publish = Publish {
        token: Some(Token(1)),
        exactly_once: None,
        idempotency_key: None,
        message: message("a", "1", QoS::AtLeastOnce).into(),
    };
    let seq = world.publish_for(&publisher, publish);
    assert!(seq > world.store.durable(), "the answer must wait");
    assert!(reader.payloads().is_empty(), "so must the delivery");
    world.sync(&[&reader]);
    assert!(seq <= world.store.durable());
    assert_eq!(reader.payloads(), ["1"]);
}

#[test]
fn what_needs_no_disk_does_not_wait_for_it() {
    let mut world = Durable::new();
    let passing = Connect {
        session_expiry_secs: 0,
        ..lasting("p")
    };
    let reader = world.connect(passing);
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    world.publish("a", "1", QoS::AtLeastOnce);
    world.publish("b", "nobody", QoS::AtLeastOnce);
    assert_eq!(reader.payloads(), ["1"]);
    let stored = world.connect(lasting("s"));
    world.subscribe(&stored, "a", QoS::AtLeastOnce);
    world.publish("a", "2", QoS::AtMostOnce);
    assert_eq!(stored.payloads(), ["2"]);
    assert_eq!(world.store.pending_units(), 0);
}

#[test]
fn what_was_acknowledged_is_not_sent_again_at_the_next_connection() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    world.publish("a", "1", QoS::AtLeastOnce);
    world.publish("a", "2", QoS::AtLeastOnce);
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["1", "2"]);
    // The acknowledgement has not reached the disk when the client comes back.
    assert!(world.story.settle(&reader, Settle::Done(0)));
    let again = world.connect(lasting("r"));
    world.sync(&[&again]);
    assert_eq!(again.deliveries(), [sent("2", 1, 1)]);
}

#[test]
fn exactly_once_outward_goes_on_where_it_was() {
    let mut world = Durable::new();
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a", QoS::ExactlyOnce);
    world.publish("a", "1", QoS::ExactlyOnce);
    world.publish("a", "2", QoS::ExactlyOnce);
    world.sync(&[&reader]);
    reader.seen();
    world.story.batch.take_promised();
    assert!(world.story.settle(&reader, Settle::Received(0)));
    let seq = world.story.batch.take_promised();
    assert!(seq > world.store.durable(), "PUBREL waits for the disk");
    world.sync(&[&reader]);
    world.crash();
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    let seen = reader.seen();
    assert_eq!(seen[1], Seen::Released(0), "PUBREL comes first");
    assert!(
        matches!(
            &seen[2],
            Seen::Message {
                position: Some(1),
                attempts: 1,
                ..
            }
        ),
        "{seen:?}"
    );
}

#[test]
fn exactly_once_inward_is_published_once() {
    let mut world = Durable::new();
    let (publisher, reader) = (world.connect(lasting("p")), world.connect(lasting("r")));
    world.subscribe(&reader, "a", QoS::ExactlyOnce);
    world.story.leave(&reader);
    let first = exactly_once(7, message("a", "1", QoS::ExactlyOnce));
    world.publish_for(&publisher, first);
    // The same again, while the first is on its way to the disk, promises no less.
    let second = exactly_once(7, message("a", "1", QoS::ExactlyOnce));
    let seq = world.publish_for(&publisher, second);
    assert!(seq > world.store.durable());
    world.sync(&[]);
    world.crash();
    let publisher = world.connect(lasting("p"));
    let third = exactly_once(7, message("a", "1", QoS::ExactlyOnce));
    world.publish_for(&publisher, third);
    assert!(
        world
            .story
            .hub
            .release(&publisher.session, 7, &mut world.story.batch)
    );
    let seq = world.story.batch.take_promised();
    assert!(seq > world.store.durable(), "PUBCOMP waits for the disk");
    world.sync(&[]);
    world.crash();
    let publisher = world.connect(lasting("p"));
    let other = exactly_once(7, message("a", "2", QoS::ExactlyOnce));
    world.publish_for(&publisher, other);
    world.sync(&[]);
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["1", "2"]);
}

#[test]
fn a_publish_is_on_disk_as_a_whole_or_not_at_all() {
    let mut world = Durable::new();
    let publisher = world.connect(lasting("p"));
    for name in ["a", "b", "c"] {
        let reader = world.connect(lasting(name));
        world.subscribe(&reader, "a", QoS::ExactlyOnce);
        world.story.leave(&reader);
    }
    world.sync(&[]);
    let publish = exactly_once(1, message("a", "1", QoS::ExactlyOnce));
    world.publish_for(&publisher, publish);
    assert_eq!(world.store.pending_units(), 1);
    let bodies = world.store.pending_ops();
    let bodies = bodies.iter().filter(|op| matches!(op, Op::Message { .. }));
    assert_eq!(bodies.count(), 1, "the body is stored once");
}

#[test]
fn a_transaction_is_one_unit() {
    let mut world = Durable::new();
    let (publisher, reader) = (world.connect(lasting("p")), world.connect(lasting("r")));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    let commands = ["1", "2"].map(|payload| {
        Command::Publish(Publish {
            token: None,
            exactly_once: None,
            idempotency_key: None,
            message: message("a", payload, QoS::AtLeastOnce).into(),
        })
    });
    let Story { hub, batch, .. } = &mut world.story;
    batch.take_promised();
    hub.commit(&publisher.session, commands.into(), batch)
        .unwrap();
    let seq = batch.take_promised();
    assert_eq!(world.store.pending_units(), 1);
    assert!(seq > world.store.durable());
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["1", "2"]);
}

#[test]
fn a_long_queue_is_on_disk_only_and_drains_in_order() {
    let mut bounds = bounds();
    bounds.stored_session.queue_messages = 1000;
    bounds.stored_session.memory_bytes = 2000;
    let mut world = Durable::with(bounds);
    let reader = world.connect(lasting("r"));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    for payload in &expected[..150] {
        world.publish("a", payload, QoS::AtLeastOnce);
        // Some of them reach the disk one by one, others together.
        if payload.ends_with('7') {
            world.sync(&[&reader]);
        }
    }
    world.story.leave(&reader);
    for payload in &expected[150..] {
        world.publish("a", payload, QoS::AtLeastOnce);
    }
    world.sync(&[]);
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    let got = world.drain(&reader);
    assert_eq!(got, expected);
    world.store.commit();
    assert_eq!(world.store.queued(), 0);
    assert_eq!(reader.session.lock().queued(), (0, 0));
}

#[test]
fn a_full_stored_queue_drops_what_it_is_told_to() {
    for (drop_oldest, expected) in [(false, ["0", "1", "2"]), (true, ["3", "4", "5"])] {
        let mut bounds = bounds();
        bounds.stored_session.queue_messages = 3;
        bounds.stored_session.drop_oldest = drop_oldest;
        let mut world = Durable::with(bounds);
        let reader = world.connect(lasting("r"));
        world.subscribe(&reader, "a", QoS::AtLeastOnce);
        world.story.leave(&reader);
        for payload in ["0", "1", "2", "3", "4", "5"] {
            world.publish("a", payload, QoS::AtLeastOnce);
            world.sync(&[]);
        }
        let reader = world.connect(lasting("r"));
        world.sync(&[&reader]);
        assert_eq!(reader.payloads(), expected);
    }
}

#[test]
fn an_idempotency_key_is_remembered_with_what_it_did() {
    let mut world = Durable::new();
    let (publisher, reader) = (world.connect(lasting("p")), world.connect(lasting("r")));
    world.subscribe(&reader, "a", QoS::AtLeastOnce);
    let keyed = || Publish {
        token: Some(Token(1)),
        exactly_once: None,
        idempotency_key: Some("key".into()),
        message: message("a", "1", QoS::AtLeastOnce).into(),
    };
    let seq = world.publish_for(&publisher, keyed());
    assert!(seq > world.store.durable());
    assert_eq!(
        world.store.pending_units(),
        1,
        "the key is in the same unit"
    );
    world.sync(&[&reader]);
    world.crash_for(0);
    let publisher = world.connect(lasting("p"));
    world.publish_for(&publisher, keyed());
    let reader = world.connect(lasting("r"));
    world.sync(&[&reader]);
    assert_eq!(reader.payloads(), ["1"]);
}

#[test]
fn a_full_disk_refuses_what_must_be_stored_and_nothing_else() {
    let mut world = Durable::new();
    let (stored, publisher) = (world.connect(lasting("s")), world.connect(lasting("p")));
    let passing = world.connect(Connect {
        session_expiry_secs: 0,
        ..lasting("x")
    });
    world.subscribe(&stored, "kept", QoS::AtLeastOnce);
    world.subscribe(&passing, "passing", QoS::AtLeastOnce);
    world.store.set_full(Some(Full::Disk));
    let mut publish = |topic: &str, qos: QoS| {
        let publish = Publish {
            token: Some(Token(1)),
            exactly_once: None,
            idempotency_key: None,
            message: message(topic, "x", qos).into(),
        };
        let Story { hub, batch, .. } = &mut world.story;
        hub.publish_for(&publisher.session, publish, batch)
    };
    let refused = publish("kept", QoS::AtLeastOnce).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Quota);
    assert!(publish("kept", QoS::AtMostOnce).is_ok());
    assert!(publish("passing", QoS::AtLeastOnce).is_ok());
    assert!(publish("$queue/jobs", QoS::AtLeastOnce).is_err());
    world.store.set_full(None);
    world.publish("kept", "y", QoS::AtLeastOnce);
    world.sync(&[&stored]);
    assert_eq!(stored.payloads(), ["x", "y"]);
    assert_eq!(passing.payloads(), ["x"]);
}

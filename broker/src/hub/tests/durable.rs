//! Stories of clients on a hub whose store is a test's: the disk is as slow as the story wants,
//! and a crash is a call.

use protocols::connection::{Lane, Overlap};

use super::*;
use crate::auth::access::{Policy, Rule};
use crate::session::Restart;
use crate::store::memory::MemoryStore;
use crate::store::{Full, Op, Store};

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

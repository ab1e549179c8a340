//! Tests of the journal as a whole: on a simulated disk without threads, step by step, and on the
//! real one with all threads.

mod crash;
mod damage;
mod indexed;
mod measure;
mod model;
mod space;
mod threads;

use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::connection::{
    Lane, Overlap, Position, RetainHandling, SubscribeRequest, SubscriptionId,
};
use protocols::model::{Filter, Message, QoS, SubscriptionFilter, Timestamp, Topic};
use smallvec::SmallVec;

use super::committer::{Committer, Halt, Round};
use super::sim::SimDisk;
use super::{Durability, JournalConfig, OpenError, Shared, assemble};
use crate::store::{
    GroupRecord, Load, Loaded, Op, QueueId, Receiver, Recovered, RetainedProgress, SessionRecord,
    SubscriptionRecord, Ticket, Unit, Urgency,
};

const NOW: Timestamp = Timestamp(1_000_000);

/// A store without threads, on a simulated disk.
struct Rig {
    shared: Arc<Shared>,
    committer: Committer,
    failure: Arc<Mutex<Option<String>>>,
}

/// Segments of 4 KiB, and no other limits.
fn small() -> JournalConfig {
    JournalConfig {
        segment_bytes: 4096,
        max_bytes: u64::MAX / 4,
        min_free_bytes: 0,
        ..JournalConfig::new("sim")
    }
}

impl Rig {
    fn open(disk: &SimDisk) -> (Self, Recovered) {
        Self::open_with(disk, small()).unwrap()
    }

    fn open_with(
        disk: &SimDisk,
        mut config: JournalConfig,
    ) -> Result<(Self, Recovered), OpenError> {
        let failure = Arc::new(Mutex::new(None));
        let said = Arc::clone(&failure);
        config.on_failure = Arc::new(move |text| *said.lock() = Some(text.to_owned()));
        let (shared, committer, recovered) = assemble(config, Arc::new(disk.clone()), NOW, None)?;
        let rig = Self {
            shared,
            committer,
            failure,
        };
        Ok((rig, recovered))
    }

    fn append(&self, ops: impl IntoIterator<Item = Op>) -> Arc<Ticket> {
        let unit = Unit {
            ops: ops.into_iter().collect(),
            ..Unit::default()
        };
        let ticket = Arc::clone(&unit.ticket);
        self.shared.append(unit, Urgency::Now);
        ticket
    }

    /// What all threads do, once.
    fn step(&mut self) -> Result<Round, Halt> {
        let round = self.committer.round();
        self.shared.keeper.index(&self.shared);
        self.shared.keeper.work(&self.shared);
        self.shared.herald.tell();
        while self.shared.loads.step(&self.shared) {}
        round
    }

    /// Until nothing is left to do.
    fn rest(&mut self) {
        while self.step().unwrap() == Round::Busy || self.shared.intake.waiting_bytes() > 0 {}
    }

    fn load(&self, queue: QueueId, change: impl FnOnce(&mut Load)) -> Loaded {
        let (sender, receiver) = mpsc::channel();
        let mut load = Load {
            queue,
            after: None,
            before: None,
            messages: usize::MAX,
            bytes: usize::MAX,
            settled: false,
            then: Box::new(move |loaded| sender.send(loaded).unwrap()),
        };
        change(&mut load);
        self.shared.load(load);
        while self.shared.loads.step(&self.shared) {}
        receiver.recv().unwrap()
    }

    /// The payloads of all entries of a queue.
    fn payloads(&self, queue: QueueId) -> Vec<Bytes> {
        let loaded = self.load(queue, |_| {});
        assert_eq!((loaded.lost, loaded.more), (0, false));
        let entries = loaded.entries.into_iter();
        entries.map(|entry| entry.message.payload.clone()).collect()
    }
}

fn message(payload: impl Into<Bytes>) -> Arc<Message> {
    let topic = Topic::parse("a/b".into(), 100, 10).unwrap();
    Arc::new(Message::new(topic, payload.into(), QoS::AtLeastOnce, false))
}

fn retained(topic: &str, payload: impl Into<Bytes>, expires_at: Option<Timestamp>) -> Op {
    let topic = Topic::parse(topic.into(), 100, 10).unwrap();
    let mut message = Message::new(topic, payload.into(), QoS::AtLeastOnce, true);
    message.expires_at = expires_at;
    Op::Retain {
        message: Arc::new(message),
    }
}

fn queue(owner: u64) -> QueueId {
    QueueId { owner, lane: 0 }
}

fn receiver(queue: QueueId, position: Position) -> Receiver {
    Receiver {
        queue,
        position,
        qos: QoS::AtLeastOnce,
        retain: false,
        attempts: 0,
        matched: SmallVec::from_slice(&[SubscriptionId(1)]),
        group: None,
    }
}

fn deliver(payload: impl Into<Bytes>, to: &[(QueueId, Position)]) -> Op {
    let receivers = to
        .iter()
        .map(|(queue, position)| receiver(*queue, *position));
    Op::Message {
        message: message(payload),
        receivers: receivers.collect(),
    }
}

fn done(queue: QueueId, position: Position) -> Op {
    Op::Done { queue, position }
}

fn session(number: u64) -> Op {
    Op::Session(Box::new(SessionRecord {
        number,
        client_id: ByteString::from(format!("client-{number}")),
        user: None,
        expiry_secs: 3600,
        connected: false,
        ends_at: None,
        will_at: None,
        will: None,
        overlap: Overlap::Merge,
        window: 100,
        next_position: 0,
        next_subscription: 1,
        sent: Vec::new(),
        who: None,
    }))
}

fn group(number: u64) -> Op {
    Op::Group {
        number,
        record: GroupRecord {
            share: Some("workers".into()),
            filter: Filter::parse("a/#".into(), 100, 10).unwrap(),
        },
    }
}

fn subscription(number: u64, id: u32) -> Op {
    let request = SubscribeRequest {
        key: ByteString::from(format!("{id}")),
        filter: SubscriptionFilter::parse("a/#".into(), 100, 10).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
        identifier: None,
        lane: Lane::Session,
        auto_settle: false,
        durable: true,
    };
    Op::Subscription {
        number,
        record: Box::new(SubscriptionRecord {
            id: SubscriptionId(id),
            request,
            retained: RetainedProgress::Done,
        }),
    }
}

#[test]
fn what_was_appended_is_durable_after_a_round_and_there_after_a_crash() {
    let disk = SimDisk::default();
    let (mut rig, recovered) = Rig::open(&disk);
    assert_eq!(recovered.next_number, 1);
    let ticket = rig.append([session(7), deliver("one", &[(queue(7), 10)])]);
    assert_eq!((ticket.seq(), ticket.is_durable()), (Some(1), false));
    assert!(rig.payloads(queue(7)).is_empty());
    rig.rest();
    assert!(ticket.is_durable());
    assert_eq!(rig.shared.herald.durable(), 1);
    assert_eq!(rig.payloads(queue(7)), ["one"]);

    rig.append([deliver("two", &[(queue(7), 11)])]);
    let crashed = disk.crash(&mut super::sim::Dice::new(1));
    let (rig, recovered) = Rig::open(&crashed);
    assert_eq!(rig.payloads(queue(7)), ["one"]);
    assert_eq!(rig.shared.intake.taken(), 1);
    assert_eq!(recovered.next_number, 8);
    let session = &recovered.sessions[0];
    assert_eq!(session.record.client_id, "client-7");
    assert_eq!(session.queues.len(), 1);
    assert_eq!(session.queues[0].last_position, 10);
    assert_eq!(session.queues[0].bytes, message("one").size());
}

#[test]
fn loads_are_bounded_and_go_on_where_they_ended() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1)]);
    for position in 1..=10 {
        rig.append([deliver(vec![b'x'; 100], &[(queue(1), position)])]);
    }
    rig.rest();
    let positions = |loaded: &Loaded| -> Vec<Position> {
        loaded.entries.iter().map(|entry| entry.position).collect()
    };
    let loaded = rig.load(queue(1), |load| load.messages = 3);
    assert_eq!((positions(&loaded), loaded.more), (vec![1, 2, 3], true));
    let loaded = rig.load(queue(1), |load| load.bytes = 1);
    assert_eq!((positions(&loaded), loaded.more), (vec![1], true));
    let size = message(vec![b'x'; 100]).size();
    let loaded = rig.load(queue(1), |load| {
        load.bytes = 2 * size;
        load.after = Some(5);
    });
    assert_eq!((positions(&loaded), loaded.more), (vec![6, 7], true));
    let loaded = rig.load(queue(1), |load| {
        load.after = Some(7);
        load.before = Some(10);
    });
    assert_eq!((positions(&loaded), loaded.more), (vec![8, 9], false));
    let loaded = rig.load(queue(9), |_| {});
    assert!(loaded.entries.is_empty() && !loaded.more);
}

#[test]
fn a_settled_load_waits_for_what_was_appended_before_it() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1), deliver("a", &[(queue(1), 1)])]);
    rig.append([deliver("b", &[(queue(1), 2)])]);
    rig.rest();
    rig.append([done(queue(1), 1)]);
    assert_eq!(rig.payloads(queue(1)), ["a", "b"]);
    let (sender, receiver) = mpsc::channel();
    rig.shared.load(Load {
        queue: queue(1),
        after: None,
        before: None,
        messages: 10,
        bytes: 1000,
        settled: true,
        then: Box::new(move |loaded| sender.send(loaded).unwrap()),
    });
    assert!(!rig.shared.loads.step(&rig.shared));
    rig.rest();
    assert_eq!(receiver.recv().unwrap().entries[0].position, 2);
}

#[test]
fn an_entry_keeps_its_message_and_gets_new_terms_when_it_moves() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1), session(2), group(3)]);
    rig.append([deliver("first", &[(queue(3), 5)])]);
    rig.append([deliver("second", &[(queue(3), 6)])]);
    let mut to = receiver(queue(1), 40);
    to.attempts = 2;
    to.group = Some((3, 5));
    to.qos = QoS::ExactlyOnce;
    rig.append([Op::Move {
        from: queue(3),
        position: 5,
        to: to.clone(),
    }]);
    rig.rest();
    for _ in 0..2 {
        let loaded = rig.load(queue(1), |_| {});
        let entry = &loaded.entries[0];
        assert_eq!(entry.message.payload, "first");
        assert_eq!((entry.attempts, entry.group), (2, Some((3, 5))));
        assert_eq!(entry.qos, QoS::ExactlyOnce);
        assert_eq!(rig.payloads(queue(3)), ["second"]);
        let (again, recovered) = Rig::open(&disk);
        assert!(recovered.sessions[0].queues[0].from_group);
        rig = again;
    }
    // Given back, it stands where it stood.
    rig.append([Op::Move {
        from: queue(1),
        position: 40,
        to: receiver(queue(3), 5),
    }]);
    rig.rest();
    for _ in 0..2 {
        assert_eq!(rig.payloads(queue(3)), ["first", "second"]);
        assert!(rig.payloads(queue(1)).is_empty());
        rig = Rig::open(&disk).0;
    }
}

#[test]
fn the_first_entry_can_be_dropped_for_good() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1)]);
    for position in [3, 5, 8] {
        rig.append([deliver("x", &[(queue(1), position)])]);
    }
    rig.rest();
    let size = message("x").size();
    assert_eq!(rig.shared.drop_first(queue(1), Some(3)), Some((5, size)));
    assert_eq!(rig.shared.drop_first(queue(1), None), Some((3, size)));
    assert_eq!(rig.payloads(queue(1)).len(), 1);
    rig.rest();
    let (rig, _) = Rig::open(&disk);
    assert_eq!(rig.shared.drop_first(queue(1), None), Some((8, size)));
    assert_eq!(rig.shared.drop_first(queue(1), None), None);
}

#[test]
fn expired_keys_and_retained_messages_are_left_out() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    let key = |key: &str, until| Op::Key {
        key: key.into(),
        answer: 3,
        until,
    };
    rig.append([
        retained("old", "x", Some(NOW)),
        retained("new", "y", Some(NOW.plus_secs(1))),
        retained("gone", "z", None),
        retained("changed", "1", None),
        retained("changed", "2", None),
        Op::Unretain {
            topic: "gone".into(),
        },
        key("old", NOW),
        key("new", NOW.plus_secs(1)),
    ]);
    rig.rest();
    let (_, recovered) = Rig::open(&disk);
    let mut found: Vec<_> = recovered
        .retained
        .iter()
        .map(|it| it.payload.clone())
        .collect();
    found.sort();
    assert_eq!(found, ["2", "y"]);
    assert_eq!(recovered.keys, [(NOW.plus_secs(1), "new".into(), 3)]);
}

#[test]
fn a_unit_larger_than_a_segment_gets_one_of_its_size() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1)]);
    rig.append([deliver(vec![1; 20_000], &[(queue(1), 1)])]);
    rig.append([deliver("small", &[(queue(1), 2)])]);
    rig.rest();
    for _ in 0..2 {
        let payloads = rig.payloads(queue(1));
        assert_eq!(
            (payloads[0].len(), &payloads[1][..]),
            (20_000, &b"small"[..])
        );
        rig = Rig::open(&disk).0;
    }
}

#[test]
fn numbers_are_not_used_again_after_all_traces_are_gone() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1), session(900)]);
    rig.append([Op::SessionEnd { number: 900 }]);
    for position in 1..200 {
        rig.append([deliver(vec![0; 200], &[(queue(1), position)])]);
        rig.append([done(queue(1), position)]);
        rig.rest();
    }
    assert!(rig.shared.stats().reclaimed_bytes > 0);
    let (_, recovered) = Rig::open(&disk);
    assert_eq!(recovered.next_number, 901);
    assert_eq!(recovered.sessions.len(), 1);
}

#[test]
fn other_durabilities_flush_less_and_at_close() {
    for durability in [
        Durability::None,
        Durability::Interval(std::time::Duration::MAX / 4),
    ] {
        let disk = SimDisk::default();
        let config = JournalConfig {
            durability,
            ..small()
        };
        let (mut rig, _) = Rig::open_with(&disk, config).unwrap();
        let before = rig.shared.stats().flushes;
        let ticket = rig.append([session(1), deliver("x", &[(queue(1), 1)])]);
        rig.rest();
        assert!(ticket.is_durable());
        assert_eq!(rig.shared.stats().flushes, before);
        rig.shared.intake.close();
        rig.committer.run();
        let crashed = disk.crash(&mut super::sim::Dice::new(3));
        assert_eq!(Rig::open(&crashed).0.payloads(queue(1)), ["x"]);
    }
}

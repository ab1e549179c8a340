use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use protocols::connection::{Overlap, SubscriptionId};
use protocols::model::{Filter, Message, QoS, Timestamp, Topic};

use super::super::codec::{Scanned, encode, scan};
use super::super::{GroupRecord, Op, QueueId, Receiver, Seq, SessionRecord};
use super::*;

pub(super) fn session(number: u64, client_id: &str) -> Op {
    Op::Session(Box::new(SessionRecord {
        number,
        client_id: client_id.into(),
        user: None,
        expiry_secs: 3600,
        connected: true,
        ends_at: None,
        will_at: None,
        will: None,
        overlap: Overlap::Merge,
        window: 20,
        next_position: 1,
        next_subscription: 1,
        sent: Vec::new(),
        who: None,
    }))
}

fn sent(topic: &str, payload: &'static [u8]) -> Arc<Message> {
    let topic = Topic::parse(topic.into(), 1024, 32).unwrap();
    let payload = Bytes::from_static(payload);
    Arc::new(Message::new(topic, payload, QoS::AtLeastOnce, true))
}

fn accepted(number: u64, packet_id: u16) -> Op {
    Op::Accepted { number, packet_id }
}

fn key(text: &'static str, answer: u32) -> Op {
    Op::Key {
        key: text.into(),
        answer,
        until: Timestamp(10),
    }
}

fn group(number: u64) -> Op {
    Op::Group {
        number,
        record: GroupRecord {
            share: None,
            filter: Filter::parse("$queue/a".into(), 64, 8).unwrap(),
        },
    }
}

pub(super) fn queued(owner: u64, position: u64) -> Op {
    Op::Message {
        message: sent("a/b", b"0123456789"),
        receivers: vec![Receiver {
            queue: QueueId { owner, lane: 0 },
            position,
            qos: QoS::AtLeastOnce,
            retain: false,
            attempts: 0,
            matched: [SubscriptionId(1)].into_iter().collect(),
            group: None,
        }],
    }
}

pub(super) fn payload(ops: &[Op]) -> Vec<u8> {
    let mut payload = Vec::new();
    for op in ops {
        encode(op, &mut payload);
    }
    payload
}

/// Units of a journal whose first number is given, each at 100 times its number of segment 7.
fn changes(first: Seq, units: &[&[Op]]) -> Changes {
    let mut changes = Changes::default();
    for (seq, ops) in (first..).zip(units) {
        let place = Place {
            segment: 7,
            offset: seq * 100,
        };
        changes.unit(seq, place, &payload(ops)).unwrap();
    }
    changes
}

/// All that is stored: where it came from, and what it says.
fn loaded(index: &Index) -> Result<Vec<(Seq, String)>, IndexError> {
    let mut all = Vec::new();
    index.load(|stored| {
        assert_eq!(stored.place.offset, stored.seq * 100);
        assert_eq!(stored.place.segment, 7);
        all.push((stored.seq, format!("{:?}", stored.record)));
    })?;
    all.sort();
    Ok(all)
}

fn expected(ops: &[(Seq, Op)]) -> Vec<(Seq, String)> {
    let ops = ops.iter();
    let mut all: Vec<_> = ops.map(|(seq, op)| (*seq, format!("Op({op:?})"))).collect();
    all.sort();
    all
}

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_latest_of_each_name_survives_a_close() {
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    assert_eq!(index.meta(), None);
    assert!(
        index
            .load(|_| panic!("nothing is there"))
            .unwrap()
            .is_none()
    );
    index
        .apply(
            &changes(
                1,
                &[
                    &[
                        session(1, "a"),
                        accepted(1, 5),
                        accepted(1, 6),
                        queued(1, 1),
                    ],
                    &[session(2, "b"), group(3), key("k", 1)],
                    &[Op::Retain {
                        message: sent("r/1", b"x"),
                    }],
                    &[Op::Retain {
                        message: sent("r/2", b"x"),
                    }],
                ],
            ),
            99,
        )
        .unwrap();
    index
        .apply(
            &changes(
                5,
                &[
                    &[
                        session(1, "a2"),
                        Op::Released {
                            number: 1,
                            packet_id: 5,
                        },
                    ],
                    &[
                        key("k", 2),
                        Op::Unretain {
                            topic: "r/1".into(),
                        },
                    ],
                    &[queued(1, 2)],
                ],
            ),
            99,
        )
        .unwrap();
    index.close().unwrap();

    let index = Index::open(folder.path()).unwrap();
    let meta = index.meta().unwrap();
    assert_eq!((meta.epoch, meta.through, meta.count), (99, 7, 6));
    assert_eq!(
        loaded(&index).unwrap(),
        expected(&[
            (1, accepted(1, 6)),
            (2, session(2, "b")),
            (2, group(3)),
            (
                4,
                Op::Retain {
                    message: sent("r/2", b"x")
                }
            ),
            (5, session(1, "a2")),
            (6, key("k", 2)),
        ])
    );
}

#[test]
fn a_session_that_ends_takes_everything_with_it() {
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    let theirs = [session(1, "a"), accepted(1, 5), session(256, "b")];
    index.apply(&changes(1, &[&theirs]), 1).unwrap();
    let ends = [
        accepted(1, 6),
        Op::SessionEnd { number: 1 },
        accepted(256, 5),
    ];
    index.apply(&changes(2, &[&ends]), 1).unwrap();
    assert_eq!(
        loaded(&index).unwrap(),
        expected(&[(1, session(256, "b")), (2, accepted(256, 5))])
    );
    // In one step as well, and what comes later stays.
    let again = [session(1, "c"), accepted(1, 7)];
    let ends = [Op::SessionEnd { number: 1 }];
    index
        .apply(&changes(3, &[&again, &ends, &[session(1, "d")]]), 1)
        .unwrap();
    assert_eq!(loaded(&index).unwrap().len(), 3);
    index
        .apply(
            &changes(
                6,
                &[&[Op::SessionEnd { number: 256 }, Op::SessionEnd { number: 1 }]],
            ),
            1,
        )
        .unwrap();
    assert_eq!(loaded(&index).unwrap(), []);
    assert_eq!(index.meta().unwrap().sum, 0);
}

#[test]
fn what_expired_can_be_forgotten() {
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    let ops = [
        key("k", 1),
        Op::Retain {
            message: sent("r", b"x"),
        },
    ];
    index.apply(&changes(1, &[&ops]), 1).unwrap();
    let mut forget = Changes::default();
    assert!(forget.is_empty());
    forget.forget_key("k");
    forget.forget_retained("r");
    forget.known(9);
    assert!(!forget.is_empty() && forget.bytes() > 0);
    index.apply(&forget, 1).unwrap();
    assert_eq!(loaded(&index).unwrap(), []);
    assert_eq!(index.meta().unwrap().through, 9);
}

#[test]
fn large_retained_messages_stay_in_the_journal() {
    static LARGE: [u8; 20_000] = [1; 20_000];
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    let op = Op::Retain {
        message: sent("large", &LARGE),
    };
    let length = payload(std::slice::from_ref(&op)).len() as u64;
    index.apply(&changes(1, &[&[op]]), 1).unwrap();
    let mut found = Vec::new();
    index.load(|stored| found.push(stored)).unwrap();
    assert!(matches!(
        &found[..],
        [Stored { length: is, record: StoredRecord::RetainElsewhere { topic }, .. }]
            if *is == length && topic == "large"
    ));
}

#[test]
fn large_changes_are_written_in_steps() {
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    let many: Vec<Op> = (1..=5000).map(|number| session(number, "client")).collect();
    index.apply(&changes(1, &[&many]), 1).unwrap();
    assert_eq!(loaded(&index).unwrap().len(), 5000);
    let ends: Vec<Op> = (1..=5000).map(|number| Op::SessionEnd { number }).collect();
    index.apply(&changes(2, &[&ends]), 1).unwrap();
    assert_eq!(loaded(&index).unwrap().len(), 0);
}

#[test]
fn hints_say_what_a_scan_says() {
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    let mut expected = Vec::new();
    let mut hints = Hints::default();
    for seq in 10..3000 {
        let done = Op::Done {
            queue: QueueId { owner: 4, lane: 0 },
            position: seq,
        };
        let end = Op::SubscriptionEnd {
            number: 4,
            id: SubscriptionId(2),
        };
        let payload = match seq % 3 {
            0 => payload(&[queued(4, seq), session(4, "a"), done, queued(5, seq)]),
            1 => payload(&[session(4, "a")]),
            _ => payload(&[end]),
        };
        hints.unit(seq, seq * 512, &payload).unwrap();
        for record in scan(&payload).map(Result::unwrap) {
            let what = match record.what {
                Scanned::Message {
                    receivers, size, ..
                } => {
                    format!("{:?}", Hinted::Message { receivers, size })
                }
                Scanned::Other(Op::Session(_)) => continue,
                Scanned::Other(op) => format!("{:?}", Hinted::Other(op)),
                Scanned::Retain { .. } | Scanned::Key { .. } => unreachable!(),
            };
            expected.push((seq, seq * 512, record.range.len(), what));
        }
    }
    assert!(hints.len() > 4 * 4096, "several chunks");
    let sealed = Sealed {
        segment: 8,
        epoch: 1,
        first: 10,
        last: 2999,
    };
    index.seal(sealed, &hints).unwrap();
    index
        .seal(
            Sealed {
                segment: 300,
                ..sealed
            },
            &Hints::default(),
        )
        .unwrap();
    index.close().unwrap();

    let index = Index::open(folder.path()).unwrap();
    assert_eq!(
        index.sealed().unwrap(),
        [
            sealed,
            Sealed {
                segment: 300,
                ..sealed
            }
        ]
    );
    let mut found = Vec::new();
    let visit = |hint: Hint| {
        found.push((
            hint.seq,
            hint.offset,
            hint.length,
            format!("{:?}", hint.what),
        ));
    };
    assert!(index.hints(8, visit).unwrap());
    assert_eq!(found, expected);
    assert!(index.hints(300, |_| panic!("it is empty")).unwrap());
    assert!(!index.hints(9, |_| panic!("it is unknown")).unwrap());
    index.forget_before(300).unwrap();
    assert_eq!(index.sealed().unwrap().len(), 1);
    assert!(!index.hints(8, |_| panic!("it was forgotten")).unwrap());
}

#[test]
fn changed_values_are_noticed() {
    let folder = folder();
    let index = Index::open(folder.path()).unwrap();
    index
        .apply(&changes(1, &[&[session(1, "a"), accepted(1, 2)]]), 1)
        .unwrap();
    let mut hints = Hints::default();
    hints.unit(1, 0, &payload(&[queued(1, 1)])).unwrap();
    index
        .seal(
            Sealed {
                segment: 1,
                epoch: 1,
                first: 1,
                last: 1,
            },
            &hints,
        )
        .unwrap();
    for tree in [&index.state, &index.hints] {
        for item in tree.iter().collect::<Result<Vec<_>, _>>().unwrap() {
            let (key, value) = item;
            for at in 0..value.len() {
                let mut changed = value.to_vec();
                changed[at] ^= 0x10;
                tree.insert(&key, changed).unwrap();
                let meta = index.state.get(state::META_KEY).unwrap().unwrap();
                let wrong = Meta::read(&meta).is_err()
                    || loaded(&index).is_err()
                    || index.sealed().is_err()
                    || index.hints(1, |_| {}).is_err();
                assert!(wrong, "{key:?} at {at}");
            }
            tree.remove(&key).unwrap();
            let wrong = loaded(&index).is_err() || index.hints(1, |_| {}).map_or(true, |is| !is);
            assert!(wrong || key == state::META_KEY, "{key:?} is gone");
            tree.insert(&key, value).unwrap();
        }
    }
    assert!(loaded(&index).is_ok() && index.hints(1, |_| {}).unwrap());
}

#[test]
fn a_rewritten_index_holds_the_same() {
    let folder = folder();
    let path = folder.path().join("index");
    let index = Index::open(&path).unwrap();
    let many: Vec<Op> = (1..=3000).map(|number| session(number, "client")).collect();
    index.apply(&changes(1, &[&many]), 1).unwrap();
    let mut hints = Hints::default();
    hints.unit(1, 0, &payload(&[queued(1, 1)])).unwrap();
    let sealed = Sealed {
        segment: 1,
        epoch: 1,
        first: 1,
        last: 1,
    };
    index.seal(sealed, &hints).unwrap();
    assert!(!index.is_wasteful().unwrap());
    let (meta, state) = (index.meta(), loaded(&index).unwrap());
    // What a rewriting that was stopped has left is not in the way.
    fs::create_dir(folder.path().join("index.new")).unwrap();
    fs::write(folder.path().join("index.new/db"), "?").unwrap();

    let index = index.rewrite().unwrap();
    assert_eq!((index.meta(), loaded(&index).unwrap()), (meta, state));
    assert_eq!(index.sealed().unwrap(), [sealed]);
    assert!(index.hints(1, |_| {}).unwrap());
    assert!(!folder.path().join("index.new").exists());
    index.apply(&changes(2, &[&[session(1, "b")]]), 1).unwrap();
    assert_eq!(index.meta().unwrap().count, 3000);
}

/// Whatever happens to sled's files, what is loaded was applied once, or it is an error; and a
/// deleted index can be made anew.
#[test]
fn damaged_files_are_noticed() {
    let original = folder();
    let index = Index::open(original.path()).unwrap();
    let mut states = BTreeMap::new();
    states.insert(0, Vec::new());
    for seq in 1..60 {
        let ops = [
            session(seq % 7, "client"),
            key("k", u32::try_from(seq).unwrap()),
            accepted(1, 9),
        ];
        index.apply(&changes(seq, &[&ops]), 1).unwrap();
        states.insert(seq, loaded(&index).unwrap());
        if seq % 10 == 0 {
            index.flush().unwrap();
        }
    }
    index.close().unwrap();
    let size = fs::metadata(original.path().join("db")).unwrap().len();
    let mut errors = 0;
    for step in 0..40 {
        let copy = folder();
        for entry in fs::read_dir(original.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name();
                let mut bytes = fs::read(entry.path()).unwrap();
                let is_db = name == "db";
                let target = if step % 4 == 3 { !is_db } else { is_db };
                if target && !bytes.is_empty() {
                    // The first part of the file is where the few segments in use are.
                    let at = usize::try_from(size).unwrap().min(bytes.len()) * step / 40;
                    match step % 3 {
                        0 => bytes.truncate(at),
                        1 => bytes[at] ^= 0xff,
                        _ => bytes[at..].iter_mut().take(4096).for_each(|byte| *byte = 0),
                    }
                }
                fs::write(copy.path().join(name), bytes).unwrap();
            }
        }
        let read = Index::open(copy.path()).and_then(|index| {
            let through = index.meta().map_or(0, |meta| meta.through);
            let state = loaded(&index)?;
            assert_eq!(states.get(&through), Some(&state), "step {step}");
            index.close()
        });
        errors += usize::from(read.is_err());
        fs::remove_dir_all(copy.path()).unwrap();
        Index::open(copy.path()).unwrap().close().unwrap();
    }
    println!("{errors} of 40 damaged copies are reported, the others are of an earlier time");
}

#[test]
fn a_closed_index_can_be_opened_at_once() {
    let root = tempfile::tempdir().unwrap();
    for round in 1..=40 {
        let index = Index::open(root.path()).unwrap();
        let mut changes = Changes::default();
        changes.known(round);
        index.apply(&changes, 1).unwrap();
        index.close().unwrap();
    }
}

//! A start from the index finds what a start from the journal alone finds.

use std::fmt::Write as _;
use std::path::Path;

use protocols::connection::Position;

use super::super::disk::RealDisk;
use super::super::indexer;
use super::super::keeper::UNINDEXED;
use super::super::replay::{ReplayError, Replayed, replay};
use super::super::sim::Dice;
use super::super::{Journal, JournalConfig, directory};
use super::model::Script;
use super::{NOW, deliver, done, queue, session, small};
use crate::store::{Op, QueueId, Store, Unit, Urgency};

fn config(path: &Path) -> JournalConfig {
    JournalConfig {
        path: path.to_owned(),
        index_from: Some(0),
        ..small()
    }
}

fn append(store: &Journal, ops: Vec<Op>) {
    let unit = Unit {
        ops: ops.into(),
        ..Unit::default()
    };
    store.append(unit, Urgency::Now);
}

/// Closes a store when the index knows all that it can.
fn close(store: &Journal) {
    while store.durable() < store.taken() || store.stats().unindexed_segments > UNINDEXED as u64 {
        std::thread::yield_now();
    }
    store.close();
}

/// All that a replay found, in a form that can be compared.
fn shown(replayed: Replayed) -> String {
    let memory = &replayed.memory;
    let segments = &memory.segments;
    let mut shown = format!(
        "{} {:?} {}\n",
        replayed.seq,
        replayed.tail,
        memory.entries()
    );
    let recovered = replayed.known.recovered(memory);
    let sessions = recovered.sessions.iter();
    let lanes = sessions
        .flat_map(|it| it.queues.iter().map(|queue| (it.record.number, queue.lane)))
        .chain(recovered.groups.iter().map(|it| (it.number, 0)));
    for (owner, lane) in lanes {
        for wanted in memory.wanted(QueueId { owner, lane }, None, None) {
            writeln!(shown, "{owner} {lane} {wanted:?}").unwrap();
        }
    }
    let numbers = segments.first()..segments.end();
    for number in numbers.filter(|number| segments.live(*number) > 0) {
        writeln!(shown, "{number} {}", segments.live(number)).unwrap();
    }
    shown + &format!("{recovered:#?}")
}

/// Replays with and without the index. Returns up to where the index was used.
fn compare(root: &Path, what: &str) -> Option<u32> {
    let disk = RealDisk::new(root);
    let store = directory::prepare(&disk, false).unwrap();
    let index = indexer::open(root).unwrap();
    let indexed = replay(&disk, store, NOW, 1000, Some(&index));
    index.close().unwrap();
    let read = replay(&disk, store, NOW, 1000, None).ok().unwrap();
    match indexed {
        Ok(indexed) => {
            let covered = indexed.covered;
            let (indexed, read) = (shown(indexed), shown(read));
            for (indexed, read) in indexed.lines().zip(read.lines()) {
                assert_eq!(indexed, read, "{what}");
            }
            assert_eq!(indexed, read, "{what}");
            covered
        }
        Err(ReplayError::Unfit(_)) => None,
        Err(ReplayError::Open(error)) => panic!("{what}: {error}"),
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn any_story_is_the_same_from_the_index() {
    let mut used = 0;
    for seed in 1..=6 {
        let root = tempfile::tempdir().unwrap();
        let old = root.path().join("index.old");
        let index = root.path().join("index");
        let mut dice = Dice::new(seed);
        let mut script = Script::new(seed + 1000);
        for chapter in 0..8 {
            let what = format!("seed {seed}, chapter {chapter}");
            let (store, _) = Journal::open(config(root.path()), NOW).unwrap();
            for _ in 0..dice.below(300) {
                append(&store, script.unit());
                if dice.one_in(10) {
                    while store.durable() < store.taken() {
                        std::thread::yield_now();
                    }
                }
            }
            if dice.one_in(4) {
                append(&store, script.drain());
            }
            close(&store);
            drop(store);
            used += u32::from(compare(root.path(), &what).is_some_and(|last| last > 0));
            // An index that is behind is noticed, or of use all the same.
            if dice.one_in(3) && old.exists() {
                copy(&old, &index);
                compare(root.path(), &format!("{what}, an old index"));
            } else if dice.one_in(2) {
                copy(&index, &old);
            }
        }
    }
    assert!(used > 24, "{used}");
}

/// Opens a store with an index of a journal with some segments.
fn with_index(root: &Path) -> String {
    let (store, _) = Journal::open(config(root), NOW).unwrap();
    append(&store, vec![session(1), session(2)]);
    for position in 1..=100 {
        let to: [(QueueId, Position); 2] = [(queue(1), position), (queue(2), position)];
        append(&store, vec![deliver(vec![b'x'; 100], &to)]);
        if position % 2 == 0 {
            append(&store, vec![done(queue(1), position)]);
        }
    }
    close(&store);
    drop(store);
    assert!(compare(root, "with an index").is_some());
    shown_from_journal(root)
}

fn shown_from_journal(root: &Path) -> String {
    let disk = RealDisk::new(root);
    let store = directory::prepare(&disk, false).unwrap();
    shown(replay(&disk, store, NOW, 1000, None).ok().unwrap())
}

#[test]
fn an_index_that_is_gone_or_broken_costs_nothing_but_time() {
    let root = tempfile::tempdir().unwrap();
    let before = with_index(root.path());
    let index = root.path().join("index");
    let breakages: [&dyn Fn(); 3] = [
        &|| std::fs::remove_dir_all(&index).unwrap(),
        &|| {
            let mut bytes = std::fs::read(index.join("db")).unwrap();
            for at in (1000..bytes.len()).step_by(301) {
                bytes[at] ^= 0x55;
            }
            std::fs::write(index.join("db"), bytes).unwrap();
        },
        &|| {
            std::fs::remove_dir_all(&index).unwrap();
            std::fs::write(&index, "no directory").unwrap();
        },
    ];
    for (at, breakage) in breakages.iter().enumerate() {
        breakage();
        let (store, recovered) = Journal::open(config(root.path()), NOW).unwrap();
        assert_eq!(recovered.sessions.len(), 2, "{at}");
        close(&store);
        drop(store);
        assert_eq!(shown_from_journal(root.path()), before, "{at}");
        if index.is_dir() {
            assert!(compare(root.path(), "made anew").is_some(), "{at}");
        }
    }
}

#[test]
fn bodies_are_not_read_at_a_start_from_the_index() {
    let root = tempfile::tempdir().unwrap();
    with_index(root.path());
    let journal = root.path().join("journal");
    let mut names: Vec<_> = std::fs::read_dir(&journal)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let first = std::fs::read(&names[0]).unwrap();
    // Damage in a body is not seen at the start, and costs this one message when it is read.
    let mut damaged = first;
    damaged[2000] ^= 1;
    std::fs::write(&names[0], damaged).unwrap();
    let (store, recovered) = Journal::open(config(root.path()), NOW).unwrap();
    assert_eq!(store.stats().lost_records, 0);
    let messages: usize = recovered.sessions[1]
        .queues
        .iter()
        .map(|it| it.messages)
        .sum();
    assert_eq!(messages, 100);
}

//! Damaged files and failing disks.

use super::super::directory::segment_name;
use super::super::segment::{HEADER, RECORD_HEADER};
use super::super::sim::SimDisk;
use super::{Halt, JournalConfig, Rig, deliver, done, queue, session, small};
use crate::store::journal::segment;

/// A session with messages at positions from 1, each in a unit and a flush of its own.
fn with_messages(count: u64) -> (SimDisk, Rig) {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1)]);
    rig.rest();
    for position in 1..=count {
        rig.append([deliver(format!("{position:0200}"), &[(queue(1), position)])]);
        rig.rest();
    }
    (disk, rig)
}

fn positions(rig: &Rig) -> Vec<u64> {
    let loaded = rig.load(queue(1), |_| {});
    loaded.entries.iter().map(|entry| entry.position).collect()
}

/// Where the payload with a position's message is.
fn find(disk: &SimDisk, position: u64) -> (String, usize) {
    let text = format!("{position:0200}");
    for name in disk.names() {
        let content = disk.content(&name);
        let at = content
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        if let (Some(at), true) = (at, name.starts_with("journal/")) {
            return (name, at);
        }
    }
    panic!("position {position} is nowhere");
}

#[test]
fn a_flipped_bit_costs_one_message_and_is_set_aside_once() {
    let (disk, rig) = with_messages(60);
    assert!(rig.shared.stats().segments > 3);
    for position in [3, 58] {
        let (name, at) = find(&disk, position);
        disk.damage(&name, |bytes| bytes[at] ^= 4);
    }
    for _ in 0..2 {
        let (rig, recovered) = Rig::open(&disk);
        let expected: Vec<u64> = (1..=60).filter(|it| *it != 3 && *it != 58).collect();
        assert_eq!(positions(&rig), expected);
        assert_eq!(recovered.sessions.len(), 1);
        assert_eq!(rig.shared.stats().lost_records, 2);
        let broken = disk
            .names()
            .into_iter()
            .filter(|name| name.starts_with("broken/"));
        assert_eq!(broken.count(), 2);
    }
}

#[test]
fn a_truncated_segment_in_the_middle_costs_its_end() {
    let (disk, _) = with_messages(60);
    let (name, at) = find(&disk, 20);
    disk.damage(&name, |bytes| bytes.truncate(at + 10));
    let (mut rig, _) = Rig::open(&disk);
    let found = positions(&rig);
    assert!(found.starts_with(&(1..20).collect::<Vec<_>>()));
    assert!(!found.contains(&20) && found.contains(&60));
    assert!(rig.shared.stats().lost_records > 0);
    rig.append([deliver("more", &[(queue(1), 61)])]);
    rig.rest();
    assert!(positions(&rig).contains(&61));
}

#[test]
fn a_truncated_last_segment_loses_only_its_end() {
    let (disk, rig) = with_messages(60);
    let last = segment_name(rig.committer.active_number());
    let (name, at) = find(&disk, 60);
    assert_eq!(name, last);
    disk.damage(&name, |bytes| bytes.truncate(at + 10));
    let (mut rig, _) = Rig::open(&disk);
    assert_eq!(positions(&rig), (1..60).collect::<Vec<_>>());
    assert!(rig.shared.stats().cut_bytes > 0);
    rig.append([deliver("again", &[(queue(1), 60)])]);
    rig.rest();
    let (rig, _) = Rig::open(&disk);
    assert_eq!(positions(&rig), (1..=60).collect::<Vec<_>>());
    assert_eq!(rig.shared.stats().lost_records, 0);
}

#[test]
fn a_damaged_header_costs_nothing_and_is_reported() {
    let (disk, rig) = with_messages(60);
    let first = segment_name(rig.shared.memory.lock().segments.first());
    let last = segment_name(rig.committer.active_number());
    for name in [first, last] {
        disk.damage(&name, |bytes| bytes[..HEADER].fill(0xff));
    }
    let (mut rig, _) = Rig::open(&disk);
    assert_eq!(positions(&rig), (1..=60).collect::<Vec<_>>());
    assert_eq!(rig.shared.stats().lost_records, 2);
    rig.append([deliver("more", &[(queue(1), 61)])]);
    rig.rest();
    let (rig, _) = Rig::open(&disk);
    assert_eq!(positions(&rig), (1..=61).collect::<Vec<_>>());
}

#[test]
fn a_missing_segment_is_reported() {
    let (disk, rig) = with_messages(60);
    let second = segment_name(rig.shared.memory.lock().segments.first() + 1);
    disk.damage(&second, Vec::clear);
    let rig = Rig::open(&disk).0;
    assert!(rig.shared.stats().lost_records > 0);
    let found = positions(&rig);
    assert!(found.contains(&1) && found.contains(&60) && found.len() < 60);
}

#[test]
fn a_torn_end_is_cut_and_never_seen_again() {
    let (disk, mut rig) = with_messages(3);
    let name = segment_name(rig.committer.active_number());
    let (_, at) = find(&disk, 3);
    // The first half of a record, as it would be behind the last one.
    disk.damage(&name, |bytes| {
        let start = at + 200;
        let record = bytes[start - 240..start - 40].to_vec();
        bytes[start..start + 200].copy_from_slice(&record);
    });
    let content = disk.content(&name);
    rig = Rig::open(&disk).0;
    let stats = rig.shared.stats();
    assert!((1..=200).contains(&stats.cut_bytes), "{}", stats.cut_bytes);
    assert_eq!((positions(&rig), stats.lost_records), (vec![1, 2, 3], 0));
    assert_eq!(
        disk.content(&name)[at + 200..],
        vec![0; content.len() - at - 200]
    );
    assert!(rig.append([done(queue(1), 1)]).seq() == Some(5));
    rig.rest();
    assert_eq!(Rig::open(&disk).0.shared.stats().cut_bytes, 0);
}

#[test]
fn a_message_that_cannot_be_read_is_lost_once() {
    let (disk, mut rig) = with_messages(10);
    let (name, at) = find(&disk, 4);
    disk.damage(&name, |bytes| bytes[at + 7] ^= 1);
    let loaded = rig.load(queue(1), |_| {});
    assert_eq!((loaded.entries.len(), loaded.lost), (9, 1));
    let loaded = rig.load(queue(1), |_| {});
    assert_eq!((loaded.entries.len(), loaded.lost), (9, 0));
    assert_eq!(rig.shared.stats().lost_records, 1);
    rig.rest();
    assert_eq!(rig.shared.stats().stored_messages, 9);
}

#[test]
fn damage_in_a_segment_does_not_stop_its_cleaning() {
    let (disk, mut rig) = with_messages(60);
    let (name, at) = find(&disk, 2);
    disk.damage(&name, |bytes| bytes[at + 7] ^= 1);
    for position in 5..=60 {
        rig.append([done(queue(1), position)]);
    }
    for position in 100..150 {
        rig.append([deliver(vec![1; 300], &[(queue(1), position)])]);
        rig.append([done(queue(1), position)]);
        rig.rest();
    }
    assert_eq!(positions(&rig), [1, 3, 4]);
    let stats = rig.shared.stats();
    assert_eq!((stats.lost_records, stats.stored_messages), (1, 3));
    assert!(stats.segments < 6, "{}", stats.segments);
    assert!(!disk.names().contains(&name));
}

/// Segments of a size that several sectors fit in.
fn with_large_segments(count: u64) -> (SimDisk, Rig) {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open_with(&disk, large()).unwrap();
    rig.append([session(1)]);
    for position in 1..=count {
        rig.append([deliver(format!("{position:0200}"), &[(queue(1), position)])]);
        rig.rest();
    }
    (disk, rig)
}

fn large() -> JournalConfig {
    JournalConfig {
        segment_bytes: 64 * 1024,
        ..small()
    }
}

#[test]
fn a_bad_sector_costs_the_messages_in_it() {
    let (disk, rig) = with_large_segments(200);
    let (name, at) = find(&disk, 100);
    let sector = at / 4096 * 4096;
    disk.fail_reads(Some((&name, sector..sector + 4096)));
    let in_it: Vec<u64> = (1..=200)
        .filter(|position| {
            let at = find(&disk, *position).1;
            at + 200 > sector && at < sector + 4096
        })
        .collect();
    assert!(in_it.len() > 5 && in_it.contains(&100), "{in_it:?}");
    let left = positions(&rig);
    let lost: Vec<u64> = (1..=200).filter(|it| !left.contains(it)).collect();
    // The header of a record before the sector and the end of one behind it may be in it.
    assert!(in_it.iter().all(|it| lost.contains(it)), "{lost:?}");
    assert!(lost.len() <= in_it.len() + 2, "{lost:?}");
    assert!(!rig.shared.stats().failed);
    // A start finds the same.
    let (rig, _) = Rig::open_with(&disk, large()).unwrap();
    assert_eq!(positions(&rig), left);
}

#[test]
fn a_disk_that_cannot_be_read_ends_the_store_and_loses_nothing() {
    let (disk, mut rig) = with_large_segments(200);
    disk.fail_reads(None);
    let loaded = rig.load(queue(1), |_| {});
    assert_eq!((loaded.entries.len(), loaded.lost), (0, 0));
    assert!(loaded.more);
    let said = rig.failure.lock().clone().unwrap();
    assert!(said.contains("cannot read the journal"), "{said}");
    assert!(said.contains(".seg"), "{said}");
    assert_eq!(rig.committer.round(), Err(Halt::Failed));
    let stats = rig.shared.stats();
    assert_eq!((stats.lost_records, stats.stored_messages), (0, 200));
}

#[test]
fn a_segment_that_cannot_be_opened_now_is_cleaned_later() {
    let (disk, mut rig) = with_messages(60);
    disk.fail_opens(true);
    for position in 5..=60 {
        rig.append([done(queue(1), position)]);
        rig.rest();
    }
    disk.fail_opens(false);
    assert_eq!(positions(&rig), [1, 2, 3, 4]);
    assert_eq!(rig.shared.stats().lost_records, 0);
}

#[test]
fn a_failed_flush_ends_the_store_and_promises_nothing() {
    let (disk, mut rig) = with_messages(3);
    disk.fail_syncs();
    let ticket = rig.append([deliver("x", &[(queue(1), 4)])]);
    assert_eq!(rig.committer.round(), Err(Halt::Failed));
    let said = rig.failure.lock().clone().unwrap();
    assert!(said.contains("cannot flush the journal"), "{said}");
    assert!(said.contains(".seg"), "{said}");
    assert!(!ticket.is_durable());
    assert!(rig.shared.stats().failed);
    assert_eq!(rig.shared.herald.durable(), 4);
}

#[test]
fn records_of_a_removed_file_are_not_taken_for_new_ones() {
    // A payload that is a record of its own, of the segment that it is in.
    let (disk, mut rig) = with_messages(1);
    let key = segment::SegmentKey {
        store: rig.shared.store,
        number: rig.committer.active_number(),
    };
    let mut inner = vec![0; RECORD_HEADER];
    inner.extend(b"payload");
    let crc = crc32c::crc32c(b"payload");
    segment::seal_record(&mut inner, segment::Kind::Unit, crc, 3, 0, key);
    rig.append([deliver(inner, &[(queue(1), 2)])]);
    rig.rest();
    let rig = Rig::open(&disk).0;
    assert_eq!(positions(&rig), [1, 2]);
    assert_eq!(rig.shared.stats().lost_records, 0);
}

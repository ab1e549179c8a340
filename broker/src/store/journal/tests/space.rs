//! Space: what is given back, full disks and bounds.

use super::super::sim::SimDisk;
use super::{Halt, JournalConfig, NOW, Rig, deliver, done, queue, session, small};
use crate::store::{Full, Op};

const SEGMENT: u64 = 4096;

#[test]
fn the_space_of_drained_queues_is_given_back() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1), session(2)]);
    for position in 1..=1000 {
        rig.append([deliver(
            vec![0; 200],
            &[(queue(1), position), (queue(2), position)],
        )]);
        rig.rest();
    }
    assert!(disk.used() > 200_000);
    for position in 1..=1000 {
        rig.append([done(queue(1), position), done(queue(2), position)]);
    }
    rig.rest();
    let stats = rig.shared.stats();
    assert_eq!(stats.stored_messages, 0);
    assert!(
        stats.journal_bytes <= 3 * SEGMENT,
        "{}",
        stats.journal_bytes
    );
    assert!(disk.used() <= 3 * SEGMENT + 100, "{}", disk.used());
    assert!(stats.live_bytes < 200);
    let (_, recovered) = Rig::open(&disk);
    assert_eq!(recovered.sessions.len(), 2);
}

/// Keys outlive their messages by far: they are neither kept for ever nor copied again and again.
#[test]
fn idempotency_keys_are_bounded_and_cost_about_what_they_are() {
    let disk = SimDisk::default();
    let config = || JournalConfig {
        max_keys: 20,
        ..small()
    };
    let (mut rig, _) = Rig::open_with(&disk, config()).unwrap();
    rig.append([session(1)]);
    let mut until = NOW;
    for position in 1..=2000_u32 {
        until = NOW.plus_secs(60 + position);
        let key = Op::Key {
            key: format!("key {position}").into(),
            answer: 1,
            until,
        };
        rig.append([deliver(vec![0; 200], &[(queue(1), position.into())]), key]);
        rig.append([done(queue(1), position.into())]);
        rig.rest();
    }
    let stats = rig.shared.stats();
    assert!(stats.live_bytes < 20 * 100, "{}", stats.live_bytes);
    assert!(
        stats.journal_bytes < 14 * SEGMENT,
        "{}",
        stats.journal_bytes
    );
    assert!(
        stats.copied_bytes < stats.bytes / 50,
        "{}",
        stats.copied_bytes
    );
    let (_, recovered) = Rig::open_with(&disk, config()).unwrap();
    assert_eq!(recovered.keys.len(), 20);
    assert_eq!(recovered.keys[19], (until, "key 2000".into(), 1));
}

#[test]
fn keys_whose_time_is_over_are_not_live() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    let mut live = Vec::new();
    for (name, until) in [("past", NOW), ("long", NOW.plus_secs(3600))] {
        let key = name.into();
        let answer = 1;
        rig.append([Op::Key { key, answer, until }]);
        rig.rest();
        live.push(rig.shared.stats().live_bytes);
    }
    assert!(live[0] > 0);
    assert!(
        live[1] < 2 * live[0],
        "one takes the place of the other: {live:?}"
    );
}

#[test]
fn old_messages_between_new_ones_cost_about_what_they_are() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1), session(2)]);
    // One in ten stays, and all others go at once.
    for position in 1..=3000 {
        let stays = position % 10 == 0;
        let owner = if stays { 1 } else { 2 };
        rig.append([deliver(vec![0; 100], &[(queue(owner), position)])]);
        if !stays {
            rig.append([done(queue(2), position)]);
        }
        rig.rest();
    }
    let stats = rig.shared.stats();
    assert_eq!(stats.stored_messages, 300);
    assert!(stats.journal_bytes <= 2 * stats.live_bytes + 3 * SEGMENT);
    // Each byte was copied once or twice in all.
    assert!(
        stats.copied_bytes < 2 * stats.bytes,
        "{}",
        stats.copied_bytes
    );
    assert_eq!(rig.payloads(queue(1)).len(), 300);
    let (rig, _) = Rig::open(&disk);
    assert_eq!(rig.payloads(queue(1)).len(), 300);
}

/// Appends messages until there is no room for more.
fn fill(rig: &mut Rig) -> u64 {
    for position in 1..10_000 {
        if rig.shared.room().is_err() {
            return position;
        }
        let ticket = rig.append([deliver(vec![7; 300], &[(queue(1), position)])]);
        rig.rest();
        assert!(ticket.is_durable());
    }
    panic!("there is room without end");
}

#[test]
fn at_the_bound_messages_are_refused_until_some_are_gone() {
    let disk = SimDisk::default();
    let config = JournalConfig {
        max_bytes: 10 * SEGMENT,
        ..small()
    };
    let (mut rig, _) = Rig::open_with(&disk, config).unwrap();
    rig.append([session(1)]);
    let end = fill(&mut rig);
    let full = Full::Bound { max: 10 * SEGMENT };
    assert_eq!(rig.shared.room(), Err(full.clone()));
    assert_eq!(rig.shared.stats().room, Err(full));
    assert!(rig.shared.stats().journal_bytes <= 10 * SEGMENT);
    // That some are done with is always taken, and is what makes room.
    for position in 1..end {
        let ticket = rig.append([done(queue(1), position)]);
        rig.rest();
        assert!(ticket.is_durable());
        if rig.shared.room().is_ok() {
            assert!(position > 2 && position < end / 2, "{position} of {end}");
            return;
        }
    }
    panic!("there is no room again");
}

#[test]
fn on_a_full_disk_messages_are_refused_until_there_is_space() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1)]);
    disk.set_capacity(Some(10 * SEGMENT));
    let end = fill(&mut rig);
    assert_eq!(rig.shared.room(), Err(Full::Disk));
    for position in 1..20 {
        let ticket = rig.append([done(queue(1), position)]);
        rig.rest();
        assert!(ticket.is_durable());
    }
    disk.set_capacity(Some(20 * SEGMENT));
    rig.rest();
    assert_eq!(rig.shared.room(), Ok(()));
    let expected = usize::try_from(end - 20).unwrap();
    assert_eq!(rig.payloads(queue(1)).len(), expected);
    let (rig, _) = Rig::open(&disk);
    assert_eq!(rig.payloads(queue(1)).len(), expected);
}

#[test]
fn a_disk_that_drains_recovers_by_itself() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1)]);
    disk.set_capacity(Some(10 * SEGMENT));
    let end = fill(&mut rig);
    // Every other one, then the rest: nothing is dead as a whole for a long time.
    for position in (1..end).step_by(2).chain((2..end).step_by(2)) {
        let ticket = rig.append([done(queue(1), position)]);
        rig.rest();
        assert!(ticket.is_durable(), "{position}");
    }
    assert_eq!(rig.shared.room(), Ok(()));
    assert!(disk.used() <= 4 * SEGMENT, "{}", disk.used());
}

#[test]
fn what_finds_no_space_waits_and_is_not_lost() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1)]);
    disk.set_capacity(Some(6 * SEGMENT));
    // Somebody does not ask whether there is room.
    let tickets: Vec<_> = (1..=100)
        .map(|position| {
            let ticket = rig.append([deliver(vec![7; 300], &[(queue(1), position)])]);
            let _ = rig.step();
            ticket
        })
        .collect();
    assert_eq!(rig.step(), Err(Halt::NoSpace));
    let durable = tickets.iter().filter(|ticket| ticket.is_durable()).count();
    assert!((20..90).contains(&durable), "{durable}");
    assert_eq!(rig.payloads(queue(1)).len(), durable);
    assert!(rig.shared.intake.waiting_bytes() > 0);
    disk.set_capacity(None);
    rig.rest();
    assert!(tickets.iter().all(|ticket| ticket.is_durable()));
    assert_eq!(rig.shared.intake.waiting_bytes(), 0);
    let (rig, _) = Rig::open(&disk);
    assert_eq!(rig.payloads(queue(1)).len(), 100);
}

#[test]
fn space_that_others_need_is_left_free() {
    let disk = SimDisk::default();
    disk.set_capacity(Some(30 * SEGMENT));
    let config = JournalConfig {
        min_free_bytes: 20 * SEGMENT,
        ..small()
    };
    let (mut rig, _) = Rig::open_with(&disk, config).unwrap();
    rig.append([session(1)]);
    fill(&mut rig);
    assert_eq!(rig.shared.room(), Err(Full::Disk));
    assert!(disk.used() <= 10 * SEGMENT + 100);
}

//! Crashes at every point: what was promised is there, in the state that some prefix of the
//! units leads to, and nothing else is.

use std::sync::Arc;

use super::super::sim::{Dice, SimDisk};
use super::model::{Model, Script};
use super::{Rig, Round, Ticket, deliver, done, queue, session, small};

/// What was appended to a store, and who was promised what.
struct Story {
    script: Script,
    promised: usize,
    tickets: Vec<Arc<Ticket>>,
}

impl Story {
    fn new(seed: u64) -> Self {
        Self {
            script: Script::new(seed),
            promised: 0,
            tickets: Vec::new(),
        }
    }

    fn append(&mut self, rig: &Rig) {
        let unit = self.script.unit();
        self.tickets.push(rig.append(unit));
    }

    fn note_promises(&mut self) {
        for ticket in self.tickets.iter().filter(|ticket| ticket.is_durable()) {
            let seq = usize::try_from(ticket.seq().unwrap()).unwrap();
            self.promised = self.promised.max(seq);
        }
        self.tickets.retain(|ticket| !ticket.is_durable());
    }

    /// Opens the disk and compares what is there with what should be.
    fn check(&mut self, disk: &SimDisk, what: &str) -> Rig {
        self.note_promises();
        self.tickets.clear();
        let (rig, recovered) = Rig::open(disk);
        let found = usize::try_from(rig.shared.intake.taken()).unwrap();
        assert!(
            found >= self.promised,
            "{what}: {found} < {}",
            self.promised
        );
        assert!(found <= self.script.units.len(), "{what}: {found}");
        self.script.forget_behind(found);
        let expected = Model::after(&self.script.units);
        assert_eq!(Model::of(&rig, &recovered), expected, "{what}");
        let stats = rig.shared.stats();
        assert_eq!(stats.lost_records, 0, "{what}");
        assert!(stats.live_bytes <= stats.journal_bytes, "{what}");
        self.promised = found;
        rig
    }
}

/// Crashes a few times while the disk is opened, each time at another point.
fn crash_and_open(disk: &SimDisk, dice: &mut Dice) -> SimDisk {
    let mut crashed = disk.crash(dice);
    for _ in 0..3 {
        crashed.stop_after(1 + dice.below(12) as u64);
        // It may fail, or work; both must leave everything there.
        if let Ok((mut rig, _)) = Rig::open_with(&crashed, small()) {
            let _ = rig.step();
        }
        crashed = crashed.crash(dice);
    }
    crashed
}

#[test]
fn every_operation_of_a_story_may_be_the_last() {
    const STEPS: usize = 60;
    for n in 1.. {
        let disk = SimDisk::default();
        let mut dice = Dice::new(n);
        let mut story = Story::new(42);
        let mut rig = Rig::open(&disk).0;
        disk.stop_after(n);
        for _ in 0..STEPS {
            for _ in 0..3 {
                story.append(&rig);
            }
            if rig.step().is_err() {
                break;
            }
        }
        let is_stopped = disk.is_stopped();
        let crashed = crash_and_open(&disk, &mut dice);
        story.check(&crashed, &format!("stopped at operation {n}"));
        if !is_stopped {
            assert!(n > 100, "the story is too short");
            break;
        }
    }
}

/// Seeds for the long story; more with `POLYCAST_STORE_SEEDS`.
fn seeds() -> u64 {
    let seeds = std::env::var("POLYCAST_STORE_SEEDS");
    seeds.ok().and_then(|it| it.parse().ok()).unwrap_or(30)
}

#[test]
fn any_story_survives_any_crashes() {
    for seed in 1..=seeds() {
        let mut dice = Dice::new(seed * 77);
        let mut disk = SimDisk::default();
        let mut story = Story::new(seed);
        let mut rig = Rig::open(&disk).0;
        for chapter in 0..25 {
            if dice.one_in(2) {
                disk.stop_after(1 + dice.below(120) as u64);
            }
            for _ in 0..dice.below(60) {
                for _ in 0..dice.below(6) {
                    story.append(&rig);
                }
                while dice.one_in(2) && rig.step() == Ok(Round::Busy) {}
                if rig.step().is_err() {
                    break;
                }
                story.note_promises();
            }
            if dice.one_in(8) && !disk.is_stopped() {
                rig.append(story.script.drain());
                let _ = rig.step();
            }
            disk = crash_and_open(&disk, &mut dice);
            rig = story.check(&disk, &format!("seed {seed}, chapter {chapter}"));
        }
    }
}

#[test]
fn memory_agrees_with_itself_after_a_replay() {
    for seed in 100..115 {
        let disk = SimDisk::default();
        let mut story = Story::new(seed);
        let mut rig = Rig::open(&disk).0;
        for _ in 0..300 {
            story.append(&rig);
            story.append(&rig);
            rig.step().unwrap();
        }
        rig.rest();
        let before = rig.shared.stats();
        let after = Rig::open(&disk).0.shared.stats();
        assert_eq!(after.stored_messages, before.stored_messages, "seed {seed}");
        assert_eq!(after.journal_bytes, before.journal_bytes, "seed {seed}");
        // What nobody ever got counts while others in its record live.
        let about = before.live_bytes..=before.live_bytes * 21 / 20;
        assert!(about.contains(&after.live_bytes), "seed {seed}");
        rig.append(story.script.drain());
        rig.rest();
        assert_eq!(rig.shared.stats().stored_messages, 0, "seed {seed}");
    }
}

#[test]
fn what_is_not_durable_may_come_back_and_what_is_does_not() {
    let disk = SimDisk::default();
    let (mut rig, _) = Rig::open(&disk);
    rig.append([session(1), deliver("a", &[(queue(1), 1)])]);
    rig.append([deliver("b", &[(queue(1), 2)])]);
    rig.rest();
    rig.append([done(queue(1), 1)]);
    rig.rest();
    rig.append([done(queue(1), 2)]);
    let (rig, _) = Rig::open(&disk.crash(&mut Dice::new(9)));
    assert_eq!(rig.payloads(queue(1)), ["b"]);
}

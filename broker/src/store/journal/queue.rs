//! A queue as memory holds it: where each entry's message is, not the message.

use std::collections::{BTreeMap, VecDeque};

use protocols::connection::Position;

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
}

/// The client has the entry's message.
pub(super) const RECEIVED: u8 = 1;
/// The entry is in its record under another name; how it is delivered is kept apart.
pub(super) const MOVED: u8 = 1 << 1;
/// The entry was taken from a group.
pub(super) const FROM_GROUP: u8 = 1 << 2;
/// The record holds a message that several entries share.
pub(super) const SHARED: u8 = 1 << 3;

/// An entry of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) position: Position,
    /// The record with its message.
    pub(super) place: Place,
    /// The size of its message in memory, saturating.
    pub(super) size: u32,
    pub(super) flags: u8,
}

// A million entries should take little more than 24 MB.
const _: () = assert!(size_of::<Slot>() == 24);

impl Slot {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Entries sorted by position.
#[derive(Debug, Default)]
pub(super) struct Queue {
    slots: VecDeque<Slot>,
    /// Entries that came long after their neighbours. While a journal is replayed old entries
    /// follow new ones (they were copied), and to push each between the others would take for ever.
    late: BTreeMap<Position, Slot>,
}

/// How far from the back an entry is pushed between others during a replay.
const NEAR: usize = 32;

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.slots.len() + self.late.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts an entry in its place and returns what had its position.
    pub(super) fn put(&mut self, slot: Slot, replaying: bool) -> Option<Slot> {
        if self
            .slots
            .back()
            .is_none_or(|back| back.position < slot.position)
        {
            self.slots.push_back(slot);
            // It may have been given back since it was there last.
            return self.take_late(slot.position);
        }
        match self.search(slot.position) {
            Ok(at) => Some(std::mem::replace(&mut self.slots[at], slot)),
            Err(at) if replaying && self.slots.len() - at > NEAR => {
                self.late.insert(slot.position, slot)
            }
            Err(at) => {
                self.slots.insert(at, slot);
                self.take_late(slot.position)
            }
        }
    }

    /// Takes an entry out.
    pub(super) fn take(&mut self, position: Position) -> Option<Slot> {
        let taken = match self.search(position) {
            // Nearly always at the front, where this costs nothing.
            Ok(at) => self.slots.remove(at),
            Err(_) => return self.take_late(position),
        };
        if self.slots.capacity() > 64 && self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.capacity() / 2);
        }
        taken
    }

    fn take_late(&mut self, position: Position) -> Option<Slot> {
        self.late.remove(&position)
    }

    pub(super) fn find(&self, position: Position) -> Option<&Slot> {
        match self.search(position) {
            Ok(at) => self.slots.get(at),
            Err(_) => self.late.get(&position),
        }
    }

    pub(super) fn find_mut(&mut self, position: Position) -> Option<&mut Slot> {
        match self.search(position) {
            Ok(at) => self.slots.get_mut(at),
            Err(_) => self.late.get_mut(&position),
        }
    }

    /// Entries behind `after`, in order. Not while a journal is replayed.
    pub(super) fn behind(&self, after: Option<Position>) -> impl Iterator<Item = &Slot> {
        let start = match after {
            None => 0,
            Some(after) => self.slots.partition_point(|slot| slot.position <= after),
        };
        self.slots.range(start..)
    }

    /// All entries, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().chain(self.late.values())
    }

    /// Removes entries that do not fulfil a condition and hands them over.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Slot) -> bool) -> Vec<Slot> {
        let mut gone = Vec::new();
        self.slots.retain(|slot| {
            let stays = keep(slot);
            if !stays {
                gone.push(*slot);
            }
            stays
        });
        gone
    }

    /// Ends a replay: all is in order, and no more memory is taken than needed.
    pub(super) fn settle(&mut self) {
        if !self.late.is_empty() {
            let late = std::mem::take(&mut self.late);
            self.slots.extend(late.into_values());
            self.slots
                .make_contiguous()
                .sort_by_key(|slot| slot.position);
        }
        self.slots.shrink_to_fit();
    }

    #[inline]
    fn search(&self, position: Position) -> Result<usize, usize> {
        match self.slots.front() {
            None => Err(0),
            Some(front) if front.position == position => Ok(0),
            Some(front) if front.position > position => Err(0),
            Some(_) => self
                .slots
                .binary_search_by_key(&position, |slot| slot.position),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(position: Position) -> Slot {
        Slot {
            position,
            place: Place {
                segment: 1,
                offset: 32,
            },
            size: 100,
            flags: 0,
        }
    }

    fn positions(queue: &Queue, after: Option<Position>) -> Vec<Position> {
        queue.behind(after).map(|slot| slot.position).collect()
    }

    #[test]
    fn entries_are_sorted_whatever_order_they_come_in() {
        for replaying in [false, true] {
            let mut queue = Queue::default();
            for position in (50..100).chain(0..50).chain(100..110) {
                assert_eq!(queue.put(slot(position * 2), replaying), None);
            }
            assert_eq!(queue.put(slot(7), replaying), None);
            assert!(queue.put(slot(198), replaying).is_some());
            assert!(queue.put(slot(4), replaying).is_some());
            assert!(queue.take(6).is_some() && queue.take(150).is_some());
            assert!(queue.take(6).is_none());
            assert!(queue.find(4).is_some() && queue.find_mut(60).is_some());
            assert_eq!(queue.len(), 109);
            queue.settle();
            assert_eq!(queue.len(), 109);
            assert_eq!(positions(&queue, None)[..5], [0, 2, 4, 7, 8]);
            assert_eq!(positions(&queue, Some(147))[..3], [148, 152, 154]);
            assert!(positions(&queue, None).is_sorted());
            assert_eq!(positions(&queue, Some(218)), Vec::<Position>::new());
        }
    }

    #[test]
    fn memory_is_given_back() {
        let mut queue = Queue::default();
        for position in 0..10_000 {
            queue.put(slot(position), false);
        }
        for position in 0..9_990 {
            queue.take(position);
        }
        assert!(queue.slots.capacity() < 128);
        assert_eq!(positions(&queue, None).len(), 10);
    }
}

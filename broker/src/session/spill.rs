//! The part of a stored queue that is on disk only.
//!
//! A queue's first entries are in memory, as far as there is room; all behind them are counted
//! here and read back when their turn comes. What was taken in last may not be on disk yet: it is
//! not asked for before it is, so that nothing is skipped.

use std::collections::VecDeque;
use std::sync::Arc;

use protocols::connection::Position;

use super::spare::Loan;
use crate::store::{Load, Loaded, QueueId, Ticket};

/// See the module.
#[derive(Debug, Default)]
pub struct Spill {
    messages: usize,
    bytes: usize,
    /// All entries behind this position are here; `None` if all are.
    behind: Option<Position>,
    /// Those that may not be on disk yet, in order.
    fresh: VecDeque<(Position, Arc<Ticket>)>,
    is_reading: bool,
    /// Grows whenever what is being read is not wanted any more.
    epoch: u32,
    /// Whether the queue is read from its start again.
    starts_again: bool,
    /// Memory that the queue has borrowed.
    pub(super) loan: Loan,
}

/// A part of the queue to read now.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    after: Option<Position>,
    before: Position,
    messages: usize,
    bytes: usize,
    settled: bool,
    /// How many entries there are in that part, however many of them are read.
    expected: usize,
    epoch: u32,
}

impl Spill {
    /// A queue of which so much was found on disk.
    pub fn recovered(messages: usize, bytes: usize) -> Self {
        Self {
            messages,
            bytes,
            ..Self::default()
        }
    }

    /// Messages here.
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes of the messages here, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All behind this position are here.
    pub fn behind(&self) -> Option<Position> {
        self.behind
    }

    /// Adds an entry behind all others.
    pub fn push(&mut self, position: Position, size: usize, ticket: Arc<Ticket>) {
        self.trim();
        self.messages += 1;
        self.bytes += size;
        self.fresh.push_back((position, ticket));
    }

    /// An entry was put into memory: those here are behind it.
    pub fn pass(&mut self, position: Position) {
        self.behind = Some(self.behind.map_or(position, |behind| behind.max(position)));
    }

    /// The first entry was taken out.
    pub fn dropped_first(&mut self, position: Position, size: usize) {
        self.pass(position);
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
    }

    /// Whether something is being read.
    pub fn is_reading(&self) -> bool {
        self.is_reading
    }

    /// What to read next, if there is something that can be read now. `end` is the position that the
    /// next message of the queue gets: what comes while this is read may be on disk out of its order,
    /// when several publish, so that nothing behind `end` is read.
    pub fn wish(&mut self, messages: usize, bytes: usize, end: Position) -> Option<Wish> {
        if self.messages == 0 || self.is_reading {
            return None;
        }
        self.trim();
        let expected = self.messages.saturating_sub(self.fresh.len());
        if expected == 0 {
            return None;
        }
        self.is_reading = true;
        Some(Wish {
            after: self.behind,
            before: self.fresh.front().map_or(end, |(position, _)| *position),
            messages,
            bytes,
            settled: std::mem::take(&mut self.starts_again),
            expected,
            epoch: self.epoch,
        })
    }

    /// Takes note of what was read. Returns how many entries turned out not to be there; `None`
    /// if what was read is not wanted any more.
    pub fn loaded(&mut self, wish: &Wish, loaded: &Loaded) -> Option<usize> {
        if wish.epoch != self.epoch {
            return None;
        }
        self.is_reading = false;
        let read = loaded.entries.len();
        let gone = if loaded.more {
            loaded.lost
        } else {
            wish.expected.saturating_sub(read)
        };
        self.messages = self.messages.saturating_sub(read + gone);
        let bytes: usize = loaded
            .entries
            .iter()
            .map(|entry| entry.message.size())
            .sum();
        self.bytes = if self.messages == 0 {
            0
        } else {
            self.bytes.saturating_sub(bytes)
        };
        if let Some(last) = loaded.entries.last() {
            self.pass(last.position);
        }
        Some(gone)
    }

    /// Takes all that was in memory, in order, with the tickets of what may not be on disk; it
    /// will be read from the start again.
    pub fn take_back<'a>(
        &mut self,
        entries: impl Iterator<Item = (Position, usize, Option<&'a Arc<Ticket>>)>,
    ) {
        let mut fresh = VecDeque::new();
        for (position, size, ticket) in entries {
            self.messages += 1;
            self.bytes += size;
            if let Some(ticket) = ticket.filter(|ticket| !ticket.is_durable()) {
                fresh.push_back((position, Arc::clone(ticket)));
            }
        }
        fresh.append(&mut self.fresh);
        self.fresh = fresh;
        self.behind = None;
        self.is_reading = false;
        self.starts_again = true;
        self.epoch = self.epoch.wrapping_add(1);
    }

    fn trim(&mut self) {
        while let Some((_, ticket)) = self.fresh.front()
            && ticket.is_durable()
        {
            self.fresh.pop_front();
        }
    }
}

impl Wish {
    /// The wish in the store's words.
    pub fn load(self, queue: QueueId, then: Box<dyn FnOnce(Loaded) + Send>) -> Load {
        Load {
            queue,
            after: self.after,
            before: Some(self.before),
            messages: self.messages,
            bytes: self.bytes,
            settled: self.settled,
            then,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_a_wish(spill: &mut Spill, end: Position) -> Option<Position> {
        Some(spill.wish(16, usize::MAX, end)?.before)
    }

    #[test]
    fn what_comes_while_it_reads_is_not_read() {
        let mut spill = Spill::recovered(3, 300);
        assert_eq!(
            after_a_wish(&mut spill, 7),
            Some(7),
            "and not to the end, wherever that is"
        );

        let mut spill = Spill::recovered(3, 300);
        spill.push(7, 100, Arc::new(Ticket::default()));
        spill.push(8, 100, Arc::new(Ticket::default()));
        assert_eq!(
            after_a_wish(&mut spill, 9),
            Some(7),
            "what may not be on disk is left out"
        );
        assert_eq!(after_a_wish(&mut spill, 9), None, "one at a time");
    }
}

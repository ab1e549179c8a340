//! Counts every delivery: what arrived once, what is missing, what came twice, what came out of
//! order. The order of one publisher's messages at one receiver is what brokers promise, so that
//! is what is kept.

use crate::wire::payload::Stamp;
use serde::Serialize;
use std::collections::HashSet;

/// Gaps that are remembered one by one; beyond it a late message counts as a duplicate.
const GAPS_MAX: usize = 4_000_000;

/// The count of deliveries.
#[derive(Debug)]
pub struct Ledger {
    publishers: usize,
    next: Vec<u32>,
    gaps: HashSet<(u32, u32)>,
    verdict: Verdict,
}

/// What became of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Deliveries that had to happen.
    pub expected: u64,
    /// Messages that arrived, each counted once for a receiver.
    pub arrived: u64,
    /// Messages that arrived again.
    pub duplicates: u64,
    /// Messages that arrived after a later one of the same publisher.
    pub out_of_order: u64,
    /// Deliveries of messages that the generator did not send or not to that receiver.
    pub foreign: u64,
}

impl Verdict {
    /// Deliveries that did not happen.
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.arrived)
    }
}

impl Ledger {
    /// For so many publishers, numbered from 0, and receivers.
    pub fn new(publishers: usize, receivers: usize) -> Self {
        Self {
            publishers,
            next: vec![0; publishers * receivers],
            gaps: HashSet::new(),
            verdict: Verdict::default(),
        }
    }

    /// So many more deliveries have to happen.
    #[inline]
    pub fn expect(&mut self, deliveries: u64) {
        self.verdict.expected += deliveries;
    }

    /// A delivery to this receiver; returns whether it is the first of its message there.
    #[inline]
    pub fn arrive(&mut self, receiver: usize, stamp: Option<Stamp>) -> bool {
        let Some(stamp) = stamp else {
            self.verdict.foreign += 1;
            return false;
        };
        let place = receiver * self.publishers + stamp.publisher as usize;
        let sequence = stamp.sequence as u32;
        if stamp.publisher as usize >= self.publishers || place >= self.next.len() {
            self.verdict.foreign += 1;
            return false;
        }
        let next = self.next[place];
        if sequence == next {
            self.next[place] = sequence + 1;
            self.verdict.arrived += 1;
            return true;
        }
        self.irregular(place, next, sequence)
    }

    #[cold]
    fn irregular(&mut self, place: usize, next: u32, sequence: u32) -> bool {
        if sequence > next {
            let room = GAPS_MAX.saturating_sub(self.gaps.len());
            self.gaps
                .extend((next..sequence).map(|lost| (place as u32, lost)).take(room));
            self.next[place] = sequence + 1;
            self.verdict.arrived += 1;
            return true;
        }
        if self.gaps.remove(&(place as u32, sequence)) {
            self.verdict.out_of_order += 1;
            self.verdict.arrived += 1;
            return true;
        }
        self.verdict.duplicates += 1;
        false
    }

    /// What became of the messages so far.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(publisher: u32, sequence: u64) -> Stamp {
        Stamp {
            publisher,
            sequence,
        }
    }

    #[test]
    fn loss_duplicates_and_order_are_told_apart() {
        let mut ledger = Ledger::new(2, 2);
        ledger.expect(6);
        for sequence in [0, 1, 4, 3, 3, 0] {
            ledger.arrive(1, Some(stamp(1, sequence)));
        }
        ledger.arrive(0, Some(stamp(1, 0)));
        let verdict = ledger.verdict();
        assert_eq!(verdict.arrived, 5);
        assert_eq!(verdict.out_of_order, 1, "3 after 4");
        assert_eq!(verdict.duplicates, 2, "3 and 0 again");
        assert_eq!(verdict.lost(), 1, "2");
    }

    #[test]
    fn what_nobody_sent_is_foreign() {
        let mut ledger = Ledger::new(1, 1);
        assert!(!ledger.arrive(0, None));
        assert!(!ledger.arrive(0, Some(stamp(1, 0))));
        assert!(!ledger.arrive(1, Some(stamp(0, 0))));
        assert_eq!(ledger.verdict().foreign, 3);
    }
}

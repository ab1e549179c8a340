//! Memory that stored queues share beyond what each has of its own.
//!
//! A burst for one session is often larger than what a queue may hold in memory, and all that does
//! not fit is read back from the disk a moment later. So a queue whose client is there may borrow
//! from one store of memory for all of them, by steps, as long as it has borrowed less than is left:
//! one slow client gets no more than half, and others still find something. What is lent is given
//! back as the queue shrinks, and when its client goes.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are lent at a time.
const STEP: usize = 64 * 1024;

/// What is lent, of all queues of the broker.
#[derive(Debug, Default)]
pub struct Spare {
    lent: AtomicUsize,
}

/// What one queue has borrowed; dropping it gives all back.
#[derive(Debug, Default)]
pub(super) struct Loan {
    from: Option<&'static Spare>,
    bytes: usize,
}

static OF_PROCESS: Spare = Spare {
    lent: AtomicUsize::new(0),
};

impl Spare {
    /// That of all queues. It is not the hub's, since a session would have to know it, and a million
    /// of them mostly idle.
    pub fn of_process() -> &'static Self {
        &OF_PROCESS
    }

    /// Bytes that are lent.
    pub fn lent(&self) -> usize {
        self.lent.load(Ordering::Relaxed)
    }

    /// Lends a step to who has borrowed `has`, of `limit` bytes for all.
    fn lend(&self, has: usize, limit: usize) -> bool {
        let lend = |lent: usize| {
            let left = limit.checked_sub(lent)?;
            (has.saturating_add(STEP) <= left).then(|| lent + STEP)
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.lent.fetch_update(set, fetch, lend).is_ok()
    }
}

impl Loan {
    /// Bytes that were borrowed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Borrows a step more, of at most `limit` bytes for all; `false` if that is too much.
    pub(super) fn more(&mut self, from: &'static Spare, limit: usize) -> bool {
        let lent = from.lend(self.bytes, limit);
        self.from = Some(from);
        self.bytes += if lent { STEP } else { 0 };
        lent
    }

    /// The queue holds so many bytes, its own memory included: what it borrowed beyond that goes
    /// back. Between that and [`Loan::more`] lies all that it has of its own, so it does not go to
    /// and fro.
    #[inline]
    pub(super) fn shrink(&mut self, held: usize) {
        if self.bytes > held {
            let back = (self.bytes - held).next_multiple_of(STEP).min(self.bytes);
            self.give_back(back);
        }
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(from) = self.from {
            from.lent.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gets_half_and_others_find_something() {
        let spare: &'static Spare = Box::leak(Box::default());
        let limit = 16 * STEP;
        let (mut one, mut other) = (Loan::default(), Loan::default());
        while one.more(spare, limit) {}
        assert_eq!(one.bytes(), limit / 2);
        while other.more(spare, limit) {}
        assert_eq!(other.bytes(), limit / 4);
        assert_eq!(spare.lent(), limit / 2 + limit / 4);
        assert!(!one.more(spare, 0), "the limit was lowered");
        drop(one);
        assert_eq!(spare.lent(), limit / 4);
    }

    #[test]
    fn what_is_not_needed_goes_back_by_steps() {
        let spare: &'static Spare = Box::leak(Box::default());
        let mut loan = Loan::default();
        for _ in 0..4 {
            assert!(loan.more(spare, 64 * STEP));
        }
        loan.shrink(4 * STEP);
        assert_eq!(loan.bytes(), 4 * STEP);
        loan.shrink(4 * STEP - 1);
        assert_eq!(spare.lent(), 3 * STEP);
        loan.shrink(0);
        assert_eq!((loan.bytes(), spare.lent()), (0, 0));
    }
}

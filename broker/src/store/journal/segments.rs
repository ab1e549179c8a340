//! The segments that there are, and how much in each of them is live.

use std::collections::VecDeque;

/// A segment's account.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// Bytes of the file.
    bytes: u64,
    /// Entries and named records in it that are live.
    live: u64,
    /// Bytes of these, about.
    live_bytes: u64,
}

/// All segments, the oldest first. Their numbers have no gaps; where a file is missing, the account
/// is empty.
#[derive(Debug, Default)]
pub(super) struct Segments {
    first: u32,
    accounts: VecDeque<Account>,
    bytes: u64,
    live_bytes: u64,
    /// What is live in segments that are not there. In a replay this may be so for a while.
    strays: u64,
}

impl Segments {
    /// A segment behind all others.
    pub(super) fn push(&mut self, number: u32, bytes: u64) {
        if self.accounts.is_empty() {
            self.first = number;
        }
        while self.end() < number {
            self.accounts.push_back(Account::default());
        }
        self.accounts.push_back(Account {
            bytes,
            ..Account::default()
        });
        self.bytes += bytes;
    }

    /// Takes away the oldest.
    pub(super) fn pop(&mut self) {
        if let Some(gone) = self.accounts.pop_front() {
            self.first += 1;
            self.bytes -= gone.bytes;
            self.live_bytes -= gone.live_bytes;
        }
    }

    /// The number of the oldest.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    /// The number behind the youngest.
    pub(super) fn end(&self) -> u32 {
        // There are fewer than 2^32.
        self.first + u32::try_from(self.accounts.len()).unwrap_or(u32::MAX)
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the file of a segment.
    pub(super) fn bytes_of(&self, number: u32) -> u64 {
        self.account(number).map_or(0, |account| account.bytes)
    }

    /// Bytes of what is live, about.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Bytes of what is live in a segment, about.
    pub(super) fn live_bytes_of(&self, number: u32) -> u64 {
        self.account(number).map_or(0, |account| account.live_bytes)
    }

    /// How many entries and named records in a segment are live.
    pub(super) fn live(&self, number: u32) -> u64 {
        self.account(number).map_or(0, |account| account.live)
    }

    /// Something in a segment is live.
    pub(super) fn hold(&mut self, number: u32, bytes: u64) {
        if let Some(account) = self.account_mut(number) {
            account.live += 1;
            account.live_bytes += bytes;
            self.live_bytes += bytes;
        } else {
            self.strays += 1;
        }
    }

    /// Something in a segment is not live any more.
    pub(super) fn let_go(&mut self, number: u32, bytes: u64) {
        if let Some(account) = self.account_mut(number) {
            account.live -= 1;
            account.live_bytes -= bytes;
            self.live_bytes -= bytes;
        } else {
            self.strays -= 1;
        }
    }

    /// How much is live in segments that are not there.
    pub(super) fn strays(&self) -> u64 {
        self.strays
    }

    fn account(&self, number: u32) -> Option<&Account> {
        let at = number.checked_sub(self.first)?;
        self.accounts.get(usize::try_from(at).ok()?)
    }

    fn account_mut(&mut self, number: u32) -> Option<&mut Account> {
        let at = number.checked_sub(self.first)?;
        self.accounts.get_mut(usize::try_from(at).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_segments() {
        let mut segments = Segments::default();
        segments.push(5, 100);
        segments.push(7, 200);
        assert_eq!(
            (segments.first(), segments.end(), segments.len()),
            (5, 8, 3)
        );
        segments.hold(5, 10);
        segments.hold(7, 20);
        segments.hold(7, 30);
        assert_eq!((segments.live_bytes(), segments.live(7)), (60, 2));
        segments.let_go(7, 20);
        assert_eq!((segments.live_bytes(), segments.live(7)), (40, 1));
        segments.pop();
        segments.pop();
        assert_eq!((segments.first(), segments.bytes()), (7, 200));
        assert_eq!((segments.live_bytes(), segments.live(5)), (30, 0));
        assert_eq!((segments.bytes_of(7), segments.bytes_of(9)), (200, 0));
        assert_eq!((segments.live_bytes_of(7), segments.end()), (30, 8));
        segments.hold(3, 1);
        assert_eq!(segments.strays(), 1);
        segments.let_go(3, 1);
        assert_eq!((segments.strays(), segments.live_bytes()), (0, 30));
    }
}

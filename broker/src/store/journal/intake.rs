//! Where units wait to be written, and how they get there.
//!
//! A unit is encoded by the thread that appends it, outside of any lock; under the lock it gets its
//! number and its bytes are put behind those of the others. The committer takes a window at a time:
//! all that came while it wrote the one before.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::super::unit::Waiting;
use super::super::{Committed, Seq, Ticket, Unit, Urgency, codec};
use super::segment::{MAX_PAYLOAD, RECORD_HEADER};

/// How long a unit that nobody waits for may wait.
const LATER: Duration = Duration::from_millis(100);
/// What is written with one flush at most.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;
const WINDOW_UNITS: usize = 4096;
/// What a buffer keeps of its memory between uses.
const KEPT_BYTES: usize = 256 * 1024;

/// Records that are written together.
#[derive(Default)]
pub(super) struct Window {
    /// Records, one behind the other; their headers are filled in when they are written.
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// Who is told when all is on disk.
    pub(super) waiting: Vec<Arc<dyn Committed>>,
}

/// A record in a window.
pub(super) struct Entry {
    /// Where it starts in the window's bytes.
    pub(super) at: usize,
    /// Header and payload.
    pub(super) length: usize,
    /// CRC32C of the payload.
    pub(super) crc: u32,
    pub(super) seq: Seq,
    /// None for a copy.
    pub(super) ticket: Option<Arc<Ticket>>,
}

impl Window {
    /// Puts a record behind the others.
    pub(super) fn push(&mut self, payload: &[u8], crc: u32, seq: Seq, ticket: Option<Arc<Ticket>>) {
        let at = self.bytes.len();
        self.bytes.reserve(RECORD_HEADER + payload.len());
        self.bytes.extend_from_slice(&[0; RECORD_HEADER]);
        self.bytes.extend_from_slice(payload);
        self.entries.push(Entry {
            at,
            length: RECORD_HEADER + payload.len(),
            crc,
            seq,
            ticket,
        });
    }

    /// Adds who is told. Units of a row have nearly always the same one, who is told once.
    fn await_all(&mut self, waiting: Waiting) {
        for one in waiting {
            let last = self.waiting.last();
            if last.is_none_or(|last| !Arc::ptr_eq(last, &one)) {
                self.waiting.push(one);
            }
        }
    }

    /// Empties it; a little memory is kept.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.waiting.clear();
        self.bytes.shrink_to(WINDOW_BYTES);
        self.entries.shrink_to(WINDOW_UNITS);
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= WINDOW_BYTES || self.entries.len() >= WINDOW_UNITS
    }
}

/// See the module's documentation.
pub(super) struct Intake {
    filling: Mutex<Filling>,
    work: Condvar,
    taken: AtomicU64,
    waiting_bytes: AtomicUsize,
}

struct Filling {
    windows: VecDeque<Window>,
    /// A window that was written, for its memory.
    spare: Option<Window>,
    next: Seq,
    /// Somebody waits for what is in the windows.
    urgent: bool,
    /// When the first of them that nobody waits for must be written.
    due: Option<Instant>,
    sleeping: Sleeping,
    closing: bool,
}

/// What the committer waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sleeping {
    No,
    ForUrgent,
    ForAny,
}

/// Why the committer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// There is something to write, or the time is over.
    Work,
    /// Nothing will come any more, and nothing is left.
    Close,
}

thread_local! {
    /// Where a thread encodes its units.
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Intake {
    /// The last unit that was given a number is `last`.
    pub(super) fn new(last: Seq) -> Self {
        Self {
            filling: Mutex::new(Filling {
                windows: VecDeque::new(),
                spare: None,
                next: last + 1,
                urgent: false,
                due: None,
                sleeping: Sleeping::No,
                closing: false,
            }),
            work: Condvar::new(),
            taken: AtomicU64::new(last),
            waiting_bytes: AtomicUsize::new(0),
        }
    }

    /// See [`super::super::Store::taken`].
    pub(super) fn taken(&self) -> Seq {
        self.taken.load(Ordering::Acquire)
    }

    /// Bytes that are not written yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// Takes a unit. `Err` if it is larger than any record may be.
    pub(super) fn append(&self, unit: Unit, urgency: Urgency) -> Result<Seq, usize> {
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            for op in &unit.ops {
                codec::encode(op, encoded);
            }
            if encoded.len() > MAX_PAYLOAD {
                return Err(encoded.len());
            }
            let crc = crc32c::crc32c(encoded);
            let seq = self.push(encoded, crc, unit.ticket, unit.waiting, urgency);
            encoded.shrink_to(KEPT_BYTES);
            Ok(seq)
        })
    }

    fn push(
        &self,
        payload: &[u8],
        crc: u32,
        ticket: Arc<Ticket>,
        waiting: Waiting,
        urgency: Urgency,
    ) -> Seq {
        let length = RECORD_HEADER + payload.len();
        self.waiting_bytes.fetch_add(length, Ordering::Relaxed);
        let mut filling = self.filling.lock();
        let seq = filling.next;
        filling.next += 1;
        ticket.taken(seq);
        if filling.windows.back().is_none_or(Window::is_full) {
            let window = filling.spare.take().unwrap_or_default();
            filling.windows.push_back(window);
            // With a full window before it there is enough to be worth a flush.
            filling.urgent |= filling.windows.len() > 1;
        }
        if let Some(window) = filling.windows.back_mut() {
            window.push(payload, crc, seq, Some(ticket));
            window.await_all(waiting);
        }
        self.taken.store(seq, Ordering::Release);
        match urgency {
            Urgency::Now => filling.urgent = true,
            Urgency::Later if filling.due.is_none() => filling.due = Some(Instant::now() + LATER),
            Urgency::Later => {}
        }
        let wake = match filling.sleeping {
            Sleeping::No => false,
            Sleeping::ForUrgent => filling.urgent,
            Sleeping::ForAny => true,
        };
        if wake {
            filling.sleeping = Sleeping::No;
            drop(filling);
            self.work.notify_one();
        }
        seq
    }

    /// Somebody waits for what was taken so far.
    pub(super) fn hurry(&self) {
        let mut filling = self.filling.lock();
        if !filling.windows.is_empty() {
            filling.urgent = true;
        }
        self.rouse(filling);
    }

    fn rouse(&self, mut filling: parking_lot::MutexGuard<'_, Filling>) {
        filling.sleeping = Sleeping::No;
        drop(filling);
        self.work.notify_all();
    }

    /// Nothing comes any more: the committer ends when it has written what there is.
    pub(super) fn close(&self) {
        let mut filling = self.filling.lock();
        filling.closing = true;
        self.rouse(filling);
    }

    /// Waits until there is something to write, or at most until `limit`. With `idle` there is other
    /// work, and nothing is waited for.
    pub(super) fn wait(&self, limit: Option<Instant>, idle: bool) -> Call {
        let mut filling = self.filling.lock();
        loop {
            let something = !filling.windows.is_empty();
            if filling.closing && !something {
                return Call::Close;
            }
            let now = Instant::now();
            let due = filling.due.filter(|_| something);
            let until = [limit, due].into_iter().flatten().min();
            if idle
                || (something && (filling.urgent || filling.closing))
                || until.is_some_and(|until| until <= now)
            {
                return Call::Work;
            }
            filling.sleeping = if something {
                Sleeping::ForUrgent
            } else {
                Sleeping::ForAny
            };
            match until {
                Some(until) => {
                    self.work.wait_until(&mut filling, until);
                }
                None => self.work.wait(&mut filling),
            }
        }
    }

    /// Waits for a while, or until somebody wakes the committer. Says whether the store closes.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let mut filling = self.filling.lock();
        if !filling.closing {
            self.work.wait_for(&mut filling, time);
        }
        filling.closing
    }

    /// The window that is next.
    pub(super) fn take(&self) -> Option<Window> {
        let mut filling = self.filling.lock();
        let window = filling.windows.pop_front();
        if filling.windows.is_empty() {
            filling.urgent = false;
            filling.due = None;
        }
        window
    }

    /// Gives a window back that was written.
    pub(super) fn done(&self, mut window: Window) {
        self.waiting_bytes
            .fetch_sub(window.bytes.len(), Ordering::Relaxed);
        window.clear();
        self.filling.lock().spare = Some(window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Anyone(#[expect(dead_code, reason = "it gives each a place of its own")] u64);

    impl Committed for Anyone {
        fn committed(self: Arc<Self>) {}
    }

    #[test]
    fn who_waits_for_a_row_of_units_is_noted_once() {
        let [one, other] = [1, 2].map(|number| Arc::new(Anyone(number)));
        let mut window = Window::default();
        for who in [&one, &one, &other, &other, &one] {
            window.await_all(Waiting::from_iter([Arc::clone(who) as Arc<dyn Committed>]));
        }
        window.await_all(Waiting::new());
        assert_eq!(window.waiting.len(), 3);
    }
}

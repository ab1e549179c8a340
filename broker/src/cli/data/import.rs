//! `polycast data import`: the lines of an export into an empty store.

use std::collections::HashMap;
use std::io::{BufRead, Read as _};
use std::iter;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};

use anyhow::{Context as _, Result, bail, ensure};
use protocols::model::Timestamp;

use super::convert;
use super::lines::{Entry, Line, VERSION};
use crate::store::{Op, Seq, Store, Unit, Urgency};

/// A line takes the largest message with some more for escapes; what is longer is cut and wrong.
const LINE_MAX: u64 = 1 << 30;

/// Reads lines and stores what they say. All of it is on the disk when this returns how many lines
/// there were.
pub(super) fn import(store: &dyn Store, mut lines: impl BufRead) -> Result<u64> {
    let mut import = Import::new(store);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let at = || format!("line {number}");
        let mut bounded = lines.by_ref().take(LINE_MAX);
        if bounded.read_until(b'\n', &mut line).with_context(at)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = serde_json::from_slice(&line).with_context(at)?;
        import.line(read).with_context(at)?;
    }
    import.finish()
}

struct Import<'a> {
    store: &'a dyn Store,
    /// The greatest number that was given away, as the first line says.
    last_number: Option<u64>,
    /// Sessions and groups that there are.
    owners: HashMap<u64, Owner>,
    lines: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Session,
    Group,
}

impl<'a> Import<'a> {
    fn new(store: &'a dyn Store) -> Self {
        Self {
            store,
            last_number: None,
            owners: HashMap::new(),
            lines: 0,
        }
    }

    fn line(&mut self, line: Line) -> Result<()> {
        match (self.last_number, line) {
            (None, Line::Export(head)) => {
                ensure!(
                    head.version == VERSION,
                    "the lines are of version {}, this program reads version {VERSION}",
                    head.version
                );
                self.last_number = Some(head.next_number.saturating_sub(1));
            }
            (Some(_), Line::Export(_)) => bail!("a second export begins"),
            (None, _) => bail!("an export begins with a line of kind \"export\""),
            (Some(_), line) => self.take(line)?,
        }
        self.lines += 1;
        Ok(())
    }

    fn take(&mut self, line: Line) -> Result<()> {
        let op = match line {
            // Taken before.
            Line::Export(_) => return Ok(()),
            Line::Session(line) => {
                self.own(line.number, Owner::Session)?;
                Op::Session(Box::new(convert::session(*line)?))
            }
            Line::Subscription(line) => {
                let number = self.session(line.session)?;
                let record = Box::new(convert::subscription(*line)?);
                Op::Subscription { number, record }
            }
            Line::Accepted(line) => Op::Accepted {
                number: self.session(line.session)?,
                packet_id: line.packet_id,
            },
            Line::Group(line) => {
                let number = line.number;
                self.own(number, Owner::Group)?;
                let record = convert::group(line)?;
                Op::Group { number, record }
            }
            Line::Retained(line) => Op::Retain {
                message: convert::message(line.message)?,
            },
            Line::Key(line) => Op::Key {
                key: line.key.into(),
                answer: line.answer,
                until: Timestamp(line.until),
            },
            Line::Entry(line) => return self.entry(*line),
        };
        self.append([op])
    }

    fn entry(&mut self, line: Entry) -> Result<()> {
        ensure!(
            self.owners.contains_key(&line.owner),
            "there is no line of session or group {} before this one",
            line.owner
        );
        let received = line.received;
        let (to, message) = convert::entry(line)?;
        let (queue, position) = (to.queue, to.position);
        let receivers = vec![to];
        let entry = Op::Message { message, receivers };
        let received = received.then_some(Op::Received { queue, position });
        self.append(iter::once(entry).chain(received))
    }

    /// A session or group, whose number must be its own.
    fn own(&mut self, number: u64, owner: Owner) -> Result<()> {
        let taken = self.owners.insert(number, owner);
        ensure!(taken.is_none(), "the number {number} is there twice");
        Ok(())
    }

    /// The number of a session that there is.
    fn session(&self, number: u64) -> Result<u64> {
        ensure!(
            self.owners.get(&number) == Some(&Owner::Session),
            "there is no line of session {number} before this one"
        );
        Ok(number)
    }

    /// Each line is a unit of its own: whoever reads one message back reads its unit.
    fn append(&self, ops: impl IntoIterator<Item = Op>) -> Result<()> {
        self.store.room()?;
        let mut unit = Unit::default();
        unit.ops.extend(ops);
        let seq = self.store.append(unit, Urgency::Later);
        if self.store.is_pressed() {
            wait(self.store, seq);
        }
        Ok(())
    }

    fn finish(self) -> Result<u64> {
        let last = self.last_number.context("there are no lines")?;
        // The store learns of numbers by seeing them, and must not give one away twice.
        if last > 0 && !self.owners.contains_key(&last) {
            self.append([Op::SessionEnd { number: last }])?;
        }
        let seq = self.store.append(Unit::default(), Urgency::Now);
        wait(self.store, seq);
        Ok(self.lines)
    }
}

/// Waits until a unit is on the disk.
fn wait(store: &dyn Store, seq: Seq) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    while store.durable() < seq {
        store.wake_at(seq, &waker);
        thread::park();
    }
}

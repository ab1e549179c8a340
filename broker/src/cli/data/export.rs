//! `polycast data export`: all that a store holds, as JSON lines.
//!
//! Queues are read page by page, so that memory is bounded by what the store itself keeps.

use std::io::Write;
use std::sync::mpsc;

use anyhow::{Context as _, Result};

use super::convert::{entry_line, group_line, message_line, session_line, subscription_line};
use super::lines::{Accepted, Head, Key, Line, Retained, VERSION};
use crate::store::{Load, Loaded, QueueId, Recovered, RecoveredQueue, Store};

/// Entries that are read at once, and about how many bytes of them.
const PAGE: (usize, usize) = (256, 1024 * 1024);

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Exported {
    /// Lines.
    pub(super) lines: u64,
    /// Entries that could not be read; the store has reported them.
    pub(super) lost: usize,
}

/// Writes all that a store holds. The order is always the same: sessions with what is theirs,
/// groups, retained messages, idempotency keys, then queues.
pub(super) fn export(
    store: &dyn Store,
    recovered: &Recovered,
    out: &mut impl Write,
) -> Result<Exported> {
    let mut writer = Writer {
        out,
        done: Exported::default(),
    };
    writer.line(&Line::Export(Head {
        version: VERSION,
        next_number: recovered.next_number,
    }))?;
    writer.sessions(recovered)?;
    writer.names(recovered)?;
    for session in &recovered.sessions {
        for queue in &session.queues {
            writer.queue(store, session.record.number, queue)?;
        }
    }
    for group in &recovered.groups {
        writer.queue(store, group.number, &group.queue)?;
    }
    writer.out.flush()?;
    Ok(writer.done)
}

struct Writer<'a, W> {
    out: &'a mut W,
    done: Exported,
}

impl<W: Write> Writer<'_, W> {
    fn line(&mut self, line: &Line) -> Result<()> {
        serde_json::to_writer(&mut *self.out, line)?;
        self.out.write_all(b"\n")?;
        self.done.lines += 1;
        Ok(())
    }

    fn sessions(&mut self, recovered: &Recovered) -> Result<()> {
        for session in &recovered.sessions {
            let number = session.record.number;
            self.line(&Line::Session(session_line(&session.record).into()))?;
            for record in &session.subscriptions {
                self.line(&Line::Subscription(
                    subscription_line(number, record).into(),
                ))?;
            }
            for packet_id in &session.accepted {
                self.line(&Line::Accepted(Accepted {
                    session: number,
                    packet_id: *packet_id,
                }))?;
            }
        }
        Ok(())
    }

    /// What is found by its name, sorted by it.
    fn names(&mut self, recovered: &Recovered) -> Result<()> {
        for group in &recovered.groups {
            self.line(&Line::Group(group_line(group.number, &group.record)))?;
        }
        let mut retained: Vec<_> = recovered.retained.iter().collect();
        retained.sort_unstable_by(|a, b| a.topic.cmp(&b.topic));
        for message in retained {
            self.line(&Line::Retained(Retained {
                message: message_line(message),
            }))?;
        }
        let mut keys: Vec<_> = recovered.keys.iter().collect();
        keys.sort_unstable();
        for (until, key, answer) in keys {
            self.line(&Line::Key(Key {
                key: key.to_string(),
                answer: *answer,
                until: until.0,
            }))?;
        }
        Ok(())
    }

    fn queue(&mut self, store: &dyn Store, owner: u64, queue: &RecoveredQueue) -> Result<()> {
        let id = QueueId {
            owner,
            lane: queue.lane,
        };
        let mut after = None;
        loop {
            let page = load(store, id, after)?;
            self.done.lost += page.lost;
            for entry in &page.entries {
                self.line(&Line::Entry(entry_line(id, entry).into()))?;
                after = Some(entry.position);
            }
            // A page of which everything is lost says nothing about where the next one begins;
            // what is lost was removed, so asking again goes on behind it.
            if !page.more || (page.entries.is_empty() && page.lost == 0) {
                return Ok(());
            }
        }
    }
}

/// Reads a page of a queue.
fn load(store: &dyn Store, queue: QueueId, after: Option<u64>) -> Result<Loaded> {
    let (answer, answered) = mpsc::sync_channel(1);
    store.load(Load {
        queue,
        after,
        before: None,
        messages: PAGE.0,
        bytes: PAGE.1,
        settled: true,
        then: Box::new(move |loaded| {
            // The receiver waits below.
            let _ = answer.send(loaded);
        }),
    });
    answered.recv().context("the store stopped reading")
}

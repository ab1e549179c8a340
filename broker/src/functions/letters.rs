//! Dead letters: events that no function took, with the reason, on a topic and in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use protocols::connection::Publish;
use protocols::model::{Message, QoS, Timestamp, Topic};
use serde_json::json;

use super::event::Event;
use crate::config;
use crate::http::moment;
use crate::hub::Hub;
use crate::session::Batch;

const FILE: &str = "dead-letters.jsonl";

/// See the module.
pub(super) struct Letters {
    topic: Option<Topic>,
    file: Option<Mutex<Book>>,
}

/// The file; when it is full it becomes the one before, and a new one begins.
struct Book {
    path: PathBuf,
    max: u64,
    open: Option<(File, u64)>,
}

impl Letters {
    pub(super) fn new(config: &config::Functions, folder: Option<&Path>) -> Self {
        let any = usize::from(u16::MAX);
        let topic = Topic::parse(config.dead_letters.0.as_str().into(), any, any).ok();
        let max = u64::try_from(config.dead_letters_size).unwrap_or(u64::MAX);
        let file = folder.map(|folder| {
            Mutex::new(Book {
                path: folder.join(FILE),
                max,
                open: None,
            })
        });
        Self { topic, file }
    }

    /// Puts an event away.
    pub(super) fn put(&self, hub: &Hub, target: &str, event: &Event, reason: &str, now: Timestamp) {
        tracing::warn!(target, event = %event.kind, %reason, "an event is given up");
        let letter = json!({
            "time": moment(now), "target": target, "reason": reason, "kind": event.kind,
            "id": event.id, "event": event.body,
        });
        let letter = letter.to_string();
        if let Some(book) = &self.file
            && let Err(error) = book.lock().write(&letter)
        {
            tracing::error!(%error, "a dead letter could not be written");
        }
        let Some(topic) = &self.topic else { return };
        if event.kind == "topic" && event.subject == topic.as_str() {
            // Its own reader failed: another letter would come back to it.
            return;
        }
        let message = Message::new(topic.clone(), letter.into(), QoS::AtLeastOnce, false);
        let publish = Publish {
            token: None,
            exactly_once: None,
            idempotency_key: None,
            message: Arc::new(message),
        };
        let mut batch = Batch::new(now);
        if let Err(refusal) = hub.publish_from_outside(publish, &mut batch) {
            tracing::warn!(reason = %refusal.detail, "a dead letter could not be published");
        }
        batch.finish(&hub.metrics);
    }
}

impl Book {
    fn write(&mut self, letter: &str) -> io::Result<()> {
        let (mut file, length) = match self.open.take() {
            Some(open) => open,
            None => self.open_file()?,
        };
        if length > 0 && length + letter.len() as u64 > self.max {
            drop(file);
            std::fs::rename(&self.path, self.path.with_extension("jsonl.1"))?;
            return self.write(letter);
        }
        file.write_all(format!("{letter}\n").as_bytes())?;
        self.open = Some((file, length + letter.len() as u64 + 1));
        Ok(())
    }

    fn open_file(&self) -> io::Result<(File, u64)> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_file_is_bounded_and_the_one_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut book = Book {
            path: path.clone(),
            max: 10,
            open: None,
        };
        for letter in ["aaaa", "bbbb", "cccc"] {
            book.write(letter).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cccc\n");
        let before = path.with_extension("jsonl.1");
        assert_eq!(std::fs::read_to_string(before).unwrap(), "aaaa\nbbbb\n");
        let mut again = Book {
            path: path.clone(),
            max: 10,
            open: None,
        };
        again.write("dddd").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cccc\ndddd\n");
    }
}

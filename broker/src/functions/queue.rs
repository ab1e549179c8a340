//! What a target must be told, kept on disk until it was: events of connections that come and go.
//!
//! One file a target, a JSON object a line, written as things happen: `send` is an event to give to
//! the target; `open` says that something begins, with the event (`last`) that will be due if its end
//! is never seen; `close` that it has ended. Beside it stands how far the target was told. Whoever
//! opens the file finds what is open: that is what a crash has cut off.
//!
//! ```text
//! {"v":7,"open":"c1","last":{…disconnected…},"send":{…connected…}}
//! {"close":"c1","send":{…disconnected…}}
//! ```
//!
//! A line is written before its connection goes on, so that the end of the process loses none; before
//! a target is told, the file is synced.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::join_all;
use parking_lot::Mutex;
use protocols::model::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::Functions;
use super::event::Event;
use super::target::Target;

/// Events that are given to a target at once.
const BATCH: usize = 64;

/// Events that are kept in memory where nothing is kept on disk.
const MEMORY_MAX: usize = 10_000;

/// Bytes of a file that is written anew when all in it was told.
const REWRITE_BYTES: u64 = 1024 * 1024;

/// See the module.
pub(super) struct Queue {
    inner: Mutex<Inner>,
    more: Notify,
    max: u64,
    untold: AtomicU64,
}

struct Inner {
    log: Option<Log>,
    /// What was written and not read, where there is no file.
    memory: VecDeque<Event>,
    /// What is open, each with the event of its end.
    open: BTreeMap<String, Value>,
    version: u64,
}

struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    /// Up to where it was read.
    read: u64,
    /// Up to where the target was told.
    done: u64,
}

impl Queue {
    /// What is in a file, or one in memory.
    pub(super) fn open(path: Option<&Path>, max: u64) -> io::Result<Self> {
        let mut inner = Inner {
            log: None,
            memory: VecDeque::new(),
            open: BTreeMap::new(),
            version: 0,
        };
        if let Some(path) = path {
            let path = PathBuf::from(format!("{}.log", path.display()));
            let unsent = inner.replay(&path)?;
            inner.log = Some(inner.rewrite(&path, &unsent)?);
        }
        Ok(Self {
            inner: Mutex::new(inner),
            more: Notify::new(),
            max,
            untold: AtomicU64::new(0),
        })
    }

    /// A number that is greater than all before, also after a restart.
    pub(super) fn next_version(&self, now: Timestamp) -> u64 {
        let mut inner = self.inner.lock();
        inner.version = now.0.max(inner.version + 1);
        inner.version
    }

    /// Something begins: `last` is due if its end is never seen, `send` now. `false` if there is no
    /// room for it; then its end is not told either.
    pub(super) fn begin(&self, key: &str, last: &Event, send: Option<&Event>) -> bool {
        let mut inner = self.inner.lock();
        let waiting = inner.log.as_ref().map_or(0, |log| log.length - log.done);
        if waiting >= self.max || inner.memory.len() >= MEMORY_MAX {
            self.untold.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let last = last.to_record();
        let mut line = json!({"v": inner.version, "open": key, "last": last});
        if let Some(send) = send {
            line["send"] = send.to_record();
        }
        let written = inner.write(&line, send);
        if let Err(error) = written {
            tracing::error!(%error, "what a function must be told could not be written");
            self.untold.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        inner.open.insert(key.to_owned(), last);
        drop(inner);
        self.more.notify_one();
        true
    }

    /// Something has ended: `send` is due now. Nothing happens if it is not open.
    pub(super) fn end(&self, key: &str, send: &Event) {
        let mut inner = self.inner.lock();
        if !inner.open.contains_key(key) {
            return;
        }
        let line = json!({"close": key, "send": send.to_record()});
        match inner.write(&line, Some(send)) {
            Ok(()) => {
                inner.open.remove(key);
            }
            // It stays open, and is told at the next start.
            Err(error) => {
                tracing::error!(%error, "what a function must be told could not be written");
            }
        }
        drop(inner);
        self.more.notify_one();
    }

    /// What is open, each with the event of its end.
    pub(super) fn still_open(&self) -> Vec<(String, Event)> {
        let inner = self.inner.lock();
        let open = inner.open.iter();
        open.filter_map(|(key, last)| Some((key.clone(), Event::of_record(last)?)))
            .collect()
    }

    /// Ends all that a crash has cut off.
    pub(super) fn close_all(&self, now: Timestamp) {
        for (key, last) in self.still_open() {
            self.end(&key, &last.at(now));
        }
    }

    /// Bytes that wait.
    pub(super) fn waiting(&self) -> u64 {
        let inner = self.inner.lock();
        inner.log.as_ref().map_or(0, |log| log.length - log.done)
    }

    /// What was not told for want of room.
    pub(super) fn untold(&self) -> u64 {
        self.untold.load(Ordering::Relaxed)
    }

    /// The next events; empty if there are none.
    fn next(&self) -> io::Result<Vec<Event>> {
        let mut inner = self.inner.lock();
        let Inner { log, memory, .. } = &mut *inner;
        let Some(log) = log else {
            let count = memory.len().min(BATCH);
            return Ok(memory.drain(..count).collect());
        };
        if log.read == log.length {
            return Ok(Vec::new());
        }
        log.file.sync_data()?;
        let mut reader = BufReader::new(File::open(&log.path)?);
        reader.seek(SeekFrom::Start(log.read))?;
        let mut events = Vec::new();
        let mut line = String::new();
        while events.len() < BATCH && log.read < log.length {
            line.clear();
            log.read += reader.read_line(&mut line)? as u64;
            let value: Value = serde_json::from_str(&line).unwrap_or_default();
            events.extend(value.get("send").and_then(Event::of_record));
            if line.is_empty() {
                break;
            }
        }
        Ok(events)
    }

    /// All that was read was told.
    fn told(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let Some(log) = &mut inner.log else {
            return Ok(());
        };
        log.done = log.read;
        if log.done == log.length && log.length > REWRITE_BYTES {
            let path = log.path.clone();
            let log = inner.rewrite(&path, &[])?;
            inner.log = Some(log);
            return Ok(());
        }
        write_done(&log.path, log.done)
    }
}

impl Inner {
    fn write(&mut self, line: &Value, send: Option<&Event>) -> io::Result<()> {
        let Some(log) = &mut self.log else {
            self.memory.extend(send.cloned());
            return Ok(());
        };
        let text = line_of(line);
        if let Err(error) = log.file.write_all(text.as_bytes()) {
            // No half of a line may stay in front of the next.
            log.file.set_len(log.length)?;
            return Err(error);
        }
        log.length += text.len() as u64;
        Ok(())
    }

    /// Reads a file: what is open, and what was not told. What a crash has left of a last line is
    /// not there.
    fn replay(&mut self, path: &Path) -> io::Result<Vec<Value>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let done = std::fs::read_to_string(done_path(path)).unwrap_or_default();
        let done: u64 = done.trim().parse().unwrap_or(0);
        let mut reader = BufReader::new(file);
        let (mut at, mut unsent, mut line) = (0_u64, Vec::new(), String::new());
        loop {
            line.clear();
            let length = reader.read_line(&mut line)?;
            if length == 0 || !line.ends_with('\n') {
                return Ok(unsent);
            }
            let begins_at = at;
            at += length as u64;
            let Ok(Value::Object(mut record)) = serde_json::from_str(&line) else {
                tracing::error!(file = %path.display(), "a line means nothing and is left out");
                continue;
            };
            self.take(&mut record);
            if begins_at >= done {
                unsent.extend(record.remove("send"));
            }
        }
    }

    fn take(&mut self, record: &mut Map<String, Value>) {
        let version = record.get("v").and_then(Value::as_u64);
        self.version = self.version.max(version.unwrap_or(0));
        let text = |name: &str| record.get(name)?.as_str().map(str::to_owned);
        if let Some(key) = text("close") {
            self.open.remove(&key);
        }
        if let Some(key) = text("open")
            && let Some(last) = record.remove("last")
        {
            self.open.insert(key, last);
        }
    }

    /// Writes a file anew: what is open and what was not told.
    fn rewrite(&self, path: &Path, unsent: &[Value]) -> io::Result<Log> {
        let new = path.with_extension("new");
        let mut text = line_of(&json!({"v": self.version}));
        for (key, last) in &self.open {
            text += &line_of(&json!({"open": key, "last": last}));
        }
        for send in unsent {
            text += &line_of(&json!({"send": send}));
        }
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        // Told is nothing of the new file. Should a crash come before it has its name, the old one
        // is told again from its beginning: at least once.
        write_done(path, 0)?;
        std::fs::rename(&new, path)?;
        Ok(Log {
            path: path.to_owned(),
            file: OpenOptions::new().append(true).open(path)?,
            length: text.len() as u64,
            read: 0,
            done: 0,
        })
    }
}

fn line_of(value: &Value) -> String {
    format!("{value}\n")
}

fn done_path(path: &Path) -> PathBuf {
    path.with_extension("done")
}

fn write_done(path: &Path, done: u64) -> io::Result<()> {
    let new = path.with_extension("done.new");
    std::fs::write(&new, format!("{done}\n"))?;
    std::fs::rename(&new, done_path(path))
}

/// Tells a target what is in its queue, for ever.
pub(super) async fn run(functions: &Arc<Functions>, queue: &Arc<Queue>, target: &Target) {
    loop {
        let events = on_disk(queue, Queue::next).await.unwrap_or_default();
        if events.is_empty() {
            queue.more.notified().await;
            continue;
        }
        // What is about one subject comes in order.
        let mut subjects: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        for event in &events {
            subjects.entry(&event.subject).or_default().push(event);
        }
        let tellings = subjects.values().map(|events| async move {
            for event in events {
                functions.deliver(target, event).await;
            }
        });
        join_all(tellings).await;
        on_disk(queue, Queue::told).await;
    }
}

/// Does something that may wait for the disk.
async fn on_disk<T: Send + 'static>(
    queue: &Arc<Queue>,
    step: impl FnOnce(&Queue) -> io::Result<T> + Send + 'static,
) -> Option<T> {
    let queue = Arc::clone(queue);
    let done = tokio::task::spawn_blocking(move || step(&queue)).await;
    match done.map_err(io::Error::other).flatten() {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!(%error, "what a function must be told cannot be read or written");
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn event(id: &str) -> Event {
        Event {
            kind: "connected".into(),
            id: id.to_owned(),
            subject: "c".to_owned(),
            time: Timestamp(1),
            body: json!({"id": id}),
            content: None,
        }
    }

    fn ids(queue: &Queue) -> Vec<String> {
        queue
            .next()
            .unwrap()
            .into_iter()
            .map(|event| event.id)
            .collect()
    }

    fn open(path: &Path) -> Queue {
        Queue::open(Some(path), 1_000_000).unwrap()
    }

    #[test]
    fn what_was_not_told_is_told_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let queue = open(&path);
        let version = queue.next_version(Timestamp(5));
        assert!(queue.begin("a", &event("a-last"), Some(&event("a1"))));
        assert!(queue.begin("b", &event("b-last"), Some(&event("b1"))));
        assert_eq!(ids(&queue), ["a1", "b1"]);
        queue.told().unwrap();
        queue.end("a", &event("a2"));
        queue.end("a", &event("a3"));
        assert_eq!(ids(&queue), ["a2"], "an end is told once");
        // It was read, but not told when the process ends.
        drop(queue);
        let queue = open(&path);
        assert_eq!(ids(&queue), ["a2"]);
        assert_eq!(queue.still_open().len(), 1);
        queue.close_all(Timestamp(9));
        assert_eq!(ids(&queue), ["b-last"]);
        queue.told().unwrap();
        assert!(queue.next_version(Timestamp(5)) > version);
        drop(queue);
        let queue = open(&path);
        assert_eq!(ids(&queue), [""; 0]);
        assert!(queue.still_open().is_empty());
    }

    #[test]
    fn half_a_line_and_nonsense_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t");
        let queue = open(&path);
        queue.begin("a", &event("a-last"), Some(&event("a1")));
        drop(queue);
        let log = folder.path().join("t.log");
        let mut text = std::fs::read_to_string(&log).unwrap();
        text.push_str("nonsense\n{\"close\":\"a\",\"se");
        std::fs::write(&log, text).unwrap();
        let queue = open(&path);
        assert_eq!(ids(&queue), ["a1"]);
        assert_eq!(queue.still_open()[0].1, event("a-last"));
    }

    #[test]
    fn a_full_backlog_takes_no_beginnings_but_every_end() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(Some(&folder.path().join("t")), 300).unwrap();
        assert!(queue.begin("a", &event("a-last"), Some(&event("a1"))));
        assert!(queue.begin("b", &event("b-last"), Some(&event("b1"))));
        assert!(!queue.begin("c", &event("c-last"), Some(&event("c1"))));
        queue.end("c", &event("c2"));
        queue.end("a", &event("a2"));
        assert_eq!(
            (ids(&queue), queue.untold()),
            (vec!["a1".into(), "b1".into(), "a2".into()], 1)
        );
    }

    #[test]
    fn without_a_file_it_is_kept_in_memory() {
        let queue = Queue::open(None, 0).unwrap();
        assert!(!queue.begin("x", &event("l"), None), "no room at all");
        let queue = Queue::open(None, 1).unwrap();
        assert!(queue.begin("a", &event("l"), Some(&event("a1"))));
        queue.end("a", &event("a2"));
        assert_eq!(ids(&queue), ["a1", "a2"]);
        queue.told().unwrap();
    }
}

//! Dead letters: events that could not be published, kept in a folder until somebody replays them.
//!
//! One JSON file each, written under another name, synced, and then renamed: a file with the right
//! name is complete. The name begins with the time, so that the order of names is that of events.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::DeadLetterFolder;
use crate::event::Event;

const ENDING: &str = ".json";

/// An event that could not be published, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The source's name.
    pub source: String,
    /// Why it could not be published.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    id: String,
    key: Option<String>,
    group: Option<String>,
    topic: Option<String>,
    attributes: Vec<(String, String)>,
    meta: Vec<(String, String)>,
    content_type: Option<String>,
    accepted_ms: Option<u64>,
    /// The body if it is text.
    text: Option<String>,
    /// The body if it is not.
    base64: Option<String>,
}

impl DeadLetter {
    /// Of an event, as its source delivered it.
    #[must_use]
    pub fn new(source: &str, event: &Event, reason: &str, time_ms: u64) -> Self {
        let text = std::str::from_utf8(&event.body).ok().map(str::to_owned);
        let base64 = text.is_none().then(|| BASE64_STANDARD.encode(&event.body));
        let event = event.clone();
        Self {
            source: source.to_owned(),
            reason: reason.to_owned(),
            time_ms,
            id: event.id,
            key: event.key,
            group: event.group,
            topic: event.topic,
            attributes: event.attributes,
            meta: event.meta,
            content_type: event.content_type,
            accepted_ms: event.accepted_ms,
            text,
            base64,
        }
    }

    /// The event again.
    pub fn event(&self) -> io::Result<Event> {
        let body = match (&self.text, &self.base64) {
            (Some(text), _) => Bytes::from(text.clone()),
            (None, Some(base64)) => BASE64_STANDARD
                .decode(base64)
                .map_err(io::Error::other)?
                .into(),
            (None, None) => Bytes::new(),
        };
        Ok(Event {
            id: self.id.clone(),
            key: self.key.clone(),
            group: self.group.clone(),
            topic: self.topic.clone(),
            attributes: self.attributes.clone(),
            meta: self.meta.clone(),
            body,
            content_type: self.content_type.clone(),
            accepted_ms: self.accepted_ms,
            received: None,
        })
    }

    /// What the source called it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// A folder with dead letters.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    max: usize,
    held: AtomicUsize,
    written: AtomicU64,
}

impl Folder {
    /// Opens it; makes it if it is not there.
    pub fn open(config: &DeadLetterFolder) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&config.folder)?;
        let folder = Self {
            path: config.folder.clone(),
            max: config.max,
            held: AtomicUsize::new(0),
            written: AtomicU64::new(0),
        };
        folder.held.store(folder.names()?.len(), Relaxed);
        Ok(Arc::new(folder))
    }

    /// Writes one; it is on the disk afterwards.
    pub async fn store(self: &Arc<Self>, letter: DeadLetter) -> io::Result<()> {
        let folder = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || folder.write(&letter)).await;
        written.map_err(io::Error::other)?
    }

    /// The names of all, the oldest first.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(ENDING)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Reads one.
    pub fn read(&self, name: &str) -> io::Result<DeadLetter> {
        let bytes = fs::read(self.file(name)?)?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }

    /// Removes one.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name)?)?;
        let _ = self
            .held
            .fetch_update(Relaxed, Relaxed, |held| held.checked_sub(1));
        sync_folder(&self.path)
    }

    fn write(&self, letter: &DeadLetter) -> io::Result<()> {
        if self.held.load(Relaxed) >= self.max {
            // Others may have taken some away.
            self.held.store(self.names()?.len(), Relaxed);
        }
        if self.held.load(Relaxed) >= self.max {
            return Err(io::Error::other("the folder of dead letters is full"));
        }
        let number = self.written.fetch_add(1, Relaxed);
        let process = std::process::id();
        let name = format!("{:013}-{process}-{number:06}", letter.time_ms);
        let unfinished = self.path.join(format!("{name}.tmp"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&serde_json::to_vec_pretty(letter)?)?;
        file.sync_all()?;
        fs::rename(unfinished, self.file(&name)?)?;
        self.held.fetch_add(1, Relaxed);
        sync_folder(&self.path)
    }

    /// A name is one of ours and never a way out of the folder.
    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let fits = |c: char| c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(io::Error::other(format!("\"{name}\" names no dead letter")));
        }
        Ok(self.path.join(format!("{name}{ENDING}")))
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &'static [u8]) -> Event {
        Event {
            id: "m1".into(),
            key: Some("k".into()),
            attributes: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            body: Bytes::from_static(body),
            ..Event::default()
        }
    }

    #[tokio::test]
    async fn what_is_stored_comes_back_and_can_be_removed() {
        let place = tempfile::tempdir().unwrap();
        let config = DeadLetterFolder {
            folder: place.path().join("dead"),
            max: 2,
        };
        let folder = Folder::open(&config).unwrap();
        for (time, body) in [(2, b"text".as_slice()), (1, b"\xff\x00")] {
            let letter = DeadLetter::new("s", &event(body), "why", time);
            folder.store(letter).await.unwrap();
        }
        let names = folder.names().unwrap();
        assert_eq!(names.len(), 2);
        let first = folder.read(&names[0]).unwrap();
        assert_eq!(first.time_ms, 1, "the oldest first");
        assert_eq!(first.event().unwrap(), event(b"\xff\x00"));
        assert_eq!(
            folder.read(&names[1]).unwrap().event().unwrap(),
            event(b"text")
        );

        let letter = DeadLetter::new("s", &event(b""), "why", 3);
        assert!(folder.store(letter.clone()).await.is_err(), "full");
        folder.remove(&names[0]).unwrap();
        folder.store(letter).await.unwrap();
        assert_eq!(Folder::open(&config).unwrap().names().unwrap().len(), 2);
    }

    #[test]
    fn a_name_does_not_lead_out_of_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("dead");
        let folder = Folder::open(&DeadLetterFolder { folder, max: 1 }).unwrap();
        for name in ["../x", "", "a", "1/2"] {
            assert!(folder.read(name).is_err(), "{name}");
        }
    }
}

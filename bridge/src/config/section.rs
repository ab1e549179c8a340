//! Reading one table of the configuration: every key at most once, every problem noted.
//!
//! A reader takes keys out of a [`Section`]; what is left when it is dropped is not known and is a
//! problem too. Reading goes on after a problem with a stand-in, so that all are reported at once.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use toml::{Table, Value};

use crate::template::Template;

/// One mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key with its path, `sources.orders.queue_url`.
    pub key: String,
    /// What is wrong and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => f.write_str(&self.what),
            key => write!(f, "{key}: {}", self.what),
        }
    }
}

/// Where problems are noted.
#[derive(Clone, Debug, Default)]
pub struct Notes(Rc<RefCell<Vec<Problem>>>);

impl Notes {
    /// Notes one.
    pub fn add(&self, key: impl Into<String>, what: impl Into<String>) {
        let (key, what) = (key.into(), what.into());
        self.0.borrow_mut().push(Problem { key, what });
    }

    /// All of them, in the order of their keys.
    #[must_use]
    pub fn take(&self) -> Vec<Problem> {
        let mut problems = self.0.take();
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        problems
    }
}

/// A text that is not shown: a password, a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A table that is being read.
#[derive(Debug)]
pub struct Section {
    path: String,
    table: Table,
    notes: Notes,
}

impl Section {
    /// The whole file.
    #[must_use]
    pub fn root(table: Table, notes: Notes) -> Self {
        let path = String::new();
        Self { path, table, notes }
    }

    /// Where problems go.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Notes a problem with a key of this table.
    pub fn problem(&self, key: &str, what: impl Into<String>) {
        self.notes.add(self.full(key), what);
    }

    /// Whether a key is there and was not read.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// A table inside; an empty one if it is not there.
    #[must_use]
    pub fn section(&mut self, key: &str) -> Self {
        let table = match self.table.remove(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => self.wrong(key, "a table", &other).unwrap_or_default(),
        };
        Self {
            path: self.full(key),
            table,
            notes: self.notes.clone(),
        }
    }

    /// Tables in a list, each by its place in it.
    pub fn tables(&mut self, key: &str) -> Vec<Self> {
        let items = match self.table.remove(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong::<()>(key, "a list of tables", &other);
                return Vec::new();
            }
        };
        let tables = items.into_iter().enumerate().map(|(index, item)| {
            let key = format!("{key}[{index}]");
            self.table.insert(key.clone(), item);
            self.section(&key)
        });
        tables.collect()
    }

    /// All tables inside, by their names, in the order of the names.
    pub fn sections(&mut self) -> Vec<(String, Self)> {
        let names: Vec<String> = self.table.keys().cloned().collect();
        let sections = names.into_iter().map(|name| {
            let section = self.section(&name);
            (name, section)
        });
        sections.collect()
    }

    /// The keys that were not read yet, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key)? {
            Value::String(text) => Some(text),
            other => self.wrong(key, "a text", &other),
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &str) -> String {
        if !self.has(key) {
            self.problem(key, "is missing");
        }
        self.text(key).unwrap_or_default()
    }

    /// Texts; none if the key is not there.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        match self.table.remove(key)? {
            Value::Array(items) => {
                let texts = items.into_iter().map(|item| match item {
                    Value::String(text) => Some(text),
                    other => self.wrong(key, "a list of texts", &other),
                });
                texts.collect()
            }
            other => self.wrong(key, "a list of texts", &other),
        }
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        match self.table.remove(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => self.wrong(key, "true or false", &other).unwrap_or(default),
        }
    }

    /// A whole number within bounds.
    pub fn count(&mut self, key: &str, default: u64, allowed: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.table.remove(key) else {
            return default;
        };
        let count = match value {
            Value::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        };
        if let Some(count) = count.filter(|count| allowed.contains(count)) {
            return count;
        }
        let (low, high) = (allowed.start(), allowed.end());
        self.wrong(key, &format!("a whole number from {low} to {high}"), &value)
            .unwrap_or(default)
    }

    /// A duration with its unit, within bounds.
    pub fn duration(
        &mut self,
        key: &str,
        default: Duration,
        allowed: RangeInclusive<Duration>,
    ) -> Duration {
        self.optional_duration(key, allowed).unwrap_or(default)
    }

    /// A duration with its unit, within bounds, if it is there.
    pub fn optional_duration(
        &mut self,
        key: &str,
        allowed: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = self.table.remove(key)?;
        let duration = value.as_str().and_then(parse_duration);
        if let Some(duration) = duration.filter(|duration| allowed.contains(duration)) {
            return Some(duration);
        }
        let (low, high) = (allowed.start(), allowed.end());
        let expected =
            format!("a duration from {low:?} to {high:?} (\"500ms\", \"30s\", \"5min\")");
        self.wrong(key, &expected, &value)
    }

    /// One of several names.
    pub fn choice<T: Copy>(&mut self, key: &str, names: &[(&str, T)], default: T) -> T {
        let Some(value) = self.table.remove(key) else {
            return default;
        };
        let chosen = names.iter().find(|(name, _)| value.as_str() == Some(*name));
        if let Some((_, choice)) = chosen {
            return *choice;
        }
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        self.wrong(key, &format!("one of {}", names.join(", ")), &value)
            .unwrap_or(default)
    }

    /// A template.
    pub fn template(&mut self, key: &str) -> Option<Template> {
        let text = self.text(key)?;
        match Template::parse(&text) {
            Ok(template) => Some(template),
            Err(error) => {
                self.problem(key, error.to_string());
                None
            }
        }
    }

    /// Templates by their names.
    pub fn templates(&mut self, key: &str) -> Vec<(String, Template)> {
        let mut section = self.section(key);
        let names: Vec<String> = section.table.keys().cloned().collect();
        let templates = names.into_iter().filter_map(|name| {
            let template = section.template(&name)?;
            Some((name, template))
        });
        templates.collect()
    }

    /// Something that must not be shown: a text, `{ env = "NAME" }` or `{ file = "PATH" }`.
    pub fn secret(&mut self, key: &str) -> Option<Secret> {
        match self.table.remove(key)? {
            Value::String(text) => Some(Secret(text)),
            Value::Table(table) => self.secret_elsewhere(key, &table),
            _ => {
                self.problem(key, SECRET);
                None
            }
        }
    }

    /// Secrets in a list.
    pub fn secrets(&mut self, key: &str) -> Vec<Secret> {
        let items = match self.table.remove(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(item) => vec![item],
        };
        let mut secrets = Vec::new();
        for item in items {
            self.table.insert(key.to_owned(), item);
            secrets.extend(self.secret(key));
        }
        secrets
    }

    fn secret_elsewhere(&self, key: &str, table: &Table) -> Option<Secret> {
        let named = |name| table.get(name).and_then(Value::as_str);
        let found = match (table.len(), named("env"), named("file")) {
            (1, Some(name), None) => std::env::var(name)
                .map_err(|_| format!("the environment variable {name} is not set")),
            (1, None, Some(path)) => std::fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{path}: {error}")),
            _ => Err(SECRET.to_owned()),
        };
        match found {
            Ok(text) => Some(Secret(text)),
            Err(what) => {
                self.problem(key, what);
                None
            }
        }
    }

    /// A path.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    fn wrong<T>(&self, key: &str, expected: &str, value: &Value) -> Option<T> {
        let shown = match value {
            Value::Table(_) => "a table".to_owned(),
            other => other.to_string(),
        };
        self.problem(key, format!("must be {expected}, not {shown}"));
        None
    }

    fn full(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        for key in self.table.keys() {
            self.problem(key, "is not known");
        }
    }
}

const SECRET: &str = "must be a text, { env = \"NAME\" } or { file = \"PATH\" }";

/// A duration with its unit: `500ms`, `30s`, `5min`, `2h`, `7d`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, reader: impl FnOnce(&mut Section)) -> Vec<String> {
        let notes = Notes::default();
        let mut section = Section::root(text.parse().unwrap(), notes.clone());
        reader(&mut section);
        drop(section);
        notes.take().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn notes_all_problems_with_their_keys() {
        let text = "a = 1\nb = \"x\"\nc = \"5 s\"\n[d]\ne = true\nunknown = 1\n[more]\n";
        let problems = read(text, |section| {
            assert_eq!(section.text("a"), None);
            assert_eq!(section.count("b", 7, 1..=9), 7);
            assert_eq!(section.duration("c", SECOND, SECOND..=SECOND), SECOND);
            assert_eq!(section.required_text("f"), "");
            let mut inner = section.section("d");
            assert_eq!(inner.choice("e", &[("x", 1), ("y", 2)], 2), 2);
        });
        let expected = [
            "a: must be a text, not 1",
            "b: must be a whole number from 1 to 9, not \"x\"",
            "c: must be a duration from 1s to 1s (\"500ms\", \"30s\", \"5min\"), not \"5 s\"",
            "d.e: must be one of x, y, not true",
            "d.unknown: is not known",
            "f: is missing",
            "more: is not known",
        ];
        assert_eq!(problems, expected);
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("30s", Some(Duration::from_secs(30))),
            ("5min", Some(Duration::from_mins(5))),
            ("2h", Some(Duration::from_hours(2))),
            ("1d", Some(Duration::from_hours(24))),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("99999999999999999999s", None),
            ("9999999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn a_secret_can_lie_elsewhere_and_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "from file\n").unwrap();
        let text = format!(
            "a = \"plain\"\nb = {{ file = '{}' }}\nc = {{ env = \"POLYCAST_NO_SUCH\" }}\nd = 1\n",
            file.display()
        );
        let problems = read(&text, |section| {
            assert_eq!(section.secret("a"), Some(Secret::new("plain")));
            assert_eq!(section.secret("b"), Some(Secret::new("from file")));
            assert_eq!(section.secret("c"), None);
            assert_eq!(section.secret("d"), None);
        });
        let expected = [
            "c: the environment variable POLYCAST_NO_SUCH is not set".to_owned(),
            format!("d: {SECRET}"),
        ];
        assert_eq!(problems, expected);
        assert_eq!(format!("{:?}", Secret::new("x")), "***");
    }
}

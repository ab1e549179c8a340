//! Reads a configuration from its sources and gathers everything that is wrong with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Problems, suggestion};
use super::section::{Key, Section, VARIABLE_PREFIX, Visitor};
use super::setting::{Raw, Setting};
use super::{Config, auth, functions, limits, reference, tls};
use crate::telemetry::Untrusted;

/// Where a configuration comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `POLYCAST_` are not looked at.
    pub variables: Vec<(String, String)>,
    /// Flags that were given.
    pub flags: Vec<Flag>,
}

/// A setting from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// As it is written: `--mqtt`.
    pub name: &'static str,
    /// The key that it sets: `mqtt.listen`.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// The variable that names the file.
const FILE_VARIABLE: &str = "POLYCAST_CONFIG";

/// Variables of the commands that ask a running broker, and of the bridge, which shares an image
/// and its environment with the broker: none of them is a setting.
const OTHER_VARIABLES: [&str; 4] = [
    "POLYCAST_URL",
    "POLYCAST_TOKEN",
    "POLYCAST_TOKEN_FILE",
    "POLYCAST_BRIDGE_CONFIG",
];

impl Sources {
    /// The environment of this process, with a file (or the one that `POLYCAST_CONFIG` names) and
    /// flags.
    pub fn from_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let named = std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty());
        let text = |text: OsString| text.to_string_lossy().into_owned();
        Self {
            file: file.or(named.map(PathBuf::from)),
            variables: std::env::vars_os()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            flags,
        }
    }
}

pub(super) fn load(sources: &Sources) -> Result<Config, Problems> {
    let mut loader = Loader::default();
    if let Some(path) = &sources.file {
        loader.file(path);
    }
    loader.environment(&sources.variables);
    for flag in &sources.flags {
        let raw = Raw::Bare(flag.value.clone());
        let shown = shown(&flag.value);
        loader.set(flag.key, &raw, &shown, Place::Flag(flag.name));
    }
    loader.check();
    if loader.problems.is_empty() {
        Ok(loader.config)
    } else {
        loader
            .problems
            .sort_by_key(|problem| place_order(&problem.place));
        Err(Problems(loader.problems))
    }
}

/// File before environment before flags; within a file from top to bottom.
fn place_order(place: &Place) -> (u8, Place) {
    let rank = match place {
        Place::WholeFile(_) => 0,
        Place::File { .. } => 1,
        Place::Variable(_) => 2,
        Place::Flag(_) => 3,
        Place::Default => 4,
    };
    (rank, place.clone())
}

#[derive(Default)]
struct Loader {
    config: Config,
    problems: Vec<Problem>,
    places: BTreeMap<&'static str, Place>,
}

/// What is wrong with a value, and what is allowed.
type Outcome = Result<(), (String, String)>;

/// A value for people: one line, bounded, no control characters.
fn shown(text: &str) -> String {
    format!("\"{}\"", Untrusted(text))
}

impl Loader {
    fn problem(&mut self, place: Place, what: String, allowed: impl Into<String>) {
        self.problems.push(Problem {
            place,
            what,
            allowed: allowed.into(),
        });
    }

    /// Sets the key, or records why not. The key exists.
    fn set(&mut self, path: &str, raw: &Raw, shown: &str, place: Place) {
        struct Set<'a> {
            path: &'a str,
            raw: &'a Raw,
            result: Option<(&'static str, Outcome)>,
            is_secret: bool,
        }
        impl Visitor for Set<'_> {
            fn setting(&mut self, key: &Key, value: &mut dyn Setting) {
                if key.path == self.path {
                    let result = value
                        .read(self.raw, key.bounds)
                        .map_err(|wrong| (wrong, value.allowed(key.bounds)));
                    self.result = Some((key.path, result));
                    self.is_secret = value.is_secret();
                }
            }
        }
        let mut set = Set {
            path,
            raw,
            result: None,
            is_secret: false,
        };
        self.config.visit(&mut set);
        match set.result {
            Some((path, Ok(()))) => {
                self.places.insert(path, place);
            }
            Some((path, Err((wrong, allowed)))) => {
                let shown = if set.is_secret { "***" } else { shown };
                let what = format!("{path} = {shown}: {wrong}");
                self.problem(place, what, format!("allowed: {allowed}"));
            }
            None => self.problem(place, format!("there is no key {path}"), ""),
        }
    }

    fn file(&mut self, path: &Path) {
        let text = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                let what = format!("the file cannot be read: {error}");
                return self.problem(Place::WholeFile(path.to_owned()), what, "");
            }
        };
        let Ok(text) = String::from_utf8(text) else {
            let what = "the file is not UTF-8".to_owned();
            return self.problem(Place::WholeFile(path.to_owned()), what, "");
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        let source = Source { path, text: &text };
        for error in &errors {
            let place = source.place(&error.span().unwrap_or_default());
            let what = format!("this is not TOML: {}", error.message().replace('\n', "; "));
            self.problem(place, what, "");
        }
        // Keys of a file with broken syntax are not looked at: what was recovered is a guess.
        if errors.is_empty() {
            self.table(&source, "", table.get_ref());
        }
    }

    fn table(&mut self, source: &Source<'_>, section: &str, table: &DeTable<'_>) {
        let known = Known::new();
        for (name, value) in table {
            let path = if section.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{section}.{}", name.get_ref())
            };
            let is_section = section.is_empty() && known.sections.contains(&path.as_str());
            match value.get_ref() {
                DeValue::Table(inner) if is_section => self.table(source, &path, inner),
                _ if is_section => {
                    let what = format!("{path} is a section, not a key");
                    let place = source.place(&name.span());
                    self.problem(place, what, format!("write its keys below a line [{path}]"));
                }
                _ if known.paths.contains(&path.as_str()) => {
                    let place = source.place(&value.span());
                    self.set(&path, &raw(value), &source.shown(value), place);
                }
                _ => {
                    let place = source.place(&name.span());
                    let (what, allowed) =
                        known.unknown(section, name.get_ref(), value.get_ref().is_table());
                    self.problem(place, what, allowed);
                }
            }
        }
    }

    fn environment(&mut self, variables: &[(String, String)]) {
        let keys = reference::settings(&self.config);
        let names: Vec<_> = keys
            .iter()
            .map(|(key, _)| (key.variable(), key.path))
            .collect();
        for (name, value) in variables {
            if !name.starts_with(VARIABLE_PREFIX)
                || name == FILE_VARIABLE
                || OTHER_VARIABLES.contains(&name.as_str())
            {
                continue;
            }
            let place = Place::Variable(name.clone());
            if let Some((_, path)) = names.iter().find(|(known, _)| known == name) {
                self.set(path, &Raw::Bare(value.clone()), &shown(value), place);
            } else if !is_service_variable(name) {
                let near = suggestion(name, names.iter().map(|(name, _)| name.as_str()));
                let allowed = near.map(|near| format!("did you mean {near}?"));
                let what = "no key has this variable".to_owned();
                self.problem(place, what, allowed.unwrap_or_default());
            }
        }
    }

    /// What holds between keys.
    fn check(&mut self) {
        for relation in limits::relations(&self.config) {
            if !relation.holds {
                let keys = [relation.smaller, relation.larger];
                let what = format!(
                    "{} is greater than {} ({} > {}): {}",
                    keys[0],
                    keys[1],
                    self.literal(keys[0]),
                    self.literal(keys[1]),
                    relation.why
                );
                let allowed = format!("allowed: {} <= {}", keys[0], keys[1]);
                self.problem(self.place(&keys), what, allowed);
            }
        }
        for misfit in tls::misfits(&self.config) {
            self.problem(self.place(misfit.keys), misfit.what, misfit.allowed);
        }
        for (key, what, allowed) in functions::problems(&self.config.functions) {
            self.problem(self.place(&[key]), what, allowed);
        }
        for (key, what, allowed) in auth::problems(&self.config) {
            self.problem(self.place(&[key]), what, allowed);
        }
    }

    /// Where the first of the keys was set that was set at all.
    fn place(&self, keys: &[&'static str]) -> Place {
        keys.iter()
            .find_map(|key| self.places.get(key).cloned())
            .unwrap_or_default()
    }

    fn literal(&self, path: &str) -> String {
        let settings = reference::settings(&self.config);
        let value = settings.into_iter().find(|(key, _)| key.path == path);
        value.map_or_else(String::new, |(_, literal)| literal)
    }
}

/// Names that Kubernetes sets in every pod beside a service called `polycast`.
fn is_service_variable(name: &str) -> bool {
    !name.contains("__")
        && (name.starts_with("POLYCAST_PORT") || name.starts_with("POLYCAST_SERVICE_"))
}

/// The names that exist.
struct Known {
    paths: Vec<&'static str>,
    sections: Vec<&'static str>,
}

impl Known {
    fn new() -> Self {
        let keys = reference::settings(&Config::default());
        let paths: Vec<_> = keys.iter().map(|(key, _)| key.path).collect();
        let mut sections: Vec<_> = keys.iter().map(|(key, _)| key.section()).collect();
        sections.dedup();
        sections.retain(|section| !section.is_empty());
        Self { paths, sections }
    }

    /// What to say of a name that does not exist.
    fn unknown(&self, section: &str, name: &str, is_table: bool) -> (String, String) {
        let shown = Untrusted(name);
        if section.is_empty() && is_table {
            let allowed = self.did_you_mean(name, self.sections.iter().copied());
            return (format!("there is no section [{shown}]"), allowed);
        }
        let here = self.paths.iter().filter_map(|path| match section {
            "" => (!path.contains('.')).then_some(*path),
            _ => path.strip_prefix(section)?.strip_prefix('.'),
        });
        let what = if section.is_empty() {
            format!("there is no key {shown} at the top of the file")
        } else {
            format!("there is no key {shown} in [{section}]")
        };
        // The right name in the wrong section is the likeliest mistake of all.
        let elsewhere = self.paths.iter().find(|path| {
            path.rsplit_once('.')
                .is_some_and(|(_, last)| last == name && name != "listen")
        });
        match elsewhere {
            Some(path) => {
                let (section, name) = path.rsplit_once('.').unwrap_or_default();
                (what, format!("did you mean {name} in [{section}]?"))
            }
            None => (what, self.did_you_mean(name, here)),
        }
    }

    #[allow(clippy::unused_self)]
    fn did_you_mean<'a>(&self, name: &str, known: impl Iterator<Item = &'a str>) -> String {
        let known: Vec<_> = known.collect();
        match suggestion(name, known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are: {}", known.join(", ")),
        }
    }
}

/// The text of a file.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// A value as it stands in the file.
    fn shown(&self, value: &Spanned<DeValue<'_>>) -> String {
        let text = self.text.get(value.span()).unwrap_or_default();
        Untrusted(text).to_string()
    }
}

fn raw(value: &Spanned<DeValue<'_>>) -> Raw {
    match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(integer) => i128::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Raw::Other("a number out of range"), Raw::Integer),
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Boolean(value) => Raw::Boolean(*value),
        DeValue::Datetime(_) => Raw::Other("a date"),
        DeValue::Array(items) => Raw::List(items.iter().map(raw).collect()),
        DeValue::Table(table) => {
            let entries = table.iter();
            let entries = entries.map(|(name, value)| (name.get_ref().to_string(), raw(value)));
            Raw::Table(entries.collect())
        }
    }
}

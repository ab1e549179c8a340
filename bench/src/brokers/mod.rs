//! The brokers that are compared: how each is found, configured and started, as a table in TOML.
//! Nothing else in this crate knows a broker by name.

pub mod running;

use crate::wire::http::Door;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The entry of a broker. `builtin.toml` says what each field means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// How it is called.
    pub name: String,
    /// Programs to look for.
    #[serde(default)]
    pub find: Vec<PathBuf>,
    /// The command.
    pub start: String,
    /// Files to write before the start.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Files to write instead in the durable scenarios.
    #[serde(default)]
    pub durable: BTreeMap<String, String>,
    /// Environment variables.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The argument that makes it say its version and end.
    #[serde(default)]
    pub version: String,
    /// Where it listens.
    pub urls: Vec<String>,
    /// How it is published to by HTTP, if it can be.
    #[serde(default)]
    pub http: Option<Door>,
    /// What an acknowledgement means in the durable scenarios.
    #[serde(default)]
    pub promise: String,
    /// Whether it compresses WebSocket messages.
    #[serde(default)]
    pub deflate: bool,
    /// Seconds that a start may take.
    #[serde(default = "ready_secs")]
    pub ready_secs: u64,
}

fn ready_secs() -> u64 {
    30
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    broker: Vec<Recipe>,
}

/// The brokers of a table.
pub fn parse(text: &str) -> Result<Vec<Recipe>> {
    Ok(toml::from_str::<Table>(text)?.broker)
}

/// The brokers that are known, those of `file` first. An entry there replaces the one of the same
/// name.
pub fn known(file: Option<&Path>) -> Result<Vec<Recipe>> {
    let mut recipes = Vec::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        recipes = parse(&text).with_context(|| path.display().to_string())?;
    }
    for recipe in parse(include_str!("builtin.toml"))? {
        if recipes.iter().all(|known| known.name != recipe.name) {
            recipes.push(recipe);
        }
    }
    Ok(recipes)
}

/// The recipes with these names, or all that are found on the machine, with their programs.
/// `polycast` is where Polycast's binary is.
pub fn select(
    recipes: &[Recipe],
    names: &[String],
    polycast: Option<&Path>,
) -> Result<Vec<(Recipe, PathBuf)>> {
    let mut chosen = Vec::new();
    let all: Vec<String> = recipes.iter().map(|recipe| recipe.name.clone()).collect();
    for name in if names.is_empty() { &all } else { names } {
        let recipe = recipes
            .iter()
            .find(|recipe| recipe.name == *name)
            .with_context(|| format!("{name}: no such broker; known are {}", all.join(", ")))?;
        let program = match polycast {
            // It is started in a folder of its own.
            Some(path) if name == "polycast" => Some(std::path::absolute(path)?),
            _ => recipe.program(),
        };
        match program {
            Some(program) => chosen.push((recipe.clone(), program)),
            None if names.is_empty() => {}
            None => bail!("{name}: none of {:?} is on this machine", recipe.find),
        }
    }
    Ok(chosen)
}

impl Recipe {
    /// Where its program is; for Polycast also next to this program. Of several that say their
    /// version it is the newest.
    pub fn program(&self) -> Option<PathBuf> {
        if self.find.is_empty() {
            return Some(PathBuf::new());
        }
        let own = env::current_exe().ok();
        let own = own.as_deref().and_then(Path::parent).map(Path::to_owned);
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = own.into_iter().chain(env::split_paths(&path)).collect();
        let mut found = Vec::new();
        for program in &self.find {
            let places = folders.iter().map(|folder| folder.join(program));
            found.extend(places.filter(|place| place.is_file()));
        }
        // Polycast's own place comes first, whatever lies elsewhere.
        if found.len() > 1 && self.name != "polycast" {
            found.sort_by_cached_key(|place| Reverse(self.version_of(place)));
        }
        found.into_iter().next()
    }

    /// The numbers of a program's version; none if it does not say it.
    fn version_of(&self, program: &Path) -> Vec<u32> {
        if self.version.is_empty() {
            return Vec::new();
        }
        let output = Command::new(program).arg(&self.version).output();
        output.map_or_else(
            |_| Vec::new(),
            |output| numbers(&String::from_utf8_lossy(&output.stdout)),
        )
    }
}

/// The first word of a text that is like `2.11.4` or `v2.11.4-RC`, as numbers.
fn numbers(text: &str) -> Vec<u32> {
    let words = text.split_whitespace();
    let words = words.map(|word| word.trim_start_matches('v'));
    let mut versions =
        words.filter(|word| word.contains('.') && word.starts_with(char::is_numeric));
    let version = versions.next().unwrap_or_default();
    let parts = version.split(['.', '-', '+', '~']);
    parts.map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert_eq!(numbers("nats-server: v2.9.10"), [2, 9, 10]);
        assert!(numbers("nats-server: v2.11.4-RC1\n") > numbers("nats-server: v2.9.10"));
        assert_eq!(numbers("mosquitto version 2.0.11\n"), [2, 0, 11]);
        assert!(numbers("no version").is_empty());
    }

    #[test]
    fn the_built_in_table_is_valid() {
        let recipes = parse(include_str!("builtin.toml")).unwrap();
        assert_eq!(recipes[0].name, "polycast");
        for recipe in recipes {
            assert!(!recipe.urls.is_empty(), "{}", recipe.name);
            assert!(!recipe.promise.is_empty(), "{}", recipe.name);
            for url in &recipe.urls {
                let url = url.replace("{port", "1").replace('}', "");
                crate::wire::url::Url::parse(&url).unwrap();
            }
        }
    }

    #[test]
    fn the_table_of_the_management_api_is_valid() {
        let recipes = parse(include_str!("../../rabbitmq-management.toml")).unwrap();
        let door = recipes[0].http.as_ref().unwrap();
        let door = door.filled(|text| text.replace("{port2}", "2"));
        assert_eq!(door.request(1, 16).unwrap().unwrap().address.port(), 2);
    }

    #[test]
    fn a_small_entry_is_enough() {
        let text = "[[broker]]\nname = \"x\"\nstart = \"x --port {port1}\"\nurls = [\"mqtt://127.0.0.1:{port1}\"]\n";
        let recipes = parse(text).unwrap();
        let chosen = select(&recipes, &["x".into()], None).unwrap();
        assert_eq!(chosen[0].0.ready_secs, 30);
        assert!(parse("[[broker]]\nname = \"x\"\ntypo = 1\n").is_err());
    }

    #[test]
    fn unknown_names_are_refused_with_what_is_known() {
        let recipes = known(None).unwrap();
        let error = select(&recipes, &["nobody".into()], None).unwrap_err();
        assert!(error.to_string().contains("mosquitto"), "{error}");
    }
}

//! What to measure, as written on the command line: `NAME` or `NAME:key=value,key=value`. A key
//! with several values separated by `/` stands for one measurement each.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A parameter of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its value if none is given.
    pub default: &'static str,
    /// What it is.
    pub about: &'static str,
}

/// A key.
pub const fn key(name: &'static str, default: &'static str, about: &'static str) -> Key {
    Key {
        name,
        default,
        about,
    }
}

/// A scenario's name and the parameters that were given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spec {
    /// The scenario.
    pub name: String,
    given: BTreeMap<String, String>,
}

impl Spec {
    /// Reads a specification; several if a key has several values.
    pub fn parse(text: &str) -> Result<Vec<Self>> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut specs = vec![Self {
            name: name.to_owned(),
            given: BTreeMap::new(),
        }];
        for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
            let (key, values) = pair
                .split_once('=')
                .with_context(|| format!("{text}: {pair} is not of the form key=value"))?;
            let with = |value: &str, spec: &Self| {
                let mut spec = spec.clone();
                spec.given.insert(key.to_owned(), value.to_owned());
                spec
            };
            specs = values
                .split('/')
                .flat_map(|value| specs.iter().map(move |spec| with(value, spec)))
                .collect();
        }
        Ok(specs)
    }

    /// The parameters with their defaults; refuses unknown ones.
    pub fn params(&self, keys: &'static [Key]) -> Result<Params> {
        for name in self.given.keys() {
            if keys.iter().all(|key| key.name != name) {
                let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
                bail!(
                    "{}: no parameter {name}; it has {}",
                    self.name,
                    known.join(", ")
                );
            }
        }
        Ok(Params {
            given: self.given.clone(),
            keys,
        })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (index, (key, value)) in self.given.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

/// Values of a scenario's parameters.
#[derive(Clone, Debug)]
pub struct Params {
    given: BTreeMap<String, String>,
    keys: &'static [Key],
}

impl Params {
    /// A value as it is written.
    pub fn text(&self, name: &str) -> &str {
        let default = self.keys.iter().find(|key| key.name == name);
        let default = default.map_or("", |key| key.default);
        self.given.get(name).map_or(default, String::as_str)
    }

    /// A whole number; `k` and `M` stand for thousands and millions.
    pub fn number(&self, name: &str) -> Result<u64> {
        let text = self.text(name);
        let (digits, factor) = match text.as_bytes().last() {
            Some(b'k') => (&text[..text.len() - 1], 1_000),
            Some(b'M') => (&text[..text.len() - 1], 1_000_000),
            _ => (text, 1),
        };
        let number: u64 = digits
            .parse()
            .with_context(|| format!("{name}={text}: not a whole number"))?;
        number
            .checked_mul(factor)
            .with_context(|| format!("{name}={text}: too large"))
    }

    /// A whole number as a count of things in memory.
    pub fn count(&self, name: &str) -> Result<usize> {
        usize::try_from(self.number(name)?).with_context(|| format!("{name}: too large"))
    }

    /// A duration in seconds, fractions allowed.
    pub fn secs(&self, name: &str) -> Result<Duration> {
        let text = self.text(name);
        let secs: f64 = text
            .parse()
            .with_context(|| format!("{name}={text}: not a number of seconds"))?;
        Duration::try_from_secs_f64(secs).with_context(|| format!("{name}={text}"))
    }

    /// Yes or no.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.text(name) {
            "yes" | "true" | "on" => Ok(true),
            "no" | "false" | "off" => Ok(false),
            other => bail!("{name}={other}: neither yes nor no"),
        }
    }

    /// A quality of service.
    pub fn qos(&self) -> Result<u8> {
        match self.text("qos") {
            "0" => Ok(0),
            "1" => Ok(1),
            "2" => Ok(2),
            other => bail!("qos={other}: none of 0, 1, 2"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] = &[
        key("sessions", "1", ""),
        key("secs", "2.5", ""),
        key("on", "yes", ""),
    ];

    #[test]
    fn several_values_are_several_measurements() {
        let specs = Spec::parse("x:sessions=1/100,secs=1").unwrap();
        let texts: Vec<String> = specs.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["x:secs=1,sessions=1", "x:secs=1,sessions=100"]);
        assert_eq!(Spec::parse("x").unwrap()[0].to_string(), "x");
        assert!(Spec::parse("x:sessions").is_err());
    }

    #[test]
    fn values_are_typed_and_have_defaults() {
        let params = Spec::parse("x:sessions=10k").unwrap()[0]
            .params(KEYS)
            .unwrap();
        assert_eq!(params.number("sessions").unwrap(), 10_000);
        assert_eq!(params.secs("secs").unwrap(), Duration::from_millis(2500));
        assert!(params.flag("on").unwrap());
        assert!(params.number("secs").is_err());
    }

    #[test]
    fn unknown_parameters_are_refused_with_the_known_ones() {
        let error = Spec::parse("x:sesions=1").unwrap()[0]
            .params(KEYS)
            .unwrap_err();
        assert!(error.to_string().contains("sessions, secs"), "{error}");
    }
}

//! How values are read and written: numbers, sizes, durations, switches, texts and lists.
//!
//! A value comes from the file with its TOML type, or from a variable or flag as bare text. What
//! is refused is refused in words; what would be allowed is said by [`Setting::allowed`].

use std::path::PathBuf;
use std::time::Duration;

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// A quoted text.
    Text(String),
    /// A whole number.
    Integer(i128),
    /// `true` or `false`.
    Boolean(bool),
    /// A list.
    List(Vec<Raw>),
    /// A table, as its names and values.
    Table(Vec<(String, Raw)>),
    /// Something that no key takes, by its name.
    Other(&'static str),
    /// The value of a variable or flag, which has no type of its own.
    Bare(String),
}

impl Raw {
    fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) | Self::Bare(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "a switch",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }

    /// The text, whether quoted or bare.
    pub(super) fn text(&self) -> Result<&str, String> {
        match self {
            Self::Text(text) | Self::Bare(text) => Ok(text),
            other => Err(format!("a text is needed, this is {}", other.kind())),
        }
    }
}

/// What values a key takes beyond its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// What the type says.
    Type,
    /// A number from the first to the second.
    Count(u64, u64),
    /// Bytes from the first to the second.
    Size(u64, u64),
    /// Milliseconds from the first to the second.
    Time(u64, u64),
}

/// A value that can be set.
pub(super) trait Setting {
    /// Takes the value, or says what is wrong with it and leaves the old one.
    fn read(&mut self, raw: &Raw, bounds: Bounds) -> Result<(), String>;

    /// The value as TOML.
    fn literal(&self, bounds: Bounds) -> String;

    /// What may be written, in words.
    fn allowed(&self, bounds: Bounds) -> String;

    /// Whether the value must never be shown.
    fn is_secret(&self) -> bool {
        false
    }
}

/// Bytes in a kibibyte, and so on.
pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
];

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", SECOND),
    ("min", MINUTE),
    ("m", MINUTE),
    ("h", HOUR),
    ("d", DAY),
];

/// Reads a number with a unit: `64 KiB`, `10s`.
fn with_unit(text: &str, units: &[(&str, u64)], names: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'_')
        .count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let number: u64 = number
        .replace('_', "")
        .parse()
        .map_err(|_| "it does not begin with a whole number".to_owned())?;
    if unit.is_empty() {
        return Err(format!(
            "the unit is missing; write {number}{}",
            if names.contains("KiB") { " KiB" } else { "s" }
        ));
    }
    let (_, factor) = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .ok_or_else(|| format!("`{unit}` is not a unit; there are {names}"))?;
    number
        .checked_mul(*factor)
        .ok_or_else(|| "it is too large".to_owned())
}

/// The shortest exact way to write a number in one of the units, which are tried from the left.
fn shortest(value: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, factor)| value.is_multiple_of(*factor) && value >= *factor)
        .map_or_else(
            || value.to_string(),
            |(name, factor)| format!("{}{name}", value / factor),
        )
}

fn show_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0 B".to_owned();
    }
    shortest(
        bytes,
        &[(" GiB", GIB), (" MiB", MIB), (" KiB", KIB), (" B", 1)],
    )
}

fn show_time(millis: u64) -> String {
    if millis == 0 {
        return "0s".to_owned();
    }
    let units = [
        ("d", DAY),
        ("h", HOUR),
        ("min", MINUTE),
        ("s", SECOND),
        ("ms", 1),
    ];
    shortest(millis, &units)
}

/// A whole number, whichever way it was written.
fn number(raw: &Raw, bounds: Bounds) -> Result<u64, String> {
    let value = match raw {
        Raw::Integer(value) => *value,
        Raw::Bare(text) if text.trim().parse::<i128>().is_ok() => {
            text.trim().parse().unwrap_or_default()
        }
        Raw::Text(text) | Raw::Bare(text) if matches!(bounds, Bounds::Size(..)) => {
            i128::from(with_unit(text, SIZES, "B, KiB, MiB, GiB, kB, MB and GB")?)
        }
        other => {
            return Err(format!(
                "a whole number is needed, this is {}",
                other.kind()
            ));
        }
    };
    u64::try_from(value).map_err(|_| "it is out of range".to_owned())
}

fn within(value: u64, bounds: Bounds) -> Result<u64, String> {
    match bounds {
        Bounds::Count(min, max) | Bounds::Size(min, max) | Bounds::Time(min, max)
            if value < min || value > max =>
        {
            Err(if value < min {
                "it is too small".to_owned()
            } else {
                "it is too large".to_owned()
            })
        }
        _ => Ok(value),
    }
}

fn allowed_number(bounds: Bounds) -> String {
    match bounds {
        Bounds::Size(min, max) => format!(
            "a size from {} to {}, as bytes or with a unit (\"64 KiB\", \"1 MiB\")",
            show_size(min),
            show_size(max)
        ),
        Bounds::Time(min, max) => format!(
            "a duration from {} to {}, with its unit (\"500ms\", \"10s\", \"20min\", \"2h\", \"7d\")",
            show_time(min),
            show_time(max)
        ),
        Bounds::Count(min, max) => format!("a whole number from {min} to {max}"),
        Bounds::Type => "a whole number".to_owned(),
    }
}

macro_rules! whole {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn read(&mut self, raw: &Raw, bounds: Bounds) -> Result<(), String> {
                let value = within(number(raw, bounds)?, bounds)?;
                *self = <$type>::try_from(value).map_err(|_| "it is too large".to_owned())?;
                Ok(())
            }

            fn literal(&self, bounds: Bounds) -> String {
                match bounds {
                    Bounds::Size(..) => {
                        let bytes = u64::try_from(*self).unwrap_or(u64::MAX);
                        format!("\"{}\"", show_size(bytes))
                    }
                    _ => self.to_string(),
                }
            }

            fn allowed(&self, bounds: Bounds) -> String {
                allowed_number(bounds)
            }
        }
    )*};
}

whole!(u16, u32, usize);

impl Setting for Duration {
    fn read(&mut self, raw: &Raw, bounds: Bounds) -> Result<(), String> {
        let text = match raw {
            Raw::Integer(value) => value.to_string(),
            other => other.text()?.to_owned(),
        };
        let millis = with_unit(&text, TIMES, "ms, s, min, h and d")?;
        *self = Self::from_millis(within(millis, bounds)?);
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        let millis = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        format!("\"{}\"", show_time(millis))
    }

    fn allowed(&self, bounds: Bounds) -> String {
        allowed_number(bounds)
    }
}

impl Setting for bool {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        *self = match raw {
            Raw::Boolean(value) => *value,
            Raw::Bare(text) if text == "true" => true,
            Raw::Bare(text) if text == "false" => false,
            other => return Err(format!("a switch is needed, this is {}", other.kind())),
        };
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        self.to_string()
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "true or false".to_owned()
    }
}

impl Setting for PathBuf {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let text = raw.text()?;
        if text.is_empty() || text.contains('\0') {
            return Err("it is not the name of a directory".to_owned());
        }
        *self = Self::from(text);
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        quote(&self.to_string_lossy())
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a path".to_owned()
    }
}

/// Reads a time as the configuration writes it: `500ms`, `30s`, `15min`, `2h`, `30d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    with_unit(text, TIMES, "ms, s, min, h and d").map(Duration::from_millis)
}

/// A text as a TOML basic string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The elements of a list of texts; bare text is split at commas.
pub(super) fn texts(raw: &Raw) -> Result<Vec<String>, String> {
    match raw {
        Raw::List(items) => items
            .iter()
            .map(|item| Ok(item.text()?.to_owned()))
            .collect(),
        Raw::Bare(text) => Ok(text
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()),
        other => Err(format!("a list is needed, this is {}", other.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Bounds = Bounds::Size(0, 8 * GIB);
    const TIME: Bounds = Bounds::Time(0, 30 * DAY);

    fn size(text: &str) -> Result<usize, String> {
        let mut value = 0usize;
        value.read(&Raw::Text(text.into()), SIZE).map(|()| value)
    }

    fn time(text: &str) -> Result<Duration, String> {
        let mut value = Duration::ZERO;
        value.read(&Raw::Text(text.into()), TIME).map(|()| value)
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("64 KiB"), Ok(65_536));
        assert_eq!(size("1mib"), Ok(1_048_576));
        assert_eq!(size("2 kB"), Ok(2000));
        assert_eq!(size("64").unwrap_err(), "the unit is missing; write 64 KiB");
        assert_eq!(
            size("1 MiBB").unwrap_err(),
            "`MiBB` is not a unit; there are B, KiB, MiB, GiB, kB, MB and GB"
        );
        assert_eq!(
            size("x").unwrap_err(),
            "it does not begin with a whole number"
        );
        assert_eq!(size("9 GiB").unwrap_err(), "it is too large");
        assert_eq!(
            size("99999999999 GiB").unwrap_err(),
            "it is too large",
            "no overflow"
        );
        let mut value = 0usize;
        assert!(value.read(&Raw::Integer(4096), SIZE).is_ok());
        assert!(value.read(&Raw::Bare("8192".into()), SIZE).is_ok());
        assert_eq!(value, 8192);
        assert_eq!(
            value.read(&Raw::Integer(-1), SIZE).unwrap_err(),
            "it is out of range"
        );
    }

    #[test]
    fn durations_need_units() {
        assert_eq!(time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2 h"), Ok(Duration::from_hours(2)));
        assert_eq!(time("20m"), time("20min"));
        assert_eq!(time("10").unwrap_err(), "the unit is missing; write 10s");
        assert_eq!(
            time("1 week").unwrap_err(),
            "`week` is not a unit; there are ms, s, min, h and d"
        );
    }

    #[test]
    fn literals_read_back() {
        for bytes in [0usize, 1, 1000, 1024, 65_536, 1 << 20, (1 << 20) + 1] {
            let literal = bytes.literal(SIZE);
            assert_eq!(size(literal.trim_matches('"')), Ok(bytes), "{literal}");
        }
        for millis in [0, 1, 1500, 60_000, 86_400_000] {
            let span = Duration::from_millis(millis);
            let literal = span.literal(TIME);
            assert_eq!(time(literal.trim_matches('"')), Ok(span), "{literal}");
        }
    }

    #[test]
    fn wrong_types_are_named() {
        let mut switch = false;
        assert_eq!(
            switch
                .read(&Raw::Text("yes".into()), Bounds::Type)
                .unwrap_err(),
            "a switch is needed, this is a text"
        );
        let mut count = 0u16;
        assert_eq!(
            count
                .read(&Raw::Boolean(true), Bounds::Count(1, 5))
                .unwrap_err(),
            "a whole number is needed, this is a switch"
        );
        assert_eq!(
            texts(&Raw::Bare("a, b,".into())).unwrap(),
            vec!["a".to_owned(), "b".to_owned()]
        );
    }
}

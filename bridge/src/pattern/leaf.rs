//! The alternatives at a leaf of a pattern.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::PatternError;

/// The names that stand for operators.
const OPERATORS: [&str; 9] = [
    "prefix",
    "suffix",
    "equals-ignore-case",
    "wildcard",
    "anything-but",
    "numeric",
    "cidr",
    "exists",
    "exactly",
];

pub(super) fn is_operator(name: &str) -> bool {
    OPERATORS.contains(&name)
}

/// One alternative.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Matcher {
    Null,
    Bool(bool),
    Number(f64),
    Text(Text),
    Numeric(Vec<(Comparison, f64)>),
    Cidr(IpAddr, u8),
    Exists(bool),
    ButTexts(Vec<Text>),
    ButNumbers(Vec<f64>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Text {
    Is(String),
    IsFolded(String),
    Prefix(String),
    PrefixFolded(String),
    Suffix(String),
    SuffixFolded(String),
    /// What stands between the stars.
    Wildcard(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Whether one of the alternatives matches what is there, if anything is.
pub(super) fn matches(matchers: &[Matcher], value: Option<&Value>) -> bool {
    let mut leaves = Vec::new();
    if let Some(value) = value {
        flatten(value, &mut leaves);
    }
    matchers.iter().any(|matcher| match matcher {
        Matcher::Exists(wanted) => *wanted != leaves.is_empty(),
        matcher => leaves.iter().any(|leaf| matcher.matches(leaf)),
    })
}

/// The scalars of a value. An object has none here: it is no leaf.
fn flatten<'a>(value: &'a Value, leaves: &mut Vec<&'a Value>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, leaves)),
        Value::Object(_) => {}
        scalar => leaves.push(scalar),
    }
}

impl Matcher {
    pub(super) fn parse(value: &Value) -> Result<Self, PatternError> {
        match value {
            Value::Null => Ok(Self::Null),
            Value::Bool(flag) => Ok(Self::Bool(*flag)),
            Value::Number(_) => Ok(Self::Number(number(value)?)),
            Value::String(text) => Ok(Self::Text(Text::Is(text.clone()))),
            Value::Object(operator) => {
                let (name, operand) = only(operator)?;
                Self::operator(name, operand)
            }
            Value::Array(_) => Err(PatternError::new("an array within an array")),
        }
    }

    fn operator(name: &str, operand: &Value) -> Result<Self, PatternError> {
        match name {
            "exists" => match operand {
                Value::Bool(flag) => Ok(Self::Exists(*flag)),
                _ => Err(PatternError::new("exists must be true or false")),
            },
            "numeric" => parse_numeric(operand),
            "cidr" => parse_cidr(operand),
            "anything-but" => parse_anything_but(operand),
            "exactly" => text(operand).map(|text| Self::Text(Text::Is(text))),
            name => Text::operator(name, operand).map(Self::Text),
        }
    }

    fn matches(&self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Bool(flag) => value.as_bool() == Some(*flag),
            Self::Number(number) => value.as_f64() == Some(*number),
            Self::Text(text) => value.as_str().is_some_and(|value| text.matches(value)),
            Self::Numeric(bounds) => value.as_f64().is_some_and(|value| {
                bounds
                    .iter()
                    .all(|(comparison, bound)| comparison.holds(value, *bound))
            }),
            Self::Cidr(network, bits) => {
                let address = value.as_str().and_then(|text| text.parse().ok());
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Self::ButTexts(texts) => match value.as_str() {
                Some(value) => !texts.iter().any(|text| text.matches(value)),
                None => true,
            },
            Self::ButNumbers(numbers) => match value.as_f64() {
                Some(value) => !numbers.contains(&value),
                None => true,
            },
            // Its presence is looked at before.
            Self::Exists(wanted) => *wanted,
        }
    }
}

impl Text {
    fn operator(name: &str, operand: &Value) -> Result<Self, PatternError> {
        match (name, operand) {
            ("prefix", Value::Object(operator)) => folded(operator).map(Self::PrefixFolded),
            ("suffix", Value::Object(operator)) => folded(operator).map(Self::SuffixFolded),
            ("prefix", operand) => text(operand).map(Self::Prefix),
            ("suffix", operand) => text(operand).map(Self::Suffix),
            ("equals-ignore-case", operand) => {
                text(operand).map(|text| Self::IsFolded(text.to_lowercase()))
            }
            ("wildcard", operand) => parse_wildcard(&text(operand)?),
            (name, _) => Err(PatternError::new(format!("\"{name}\" is no operator here"))),
        }
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Is(text) => value == text,
            Self::IsFolded(text) => value.to_lowercase() == *text,
            Self::Prefix(text) => value.starts_with(text),
            Self::PrefixFolded(text) => value.to_lowercase().starts_with(text),
            Self::Suffix(text) => value.ends_with(text),
            Self::SuffixFolded(text) => value.to_lowercase().ends_with(text),
            Self::Wildcard(pieces) => matches_wildcard(pieces, value),
        }
    }
}

impl Comparison {
    fn parse(text: &Value) -> Option<Self> {
        Some(match text.as_str()? {
            "=" => Self::Equal,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    #[allow(clippy::float_cmp, reason = "a pattern asks for the very number")]
    fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::Equal => value == bound,
            Self::Less => value < bound,
            Self::LessOrEqual => value <= bound,
            Self::Greater => value > bound,
            Self::GreaterOrEqual => value >= bound,
        }
    }

    fn is_lower(self) -> bool {
        matches!(self, Self::Greater | Self::GreaterOrEqual)
    }

    fn is_upper(self) -> bool {
        matches!(self, Self::Less | Self::LessOrEqual)
    }
}

fn only(operator: &Map<String, Value>) -> Result<(&str, &Value), PatternError> {
    let mut entries = operator.iter();
    match (entries.next(), entries.next()) {
        (Some((name, operand)), None) => Ok((name, operand)),
        _ => Err(PatternError::new("an operator is an object with one name")),
    }
}

fn text(value: &Value) -> Result<String, PatternError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(PatternError::new("the operator takes a string")),
    }
}

fn number(value: &Value) -> Result<f64, PatternError> {
    match value.as_f64() {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(PatternError::new("not a number that can be compared")),
    }
}

fn folded(operator: &Map<String, Value>) -> Result<String, PatternError> {
    match only(operator)? {
        ("equals-ignore-case", operand) => Ok(text(operand)?.to_lowercase()),
        (name, _) => Err(PatternError::new(format!("\"{name}\" is no operator here"))),
    }
}

fn parse_numeric(operand: &Value) -> Result<Matcher, PatternError> {
    let wrong =
        || PatternError::new("numeric takes [op, number] or [lower, number, upper, number]");
    let items = operand.as_array().ok_or_else(wrong)?;
    let mut bounds = Vec::new();
    for pair in items.chunks(2) {
        let [comparison, bound] = pair else {
            return Err(wrong());
        };
        let comparison = Comparison::parse(comparison).ok_or_else(wrong)?;
        if !bound.is_number() {
            return Err(wrong());
        }
        bounds.push((comparison, number(bound)?));
    }
    match bounds.as_slice() {
        [_] => Ok(Matcher::Numeric(bounds)),
        [(low, from), (high, to)] if low.is_lower() && high.is_upper() && from < to => {
            Ok(Matcher::Numeric(bounds))
        }
        _ => Err(wrong()),
    }
}

fn parse_cidr(operand: &Value) -> Result<Matcher, PatternError> {
    let written = text(operand)?;
    let wrong = || PatternError::new(format!("\"{written}\" is not ADDRESS/BITS"));
    let (address, bits) = written.split_once('/').ok_or_else(wrong)?;
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if bits > most {
        return Err(wrong());
    }
    Ok(Matcher::Cidr(address, bits))
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differ = u32::from(address) ^ u32::from(network);
            differ.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differ = u128::from(address) ^ u128::from(network);
            differ.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn parse_anything_but(operand: &Value) -> Result<Matcher, PatternError> {
    let wrong = || PatternError::new("anything-but takes strings, or numbers, or one operator");
    match operand {
        Value::String(text) => Ok(Matcher::ButTexts(vec![Text::Is(text.clone())])),
        Value::Number(_) => Ok(Matcher::ButNumbers(vec![number(operand)?])),
        Value::Array(items) if items.is_empty() => Err(wrong()),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let texts = items.iter().map(|item| text(item).map(Text::Is));
            texts.collect::<Result<_, _>>().map(Matcher::ButTexts)
        }
        Value::Array(items) if items.iter().all(Value::is_number) => {
            let numbers = items.iter().map(number);
            numbers.collect::<Result<_, _>>().map(Matcher::ButNumbers)
        }
        Value::Object(operator) => match only(operator)? {
            (_, Value::Array(items)) if items.is_empty() => Err(wrong()),
            (name, Value::Array(items)) => {
                let texts = items.iter().map(|item| Text::operator(name, item));
                texts.collect::<Result<_, _>>().map(Matcher::ButTexts)
            }
            (name, operand) => Ok(Matcher::ButTexts(vec![Text::operator(name, operand)?])),
        },
        _ => Err(wrong()),
    }
}

fn parse_wildcard(written: &str) -> Result<Text, PatternError> {
    let mut pieces = vec![String::new()];
    let mut chars = written.chars();
    let mut after_star = false;
    while let Some(c) = chars.next() {
        let c = match (c, after_star) {
            ('*', true) => return Err(PatternError::new("two stars beside each other")),
            ('*', false) => {
                pieces.push(String::new());
                after_star = true;
                continue;
            }
            ('\\', _) => match chars.next() {
                Some(escaped @ ('*' | '\\')) => escaped,
                _ => return Err(PatternError::new("\\ stands only before * and \\")),
            },
            (c, _) => c,
        };
        after_star = false;
        if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    Ok(Text::Wildcard(pieces))
}

/// The first piece is at the start, the last at the end, the others between them, leftmost first.
fn matches_wildcard(pieces: &[String], value: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return pieces.first().is_some_and(|only| value == only);
    };
    let Some(mut rest) = value.strip_prefix(first.as_str()) else {
        return false;
    };
    for piece in middle {
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last.as_str())
}

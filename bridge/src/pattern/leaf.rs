//! The alternatives at a leaf of a pattern.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Number, Value};

use super::PatternError;
use super::json::Json;

/// What cannot be the name of a field within `$or`: operators, and what may become one.
const RESERVED: [&str; 24] = [
    "prefix",
    "suffix",
    "equals-ignore-case",
    "wildcard",
    "anything-but",
    "numeric",
    "cidr",
    "exists",
    "exactly",
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "regex",
    "not-wildcard",
    "not-equals-ignore-case",
    "date-after",
    "date-on-or-after",
    "date-before",
    "date-on-or-before",
    "in-date-range",
    "ip-address-in-range",
    "ip-address-not-in-range",
];

pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// The alternatives of a path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leaf(Vec<Matcher>);

/// One alternative.
#[derive(Clone, Debug, PartialEq)]
enum Matcher {
    Null,
    Bool(bool),
    Number(Number),
    Text(Text),
    /// A text that is an address stands for all ways to write it.
    Address(IpAddr),
    Numeric(Vec<(Comparison, f64)>),
    Cidr(IpAddr, u8),
    Exists(bool),
    ButTexts(Vec<Text>),
    ButNumbers(Vec<f64>),
}

#[derive(Clone, Debug, PartialEq)]
enum Text {
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
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Leaf {
    pub(super) fn parse(items: &[Json]) -> Result<Self, PatternError> {
        let matchers: Result<_, _> = items.iter().map(Matcher::parse).collect();
        matchers.map(Self)
    }

    /// Whether it matches where there is nothing.
    pub(super) fn may_be_absent(&self) -> bool {
        self.0.contains(&Matcher::Exists(false))
    }

    /// Whether one of the alternatives matches a string, number, `true`, `false` or `null`.
    pub(super) fn matches(&self, scalar: &Value) -> bool {
        self.0.iter().any(|matcher| matcher.matches(scalar))
    }
}

impl Matcher {
    fn parse(value: &Json) -> Result<Self, PatternError> {
        match value {
            Json::Null => Ok(Self::Null),
            Json::Bool(flag) => Ok(Self::Bool(*flag)),
            Json::Number(number) => Ok(Self::Number(number.clone())),
            Json::String(text) => Ok(match address(text) {
                Some(address) => Self::Address(address),
                None => Self::Text(Text::Is(text.clone())),
            }),
            Json::Object(operator) => {
                let (name, operand) = only(operator)?;
                Self::operator(name, operand)
            }
            Json::Array(_) => Err(PatternError::new("an array within an array")),
        }
    }

    fn operator(name: &str, operand: &Json) -> Result<Self, PatternError> {
        match name {
            "exists" => match operand {
                Json::Bool(flag) => Ok(Self::Exists(*flag)),
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
            Self::Number(number) => value
                .as_number()
                .is_some_and(|value| is_same(value, number)),
            Self::Text(text) => value.as_str().is_some_and(|value| text.matches(value)),
            Self::Numeric(bounds) => comparable(value).is_some_and(|value| {
                let mut bounds = bounds.iter();
                bounds.all(|(comparison, bound)| comparison.holds(value, *bound))
            }),
            Self::Address(wanted) => value.as_str().and_then(address) == Some(*wanted),
            Self::Cidr(network, bits) => {
                let address = value.as_str().and_then(address);
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Self::ButTexts(texts) => match value.as_str() {
                Some(value) => !texts.iter().any(|text| text.matches(value)),
                None => true,
            },
            Self::ButNumbers(numbers) => match comparable(value) {
                Some(value) => !numbers.contains(&value),
                None => true,
            },
            // It is there.
            Self::Exists(wanted) => *wanted,
        }
    }
}

impl Text {
    fn operator(name: &str, operand: &Json) -> Result<Self, PatternError> {
        match (name, operand) {
            ("prefix", Json::Object(operator)) => folded(operator).map(Self::PrefixFolded),
            ("suffix", Json::Object(operator)) => folded(operator).map(Self::SuffixFolded),
            ("prefix", operand) => text(operand).map(Self::Prefix),
            ("suffix", operand) => text(operand).map(Self::Suffix),
            ("equals-ignore-case", operand) => text(operand).map(Self::IsFolded),
            ("wildcard", operand) => parse_wildcard(&text(operand)?),
            (name, _) => Err(PatternError::new(format!("\"{name}\" is no operator here"))),
        }
    }

    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Is(text) => value == text,
            Self::IsFolded(text) => without_folded(value, text) == Some(""),
            Self::Prefix(text) => value.starts_with(text),
            Self::PrefixFolded(text) => without_folded(value, text).is_some(),
            Self::Suffix(text) => value.ends_with(text),
            Self::SuffixFolded(text) => ends_with_folded(value, text),
            Self::Wildcard(pieces) => matches_wildcard(pieces, value),
        }
    }
}

impl Comparison {
    fn parse(text: &Json) -> Option<Self> {
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

fn only(operator: &[(String, Json)]) -> Result<(&str, &Json), PatternError> {
    match operator {
        [(name, operand)] => Ok((name, operand)),
        _ => Err(PatternError::new("an operator is an object with one name")),
    }
}

fn text(value: &Json) -> Result<String, PatternError> {
    match value {
        Json::String(text) => Ok(text.clone()),
        _ => Err(PatternError::new("the operator takes a string")),
    }
}

fn number(value: &Json) -> Result<f64, PatternError> {
    let number = match value {
        Json::Number(number) => as_double(number),
        _ => None,
    };
    number.ok_or_else(|| PatternError::new("not a number that can be compared"))
}

fn comparable(value: &Value) -> Option<f64> {
    value.as_number().and_then(as_double)
}

/// A number that a double holds exactly; others cannot be compared.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a double of such an integer is far within the range"
)]
fn as_double(number: &Number) -> Option<f64> {
    let double = number.as_f64()?;
    match number.as_i128() {
        Some(integer) if double as i128 != integer => None,
        _ => Some(double),
    }
}

/// However they are written; what cannot be compared is the same only digit by digit.
#[allow(clippy::float_cmp, reason = "a pattern asks for the very number")]
fn is_same(a: &Number, b: &Number) -> bool {
    match (as_double(a), as_double(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a == b,
        _ => false,
    }
}

/// An address as EventBridge reads one: leading zeros are decimal, an IPv4 address in an IPv6 one is
/// the IPv4 address, and must not be written with dots.
fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let is_plain = |c: char| c == ':' || c.is_ascii_hexdigit();
        let address: Ipv6Addr = text.parse().ok().filter(|_| text.chars().all(is_plain))?;
        let v4 = address.to_ipv4_mapped();
        return Some(v4.map_or(IpAddr::V6(address), IpAddr::V4));
    }
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let digits = parts.next()?;
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        *octet = digits.parse().ok()?;
    }
    let is_over = parts.next().is_none();
    is_over.then(|| IpAddr::V4(Ipv4Addr::from(octets)))
}

fn folded(operator: &[(String, Json)]) -> Result<String, PatternError> {
    match only(operator)? {
        ("equals-ignore-case", operand) => text(operand),
        (name, _) => Err(PatternError::new(format!("\"{name}\" is no operator here"))),
    }
}

/// What follows a prefix, of which each character may be written in lower or in upper case.
fn without_folded<'a>(value: &'a str, prefix: &str) -> Option<&'a str> {
    prefix.chars().try_fold(value, |rest, c| {
        let mut cases = cases(c).into_iter();
        cases.find_map(|case| rest.strip_prefix(case.as_str()))
    })
}

fn ends_with_folded(value: &str, suffix: &str) -> bool {
    let rest = suffix.chars().rev().try_fold(value, |rest, c| {
        let mut cases = cases(c).into_iter();
        cases.find_map(|case| rest.strip_suffix(case.as_str()))
    });
    rest.is_some()
}

/// A character in lower and in upper case, which may be more than one each.
fn cases(c: char) -> [String; 2] {
    [c.to_lowercase().collect(), c.to_uppercase().collect()]
}

fn parse_numeric(operand: &Json) -> Result<Matcher, PatternError> {
    let wrong =
        || PatternError::new("numeric takes [op, number] or [lower, number, upper, number]");
    let items = operand.as_array().ok_or_else(wrong)?;
    let mut bounds = Vec::new();
    for pair in items.chunks(2) {
        let [comparison, bound] = pair else {
            return Err(wrong());
        };
        let comparison = Comparison::parse(comparison).ok_or_else(wrong)?;
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

fn parse_cidr(operand: &Json) -> Result<Matcher, PatternError> {
    let written = text(operand)?;
    let wrong = || PatternError::new(format!("\"{written}\" is not ADDRESS/BITS"));
    let (address, bits) = written.split_once('/').ok_or_else(wrong)?;
    let address = self::address(address).ok_or_else(wrong)?;
    let bits: u8 = bits.parse().map_err(|_| wrong())?;
    // A single address is no network: EventBridge wants it as it is.
    let most = if address.is_ipv4() { 31 } else { 127 };
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

fn parse_anything_but(operand: &Json) -> Result<Matcher, PatternError> {
    let wrong = || PatternError::new("anything-but takes strings, or numbers, or one operator");
    match operand {
        Json::String(text) => Ok(Matcher::ButTexts(vec![Text::Is(text.clone())])),
        Json::Number(_) => Ok(Matcher::ButNumbers(vec![number(operand)?])),
        Json::Array(items) if items.is_empty() => Err(wrong()),
        Json::Array(items) if items.iter().all(|item| matches!(item, Json::Number(_))) => {
            let numbers = items.iter().map(number);
            numbers.collect::<Result<_, _>>().map(Matcher::ButNumbers)
        }
        Json::Array(items) => {
            let texts = items.iter().map(|item| text(item).map(Text::Is));
            let texts = texts.collect::<Result<_, _>>().map_err(|_| wrong())?;
            Ok(Matcher::ButTexts(texts))
        }
        Json::Object(operator) => {
            let (name, operand) = only(operator)?;
            let one = std::slice::from_ref(operand);
            let operands = operand.as_array().unwrap_or(one);
            if operands.is_empty() {
                return Err(wrong());
            }
            let texts = operands.iter().map(|operand| text_but(name, operand));
            texts.collect::<Result<_, _>>().map(Matcher::ButTexts)
        }
        _ => Err(wrong()),
    }
}

/// What a text must not be. To begin or end with nothing is what each text does.
fn text_but(name: &str, operand: &Json) -> Result<Text, PatternError> {
    let written = text(operand)?;
    if written.is_empty() && matches!(name, "prefix" | "suffix") {
        return Err(PatternError::new(format!("an empty {name}")));
    }
    Text::operator(name, operand)
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

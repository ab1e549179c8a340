//! Texts of requests and answers: percent-encoding, queries, moments, cursors.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocols::model::Timestamp;

use super::problem::Problem;

/// Decodes `%XX`; `None` if that is broken or the result is not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = text.get(at + 1..at + 3)?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            out.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// Encodes all but the unreserved characters of RFC 3986 and what `keep` holds.
pub(crate) fn percent_encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if unreserved || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The parameters of a query, in order.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query as forms write it.
    pub(super) fn parse(text: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(text.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// The first value of a name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.as_str())
    }

    /// A whole number from `min` to `max`.
    pub(super) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let number = text
            .parse()
            .ok()
            .filter(|number| (min..=max).contains(number));
        number.map(Some).ok_or_else(|| {
            let shown = shown(text);
            Problem::invalid(format!(
                "`{name}` is {shown}; a whole number from {min} to {max} is needed"
            ))
        })
    }

    /// `true` or `false`.
    pub(super) fn truth(&self, name: &str) -> Result<Option<bool>, Problem> {
        match self.text(name) {
            None => Ok(None),
            Some("true" | "1" | "") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(other) => {
                let shown = shown(other);
                let detail = format!("`{name}` is {shown}; true or false is needed");
                Err(Problem::invalid(detail))
            }
        }
    }
}

/// A value of a request as an answer repeats it: quoted, without controls, and not all of a long one.
pub(super) fn shown(text: &str) -> String {
    const MAX: usize = 100;
    let mut short: String = text.chars().take(MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// A moment as ISO 8601 in UTC: `2022-01-25T18:50:04.673Z`.
pub(crate) fn moment(at: Timestamp) -> String {
    let (days, rest) = (at.0 / 86_400_000, at.0 % 86_400_000);
    let (year, month, day) = civil(days);
    let (secs, millis) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Days since 1970-01-01 as a date of the Gregorian calendar, counted in its cycles of 400 years
/// that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_cycle = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * of_cycle + of_cycle / 4 - of_cycle / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + of_cycle + u64::from(month <= 2);
    (year, month, day)
}

/// A cursor that says nothing to its reader.
pub(super) fn cursor(parts: &str) -> String {
    URL_SAFE_NO_PAD.encode(parts)
}

/// What a cursor of ours says.
pub(super) fn read_cursor(query: &Query, name: &str) -> Result<Option<String>, Problem> {
    let Some(text) = query.text(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let decoded = URL_SAFE_NO_PAD.decode(text).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.map(Some).ok_or_else(|| wrong_cursor(name, text))
}

/// A cursor that is a number.
pub(super) fn number_cursor(query: &Query) -> Result<u64, Problem> {
    let Some(text) = read_cursor(query, "cursor")? else {
        return Ok(0);
    };
    let wrong = || wrong_cursor("cursor", query.text("cursor").unwrap_or_default());
    text.parse().map_err(|_| wrong())
}

/// The answer to a cursor that is none of ours.
pub(super) fn wrong_cursor(name: &str, text: &str) -> Problem {
    let shown = shown(text);
    Problem::invalid(format!(
        "`{name}` is {shown}, which no answer has given; leave it out to begin at the start"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_or_refused() {
        assert_eq!(percent_decode("a%2Fb%20c").as_deref(), Some("a/b c"));
        assert_eq!(
            percent_decode("%40connections").as_deref(),
            Some("@connections")
        );
        for broken in ["%", "%2", "%zz", "%+1", "%ff", "a%e2%82"] {
            assert_eq!(percent_decode(broken), None, "{broken}");
        }
        assert_eq!(percent_encode("a/b=ä~", b"/"), "a/b%3D%C3%A4~");
    }

    #[test]
    fn moments_are_dates() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_643_136_604_673, "2022-01-25T18:50:04.673Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(moment(Timestamp(at)), text);
        }
    }

    #[test]
    fn queries_are_typed() {
        let query = Query::parse(Some("topic=a%2Fb&topic=c+d&qos=3&retain=yes&limit=x"));
        assert_eq!(query.all("topic").collect::<Vec<_>>(), ["a/b", "c d"]);
        assert!(query.number("qos", 0, 2).is_err());
        assert!(query.number("limit", 0, 2).is_err());
        assert!(query.truth("retain").is_err());
        assert_eq!(query.truth("none").map_err(|_| ()), Ok(None));
    }

    #[test]
    fn cursors_come_back() {
        let query = Query::parse(Some(&format!("cursor={}&other=%25", cursor("17"))));
        assert_eq!(number_cursor(&query).map_err(|_| ()), Ok(17));
        assert!(read_cursor(&query, "other").is_err());
    }
}

//! Tables for people. What clients have chosen themselves is made harmless.

use std::fmt::Write as _;

use serde_json::Value;

use crate::telemetry::Untrusted;

/// A column: its title, and what stands in it.
pub(super) struct Column(pub(super) &'static str, pub(super) fn(&Value) -> String);

/// Rows below their titles, each column as wide as it must be. Numbers stand to the right.
pub(super) fn table(columns: &[Column], rows: &[Value]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|column| column.1(row)).collect())
        .collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = cells.iter().map(|row| row[at].chars().count());
            cells.chain([column.0.len()]).max().unwrap_or_default()
        })
        .collect();
    let right: Vec<bool> = (0..columns.len())
        .map(|at| !cells.is_empty() && cells.iter().all(|row| is_number(&row[at])))
        .collect();
    let titles: Vec<String> = columns.iter().map(|column| column.0.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(&cells) {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            let pad = " ".repeat(widths[at] - cell.chars().count().min(widths[at]));
            if right[at] {
                // Writing into a string does not fail.
                let _ = write!(line, "{gap}{pad}{cell}");
            } else {
                let _ = write!(line, "{gap}{cell}{pad}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, one a line.
pub(super) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    text
}

fn is_number(cell: &str) -> bool {
    cell == "-" || (!cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A value of JSON as a cell.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => Untrusted(text).to_string(),
        other => Untrusted(&other.to_string()).to_string(),
    }
}

/// A moment to the second.
pub(super) fn moment(value: &Value) -> String {
    let Some(text) = value.as_str() else {
        return cell(value);
    };
    let text = text.split('.').next().unwrap_or_default();
    cell(&Value::String(
        text.trim_end_matches('Z').replacen('T', " ", 1),
    ))
}

/// Bytes in the largest unit that they have one of.
pub(super) fn bytes(value: &Value) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let Some(bytes) = value.as_u64() else {
        return cell(value);
    };
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut whole, mut tenths, mut unit) = (bytes, 0, "");
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = next;
    }
    format!("{whole}.{tenths} {unit}")
}

/// Seconds as days, hours, minutes.
pub(super) fn span(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, _) => format!("{minutes} min {} s", secs % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let columns = [
            Column("CLIENT", |row| cell(&row["id"])),
            Column("QUEUED", |row| cell(&row["queued"])),
            Column("USER", |row| cell(&row["user"])),
        ];
        let rows = [
            json!({"id": "ünïcödé", "queued": 7, "user": null}),
            json!({"id": "b", "queued": 1234, "user": "\u{1b}[2J"}),
        ];
        let expected = "CLIENT   QUEUED  USER\n\
                        ünïcödé       7  -\n\
                        b          1234  \\u{1b}[2J\n";
        assert_eq!(table(&columns, &rows), expected);
        assert_eq!(table(&columns, &[]), "CLIENT  QUEUED  USER\n");
    }

    #[test]
    fn values_are_for_people() {
        assert_eq!(
            moment(&json!("2026-01-02T03:04:05.678Z")),
            "2026-01-02 03:04:05"
        );
        for (given, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1 << 30, "1.0 GiB"),
        ] {
            assert_eq!(bytes(&json!(given)), shown);
        }
        for (given, shown) in [
            (5, "5 s"),
            (65, "1 min 5 s"),
            (3700, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(given), shown);
        }
        assert_eq!(
            pairs(&[("a", "1".into()), ("long", "2".into())]),
            "a     1\nlong  2\n"
        );
    }
}

//! The report as text: for each scenario a table with a line for each figure and a column for each
//! broker.

use super::Report;
use super::summary::{self, OURS};
use std::fmt::Write;

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut out = format!("{}\n", report.machine);
    for broker in &report.brokers {
        let _ = write!(out, "{}: {}", broker.name, broker.version);
        if report
            .scenarios()
            .iter()
            .any(|name| name.starts_with("durable"))
        {
            let _ = write!(out, " | promises: {}", broker.promise);
        }
        out.push('\n');
    }
    for scenario in report.scenarios() {
        out.push('\n');
        out.push_str(&self::scenario(report, scenario));
    }
    out
}

/// The whole report in Markdown, for a page of documentation.
pub fn markdown(report: &Report) -> String {
    let mut out = format!("{}\n\n", report.machine);
    for broker in &report.brokers {
        let _ = writeln!(out, "- {}: {}", broker.name, broker.version);
    }
    for scenario in report.scenarios() {
        let lines = lines(report, scenario);
        for (index, line) in lines.iter().enumerate() {
            out.push_str(if index == 0 { "\n| " } else { "| " });
            let _ = writeln!(out, "{} |", line.join(" | ").replace('\n', " "));
            if index == 0 {
                let _ = writeln!(out, "|---|{}", "---:|".repeat(line.len() - 1));
            }
        }
        for remark in summary::remarks(report, scenario) {
            let _ = write!(out, "\n{remark}\n");
        }
    }
    out
}

/// The table of one scenario.
pub fn scenario(report: &Report, scenario: &str) -> String {
    let mut out = aligned(&lines(report, scenario));
    for remark in summary::remarks(report, scenario) {
        let _ = writeln!(out, "  {remark}");
    }
    out
}

fn lines(report: &Report, scenario: &str) -> Vec<Vec<String>> {
    let compared = report.brokers.len() > 1 && report.brokers.iter().any(|b| b.name == OURS);
    let mut lines = vec![vec![scenario.to_owned()]];
    lines[0].extend(report.brokers.iter().map(|broker| broker.name.clone()));
    if compared {
        lines[0].push("ours / best".to_owned());
    }
    for row in summary::rows(report, scenario) {
        let mut line = vec![row.figure.title.to_owned()];
        line.extend(
            row.medians
                .iter()
                .map(|median| median.map_or("-".into(), number)),
        );
        if compared {
            line.push(
                row.ratio
                    .map_or(String::new(), |ratio| format!("{ratio:.2}")),
            );
        }
        lines.push(line);
    }
    if let Some(line) = verdicts(report, scenario) {
        lines.push(line);
    }
    lines
}

/// Lost, duplicated and out of order, as `0/0/0`.
fn verdicts(report: &Report, scenario: &str) -> Option<Vec<String>> {
    let verdict = |name: &str| summary::verdict(report, scenario, name);
    let mut line = vec!["lost / twice / out of order".to_owned()];
    let mut any = false;
    for broker in &report.brokers {
        line.push(verdict(&broker.name).map_or("-".into(), |verdict| {
            any = true;
            let (twice, late) = (verdict.duplicates, verdict.out_of_order);
            format!("{}/{twice}/{late}", verdict.lost())
        }));
    }
    any.then_some(line)
}

/// A number with as many digits as mean something.
pub fn number(value: f64) -> String {
    let text = match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    };
    let digits = text.trim_start_matches('-');
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text;
    }
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    format!("{}{grouped}", &text[..text.len() - digits.len()])
}

fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!(number(1_234_567.8), "1 234 568");
        assert_eq!(number(999.6), "1 000");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(1.0), "1.000");
        assert_eq!(number(-1234.0), "-1 234");
        assert_eq!(number(0.0), "0");
    }

    #[test]
    fn the_table_has_a_column_for_each_broker() {
        let text = text(&summary::tests::sample());
        let expected = "\
x:a=1                        polycast  other  third  ours / best
deliveries per second             200   60.0      -         3.33
latency p50 (us)                6.667   17.1      -         2.57
lost / twice / out of order     2/0/0  2/0/0      -
  third: no stomp
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn markdown_has_the_same_lines() {
        let text = markdown(&summary::tests::sample());
        let expected = "
| x:a=1 | polycast | other | third | ours / best |
|---|---:|---:|---:|---:|
| deliveries per second | 200 | 60.0 | - | 3.33 |
| latency p50 (us) | 6.667 | 17.1 | - | 2.57 |
| lost / twice / out of order | 2/0/0 | 2/0/0 | - |

third: no stomp
";
        assert!(text.ends_with(expected), "{text}");
    }
}

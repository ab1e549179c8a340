//! The report as one HTML page without any other file: charts in SVG, tables, and what was lost.

use super::Report;
use super::figure::Better;
use super::summary::{self, OURS, Row};
use super::table::number;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:64em;\
padding:0 1em;color:#1b1f24;background:#fff}h2{margin:2em 0 .3em;font-size:1.15em}\
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.15em .7em;text-align:right;\
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}\
.better{color:#116329}.worse{color:#a40e26}p,li{color:#555}";

/// Pixels.
const WIDTH: f64 = 620.0;
const NAME_WIDTH: f64 = 100.0;
const BAR_HEIGHT: f64 = 20.0;

/// The page.
pub fn page(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Brokers \
         compared</title><style>{STYLE}</style></head><body>\n<h1>Brokers compared</h1>\n<p>{}; \
         medians of the rounds. Ratios above 1 mean that Polycast is better than the best of the \
         others.</p>\n<ul>\n",
        escape(&report.machine)
    );
    for broker in &report.brokers {
        let (name, version) = (escape(&broker.name), escape(&broker.version));
        let promise = escape(&broker.promise);
        let _ = writeln!(
            out,
            "<li><b>{name}</b> {version}; durable sessions: {promise}</li>"
        );
    }
    out.push_str("</ul>\n");
    for scenario in report.scenarios() {
        section(&mut out, report, scenario);
    }
    out.push_str("</body></html>\n");
    out
}

fn section(out: &mut String, report: &Report, scenario: &str) {
    let rows = summary::rows(report, scenario);
    let _ = writeln!(out, "<h2>{}</h2>", escape(scenario));
    if let Some(first) = rows.iter().find(|row| row.figure.better != Better::Neither) {
        chart(out, report, first);
    }
    out.push_str("<table><tr><th></th>");
    for broker in &report.brokers {
        let _ = write!(out, "<th>{}</th>", escape(&broker.name));
    }
    out.push_str("<th>ratio</th></tr>\n");
    for row in &rows {
        let _ = write!(out, "<tr><td>{}</td>", escape(row.figure.title));
        for median in &row.medians {
            let _ = write!(out, "<td>{}</td>", median.map_or("-".into(), number));
        }
        let class = row
            .ratio
            .map_or("", |ratio| if ratio >= 1.0 { "better" } else { "worse" });
        let ratio = row
            .ratio
            .map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(out, "<td class=\"{class}\">{ratio}</td></tr>");
    }
    verdicts(out, report, scenario);
    out.push_str("</table>\n");
    for remark in summary::remarks(report, scenario) {
        let _ = writeln!(out, "<p>{}</p>", escape(&remark));
    }
}

fn verdicts(out: &mut String, report: &Report, scenario: &str) {
    let verdict = |name: &str| summary::verdict(report, scenario, name);
    if report
        .brokers
        .iter()
        .all(|broker| verdict(&broker.name).is_none())
    {
        return;
    }
    out.push_str("<tr><td>lost / twice / out of order</td>");
    for broker in &report.brokers {
        let cell = verdict(&broker.name).map_or("-".into(), |v| {
            format!("{} / {} / {}", v.lost(), v.duplicates, v.out_of_order)
        });
        let _ = write!(out, "<td>{cell}</td>");
    }
    out.push_str("<td></td></tr>\n");
}

fn chart(out: &mut String, report: &Report, row: &Row) {
    let largest = row.medians.iter().flatten().copied().fold(0.0, f64::max);
    if largest <= 0.0 {
        return;
    }
    let height = BAR_HEIGHT * report.brokers.len() as f64 + 24.0;
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\"><text x=\"0\" y=\"14\">{}</text>",
        escape(row.figure.title)
    );
    for (index, (broker, median)) in report.brokers.iter().zip(&row.medians).enumerate() {
        let top = 24.0 + BAR_HEIGHT * index as f64;
        let base = top + BAR_HEIGHT - 7.0;
        let value = median.unwrap_or(0.0);
        let length = (WIDTH - NAME_WIDTH - 90.0) * value / largest;
        let colour = if broker.name == OURS {
            "#1f6feb"
        } else {
            "#8c959f"
        };
        let (name, text) = (escape(&broker.name), median.map_or("-".into(), number));
        let bar_height = BAR_HEIGHT - 4.0;
        let text_at = NAME_WIDTH + length + 6.0;
        let _ = writeln!(
            out,
            "<text x=\"0\" y=\"{base}\">{name}</text><rect x=\"{NAME_WIDTH}\" y=\"{top}\" \
             width=\"{length:.1}\" height=\"{bar_height}\" fill=\"{colour}\"/><text \
             x=\"{text_at:.1}\" y=\"{base}\">{text}</text>"
        );
    }
    out.push_str("</svg>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_charts_and_nothing_unescaped() {
        let page = page(&summary::tests::sample());
        assert_eq!(page.matches("<svg").count(), 1);
        assert_eq!(page.matches("<rect").count(), 3);
        assert!(page.contains("keeps &lt;all&gt;"));
        assert!(page.contains("class=\"better\">3.33"));
    }
}

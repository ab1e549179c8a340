//! Medians over the rounds, and how Polycast stands against the best of the others.

use super::Report;
use super::figure::{Better, FIGURES, Figure};
use crate::generator::ledger::Verdict;

/// The name of the broker that the others are compared with.
pub const OURS: &str = "polycast";

/// One figure of all brokers.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which figure.
    pub figure: &'static Figure,
    /// The medians in the order of [`Report::brokers`].
    pub medians: Vec<Option<f64>>,
    /// How many times better Polycast is than the best of the others; below 1 it is worse.
    pub ratio: Option<f64>,
}

/// The rows of a scenario: every figure that some broker has.
pub fn rows(report: &Report, scenario: &str) -> Vec<Row> {
    let row = |figure: &'static Figure| {
        let medians: Vec<Option<f64>> = report
            .brokers
            .iter()
            .map(|broker| median(values(report, scenario, &broker.name, figure.key)))
            .collect();
        medians.iter().any(Option::is_some).then(|| Row {
            figure,
            ratio: ratio(report, figure.better, &medians),
            medians,
        })
    };
    FIGURES.iter().filter_map(row).collect()
}

/// What became of the messages in all rounds together.
pub fn verdict(report: &Report, scenario: &str, broker: &str) -> Option<Verdict> {
    let verdicts = report
        .records
        .iter()
        .filter(|record| record.scenario == scenario && record.broker == broker)
        .filter_map(|record| record.verdict);
    verdicts.reduce(|a, b| Verdict {
        expected: a.expected + b.expected,
        arrived: a.arrived + b.arrived,
        duplicates: a.duplicates + b.duplicates,
        out_of_order: a.out_of_order + b.out_of_order,
        foreign: a.foreign + b.foreign,
    })
}

/// What readers have to know about a scenario: notes and errors, each once.
pub fn remarks(report: &Report, scenario: &str) -> Vec<String> {
    let mut remarks = Vec::new();
    for record in report
        .records
        .iter()
        .filter(|record| record.scenario == scenario)
    {
        let broker = &record.broker;
        for text in record.notes.iter().chain(&record.error) {
            let remark = format!("{broker}: {text}");
            if !remarks.contains(&remark) {
                remarks.push(remark);
            }
        }
    }
    remarks
}

fn values(report: &Report, scenario: &str, broker: &str, key: &str) -> Vec<f64> {
    let matching = report
        .records
        .iter()
        .filter(|record| record.scenario == scenario && record.broker == broker);
    matching
        .filter_map(|record| record.figures.get(key).copied())
        .collect()
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn ratio(report: &Report, better: Better, medians: &[Option<f64>]) -> Option<f64> {
    let named = || report.brokers.iter().zip(medians);
    let ours = named()
        .find(|(broker, _)| broker.name == OURS)?
        .1
        .as_ref()?;
    let others = named()
        .filter(|(broker, _)| broker.name != OURS)
        .filter_map(|(_, median)| *median);
    let ratio = match better {
        Better::Higher => ours / others.reduce(f64::max)?,
        Better::Lower => others.reduce(f64::min)? / ours,
        Better::Neither => return None,
    };
    ratio.is_finite().then_some(ratio)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::{BrokerInfo, Record};
    use crate::scenario::Outcome;

    /// Two rounds of three brokers; the last one does not speak what is measured.
    pub(in crate::report) fn sample() -> Report {
        let broker = |name: &str| BrokerInfo {
            name: name.into(),
            version: "1".into(),
            promise: "keeps <all>".into(),
        };
        let mut report = Report::new(vec![broker(OURS), broker("other"), broker("third")]);
        for (round, ours, other) in [(1, 100.0, 50.0), (2, 300.0, 70.0)] {
            for (name, rate) in [(OURS, ours), ("other", other)] {
                let mut outcome = Outcome::default();
                outcome.set("deliveries_per_sec", rate);
                outcome.set("latency_p50_us", 1000.0 / rate);
                outcome.verdict = Some(Verdict {
                    expected: 10,
                    arrived: 9,
                    ..Verdict::default()
                });
                report
                    .records
                    .push(Record::new("x:a=1", name, round, Ok(outcome)));
            }
            let error = Err(anyhow::anyhow!("no stomp"));
            report
                .records
                .push(Record::new("x:a=1", "third", round, error));
        }
        report
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_ratio_above_one_is_better_whichever_way_is_better() {
        let rows = rows(&sample(), "x:a=1");
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert!(row.ratio.unwrap() > 2.5, "{row:?}");
            assert_eq!(row.medians[2], None);
        }
    }

    #[test]
    fn verdicts_add_up_and_remarks_come_once() {
        let report = sample();
        assert_eq!(verdict(&report, "x:a=1", OURS).unwrap().lost(), 2);
        assert_eq!(verdict(&report, "x:a=1", "third"), None);
        assert_eq!(remarks(&report, "x:a=1"), ["third: no stomp"]);
    }
}

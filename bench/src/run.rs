//! Carries out the command line: which measurements are made, in which order, against which
//! broker. Rounds of all brokers alternate, so that a change of the machine's mood meets all.

use crate::brokers::running::{Ending, Running};
use crate::brokers::{self, Recipe};
use crate::cli::{Common, Compare, Run};
use crate::measure::process::Process;
use crate::report::{BrokerInfo, Record, Report, table};
use crate::scenario::{self, Arena, Outcome, Progress, SCENARIOS, SUITES, Scenario, Unsupported};
use crate::spec::Spec;
use crate::wire::Protocol;
use crate::wire::http::Door;
use crate::wire::url::Url;
use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Files that may be open at a time, if the system grants it.
const OPEN_FILES: u64 = 200_000;

/// Measures a broker that is running already. Returns whether no message was lost, doubled or out
/// of order.
pub fn run(args: &Run) -> Result<bool> {
    let specs = specs(&args.scenarios)?;
    let urls: Vec<Url> = args
        .url
        .iter()
        .map(|url| Url::parse(url))
        .collect::<Result<_>>()?;
    let http = polycast_door(&urls)?;
    let info = BrokerInfo {
        name: "broker".into(),
        version: args.url.join(" "),
        promise: "not known".into(),
    };
    let mut journal = Journal::new(vec![info], &args.common)?;
    for (spec, scenario) in &specs {
        for round in 1..=args.common.rounds {
            if journal.stopped() {
                break;
            }
            let mut arena = Arena {
                urls: urls.clone(),
                http: http.clone(),
                running: None,
                process: args.pid.map(Process),
                data: args.data.clone(),
                deflate: args.deflate,
                realtime: args.common.realtime,
                stop: journal.stop.clone(),
                progress: Progress::new(format!("{spec} {round}/{}", args.common.rounds)),
            };
            let result = measure(&mut arena, scenario, spec);
            journal.record(spec, "broker", round, result)?;
        }
        journal.show(spec);
    }
    journal.finish()
}

/// How Polycast is published to by HTTP, if these are its URLs: its API is where JSON is spoken.
fn polycast_door(urls: &[Url]) -> Result<Option<Door>> {
    let json = urls.iter().find(|url| url.wire.protocol == Protocol::Json);
    let recipe = brokers::known(None)?.into_iter().next();
    let door = recipe.and_then(|polycast| polycast.http);
    Ok(json
        .zip(door)
        .map(|(url, door)| door.filled(|text| text.replace("127.0.0.1:{port3}", &url.authority))))
}

/// Starts brokers and measures them in turns. Returns whether Polycast lost, doubled or disordered
/// no message.
pub fn compare(args: &Compare) -> Result<bool> {
    let wanted = match args.scenario.as_slice() {
        [] => vec!["durable".to_owned()],
        given => given.to_vec(),
    };
    let specs = specs(&wanted)?;
    let recipes = brokers::known(args.brokers_file.as_deref())?;
    let chosen = brokers::select(&recipes, &args.brokers, args.polycast.as_deref())?;
    anyhow::ensure!(!chosen.is_empty(), "no broker was found on this machine");
    let infos = chosen.iter().map(|(recipe, program)| BrokerInfo {
        name: recipe.name.clone(),
        version: version(recipe, program),
        promise: recipe.promise.clone(),
    });
    let mut journal = Journal::new(infos.collect(), &args.common)?;
    for (spec, scenario) in &specs {
        for round in 1..=args.common.rounds {
            for (recipe, program) in &chosen {
                if journal.stopped() {
                    break;
                }
                let title = format!("{spec} {} {round}/{}", recipe.name, args.common.rounds);
                let below = args.data_below.as_deref();
                let result = journal.started(recipe, program, scenario, spec, below, title);
                journal.record(spec, &recipe.name, round, result)?;
            }
        }
        journal.show(spec);
    }
    journal.finish()
}

/// Says which scenarios there are.
pub fn list() {
    for scenario in SCENARIOS {
        println!("{}: {}", scenario.name, scenario.about);
        for key in scenario.keys {
            println!("    {}={}  {}", key.name, key.default, key.about);
        }
    }
    for (name, specs) in SUITES {
        println!("suite {name}: {}", specs.join(" "));
    }
}

/// The measurements that were asked for, suites replaced by what they stand for.
fn specs(texts: &[String]) -> Result<Vec<(Spec, &'static Scenario)>> {
    let mut specs = Vec::new();
    for text in texts {
        let suite = SUITES.iter().find(|(name, _)| name == text);
        let parts = suite.map_or(vec![text.as_str()], |(_, parts)| parts.to_vec());
        for part in parts {
            for spec in Spec::parse(part)? {
                let scenario = scenario::by_name(&spec.name)?;
                spec.params(scenario.keys)?;
                specs.push((spec, scenario));
            }
        }
    }
    Ok(specs)
}

fn measure(arena: &mut Arena<'_>, scenario: &Scenario, spec: &Spec) -> Result<Outcome> {
    let params = spec.params(scenario.keys)?;
    let result = (scenario.run)(arena, &params);
    arena.progress.clear();
    result
}

/// What a program says of its version, or its path.
fn version(recipe: &Recipe, program: &Path) -> String {
    let path = program.display().to_string();
    if recipe.version.is_empty() {
        return path;
    }
    let asked = Command::new(program).arg(&recipe.version).output();
    let Ok(output) = asked else {
        return path;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().unwrap_or_default().trim();
    match first {
        "" => path,
        first => first.to_owned(),
    }
}

/// What was measured so far. It is written after every measurement, so that nothing is lost when
/// the user stops.
struct Journal {
    report: Report,
    out: Option<PathBuf>,
    realtime: bool,
    stop: Arc<AtomicBool>,
}

impl Journal {
    fn new(brokers: Vec<BrokerInfo>, common: &Common) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // The second one ends the program at once.
            flag::register_conditional_shutdown(signal, 130, stop.clone())?;
            flag::register(signal, stop.clone()).context("signals")?;
        }
        raise_open_files();
        Ok(Self {
            report: Report::new(brokers),
            out: common.out.clone(),
            realtime: common.realtime,
            stop,
        })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Measures a broker that is started for it and gone afterwards.
    fn started(
        &self,
        recipe: &Recipe,
        program: &Path,
        scenario: &Scenario,
        spec: &Spec,
        below: Option<&Path>,
        title: String,
    ) -> Result<Outcome> {
        let mut running = Running::start(recipe, program, scenario.durable, below)?;
        let mut arena = Arena {
            urls: running.urls.clone(),
            http: running.http.clone(),
            process: Some(Process(running.pid())),
            data: Some(running.data()),
            running: Some(&mut running),
            deflate: recipe.deflate,
            realtime: self.realtime,
            stop: self.stop.clone(),
            progress: Progress::new(title),
        };
        let result = measure(&mut arena, scenario, spec);
        let result = result.map_err(|error| match running.ended() {
            Some(how) => error.context(how),
            None => error,
        });
        running.end(Ending::Kill)?;
        result
    }

    fn record(
        &mut self,
        spec: &Spec,
        broker: &str,
        round: u32,
        result: Result<Outcome>,
    ) -> Result<()> {
        if let Err(error) = &result
            && error.downcast_ref::<Unsupported>().is_none()
        {
            eprintln!("{spec} {broker}: {error:#}");
        }
        if self.stopped() && result.is_err() {
            return Ok(());
        }
        let record = Record::new(&spec.to_string(), broker, round, result);
        self.report.records.push(record);
        match &self.out {
            Some(folder) => self.report.write(folder),
            None => Ok(()),
        }
    }

    fn show(&self, spec: &Spec) {
        let name = spec.to_string();
        if self.report.scenarios().contains(&name.as_str()) {
            println!("{}", table::scenario(&self.report, &name));
        }
    }

    /// Whether the first broker's deliveries were in order.
    fn finish(self) -> Result<bool> {
        if let Some(folder) = &self.out {
            self.report.write(folder)?;
            println!("written to {}", folder.display());
        }
        let first = self
            .report
            .brokers
            .first()
            .map(|broker| broker.name.clone());
        let records = self.report.records.iter();
        let bad = records
            .filter(|record| Some(&record.broker) == first.as_ref())
            .filter_map(|record| record.verdict)
            .any(|verdict| {
                verdict.lost() + verdict.duplicates + verdict.out_of_order + verdict.foreign > 0
            });
        Ok(!bad)
    }
}

/// Lets this program and the brokers that it starts have many connections.
fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.map_or(OPEN_FILES, |hard| hard.max(OPEN_FILES));
    for maximum in [Some(hard), now.maximum] {
        let current = maximum.map(|hard| hard.min(OPEN_FILES.max(now.current.unwrap_or(0))));
        if setrlimit(Resource::Nofile, Rlimit { current, maximum }).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_become_their_scenarios() {
        let specs = specs(&["durable".into()]).unwrap();
        assert_eq!(specs.len(), 8, "some have several values");
        assert!(super::specs(&["durable-drain:nothing=1".into()]).is_err());
    }
}

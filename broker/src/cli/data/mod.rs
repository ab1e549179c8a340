//! `polycast data`: looks after the store of a stopped broker.
//!
//! `stats` and `verify` read the data directory and change nothing; `export` and `import` open the
//! store as a broker does. All of them refuse a directory that a broker has in use.

mod convert;
mod export;
mod import;
mod lines;
mod report;

#[cfg(test)]
mod kept;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};

use super::configuration::explain;
use super::{fail, print, say};
use crate::clock::Clock;
use crate::config::{Config, Flag, Sources};
use crate::store::{Journal, JournalConfig, Recovered, Store as _, inspect};

/// The exit code when the disk failed: `EX_IOERR` of sysexits, as of the broker.
const EXIT_IO_ERROR: i32 = 74;

#[derive(Debug, Args)]
#[command(after_help = "\
The broker must be stopped: its data directory can be in use only once.\n\
Exit code 0 if all is right, 1 if anything is wrong.")]
pub(super) struct Data {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what the store holds and what it takes
    Stats {
        #[command(flatten)]
        place: Place,
        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check every record, and say what is wrong and where
    Verify {
        #[command(flatten)]
        place: Place,
    },
    /// Write all that the store holds as JSON lines
    ///
    /// One object a line, independent of the format of the store. Bodies are text, or base64 where
    /// they are not UTF-8.
    Export {
        #[command(flatten)]
        place: Place,
        /// A new file; without it, the standard output
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Read what `export` wrote into an empty store
    ///
    /// A message that was in the queues of several sessions is stored once for each of them.
    Import {
        #[command(flatten)]
        place: Place,
        /// The file; without it, the standard input
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Where the store is.
#[derive(Debug, Args)]
struct Place {
    /// Configuration file (TOML); without it, the one that `POLYCAST_CONFIG` names, or none
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data directory [default: ./polycast-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
}

/// Runs the command.
pub(super) fn run(arguments: &Data) -> ExitCode {
    let (Command::Stats { place, .. }
    | Command::Verify { place }
    | Command::Export { place, .. }
    | Command::Import { place, .. }) = &arguments.command;
    let directory = match place.directory() {
        Ok(directory) => directory,
        Err(mistakes) => return fail(&mistakes),
    };
    let done = match &arguments.command {
        Command::Stats { json, .. } => stats(&directory, *json),
        Command::Verify { .. } => verify(&directory),
        Command::Export { file, .. } => export_to(&directory, file.as_deref()),
        Command::Import { file, .. } => import_from(&directory, file.as_deref()),
    };
    done.unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        fail(&format!("{error:#}"))
    })
}

impl Place {
    fn directory(&self) -> Result<PathBuf, String> {
        let flag = self.data_dir.iter().map(|value| Flag {
            name: "--data-dir",
            key: "data_dir",
            value: value.clone(),
        });
        let sources = Sources::from_process(self.config.clone(), flag.collect());
        match Config::load(&sources) {
            Ok(config) => Ok(config.data_dir),
            Err(problems) => Err(explain(&problems)),
        }
    }
}

fn stats(directory: &Path, json: bool) -> Result<ExitCode> {
    let inspection = inspect(directory, false, Clock::start().now())?;
    let stats = report::Stats::of(&inspection);
    let text = if json {
        serde_json::to_string_pretty(&stats)? + "\n"
    } else {
        stats.to_string()
    };
    Ok(print(&text))
}

fn verify(directory: &Path) -> Result<ExitCode> {
    let inspection = inspect(directory, true, Clock::start().now())?;
    let printed = print(&report::verdict(directory, &inspection));
    Ok(if inspection.damage.is_empty() {
        printed
    } else {
        ExitCode::FAILURE
    })
}

fn export_to(directory: &Path, file: Option<&Path>) -> Result<ExitCode> {
    if !directory.join("format").exists() {
        // Opening it would make it; this says what is wrong.
        inspect(directory, false, Clock::start().now())?;
    }
    let (store, recovered) = open(directory)?;
    let exported = match file {
        None => export::export(
            &*store,
            &recovered,
            &mut BufWriter::new(io::stdout().lock()),
        )?,
        Some(path) => {
            let mut out = BufWriter::new(create(path)?);
            let exported = export::export(&*store, &recovered, &mut out)
                .with_context(|| format!("cannot write {}", path.display()))?;
            out.get_ref()
                .sync_all()
                .with_context(|| format!("cannot write {}", path.display()))?;
            exported
        }
    };
    store.close();
    let lost = exported.lost as u64 + store.stats().lost_records;
    if lost > 0 {
        return Ok(fail(&format!(
            "{lost} records could not be read; `polycast data verify` says where"
        )));
    }
    Ok(ExitCode::SUCCESS)
}

/// A new file that only its owner may read: messages are in it.
fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

fn import_from(directory: &Path, file: Option<&Path>) -> Result<ExitCode> {
    let lines: Box<dyn BufRead> = match file {
        None => Box::new(io::stdin().lock()),
        Some(path) => {
            let file = File::open(path);
            let file = file.with_context(|| format!("cannot open {}", path.display()))?;
            Box::new(BufReader::new(file))
        }
    };
    let (store, recovered) = open(directory)?;
    ensure!(
        is_empty(&recovered),
        "{}: this store is not empty; give an empty directory (--data-dir)",
        directory.display()
    );
    let imported = import::import(&*store, lines);
    store.close();
    let lines = imported.with_context(|| {
        format!(
            "{}: the import is not complete; empty this directory before you try again",
            directory.display()
        )
    })?;
    say(&format!("{}: {lines} lines imported", directory.display()));
    Ok(ExitCode::SUCCESS)
}

fn is_empty(recovered: &Recovered) -> bool {
    recovered.sessions.is_empty()
        && recovered.groups.is_empty()
        && recovered.retained.is_empty()
        && recovered.keys.is_empty()
}

/// Opens the store as a broker does, without the bound of its size: what is in an export was
/// accepted once.
fn open(directory: &Path) -> Result<(Arc<Journal>, Recovered)> {
    let mut config = JournalConfig::new(directory);
    config.max_bytes = u64::MAX / 2;
    config.on_failure = Arc::new(|text| {
        say(text);
        std::process::exit(EXIT_IO_ERROR)
    });
    Ok(Journal::open(config, Clock::start().now())?)
}

/// Whether the reader of the standard output has left (`polycast … | head`): no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let json = cause
            .downcast_ref::<serde_json::Error>()
            .and_then(serde_json::Error::io_error_kind);
        io.or(json) == Some(io::ErrorKind::BrokenPipe)
    })
}

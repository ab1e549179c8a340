//! `polycast check-config` and `polycast default-config`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{fail, print};
use crate::config::{self, Config, Problems, Sources};

#[derive(Debug, Args)]
#[command(after_help = "\
Checks what `polycast serve` would run with: the file and the POLYCAST_ variables of the\n\
environment. Exit code 0 if all is right, 1 if anything is wrong.")]
pub(super) struct Check {
    /// The file to check; without it, the one that `POLYCAST_CONFIG` names, or none
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Print {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Toml)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A file to start from
    Toml,
    /// A page to read
    Markdown,
}

pub(super) fn check(arguments: &Check) -> ExitCode {
    let sources = Sources::from_process(arguments.config.clone(), Vec::new());
    match Config::load(&sources) {
        Ok(config) => print(&summary(&sources, &config)),
        Err(problems) => fail(&explain(&problems)),
    }
}

pub(super) fn default(arguments: &Print) -> ExitCode {
    print(&match arguments.format {
        Format::Toml => config::default_file(),
        Format::Markdown => config::reference(),
    })
}

/// All mistakes, and how many there are.
pub(super) fn explain(problems: &Problems) -> String {
    let count = problems.0.len();
    let s = if count == 1 { "" } else { "s" };
    format!("the configuration has {count} mistake{s}\n{problems}")
}

fn summary(sources: &Sources, config: &Config) -> String {
    let mut text = match &sources.file {
        Some(file) => format!("{}: no mistakes\n", file.display()),
        None => "no file, no mistakes\n".to_owned(),
    };
    for (key, listen) in config.listeners() {
        let _ = writeln!(text, "{key:<16} = {listen}");
    }
    let _ = writeln!(text, "data_dir         = {}", config.data_dir.display());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_would_run() {
        let sources = Sources {
            file: Some("a.toml".into()),
            ..Sources::default()
        };
        assert_eq!(
            summary(&sources, &Config::default()),
            "a.toml: no mistakes\nmqtt.listen      = 127.0.0.1:1883\n\
             stomp.listen     = 127.0.0.1:61613\nhttp.listen      = 127.0.0.1:8080\n\
             mqtt.tls_listen  = off\nstomp.tls_listen = off\nhttp.tls_listen  = off\n\
             data_dir         = ./polycast-data\n"
        );
    }

    #[test]
    fn counts_the_mistakes() {
        let sources = Sources {
            variables: vec![("POLYCAST_LOG__LEVEL".into(), "loud".into())],
            ..Sources::default()
        };
        let problems = Config::load(&sources).unwrap_err();
        assert!(
            explain(&problems).starts_with(
                "the configuration has 1 mistake\nvariable POLYCAST_LOG__LEVEL: log.level = \"loud\""
            ),
            "{}",
            explain(&problems)
        );
    }
}

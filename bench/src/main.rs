//! `bench run` and `bench compare`; see the library.

use bench::cli::{Cli, Command};
use bench::measure::limit;
use bench::{bridge, run};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Compare(args) => run::compare(&args),
        Command::Bridge(args) => bridge::run(&args),
        Command::Limit => limit::run().map(|()| true),
        Command::List => {
            run::list();
            Ok(true)
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // Measured, but messages were lost, doubled or out of order.
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! The command line: parses it, calls what it names, turns errors into words and exit codes.

mod admin;
mod cert;
mod client;
mod configuration;
mod data;
mod generate;
mod health;
mod options;
mod output;
mod passwd;
mod publish;
mod serve;
mod simulate;
mod subscribe;
mod token;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What `polycast` was asked to do.
#[derive(Debug, Parser)]
#[command(
    name = "polycast",
    version,
    about = "One realtime broker for MQTT, STOMP and JSON over WebSocket",
    long_about = "One realtime broker for MQTT, STOMP and JSON over WebSocket.\n\n\
                  Without a command it serves.",
    args_conflicts_with_subcommands = true
)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Serve,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker (this is also what happens without a command)
    Serve(serve::Serve),
    /// Publish messages, to any broker and over any of the protocols
    Publish(Box<publish::Publish>),
    /// Subscribe and print messages, from any broker and over any of the protocols
    Subscribe(Box<subscribe::Subscribe>),
    /// Simulate devices, to have something to look at
    Simulate(simulate::Simulate),
    /// Look after the store of a stopped broker: statistics, check, export, import
    Data(data::Data),
    /// Make, change or remove a user of a password file
    Passwd(passwd::Passwd),
    /// Sign a token for development and tests
    Token(Box<token::Token>),
    /// Make certificates for development: an authority, a broker's, clients'
    Cert(cert::Cert),
    /// Ask a running broker whether it is well
    Health(health::Health),
    /// Say what is wrong with the configuration, all of it
    CheckConfig(configuration::Check),
    /// Print the default configuration with every key explained
    DefaultConfig(configuration::Print),
    /// How a running broker is: clients, sessions, messages by protocol
    Status(admin::Status),
    /// Clients of a running broker: list, show, kick
    Clients(admin::Clients),
    /// Topics of a running broker: retained, or published to lately
    Topics(admin::Topics),
    /// Subscriptions of all clients, or of one
    Subscriptions(admin::Subscriptions),
    /// Retained messages: list, show, clear
    Retained(admin::Retained),
    /// Shared groups and queues, or who is in a group
    Groups(admin::Groups),
    /// Who is kept out of a running broker: list, add, lift
    Bans(admin::Bans),
    /// Credentials that are no longer taken: list, add, lift
    Revocations(admin::Revocations),
    /// Why a message goes where it goes: who would get it, as what frame, by which rule
    Explain(admin::Explain),
    /// Follow one client or topic through a running broker
    Trace(admin::Trace),
    /// Read the configuration of a running broker again
    Reload(admin::Reload),
    /// Send all clients of a running broker away, then end it
    Drain(admin::Drain),
    /// Print completions for a shell
    Completions(generate::Completions),
    /// Print the manual page
    Man(generate::Man),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs a command line; the first argument is the program's name.
fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match CommandLine::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Subscribe(arguments) => subscribe::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Data(arguments) => data::run(&arguments),
        Command::Passwd(arguments) => passwd::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Cert(arguments) => cert::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::CheckConfig(arguments) => configuration::check(&arguments),
        Command::DefaultConfig(arguments) => configuration::default(&arguments),
        Command::Status(arguments) => arguments.run(),
        Command::Clients(arguments) => arguments.run(),
        Command::Topics(arguments) => arguments.run(),
        Command::Subscriptions(arguments) => arguments.run(),
        Command::Retained(arguments) => arguments.run(),
        Command::Groups(arguments) => arguments.run(),
        Command::Bans(arguments) => arguments.run(),
        Command::Revocations(arguments) => arguments.run(),
        Command::Explain(arguments) => arguments.run(),
        Command::Trace(arguments) => arguments.run(),
        Command::Reload(arguments) => arguments.run(),
        Command::Drain(arguments) => arguments.run(),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
    }
}

/// Help and version go to the standard output, mistakes to the standard error.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is no reason to fail.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// Writes to the standard output; a reader that has left (`polycast … | head`) is no failure.
fn print(text: &str) -> ExitCode {
    use std::io::{ErrorKind, Write as _};
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            fail(&format!("cannot write to the standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Says on the standard error why it did not work.
fn fail(why: &str) -> ExitCode {
    say(why);
    ExitCode::FAILURE
}

/// Says something on the standard error; if nobody listens there, nothing can be done.
fn say(what: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "polycast: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn serving_needs_no_word() {
        let plain = CommandLine::try_parse_from(["polycast", "--mqtt", "off"]).unwrap();
        assert!(plain.command.is_none());
        assert_eq!(plain.serve.flags()[0].value, "off");
        let named = CommandLine::try_parse_from(["polycast", "serve", "--data-dir", "x"]).unwrap();
        let Some(Command::Serve(named)) = named.command else {
            panic!("serve")
        };
        assert_eq!(named.flags()[0].key, "data_dir");
    }
}

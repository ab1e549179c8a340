//! `polycast passwd`: users of a password file.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::{fail, say};
use crate::auth::passwords::{self, Entries, PASSWORD_BYTES};

#[derive(Debug, Args)]
#[command(after_help = "\
The password is asked for, or read from the first line of the standard input. The file is made if\n\
it does not exist, readable for its owner alone; a running broker uses it from the next login on.")]
pub(super) struct Passwd {
    /// The password file (`auth.password_file`)
    file: PathBuf,
    /// The user, who is added or gets a new password
    user: String,
    /// Remove the user instead
    #[arg(long)]
    delete: bool,
}

pub(super) fn run(arguments: &Passwd) -> ExitCode {
    match change(arguments) {
        Ok(done) => {
            say(&done);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn change(arguments: &Passwd) -> Result<String> {
    let Passwd { file, user, delete } = arguments;
    let about = || file.display().to_string();
    ensure!(
        passwords::is_user(user),
        "a user's name has 1 to 256 bytes, no colon and no control characters"
    );
    let mut entries = if file.exists() {
        passwords::read(file).with_context(about)?
    } else {
        Entries::new()
    };
    let done = if *delete {
        ensure!(entries.remove(user).is_some(), "there is no user {user}");
        format!("{user} was removed")
    } else {
        let hash = passwords::hash(ask()?.as_bytes())?;
        match entries.insert(user.clone(), hash) {
            Some(_) => format!("{user} has a new password"),
            None => format!("{user} was added"),
        }
    };
    passwords::write(file, &entries).with_context(about)?;
    Ok(done)
}

/// The password: asked for twice at a terminal, otherwise a line.
fn ask() -> Result<String> {
    let password = if std::io::stdin().is_terminal() {
        let first = prompt("password: ")?;
        if prompt("again: ")? != first {
            bail!("the two passwords differ");
        }
        first
    } else {
        line()?
    };
    ensure!(!password.is_empty(), "the password is empty");
    ensure!(
        password.len() <= PASSWORD_BYTES,
        "the password has more than {PASSWORD_BYTES} bytes"
    );
    Ok(password)
}

/// Asks without showing what is typed.
fn prompt(text: &str) -> Result<String> {
    let mut screen = std::io::stderr();
    screen.write_all(text.as_bytes())?;
    screen.flush()?;
    let stdin = std::io::stdin();
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden)?;
    let line = line();
    tcsetattr(&stdin, OptionalActions::Now, &shown)?;
    screen.write_all(b"\n")?;
    line
}

fn line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

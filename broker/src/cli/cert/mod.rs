//! `polycast cert`: an authority for development, and certificates that it signs.
//!
//! They are for tests and for machines of one's own: the authority's key lies beside what it
//! signs, and nothing is ever revoked.

mod files;
mod issue;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{fail, print};
use files::Pair;
use issue::Kind;

#[derive(Debug, Args)]
#[command(after_help = "\
A broker with TLS, and a client of it:\n\
    polycast cert server\n\
    polycast --mqtts 127.0.0.1:8883 --tls-certificate polycast-certs/server.pem \\\n\
        --tls-key polycast-certs/server-key.pem\n\
    polycast subscribe mqtts://localhost --cafile polycast-certs/ca.pem -t '#'\n\
Keys can be read by their owner alone. What is there is not overwritten without --force.")]
pub(super) struct Cert {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make an authority: ca.pem and ca-key.pem
    Ca {
        /// Its name
        #[arg(long, value_name = "NAME", default_value = "Polycast development CA")]
        name: String,
        /// Days that it is good for
        #[arg(long, default_value_t = 3650, value_parser = days())]
        days: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Make a certificate for a broker; and the authority, if there is none
    Server {
        /// Host names and addresses that clients connect to
        #[arg(value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"])]
        names: Vec<String>,
        /// Name of the files: FILE.pem and FILE-key.pem
        #[arg(long, value_name = "FILE", default_value = "server", value_parser = stem)]
        file: String,
        /// Days that it is good for
        #[arg(long, default_value_t = 365, value_parser = days())]
        days: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Make a certificate for a client; and the authority, if there is none
    Client {
        /// Its user: the common name
        name: String,
        /// Alternative names
        #[arg(long, value_name = "NAME")]
        san: Vec<String>,
        /// Name of the files: FILE.pem and FILE-key.pem [default: NAME]
        #[arg(long, value_name = "FILE", value_parser = stem)]
        file: Option<String>,
        /// Days that it is good for
        #[arg(long, default_value_t = 365, value_parser = days())]
        days: u32,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Where the files are
    #[arg(long, value_name = "DIR", default_value = "polycast-certs")]
    dir: PathBuf,
    /// Overwrite what is there
    #[arg(long)]
    force: bool,
}

/// The longest that a certificate lasts: the last date that all programs understand is in 2049.
fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=7300)
}

/// Reads the name of a file without its ending.
fn stem(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if text.is_empty() || text.starts_with('.') || !text.bytes().all(plain) {
        return Err("letters, digits and -_.@ make a name of a file".to_owned());
    }
    if matches!(text, "ca" | "ca-key") {
        return Err("that is the authority's file".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn run(arguments: &Cert) -> ExitCode {
    match make(&arguments.what) {
        Ok(text) => print(&text),
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// Makes the files and says which.
fn make(what: &What) -> Result<String> {
    match what {
        What::Ca { name, days, place } => {
            let pair = issue::authority(name, *days)?;
            files::write(&place.dir, "ca", &pair, place.force)?;
            Ok(said(&place.dir, "ca"))
        }
        What::Server {
            names,
            file,
            days,
            place,
        } => {
            let common = names.first().map_or("localhost", String::as_str);
            signed(place, file, &Kind::Server, common, names, *days)
        }
        What::Client {
            name,
            san,
            file,
            days,
            place,
        } => {
            let file = match file {
                Some(file) => file.clone(),
                None => stem(name).map_err(|wrong| {
                    anyhow::anyhow!("{name} cannot name a file ({wrong}): give one with --file")
                })?,
            };
            signed(place, &file, &Kind::Client, name, san, *days)
        }
    }
}

fn signed(
    place: &Place,
    file: &str,
    kind: &Kind,
    common_name: &str,
    names: &[String],
    days: u32,
) -> Result<String> {
    let mut text = String::new();
    // Before anything is made: a refusal leaves nothing behind.
    files::check(&place.dir, file, place.force)?;
    let authority = if let Some(authority) = files::read(&place.dir, "ca")? {
        authority
    } else {
        let made = issue::authority("Polycast development CA", 3650)?;
        files::write(&place.dir, "ca", &made, false)?;
        text += &said(&place.dir, "ca");
        made
    };
    let pair: Pair = issue::certificate(&authority, kind, common_name, names, days)?;
    files::write(&place.dir, file, &pair, place.force)?;
    Ok(text + &said(&place.dir, file))
}

fn said(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    let path = path.display();
    format!("made {path}.pem and {path}-key.pem\n")
}

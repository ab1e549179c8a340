//! What is made from the command line itself: completions for shells, and pages of the manual.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{CommandLine, fail, print};

#[derive(Debug, Args)]
#[command(after_help = "\
bash:  polycast completions bash > ~/.local/share/bash-completion/completions/polycast\n\
zsh:   polycast completions zsh > ~/.zfunc/_polycast\n\
fish:  polycast completions fish > ~/.config/fish/completions/polycast.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// Write a page for each command into this folder, instead of the first one to the standard
    /// output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(arguments: &Completions) -> ExitCode {
    let mut script = Vec::new();
    let mut command = CommandLine::command();
    clap_complete::generate(arguments.shell, &mut command, "polycast", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(arguments: &Man) -> ExitCode {
    let written = match &arguments.dir {
        Some(dir) => std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(CommandLine::command(), dir)),
        None => {
            let mut page = Vec::new();
            let rendered = clap_mangen::Man::new(CommandLine::command()).render(&mut page);
            return match rendered {
                Ok(()) => print(&String::from_utf8_lossy(&page)),
                Err(error) => fail(&error.to_string()),
            };
        }
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("the pages cannot be written: {error}")),
    }
}

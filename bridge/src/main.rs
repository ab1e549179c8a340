//! The program `polycast-bridge`.

use std::process::ExitCode;

fn main() -> ExitCode {
    bridge::cli::main()
}

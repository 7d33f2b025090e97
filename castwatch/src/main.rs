//! The `castwatch` binary: the command line, and where stages meet adapters.

mod cli;
mod commands;
mod line;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match commands::run(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("castwatch: {}", line::words(&error));
            ExitCode::FAILURE
        }
    }
}

//! The `farshore` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    farshore::cli::main()
}

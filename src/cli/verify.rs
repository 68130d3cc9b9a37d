//! `farshore verify`.

use clap::ArgMatches;

use super::VerifyArgs;
use crate::exit::{Exit, Failure};

pub(super) fn run(args: VerifyArgs, matches: &ArgMatches) -> Result<Exit, Failure> {
    drop((args, matches));
    Ok(Exit::Done)
}

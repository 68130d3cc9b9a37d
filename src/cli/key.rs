//! `farshore key`: makes a site key, shows the id of one, puts another one in its place.

use std::io::ErrorKind;
use std::path::Path;

use clap::{Args, Subcommand};
use farshore_transport::{SiteKey, SiteKeyError};
use serde_json::json;

use super::pair::SiteArgs;
use super::{KeyArgs, print};
use crate::exit::{Exit, Failure};
use crate::site::keys::{self, KeysError};
use crate::state::State;

/// What can be done about a key that cannot be had from `file`.
pub(super) fn key_failure(e: &SiteKeyError, file: &Path) -> Failure {
    let failure = Failure::new(Exit::Refused, e);
    match e {
        SiteKeyError::Read { source, .. } if source.kind() == ErrorKind::NotFound => {
            failure.hint(format!("'farshore key {}' makes one and shows its id", file.display()))
        }
        SiteKeyError::NotAKey { .. }
        | SiteKeyError::NotText { .. }
        | SiteKeyError::NotAFile { .. } => failure.hint(
            "name the right file, or one that is not there: 'farshore key FILE' makes a key in it",
        ),
        _ => failure,
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make the next key; the site announces it to the other one, and both are trusted
    Rotate(ChangeArgs),
    /// Make the next key the key, and give up the former one
    Retire(RetireArgs),
}

#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RetireArgs {
    /// Also when the other site has not said that it trusts the next key: it refuses this site until its
    /// operator does
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

fn rotate(args: &ChangeArgs) -> Result<Exit, Failure> {
    let site = args.site.open()?;
    let file = site.state.key_file();
    let keys = keys::rotate(site.state.folder()).map_err(|e| key_failure(&e, &file))?;
    let current = keys.current.key_id();
    let Some(next) = keys.next.map(|key| key.key_id()) else { return Ok(Exit::Internal) };
    if args.json {
        let object = json!({"current": current.to_string(), "next": next.to_string()});
        print(&format!("{object}\n"));
    } else {
        print(&format!(
            "current {current}\nnext    {next}\na running site announces it; 'farshore key retire' ends \
             the change\nby hand, on the other site: farshore pair --trust {next} --as NAME\n"
        ));
    }
    Ok(Exit::Done)
}

fn retire(args: &RetireArgs) -> Result<Exit, Failure> {
    let site = args.change.site.open()?;
    let file = site.state.key_file();
    let retired = keys::retire(site.state.folder(), args.force);
    let (former, now) = retired.map_err(|e| match &e {
        KeysError::Key(e) => key_failure(e, &file),
        KeysError::Trust(e) => e.failure(),
        KeysError::NotAcknowledged { next, .. } => Failure::new(Exit::Refused, &e).hint(format!(
            "start the site, so that it is announced; or trust it there by hand ('farshore pair --trust \
             {next} --as NAME') and add --force here"
        )),
        KeysError::NoNext { .. } => {
            Failure::new(Exit::Refused, &e).hint("'farshore key rotate' begins one")
        }
        KeysError::Replace { .. } => Failure::new(Exit::Disk, &e),
    })?;
    if args.change.json {
        let object = json!({"retired": former.to_string(), "current": now.to_string()});
        print(&format!("{object}\n"));
    } else {
        print(&format!("retired {former}\ncurrent {now}\n"));
    }
    Ok(Exit::Done)
}

pub(super) fn run(args: &KeyArgs) -> Result<Exit, Failure> {
    match &args.command {
        Some(KeyCommand::Rotate(args)) => return rotate(args),
        Some(KeyCommand::Retire(args)) => return retire(args),
        None => {}
    }
    let file = match &args.file {
        Some(file) => file.clone(),
        None => State::open(args.state.state.as_deref())
            .map_err(|e| Failure::new(Exit::Refused, &e))?
            .key_file(),
    };
    let refused = |e: SiteKeyError| key_failure(&e, &file);
    let made = !file.exists();
    let key = if made { SiteKey::create(&file) } else { SiteKey::load(&file) }.map_err(refused)?;
    let id = key.key_id();
    if args.json {
        let object = json!({"file": file.to_string_lossy(), "id": id.to_string(), "made": made});
        print(&format!("{object}\n"));
    } else {
        print(&format!("{id}\n"));
    }
    Ok(Exit::Done)
}

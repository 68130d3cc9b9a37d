//! `farshore key`: makes a site key, or shows the id of one.

use std::io::ErrorKind;
use std::path::Path;

use farshore_transport::{SiteKey, SiteKeyError};
use serde_json::json;

use super::{KeyArgs, print};
use crate::exit::{Exit, Failure};
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

pub(super) fn run(args: &KeyArgs) -> Result<Exit, Failure> {
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

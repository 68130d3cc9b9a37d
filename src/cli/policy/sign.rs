//! `farshore policy sign`: a signature beside a component.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use farshore_core::path::escape_text;
use farshore_core::policy::PolicyId;
use farshore_policies::sign::{key_id, make_keys, sign};
use serde_json::json;

use super::{failed, load, show};
use crate::exit::{Exit, Failure};
use crate::policy::signers::signature_file;
use crate::policy::store::{COMPONENT_BYTES_MAX, read_bounded, read_text};

/// Where the password of a key is, if it has one: not on a command line, which others can read.
const PASSWORD: &str = "FARSHORE_SIGN_PASSWORD";

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The component; its signature goes to FILE.minisig
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The secret key, of minisign's form; its password, if it has one, in FARSHORE_SIGN_PASSWORD
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// Make the key in KEY, which must not be there, and the public one in KEY.pub
    #[arg(long)]
    make_key: bool,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
}

fn write(path: &Path, text: &str, mode: u32, is_new: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).mode(mode).create(!is_new).truncate(!is_new).create_new(is_new);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| {
        let failure = failed(path, "writing it", &e);
        match e.kind() {
            ErrorKind::AlreadyExists => {
                failure.hint("to sign with the key that is there, leave --make-key out")
            }
            _ => failure,
        }
    })
}

fn public_file(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

pub(super) fn run(args: &SignArgs) -> Result<Exit, Failure> {
    let component = read_bounded(&args.file, COMPONENT_BYTES_MAX).map_err(|e| e.failure())?;
    // What no site would load is not worth a signature.
    load(&component, &args.file)?;
    let password = std::env::var(PASSWORD).ok().filter(|p| !p.is_empty());
    let refused = |e: farshore_policies::sign::SignError| {
        let mut failure = Failure::new(Exit::Refused, &e);
        failure.message = format!("key {}: {}", args.key.display(), failure.message);
        failure
    };
    if args.make_key {
        let keys = make_keys(password.as_deref()).map_err(refused)?;
        write(&args.key, &keys.secret, 0o600, true)?;
        write(&public_file(&args.key), &keys.public, 0o644, false)?;
    }
    let missing = || Failure {
        exit: Exit::Refused,
        message: format!("key {}: there is no such file", args.key.display()),
        hint: Some("--make-key makes it".into()),
    };
    let secret = read_text(&args.key).map_err(|e| e.failure())?.ok_or_else(missing)?;
    let id = PolicyId::of(&component).to_string();
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    let comment = format!("{name} id {id}");
    let signature = sign(&component, &secret, password.as_deref(), &comment)
        .map_err(|e| refused(e).hint(format!("the password of a key is read from {PASSWORD}")))?;
    let out = signature_file(&args.file);
    write(&out, &signature, 0o644, false)?;
    let public = read_text(&public_file(&args.key)).map_err(|e| e.failure())?;
    let public = public.as_deref().and_then(|text| text.lines().nth(1)).map(str::to_owned);
    let signer = key_id(&signature).map_err(refused)?;
    let object = json!({
        "signature": out.display().to_string(),
        "key_id": signer,
        "id": id,
        "public_key": public,
        "made_key": args.make_key,
    });
    let shown = escape_text(&out.display().to_string());
    let mut text = format!("{shown}: of id {id}, by key {signer}\n");
    if let Some(public) = &public {
        text.push_str(&format!(
            "A site accepts it with this line in 'policies/signers' of its state folder:\n{public} key {signer}\n"
        ));
    }
    show(args.json, &object, &text);
    Ok(Exit::Done)
}

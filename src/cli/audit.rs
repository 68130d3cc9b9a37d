//! `farshore audit`: what was done to a site's shares and by whom it was said, whether that record is whole, and
//! the signed reports of what was achieved.
//!
//! Guarantees: it reads the file of the state folder and changes nothing, whether a daemon runs or not.

use std::path::PathBuf;

use farshore_core::audit::{AuditHead, AuditRecord};
use farshore_core::path::escape_text;
use farshore_transport::KeyId;
use serde_json::{Value, json};

use super::{StateArgs, daemon, print};
use crate::exit::{Exit, Failure};
use crate::report::utc;
use crate::site::audit::{self, Checked, PeerHead, parse_head, show_head};
use crate::site::drills::{self, DrillError};
use crate::site::keys::SiteKeys;
use crate::site::trust::TrustFile;

#[derive(Debug, clap::Args)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Whether the record is whole and unchanged
    Verify(VerifyArgs),
    /// What is on record
    Show(ShowArgs),
    /// The signed reports of switchovers, failovers, failbacks and rehearsals: what each achieved
    Report(ReportArgs),
}

#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// The site's config file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    state: StateArgs,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// Where this record is known to have ended once, as 'farshore audit verify' at the other site says; may
    /// be given more than once
    #[arg(long, value_name = "LENGTH:DIGEST", value_parser = head)]
    head: Vec<AuditHead>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The last this many only
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Of this share only
    #[arg(long, value_name = "NAME")]
    share: Option<String>,
    #[command(flatten)]
    place: PlaceArgs,
}

#[derive(Debug, clap::Args)]
struct ReportArgs {
    /// One of them, wherever it lies; without it they are listed
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The key it must be signed with, as 'farshore key' of that site says it; without it a key is taken that
    /// this site has or trusts
    #[arg(long, value_name = "KEY", requires = "file")]
    key: Option<KeyId>,
    #[command(flatten)]
    place: PlaceArgs,
}

fn head(text: &str) -> Result<AuditHead, String> {
    parse_head(text).ok_or_else(|| "it is LENGTH:DIGEST, as 'farshore audit verify' says it".into())
}

pub(super) fn run(args: AuditArgs) -> Result<Exit, Failure> {
    match args.command {
        Command::Verify(args) => verify(&args),
        Command::Show(args) => show(&args),
        Command::Report(args) => match &args.file {
            Some(file) => report(&args, file),
            None => reports(&args),
        },
    }
}

/// One report, and whether it is what the site signed.
fn report(args: &ReportArgs, file: &std::path::Path) -> Result<Exit, Failure> {
    let (drill, by) = match drills::read(file) {
        Ok(read) => read,
        Err(e) => {
            let is_changed = matches!(e, DrillError::Signature { .. });
            return Err(Failure::new(if is_changed { Exit::Differs } else { Exit::Refused }, &e));
        }
    };
    let whose = match &args.key {
        Some(key) => (*key == by).then(|| "the key that was named".to_owned()),
        None => known(args, &by)?,
    };
    if args.place.json {
        let mut value =
            serde_json::to_value(&drill).map_err(|e| Failure::new(Exit::Internal, &e))?;
        value["signed_by"] = by.to_string().into();
        value["signer"] = json!(whose);
        print(&format!("{value}\n"));
    } else {
        let lines = drill.lines();
        let lines = lines.iter().map(|line| escape_text(line)).collect::<Vec<_>>().join("\n");
        let signed = match &whose {
            Some(whose) => format!("signed by {by}, {whose}: unchanged"),
            None => format!("signed by {by}, WHICH IS NOT KNOWN HERE"),
        };
        print(&format!("{lines}\n{signed}\n"));
    }
    Ok(if whose.is_some() { Exit::Done } else { Exit::Differs })
}

/// Whose key it is, if it is known here.
fn known(args: &ReportArgs, by: &KeyId) -> Result<Option<String>, Failure> {
    let folder = daemon::folder(&args.place.state, args.place.config.as_deref())?;
    let keys = SiteKeys::load(&folder).map_err(|e| Failure::new(Exit::Refused, &e))?;
    let ours = [Some(&keys.current), keys.next.as_ref()];
    if ours.into_iter().flatten().any(|key| key.key_id() == *by) {
        return Ok(Some("this site's key".into()));
    }
    let store = TrustFile::of(&folder).load().map_err(|e| e.failure())?;
    Ok(store.find(by).map(|(peer, _)| format!("a key of '{}'", escape_text(peer))))
}

/// The reports that are kept, a line each.
fn reports(args: &ReportArgs) -> Result<Exit, Failure> {
    let folder = daemon::folder(&args.place.state, args.place.config.as_deref())?;
    let files = drills::list(&folder).map_err(|e| Failure::new(Exit::Refused, &e))?;
    let mut exit = Exit::Done;
    let mut objects = Vec::new();
    for file in files {
        let path = file.display().to_string();
        match drills::read(&file) {
            Ok((drill, by)) => {
                let lines = drill.lines();
                let shown = lines.first().map(String::as_str).unwrap_or_default();
                if args.place.json {
                    objects.push(json!({
                        "file": path, "kind": drill.kind, "share": drill.share, "began": drill.began,
                        "well": drill.well, "rpo_ms": drill.rpo_ms, "rto_ms": drill.rto_ms,
                        "signed_by": by.to_string(), "fault": null,
                    }));
                } else {
                    print(&format!("{}\n  {path}\n", escape_text(shown)));
                }
            }
            Err(e) => {
                exit = Exit::Differs;
                let fault = farshore_engine::ingest::describe(&e);
                if args.place.json {
                    objects.push(json!({ "file": path, "fault": fault }));
                } else {
                    print(&format!("NOT WHOLE: {}\n", escape_text(&fault)));
                }
            }
        }
    }
    if args.place.json {
        print(&format!("{}\n", json!({ "reports": objects })));
    }
    Ok(exit)
}

fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    let folder = daemon::folder(&args.place.state, args.place.config.as_deref())?;
    let checked = check(&folder, &args.head, &mut |_| {})?;
    let peer = PeerHead::open(&folder)
        .map_err(|e| failed(&folder.join(audit::PEER_FILE), "reading it", &e))?
        .head();
    if args.place.json {
        let mut value = whole(&checked);
        let known = (peer.length > 0).then(|| show_head(&peer));
        value["peer_head"] = json!(known);
        print(&format!("{value}\n"));
    } else {
        print(&text(&checked, &peer));
    }
    Ok(if checked.fault.is_none() { Exit::Done } else { Exit::Differs })
}

fn text(checked: &Checked, peer: &AuditHead) -> String {
    let mut lines = vec![match &checked.fault {
        None => format!(
            "{} records, whole and unchanged; head {}",
            checked.head.length,
            show_head(&checked.head)
        ),
        Some(fault) => format!("broken: {fault}"),
    }];
    if checked.torn > 0 {
        lines.push(format!("  {} bytes of a record are being written, or were not", checked.torn));
    }
    if peer.length > 0 {
        lines.push(format!(
            "the other site's record had {} records when it was last heard;",
            peer.length
        ));
        lines
            .push(format!("  check it there by: farshore audit verify --head {}", show_head(peer)));
    }
    lines.join("\n") + "\n"
}

fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    let folder = daemon::folder(&args.place.state, args.place.config.as_deref())?;
    let mut records = std::collections::VecDeque::new();
    let most = args.last.unwrap_or(usize::MAX);
    let checked = check(&folder, &[], &mut |record| {
        if args.share.as_ref().is_none_or(|share| *share == record.entry.share) {
            records.push_back(record);
            if records.len() > most {
                records.pop_front();
            }
        }
    })?;
    if args.place.json {
        let mut value = whole(&checked);
        value["records"] = records.iter().map(object).collect();
        print(&format!("{value}\n"));
    } else {
        for record in &records {
            print(&format!("{}\n", line(record)));
        }
        if let Some(fault) = &checked.fault {
            print(&format!("broken: {fault}\n"));
        }
    }
    Ok(if checked.fault.is_none() { Exit::Done } else { Exit::Differs })
}

fn whole(checked: &Checked) -> Value {
    json!({
        "whole": checked.fault.is_none(),
        "fault": checked.fault.as_ref().map(ToString::to_string),
        "length": checked.head.length,
        "head": show_head(&checked.head),
    })
}

fn object(record: &AuditRecord) -> Value {
    let entry = &record.entry;
    json!({
        "sequence": record.sequence,
        "time_unix_ms": entry.time_unix_ms,
        "time": utc(entry.time_unix_ms),
        "site": escape_text(&entry.site),
        "share": escape_text(&entry.share),
        "kind": escape_text(&entry.kind),
        "text": escape_text(&entry.text),
    })
}

fn line(record: &AuditRecord) -> String {
    let entry = &record.entry;
    let whose = match entry.share.as_str() {
        "" => String::new(),
        share => format!(" {}", escape_text(share)),
    };
    format!(
        "{:>6} {} {}{whose}: {}: {}",
        record.sequence,
        utc(entry.time_unix_ms),
        escape_text(&entry.site),
        escape_text(&entry.kind),
        escape_text(&entry.text)
    )
}

fn check(
    folder: &std::path::Path,
    known: &[AuditHead],
    each: &mut dyn FnMut(AuditRecord),
) -> Result<Checked, Failure> {
    audit::check(folder, known, each)
        .map_err(|e| failed(&folder.join(audit::FILE), "reading it", &e))
}

fn failed(file: &std::path::Path, step: &str, e: &std::io::Error) -> Failure {
    Failure {
        exit: Exit::Refused,
        message: format!("audit record {}: {step}: {e}", file.display()),
        hint: None,
    }
}

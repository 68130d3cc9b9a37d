//! `farshore verify`: two trees byte by byte, and on request the second made the first's equal.
//!
//! Where a policy fails the entry is compared as one that travels, and the fault is told.

use std::path::Path;
use std::time::Instant;

use clap::ArgMatches;
use farshore_core::guard::Threshold;
use farshore_core::path::{RelPath, escape_text};
use farshore_core::policy::{Faults, Policy};
use farshore_core::size::HumanBytes;
use farshore_engine::catalog::CatalogRole;
use farshore_engine::frames::Compression;
use farshore_engine::io::uring::IoMode;
use farshore_engine::progress::Progress;
use farshore_engine::source::{Outcome, system_wall_clock};
use farshore_engine::verify::{
    Difference, VerifyConfig, VerifyProgress, VerifyReport, distrust, verify,
};
use serde_json::json;

use super::{VerifyArgs, print};
use crate::exit::{Exit, Failure};
use crate::replicate::{
    RunOptions, RunResult, TargetOptions, is_like_remote, open_catalog, open_root, to_folder,
    worker_threads,
};
use crate::report::{self, entries};
use crate::roots::{RootRules, check_apart, check_root};
use crate::state::{self, State, path_bytes};

/// Differences kept for the report; further ones are counted.
const KEPT: usize = 100_000;
/// Faults of policies in the text.
const FAULTS_SHOWN: usize = 20;

pub(super) fn run(args: VerifyArgs, matches: &ArgMatches) -> Result<Exit, Failure> {
    let at = system_wall_clock();
    let rules = args.rules.policy(matches, at)?;
    let policy = args.policies.with(rules, matches, &args.state, at)?;
    for path in [&args.a, &args.b] {
        if is_like_remote(path) && !path.exists() {
            let message = format!(
                "{}: 'farshore verify' compares two folders of this machine",
                path.display()
            );
            let hint = "run it where both can be read, as over a mount; between hosts every \
                        run compares the digests of both ends";
            return Err(Failure::usage(message, hint));
        }
    }
    let rules = RootRules {
        // Reading does no harm; writing to a protected folder is asked for by name.
        allow_protected: args.roots.allow_protected || !args.repair,
        install_folders: args.roots.install_dir.clone(),
    };
    let root = |role, path: &Path| {
        check_root(role, path, &rules).map_err(|e| super::replicate::root_failure(&e))
    };
    let (a, b) = (root("source", &args.a)?, root("target", &args.b)?);
    check_apart(&a, &b).map_err(|e| super::replicate::root_failure(&e))?;
    let start = Instant::now();
    let (found, differences) = compare(&a, &b, &policy, args.io_limit)?;
    // Before a repair, whose run takes its own.
    let faults = policy.take_faults();
    let mut repaired = None;
    if args.repair && !differences.is_empty() {
        repaired = Some(repair(&a, &b, &policy, &differences, &args)?);
    }
    let left = match &repaired {
        Some(_) => compare(&a, &b, &policy, args.io_limit)?,
        None => (found, Vec::new()),
    };
    if left.0.is_equal() && left.0.excluded == 0 {
        forget_degraded(&args, &a, &b);
    }
    let held = repaired.as_ref().and_then(|(result, _)| match &result.source.outcome {
        Outcome::Held(hold) => Some(hold.to_string()),
        _ => None,
    });
    let held = held.or_else(|| faults.hold.as_ref().map(|_| faults_text(&faults)));
    let idle_rules: Vec<String> = policy.rule_set().idle().map(ToString::to_string).collect();
    if args.json {
        let lines: Vec<_> = differences
            .iter()
            .map(|d| json!({"path": d.path.to_string(), "difference": d.aspect.to_string()}))
            .collect();
        let object = json!({
            "equal": left.0.is_equal(),
            "entries": found.entries,
            "bytes": found.bytes,
            "differences": found.differences,
            "unreadable": found.unreadable,
            "inflated": found.inflated,
            "excluded": found.excluded,
            "found": lines,
            "repaired": repaired.is_some() && held.is_none(),
            "held": held,
            "policy_faults": faults.count,
            "idle_rules": idle_rules,
            "left": left.0.differences + left.0.unreadable,
            "seconds": start.elapsed().as_secs_f64(),
        });
        print(&format!("{object}\n"));
    } else {
        for difference in &differences {
            print(&format!("{}: {}\n", difference.path, difference.aspect));
        }
        print(&format!(
            "{}, {} compared: {} differences, {} unreadable\n",
            entries(found.entries),
            HumanBytes(found.bytes),
            found.differences,
            found.unreadable
        ));
        if let Some((result, progress)) = &repaired {
            print(&report::text(result, progress, start.elapsed(), false));
            for difference in &left.1 {
                print(&format!("still: {}: {}\n", difference.path, difference.aspect));
            }
        }
        for fault in faults.first.iter().take(FAULTS_SHOWN) {
            print(&format!("fault: {}: {}\n", fault.path, escape_text(&fault.text)));
        }
        if faults.count > 0 {
            print(&format!("{}\n", faults_text(&faults)));
        }
        print(&report::idle_rules_text(&idle_rules));
    }
    Ok(match held {
        Some(_) => Exit::Held,
        _ if !left.0.is_equal() => Exit::Differs,
        _ if faults.count > 0 => Exit::Partial,
        _ => Exit::Done,
    })
}

fn faults_text(faults: &Faults) -> String {
    let count = entries(faults.count);
    format!("a policy had no answer about {count}, compared as what travels")
}

fn compare(
    a: &Path,
    b: &Path,
    policy: &dyn Policy,
    io_limit: Option<u64>,
) -> Result<(VerifyReport, Vec<Difference>), Failure> {
    // Whole files, large and small alike: there is nothing for batches.
    let open = |role, root| open_root(role, root, IoMode::Posix, io_limit);
    let (storage_a, storage_b) = (open("source", a)?, open("target", b)?);
    let config = VerifyConfig::new(policy, worker_threads());
    let mut differences = Vec::new();
    let report = verify(
        &storage_a,
        &storage_b,
        &config,
        &mut |difference| {
            if differences.len() < KEPT {
                differences.push(difference);
            }
        },
        &VerifyProgress::default(),
    )
    .map_err(|e| Failure::new(Exit::Refused, &e))?;
    differences.sort_by(|x: &Difference, y| x.path.cmp(&y.path));
    Ok((report, differences))
}

/// The two are equal: what the runs of this pair could not keep is no longer to be said. Without a
/// state folder there is nothing to forget, and none is made.
fn forget_degraded(args: &VerifyArgs, a: &Path, b: &Path) {
    if let Ok(state) = State::existing(args.state.state.as_deref()) {
        let parts: [&[u8]; 3] = [path_bytes(a), b"folder", path_bytes(b)];
        state::forget_degraded(&state.catalog_folder(CatalogRole::Source, &parts));
    }
}

/// Replicates A to B, looking at what differs whatever its facts say.
fn repair(
    a: &Path,
    b: &Path,
    policy: &dyn Policy,
    differences: &[Difference],
    args: &VerifyArgs,
) -> Result<(RunResult, Progress), Failure> {
    let refused = |e: &dyn std::error::Error| Failure::new(Exit::Refused, e);
    let state = State::open(args.state.state.as_deref()).map_err(|e| refused(&e))?;
    let source_parts: [&[u8]; 3] = [path_bytes(a), b"folder", path_bytes(b)];
    let paths: Vec<&RelPath> = differences.iter().map(|d| &d.path).collect();
    for (role, parts) in
        [(CatalogRole::Source, &source_parts[..]), (CatalogRole::Target, &[path_bytes(b)][..])]
    {
        let (catalog, _) = open_catalog(&state, role, parts)?;
        distrust(&catalog, paths.iter().copied()).map_err(|e| refused(&e))?;
    }
    let options = RunOptions {
        state,
        policy,
        threshold: Threshold::default(),
        approved: args.approve,
        trust_target: false,
        dry_run: false,
        compression: Compression::Auto,
        bandwidth: None,
        io_limit: args.io_limit,
        io: IoMode::default(),
        target: TargetOptions::default(),
    };
    let progress = Progress::default();
    let result = to_folder(a, b, &options, &progress)?;
    Ok((result, progress))
}

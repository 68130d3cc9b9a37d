//! `farshore policy check`, `inspect` and `test`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use farshore_core::path::escape_text;
use farshore_core::size::HumanBytes;
use farshore_policies::{Configured, Limits};
use serde_json::{Value, json};

use super::make::hooks;
use super::{CASES_HINT, OneArgs, Opened, cases_of, settings_of, show};
use crate::exit::{Exit, Failure};
use crate::policy::cases::CaseFile;
use crate::policy::cases::run::{TestReport, run};
use crate::policy::check::{Finding, exclusion, resolution, with_texts};
use crate::policy::generate::{conflicts, entries, words};
use crate::policy::library::{configure, on_fault_name};
use crate::policy::signers::Trust;
use crate::report::counted;

/// Entries and conflicts made to see whether a policy always decides alike.
const ENTRIES: usize = 2_000;
const CONFLICTS: usize = 200;
const SEED: u64 = 0x6661_7273_686f_7265;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Files of cases, asked too [default: tests/cases.toml beside FILE, if it is there]
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    #[command(flatten)]
    one: OneArgs,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    one: OneArgs,
    /// Files of cases [default: tests/cases.toml beside FILE]
    #[arg(long, value_name = "FILE")]
    cases: Vec<PathBuf>,
    /// Show every case, and what the policy wrote to its log
    #[arg(short, long)]
    verbose: bool,
    /// One JSON object on standard output (docs/output.md)
    #[arg(long)]
    json: bool,
}

/// All that is looked at before a policy is trusted with a share.
///
/// # Errors
/// [`Failure`] when it cannot even be asked.
pub(super) fn findings(opened: &Opened, cases: &[CaseFile]) -> Result<Vec<Finding>, Failure> {
    let Opened { chosen, component, .. } = opened;
    let mut settings = chosen.settings.clone();
    // A project's cases say with which settings it can be asked.
    if settings.is_empty() {
        settings.extend(cases.first().map(|file| file.settings.clone()).unwrap_or_default());
    }
    let one = configure(chosen, component, &settings, opened.at)?;
    let other = configure(chosen, component, &settings, opened.at)?;
    let size = HumanBytes(chosen.component.len() as u64);
    let limit = HumanBytes(chosen.limits.component_bytes);
    let imports = component.imports().join(", ");
    let manifest = one.manifest();
    let mut found = vec![
        Finding::good("size", format!("{size} of {limit}")),
        Finding::good("interface", format!("farshore:policy@{}", component.world())),
        Finding::good("imports", if imports.is_empty() { "none".into() } else { imports }),
        Finding::good("hooks", hooks(component).join(", ")),
        Finding::good(
            "settings",
            format!(
                "taken by {} {}, {}",
                manifest.name,
                manifest.version,
                counted(manifest.rules.len() as u64, "rule", "rules")
            ),
        ),
    ];
    if one.manifest() != other.manifest() {
        found.push(Finding::bad("settings", "two instances say different things of themselves"));
    }
    found.extend(decisions(opened, cases, &one, &other));
    if !cases.is_empty() {
        // With the settings of their file: what is right with others they do not say.
        let report = run(cases, &BTreeMap::new(), &|settings, at| {
            configure(chosen, component, settings, at)
        })?;
        let (failed, all) = (report.failed(), report.cases.len());
        let detail = format!("{} of {all} right", all - failed);
        found.push(match failed {
            0 => Finding::good("cases", detail),
            _ => Finding::bad("cases", format!("{detail}; 'farshore policy test' shows the rest")),
        });
    }
    Ok(found)
}

fn decisions(
    opened: &Opened,
    cases: &[CaseFile],
    one: &Configured,
    other: &Configured,
) -> Vec<Finding> {
    let mut texts: Vec<String> = one.manifest().rules.clone();
    for file in cases {
        texts.extend(file.excludes.iter().map(|case| case.facts.path.to_string()));
        texts.extend(file.resolves.iter().map(|case| case.conflict.path.to_string()));
    }
    let words = words(&texts);
    let mut found = Vec::new();
    if one.has_exclude() {
        let mut asked = entries(ENTRIES, &words, opened.at, SEED);
        asked.extend(cases.iter().flat_map(|file| &file.excludes).map(|case| case.facts.clone()));
        found.push(exclusion(one, other, &asked));
    }
    // One that failed is off, and would fail for that alone.
    if one.has_resolve() && found.iter().all(|finding| finding.passed) {
        let mut asked = with_texts(conflicts(CONFLICTS, &words, opened.at, SEED));
        let cases = cases.iter().flat_map(|file| &file.resolves);
        asked.extend(cases.map(|case| (case.conflict.clone(), case.texts.clone())));
        found.push(resolution(one, other, &asked));
    }
    found
}

/// The findings as text.
pub(super) fn findings_text(found: &[Finding]) -> String {
    let mut out = String::new();
    for Finding { name, passed, detail } in found {
        let mark = if *passed { "ok    " } else { "FAILED" };
        writeln!(out, "{mark} {name}: {}", escape_text(detail)).unwrap_or(());
    }
    out
}

pub(super) fn check(args: &CheckArgs) -> Result<Exit, Failure> {
    let opened = args.one.open()?;
    let cases = cases_of(&opened.chosen, &args.cases)?;
    let found = findings(&opened, &cases)?;
    let passed = found.iter().all(|finding| finding.passed);
    let object = json!({
        "id": opened.chosen.id().to_string(),
        "passed": passed,
        "findings": found.iter()
            .map(|f| json!({"name": f.name, "passed": f.passed, "detail": f.detail}))
            .collect::<Vec<_>>(),
    });
    show(args.json, &object, &findings_text(&found));
    Ok(if passed { Exit::Done } else { Exit::Differs })
}

pub(super) fn inspect(args: &InspectArgs) -> Result<Exit, Failure> {
    let opened = args.one.open()?;
    let Opened { library, chosen, component, .. } = &opened;
    let configured = opened.configure();
    let trust = library.trust(chosen);
    let signature = match &trust {
        Ok(Trust::Anyone) if chosen.signature.is_some() => {
            "there is one; this site has no list of signers".to_owned()
        }
        Ok(Trust::Anyone) => "none; this site has no list of signers".to_owned(),
        Ok(Trust::Embedded) => "none needed: it comes with Farshore".to_owned(),
        Ok(Trust::Signed(by)) => format!("by {by}"),
        Ok(Trust::Exception) => "none; installed as an exception".to_owned(),
        Err(failure) => format!("not accepted: {}", failure.message),
    };
    let manifest = configured.as_ref().ok().map(Configured::manifest);
    let usual = Limits::default().all();
    let limits = chosen.limits.all();
    let object = json!({
        "name": manifest.map(|m| &m.name),
        "version": manifest.map(|m| &m.version),
        "rules": manifest.map(|m| &m.rules),
        "settings": chosen.settings,
        "settings_refused": configured.as_ref().err().map(|failure| &failure.message),
        "id": chosen.id().to_string(),
        "bytes": chosen.component.len(),
        "interface": component.world(),
        "hooks": hooks(component),
        "imports": component.imports(),
        "origin": chosen.origin.to_string(),
        "signature": signature,
        "on_fault": on_fault_name(chosen.on_fault),
        "limits": limits.iter().map(|l| (l.0.to_owned(), l.1.into())).collect::<serde_json::Map<_, Value>>(),
    });
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        writeln!(out, "{name:<10} {}", escape_text(text)).unwrap_or(());
    };
    match (manifest, &configured) {
        (Some(manifest), _) => line("policy", &format!("{} {}", manifest.name, manifest.version)),
        (None, Err(failure)) => line("settings", &failure.message),
        (None, Ok(_)) => {}
    }
    line("id", &chosen.id().to_string());
    line("origin", &chosen.origin.to_string());
    line("size", &HumanBytes(chosen.component.len() as u64).to_string());
    line("interface", &format!("farshore:policy@{}", component.world()));
    line("decides", &hooks(component).join(", "));
    line("imports", &component.imports().join(", "));
    line("signature", &signature);
    line("on fault", on_fault_name(chosen.on_fault));
    for (key, value) in &chosen.settings {
        line("setting", &format!("{key}={value}"));
    }
    for (own, usual) in limits.iter().zip(usual).filter(|(own, usual)| own.1 != usual.1) {
        line("limit", &format!("{}={} (usual {})", own.0, own.1, usual.1));
    }
    for rule in manifest.map(|m| m.rules.as_slice()).unwrap_or_default() {
        line("rule", rule);
    }
    show(args.json, &object, &out);
    // All there is to see was shown, and yet no run would take it so.
    Ok(configured.err().map_or(Exit::Done, |failure| failure.exit))
}

pub(super) fn test(args: &TestArgs) -> Result<Exit, Failure> {
    let Opened { chosen, component, .. } = &args.one.open()?;
    let files = cases_of(chosen, &args.cases)?;
    if files.iter().all(CaseFile::is_empty) {
        return Err(Failure::usage("there are no cases", CASES_HINT));
    }
    let above = settings_of(&args.one.setting)?;
    let report = run(&files, &above, &|settings, at| configure(chosen, component, settings, at))?;
    show(args.json, &test_json(&report), &test_text(&report, args.verbose));
    Ok(if report.failed() == 0 { Exit::Done } else { Exit::Differs })
}

fn test_json(report: &TestReport) -> Value {
    let cases = report.cases.iter().map(|case| {
        json!({
            "file": case.file,
            "line": case.line,
            "asked": case.asked,
            "passed": case.failure.is_none(),
            "failure": case.failure,
            "fuel": case.fuel,
        })
    });
    json!({
        "passed": report.failed() == 0,
        "failed": report.failed(),
        "cases": cases.collect::<Vec<_>>(),
        "unreached": report.unreached,
        "log": report.log,
    })
}

fn test_text(report: &TestReport, verbose: bool) -> String {
    let mut out = String::new();
    for case in &report.cases {
        let at = format!("{}:{}", escape_text(&case.file), case.line);
        match &case.failure {
            Some(why) => writeln!(out, "FAILED {at}: {}: {}", case.asked, escape_text(why)),
            None if verbose => writeln!(out, "ok     {at}: {} ({} fuel)", case.asked, case.fuel),
            None => Ok(()),
        }
        .unwrap_or(());
    }
    if verbose || report.failed() > 0 {
        for line in &report.log {
            writeln!(out, "log {}", escape_text(line)).unwrap_or(());
        }
    }
    for rule in &report.unreached {
        writeln!(out, "no case reaches the rule '{}'", escape_text(rule)).unwrap_or(());
    }
    let fuel: Vec<u64> = report.cases.iter().map(|case| case.fuel).collect();
    let most = fuel.iter().max().copied().unwrap_or_default();
    let (failed, all) = (report.failed(), report.cases.len());
    let failed = match failed {
        0 => String::new(),
        n => format!(", {n} failed"),
    };
    let all = counted(all as u64, "case", "cases");
    writeln!(out, "{all}{failed}; at most {most} fuel a case").unwrap_or(());
    out
}

//! The options that exclude and include, in the order they were given.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::{ArgMatches, Args};
use farshore_core::entry::Timestamp;
use farshore_core::policy::Action;
use farshore_policies::RuleSet;

use crate::exit::{Exit, Failure};

/// Rules are tried in the order given, across these options; the first that matches decides.
#[derive(Debug, Args)]
pub(super) struct RuleArgs {
    /// Leave out what matches, e.g. '*.tmp' or '/scratch/' or '*.iso size>4G'
    #[arg(long, value_name = "RULE")]
    exclude: Vec<OsString>,
    /// Take in what matches, before a later --exclude or a default leaves it out
    #[arg(long, value_name = "RULE")]
    include: Vec<OsString>,
    /// Rules of a file, one a line; '+ ' and '- ' say include and exclude, exclude if neither
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
    /// The same, include if neither
    #[arg(long, value_name = "FILE")]
    include_from: Vec<PathBuf>,
    /// Take in what is left out by default (snapshot folders, lost+found, silly renames)
    #[arg(long)]
    no_default_excludes: bool,
}

enum Given<'a> {
    Rule(Action, &'a OsString),
    File(Action, &'a PathBuf),
}

impl RuleArgs {
    /// The rules as a policy; ages are counted from `at`.
    pub(super) fn policy(&self, matches: &ArgMatches, at: Timestamp) -> Result<RuleSet, Failure> {
        let mut given: Vec<(usize, Given<'_>)> = Vec::new();
        let indices = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
        for (id, action, rules) in [
            ("exclude", Action::Exclude, &self.exclude),
            ("include", Action::Replicate, &self.include),
        ] {
            given.extend(indices(id).into_iter().zip(rules.iter().map(|r| Given::Rule(action, r))));
        }
        for (id, action, files) in [
            ("exclude_from", Action::Exclude, &self.exclude_from),
            ("include_from", Action::Replicate, &self.include_from),
        ] {
            given.extend(indices(id).into_iter().zip(files.iter().map(|f| Given::File(action, f))));
        }
        given.sort_by_key(|(index, _)| *index);
        let mut builder = RuleSet::builder(at);
        for (_, item) in given {
            let usage = |e: farshore_policies::RuleError| Failure::new(Exit::Usage, &e);
            match item {
                Given::Rule(action, rule) => {
                    builder.push(action, rule.as_bytes()).map_err(usage)?;
                }
                Given::File(action, file) => {
                    let content = std::fs::read(file).map_err(|e| Failure {
                        exit: Exit::Usage,
                        message: format!("rules file {}: reading it: {e}", file.display()),
                        hint: None,
                    })?;
                    let name = file.to_string_lossy();
                    builder.push_file(action, &name, &content).map_err(usage)?;
                }
            }
        }
        if self.no_default_excludes {
            builder.without_defaults();
        }
        Ok(builder.build())
    }
}

//! Policy `my-policy`: regular files with one of some suffixes stay behind.
//!
//! Setting `suffixes`: a list with commas, `.tmp, .part, ~` unless told.

use farshore_wasm_sdk::{
    Action, Entry, Exclude, Kind, Manifest, Policy, Settings, Timestamp, Verdict, export_policy,
};

/// The policy with its settings.
pub struct MyPolicy {
    suffixes: Vec<String>,
}

impl Policy for MyPolicy {
    fn configure(settings: &mut Settings, _at: Timestamp) -> Result<(Self, Manifest), String> {
        let suffixes = settings.list("suffixes", &[".tmp", ".part", "~"])?;
        let mut manifest = Manifest::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        for suffix in &suffixes {
            // The text that an operator sees beside each file that stays behind.
            manifest.rule(format!("suffix {suffix}"));
        }
        Ok((Self { suffixes }, manifest))
    }
}

impl Exclude for MyPolicy {
    fn exclude(&self, entry: &Entry) -> Verdict {
        // Excluding a directory would exclude all that is in it.
        if entry.kind != Kind::File {
            return Verdict::REPLICATE;
        }
        for (rule, suffix) in (0..).zip(&self.suffixes) {
            if entry.path.ends_with(suffix.as_bytes()) {
                return Verdict::by_rule(Action::Exclude, rule);
            }
        }
        Verdict::REPLICATE
    }
}

export_policy!(MyPolicy: exclude);

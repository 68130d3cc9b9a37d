//! A policy that misbehaves as its settings say, for the tests of the host.
//!
//! Settings: `act`, what it does, and `at`, the end of the paths it does it at (every path unless
//! told). Everywhere else it replicates and holds. As its answers go through the kit, what the
//! canonical ABI itself refuses is not among the acts.
//!
//! | `act` | |
//! |---|---|
//! | `nothing` | behaves |
//! | `loop`, `recurse`, `grow`, `panic` | for ever, for ever, to 4 GiB, with a message |
//! | `rule` | names a rule past the end of its list |
//! | `flood` | writes 100,000 lines of 4 KiB to the log, and decides |
//! | `read` | reads the production version again and again until it is refused, and holds |
//! | `span` | merges bytes past the end of the production version |
//! | `overflow` | merges a span whose end is past 2^64 |
//! | `literal` | merges 16 MiB of its own |
//! | `pieces` | merges a byte a million times |
//! | `escape`, `absolute`, `empty`, `nul`, `reserved` | keeps both under `../x`, `/x`, an empty path, `a\0b`, `.farshore/x` |
//! | `collide` | keeps both under the path itself |
//! | `attributes` | merges with the attributes of a site that has no file |
//! | `reason` | gives a reason of 1 MiB |
//!
//! `refuse` refuses the settings, `refuse-loop` never comes back from them, and `rules` names 100,000
//! rules of 1 KiB.

use farshore_wasm_sdk::{
    Conflict, Contents, Decision, Entry, Exclude, Manifest, Outcome, Piece, Policy, Resolve,
    Settings, Site, Source, Timestamp, Verdict, export_policy, log,
};

/// The policy.
pub struct Hostile {
    act: String,
    at: Vec<u8>,
}

impl Policy for Hostile {
    fn configure(settings: &mut Settings, _: Timestamp) -> Result<(Self, Manifest), String> {
        let act = settings.text("act").unwrap_or_else(|| "nothing".to_owned());
        let at = settings.text("at").unwrap_or_default().into_bytes();
        let mut manifest = Manifest::new("hostile", "1.0.0");
        manifest.rule("the only one");
        match act.as_str() {
            "refuse" => return Err("refused, as the settings say".to_owned()),
            "refuse-loop" => spin(),
            "rules" => manifest.rules = vec!["x".repeat(1 << 10); 100_000],
            _ => {}
        }
        Ok((Self { act, at }, manifest))
    }
}

impl Exclude for Hostile {
    fn exclude(&self, entry: &Entry) -> Verdict {
        if entry.path.ends_with(&self.at) {
            self.common();
            if self.act == "rule" {
                return Verdict { rule: Some(1), ..Verdict::REPLICATE };
            }
        }
        Verdict::REPLICATE
    }
}

impl Resolve for Hostile {
    fn resolve(&self, conflict: &Conflict, contents: &dyn Contents) -> Decision {
        if !conflict.path.ends_with(&self.at) {
            return Decision::hold("not at this path");
        }
        self.common();
        let size = conflict.size(Source::Production).unwrap_or(0);
        let merge = |pieces| Outcome::Merge { attributes: Site::Production, pieces };
        let copy = |offset, length| Piece::Copy { source: Source::Production, offset, length };
        let both =
            |path: &[u8]| Outcome::KeepBoth { renamed: Site::Recovery, new_path: path.to_vec() };
        let outcome = match self.act.as_str() {
            "rule" => return Decision { rule: Some(1), ..Decision::hold("no such rule") },
            "reason" => return Decision::hold("x".repeat(1 << 20)),
            "read" => {
                while contents.read(Source::Production, 0, 1 << 16).is_ok_and(|b| !b.is_empty()) {}
                Outcome::Hold
            }
            "span" => merge(vec![copy(size.saturating_sub(1), 2)]),
            "overflow" => merge(vec![copy(u64::MAX, 2)]),
            "literal" => merge(vec![Piece::Literal(vec![b'x'; 16 << 20])]),
            "pieces" => merge(vec![copy(0, 1); 1_000_000]),
            "escape" => both(b"../x"),
            "absolute" => both(b"/x"),
            "empty" => both(b""),
            "nul" => both(b"a\0b"),
            "reserved" => both(b".farshore/x"),
            "collide" => both(&conflict.path),
            "attributes" => {
                let has_none = conflict.production.file().is_none();
                let site = if has_none { Site::Production } else { Site::Recovery };
                Outcome::Merge { attributes: site, pieces: Vec::new() }
            }
            _ => Outcome::Hold,
        };
        Decision::by_rule(outcome, 0, self.act.as_str())
    }
}

impl Hostile {
    /// What it does to either hook.
    fn common(&self) {
        match self.act.as_str() {
            "loop" => spin(),
            "recurse" => {
                std::hint::black_box(recurse(0));
            }
            "grow" => {
                let mut kept = Vec::new();
                for _ in 0..4096 {
                    kept.push(std::hint::black_box(vec![1u8; 1 << 20]));
                }
            }
            "panic" => panic!("as the settings say"),
            "flood" => {
                let line = "x".repeat(4 << 10);
                for _ in 0..100_000 {
                    log::info(&line);
                }
            }
            _ => {}
        }
    }
}

fn spin() -> ! {
    let mut count = 0u64;
    loop {
        count = std::hint::black_box(count.wrapping_add(1));
    }
}

#[allow(unconditional_recursion)] // what it is for
fn recurse(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    recurse(depth + 1).wrapping_add(frame[63])
}

export_policy!(Hostile: exclude, resolve);

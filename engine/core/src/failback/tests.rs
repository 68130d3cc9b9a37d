//! Trees in memory, what is done to them, and what must hold whatever that was.

mod apply;
mod edits;
mod model;
mod moves;
mod plans;
mod properties;
mod scenarios;

use super::*;

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

/// A plan as people read it.
fn shown(plan: &[Divergence]) -> String {
    let mut text = String::new();
    for d in plan {
        let group = d.group.map(|group| format!("{group} ")).unwrap_or_default();
        text.push_str(&group);
        render::line(&mut text, d, &plans::header()).expect("a string");
    }
    text
}

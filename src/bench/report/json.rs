//! The results as one JSON object; its fields are documented in docs/benchmarking.md.
//!
//! Guarantees: the file is replaced as a whole, so that a reader never sees half of it; what was
//! measured before an interruption is in it. Refuses nothing.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Results, Row};
use crate::bench::targets::Verdict;
use crate::bench::{BenchError, Context};

/// Number of the format; a change of meaning gets another.
const FORMAT: u32 = 2;

/// Writes everything to a file.
pub(crate) fn write(
    path: &Path,
    results: &Results,
    verdicts: &[Verdict],
) -> Result<(), BenchError> {
    let text = format!("{:#}\n", value(results, verdicts));
    let fresh = path.with_extension("json.new");
    std::fs::write(&fresh, text).at("write the report", &fresh)?;
    std::fs::rename(&fresh, path).at("name the report", path)
}

/// The object.
fn value(results: &Results, verdicts: &[Verdict]) -> Value {
    let setting: Map<String, Value> = results
        .setting
        .facts
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    let rows: Vec<Row> = results
        .steps()
        .into_iter()
        .flat_map(|(step, congestion)| results.rows(step, congestion))
        .collect();
    json!({
        "format": FORMAT,
        "scale": results.scale,
        "setting": setting,
        "parts": results.parts,
        "line": results.line,
        "demands": results.demands,
        "rows": rows,
        "targets": verdicts,
        "measurements": results.records,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::record;

    #[test]
    fn the_page_names_every_field() {
        let records = vec![record("W4a", "farshore", 1, 1.0, None)];
        let results = Results { records, scale: 1.0, ..Results::default() };
        let all = value(&results, &crate::bench::targets::judge(&results));
        let page = include_str!("../../../docs/benchmarking.md");
        let named: Vec<&str> = page.split('`').skip(1).step_by(2).collect();
        let mut fields: Vec<String> = Vec::new();
        let mut add = |value: &Value| {
            fields.extend(value.as_object().expect("an object").keys().cloned());
        };
        add(&all);
        for list in ["rows", "targets", "measurements"] {
            add(&all[list][0]);
        }
        add(&all["measurements"][0]["cost"]);
        for field in fields {
            assert!(named.contains(&field.as_str()), "docs/benchmarking.md does not name {field}");
        }
    }
}

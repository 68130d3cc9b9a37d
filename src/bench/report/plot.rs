//! The ratios as a picture: one bar for each workload, with its target marked.
//!
//! Guarantees: a well-formed SVG of its own, without scripts, fonts or links; the axis is logarithmic
//! and the same for all bars. Refuses to draw what was not measured.

use std::fmt::Write as _;
use std::path::Path;

use crate::bench::rng::{len_u64, to_f64};
use crate::bench::targets::{Outcome, Verdict};
use crate::bench::{BenchError, Context};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 330.0;
const RIGHT: f64 = 70.0;
const ROW: f64 = 26.0;
const TOP: f64 = 64.0;
/// Ends of the axis.
const LEAST: f64 = 0.5;
const MOST: f64 = 64.0;

/// Draws the verdicts on speed into a file.
pub(crate) fn write(path: &Path, verdicts: &[Verdict], title: &str) -> Result<(), BenchError> {
    std::fs::write(path, draw(verdicts, title)).at("write the plot", path)
}

fn draw(verdicts: &[Verdict], title: &str) -> String {
    let bars: Vec<(&Verdict, f64)> = verdicts
        .iter()
        .filter(|verdict| verdict.asked.starts_with("times as fast"))
        .filter_map(|verdict| Some((verdict, verdict.found?)))
        .collect();
    let height = TOP + ROW * to_f64(len_u64(bars.len())) + 36.0;
    let mut svg = String::new();
    // Writing to a string does not fail.
    draw_into(&mut svg, &bars, height, title).unwrap_or(());
    svg
}

fn draw_into(
    svg: &mut String,
    bars: &[(&Verdict, f64)],
    height: f64,
    title: &str,
) -> std::fmt::Result {
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\">Times as fast as the other tool (wall time, pairs in \
         turn)</text>\n<text x=\"16\" y=\"42\" fill=\"#666666\">{}</text>",
        escaped(title)
    )?;
    let bottom = height - 30.0;
    for step in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
        let (at, color) = (x_of(step), if step == 1.0 { "#444444" } else { "#dddddd" });
        writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom:.1}\" stroke=\"{color}\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666666\">{step}x</text>",
            bottom + 16.0
        )?;
    }
    for (number, (verdict, found)) in (0u32..).zip(bars) {
        draw_bar(svg, TOP + ROW * f64::from(number), verdict, *found)?;
    }
    writeln!(svg, "</svg>")
}

fn draw_bar(svg: &mut String, top: f64, verdict: &Verdict, found: f64) -> std::fmt::Result {
    let name = match &verdict.congestion {
        Some(control) => format!("{} {control}", verdict.workload),
        None => verdict.workload.to_owned(),
    };
    let than = verdict.asked.trim_start_matches("times as fast as ");
    let label = escaped(&format!("{name}: {} to {than}", verdict.tool));
    let color = if verdict.outcome == Outcome::Pass { "#2f7d4f" } else { "#b5482f" };
    let (one, end, mark) = (x_of(1.0), x_of(found), x_of(verdict.bound));
    let (from, width) = (one.min(end), (end - one).abs().max(1.0));
    let (text, base) = (top + 17.0, top + 4.0);
    writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{label}</text>\n\
         <rect x=\"{from:.1}\" y=\"{base:.1}\" width=\"{width:.1}\" height=\"18\" fill=\"{color}\"/>\n\
         <line x1=\"{mark:.1}\" y1=\"{top:.1}\" x2=\"{mark:.1}\" y2=\"{:.1}\" stroke=\"#111111\" \
         stroke-width=\"3\"><title>asked: {}x</title></line>\n\
         <text x=\"{:.1}\" y=\"{text:.1}\">{found:.2}x</text>",
        LEFT - 8.0,
        top + ROW,
        verdict.bound,
        end.max(mark).max(one) + 6.0,
    )
}

/// Where a ratio lies on the axis.
fn x_of(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).log2() / (MOST / LEAST).log2();
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Results;
    use crate::bench::report::tests::record;
    use crate::bench::targets::judge;

    #[test]
    fn every_measured_ratio_has_a_bar() {
        let records = vec![
            record("W4a", "farshore", 1, 1.0, None),
            record("W4a", "rsync-ssh", 1, 4.0, None),
            record("W4b", "farshore", 1, 1.0, None),
        ];
        let verdicts = judge(&Results { records, ..Results::default() });
        let svg = draw(&verdicts, "a < b & \"c\"");
        assert_eq!(svg.matches("height=\"18\"").count(), 1, "{svg}");
        assert!(svg.contains(">4.00x<") && svg.contains("a &lt; b &amp; &quot;c&quot;"), "{svg}");
        assert!(x_of(1.0) < x_of(2.0) && x_of(1e9) <= WIDTH - RIGHT);
    }
}

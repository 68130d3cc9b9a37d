//! A plan as one page that needs nothing else.

use std::fmt::{self, Write};

use super::{Time, by, facts, new_name};
use crate::failback::plan::{Count, Header, Summary};
use crate::failback::{Divergence, outcome_name};
use crate::path::escape_text;
use crate::size::HumanBytes;

/// No script, nothing loaded: the page may be opened anywhere and mailed.
const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
<title>Failback plan</title>\n<style>\n\
body{font:14px/1.4 system-ui,sans-serif;margin:1.5em;color:#1a1a1a;background:#fff}\n\
table{border-collapse:collapse;margin:1em 0}\n\
th,td{border-bottom:1px solid #ddd;padding:.25em .6em;text-align:left;vertical-align:top}\n\
td.n{text-align:right;font-variant-numeric:tabular-nums}\n\
td.p,td.f{font-family:ui-monospace,monospace;font-size:12px;word-break:break-all}\n\
tr.hold td:first-child{background:#fff0c2}tr.conflict td:nth-child(2){background:#ffe1dc}\n\
#h:checked~table.rows tr.row:not(.hold),#c:checked~table.rows tr.row:not(.conflict){display:none}\n\
label{margin-right:1em}\n</style></head><body>\n";

/// Writes the page: the head with all counts, then the rows, then the end.
#[derive(Debug)]
pub struct Page<'a, W> {
    out: W,
    header: &'a Header,
}

impl<'a, W: Write> Page<'a, W> {
    /// Begins the page.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(
        mut out: W,
        header: &'a Header,
        revision: u32,
        summary: &Summary,
    ) -> Result<Self, fmt::Error> {
        out.write_str(HEAD)?;
        let share = Text(&escape_text(&header.share)).to_string();
        writeln!(out, "<h1>Failback plan of {share}</h1>")?;
        writeln!(
            out,
            "<p>Plan {} revision {revision}, epoch {}, made {}.",
            header.id(),
            header.epoch.0,
            Time(header.made_unix_ms)
        )?;
        match &header.base {
            Some(base) => writeln!(
                out,
                "Base: recovery point {} of {}, root <code>{}</code>.</p>",
                base.sequence,
                Time(base.time_unix_ms),
                base.root
            )?,
            None => writeln!(out, "The base is lost: nothing counts as deleted.</p>")?,
        }
        writeln!(
            out,
            "<p><b>{}</b> paths, <b>{}</b> conflicts, <b>{}</b> held for a person, <b>{}</b> to carry to recovery.</p>",
            summary.paths(),
            summary.conflicts(),
            summary.held(),
            HumanBytes(summary.needs)
        )?;
        out.write_str(
            "<table><tr><th>paths</th><th>size</th><th>class</th><th>outcome</th></tr>\n",
        )?;
        for ((class, outcome), Count { paths, bytes }) in &summary.counts {
            writeln!(
                out,
                "<tr><td class=\"n\">{paths}</td><td class=\"n\">{}</td><td>{class}</td><td>{outcome}</td></tr>",
                HumanBytes(*bytes)
            )?;
        }
        out.write_str(
            "</table>\n<input type=\"radio\" name=\"s\" id=\"a\" checked><label for=\"a\">all</label>\
             <input type=\"radio\" name=\"s\" id=\"h\"><label for=\"h\">held</label>\
             <input type=\"radio\" name=\"s\" id=\"c\"><label for=\"c\">conflicts</label>\n\
             <table class=\"rows\"><tr><th>outcome</th><th>class</th><th>path</th><th>base</th>\
             <th>production</th><th>recovery</th><th>decided by</th><th>why</th></tr>\n",
        )?;
        Ok(Self { out, header })
    }

    /// Writes one row.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn row(&mut self, divergence: &Divergence) -> fmt::Result {
        let Divergence { path, class, outcome, base, production, recovery, .. } = divergence;
        let outcome = outcome_name(outcome);
        let hold = if outcome == "hold" { " hold" } else { "" };
        let conflict = if class.is_conflict() { " conflict" } else { "" };
        let out = &mut self.out;
        write!(out, "<tr class=\"row{hold}{conflict}\"><td>{outcome}")?;
        if let Some(name) = new_name(divergence) {
            write!(out, "<br>{}", Text(&name))?;
        }
        write!(out, "</td><td>{class}</td><td class=\"p\">{}</td>", Text(&path.to_string()))?;
        let base = crate::failback::AtSite { entry: base.clone(), ..Default::default() };
        for at in [&base, production, recovery] {
            write!(out, "<td class=\"f\">{}</td>", Text(&facts(at)))?;
        }
        let by = by(divergence.by, self.header);
        let why = escape_text(divergence.why());
        writeln!(out, "<td>{}</td><td>{}</td></tr>", Text(&by), Text(&why))
    }

    /// Ends the page.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> Result<W, fmt::Error> {
        self.out.write_str("</table></body></html>\n")?;
        Ok(self.out)
    }
}

/// A text in HTML.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

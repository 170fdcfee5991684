//! What another contract would have done to the same past.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::super::judged::{Judged, Tally, judge};
use super::super::{Format, Outcome};
use crate::engine::{Limits, Program};

/// Judges the reports twice and says, objective by objective, what differs.
pub(super) fn run(
    contracts: [Vec<Arc<Program>>; 2],
    limits: Limits,
    reports: &Path,
    format: Format,
) -> anyhow::Result<Outcome> {
    anyhow::ensure!(reports.as_os_str() != "-", "--against reads the reports twice; give a file");
    let [before, after] = contracts;
    let once = |programs: &[Arc<Program>]| judge(programs, limits, reports, |_| true, |_| {}, |_| {});
    let (before, after): (Judged, Judged) = (once(&before)?, once(&after)?);
    // Objectives go by their name: a changed contract may have another.
    let named = |judged: &Judged| -> Vec<(String, Tally)> {
        judged.objectives.iter().map(|((_, objective), tally)| (objective.clone(), tally.clone())).collect()
    };
    let (before, after) = (named(&before), named(&after));
    let names: BTreeSet<&String> = before.iter().chain(&after).map(|(name, _)| name).collect();
    let mut out = std::io::stdout().lock();
    let mut more = 0;
    for name in names {
        let find = |of: &[(String, Tally)]| of.iter().find(|(known, _)| known == name).map(|(_, tally)| tally.clone());
        let (old, new) = (find(&before), find(&after));
        let list = |tally: &Option<Tally>| tally.as_ref().map(|tally| tally.opened.clone()).unwrap_or_default();
        let (had, has) = (list(&old), list(&new));
        let only = |these: &[(String, String)], those: &[(String, String)]| -> Vec<serde_json::Value> {
            these
                .iter()
                .filter(|one| !those.contains(one))
                .map(|(series, at)| json!({"series": series, "at": at}))
                .collect()
        };
        let (gone, fresh) = (only(&had, &has), only(&has, &had));
        more += fresh.len();
        let words = match (&old, &new) {
            (Some(_), None) => "only in the contract before",
            (None, Some(_)) => "only in the contract after",
            (Some(old), Some(new)) if old == new => "the same",
            _ => "changed",
        };
        let count = |tally: &Option<Tally>| {
            tally.as_ref().map(|t| json!({"met": t.met(), "breached": t.breached(), "violations": t.opened.len(), "actions": t.actions}))
        };
        match format {
            Format::Json => {
                let line = json!({"type": "difference", "objective": name, "what": words, "before": count(&old), "after": count(&new), "violations_gone": gone, "violations_new": fresh});
                writeln!(out, "{line}")?;
            }
            Format::Text => {
                let side = |tally: &Option<Tally>| {
                    tally.as_ref().map_or("-".to_owned(), |t| {
                        format!(
                            "{} met, {} breached, {} violations, {} actions",
                            t.met(),
                            t.breached(),
                            t.opened.len(),
                            t.actions
                        )
                    })
                };
                if words == "the same" {
                    writeln!(out, "{name}: the same, {}", side(&old))?;
                    continue;
                }
                writeln!(out, "{name}: {words}\n  before: {}\n  after:  {}", side(&old), side(&new))?;
                for (word, those) in [("no more", &gone), ("new", &fresh)] {
                    for one in those {
                        writeln!(
                            out,
                            "  {word}: violation at {} {}",
                            one["at"].as_str().unwrap_or_default(),
                            one["series"].as_str().unwrap_or_default()
                        )?;
                    }
                }
            }
        }
    }
    Ok(if more > 0 { Outcome::Findings } else { Outcome::Fine })
}

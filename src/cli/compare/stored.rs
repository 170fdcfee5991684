//! A run out of a database: what its slices observed, judged window by window from their sums.

use std::collections::{BTreeMap, HashMap};

use super::super::judged::{Judged, Tally};
use super::Run;
use crate::contract::{self, Aggregate, Condition, Contract, Indicator, NoData, Objective, PREDICTION};
use crate::engine::{Program, SliceRow, Sums, Verdict, nearest_rank, test_of};
use crate::explain::{Measure, matches};
use crate::report::Value;
use crate::store::Store;
use crate::time::{Span, Timestamp};

pub(super) async fn read(store: &Store, program: &Program, run: &str) -> anyhow::Result<Run> {
    let contract = &program.contract;
    let versions = store.contract_versions(program.name()).await?;
    let known: Vec<Contract> =
        versions.iter().filter_map(|version| contract::load(&version.origin, &version.source).contract).collect();
    let known = |test| known.iter().flat_map(|of| &of.spec.objectives).any(|of| test_of(&of.promise) == Some(test));
    for objective in &contract.spec.objectives {
        if let Some((attribute, condition)) = test_of(&objective.promise).filter(|test| !known(*test)) {
            anyhow::bail!(
                "the database does not tell which observations of {attribute} are {condition}: no version of contract {} \
                 in it asks so for {}; compare the recordings instead",
                program.name(),
                objective.name
            );
        }
    }
    let scope = &contract.spec.scope;
    let slices = store.slices_with(&scope.tenant, &scope.application, "run", run).await?;
    let reports = slices.iter().filter(|row| row.test.is_empty()).map(|row| row.sums.samples).sum();
    let mut judged = Judged { reports, ..Judged::default() };
    let mut not_judged = Vec::new();
    for objective in &contract.spec.objectives {
        match judge(contract, objective, &slices) {
            Some(tally) => {
                judged.objectives.insert((program.name().to_owned(), objective.name.clone()), tally);
            }
            None => not_judged.push(objective.name.clone()),
        }
    }
    judged.slices = slices;
    Ok(Run { judged, values: HashMap::new(), is_stored: true, not_judged })
}

/// What one series observed in one pane, and how much of it was bad.
#[derive(Clone, Copy)]
struct Cell {
    sums: Sums,
    bad: u64,
}

const EMPTY: Cell = Cell { sums: Sums::NONE, bad: 0 };

/// Verdicts on all windows of all series; none if sums do not tell of the objective.
fn judge(contract: &Contract, objective: &Objective, slices: &[SliceRow]) -> Option<Tally> {
    let ([("", indicator)], Some(target)) = (&objective.indicators()[..], objective.target()) else { return None };
    let test = test_of(&objective.promise).map(|(_, condition)| condition.to_string());
    // Of predictions, only how many there were and how many were right is counted.
    if indicator.attribute == PREDICTION && test.is_some() {
        return None;
    }
    let (attribute, _) = Measure::of(indicator, Some(target), None)?;
    let (window, every) = (indicator.window(), indicator.every());
    let mut series: BTreeMap<Vec<String>, BTreeMap<Timestamp, Cell>> = BTreeMap::new();
    for row in slices.iter().filter(|row| row.attribute == attribute) {
        // Panes must lie within windows.
        let is_part = |of: Span| of.as_micros() % row.width.as_micros().max(1) == 0;
        if !is_part(window) || !is_part(every) {
            return None;
        }
        let labels: BTreeMap<String, String> = serde_json::from_str(&row.slice).unwrap_or_default();
        if !matches(&labels, &[&contract.spec.scope.matching, &indicator.filter]) {
            continue;
        }
        let key = indicator.group_by.iter().map(|name| labels.get(name).cloned().unwrap_or_default()).collect();
        let cell = series.entry(key).or_default().entry(row.start).or_insert(EMPTY);
        if row.test.is_empty() {
            cell.sums = cell.sums.plus(row.sums);
        } else if Some(&row.test) == test.as_ref() {
            cell.bad += row.sums.samples;
        }
    }
    // What Qualm observes by itself is in no slice.
    if series.is_empty() {
        return None;
    }
    let mut tally = Tally::default();
    for panes in series.values() {
        if indicator.aggregate == Aggregate::Each {
            let (n, bad) = panes.values().fold((0, 0), |(n, bad), cell| (n + cell.sums.samples, bad + cell.bad));
            tally.verdicts[Verdict::Met as usize] += n - bad;
            tally.verdicts[Verdict::Breached as usize] += bad;
            continue;
        }
        let (Some(first), Some(last)) = (panes.keys().next(), panes.keys().next_back()) else { continue };
        let mut end = first.floor(every) + every;
        while end - window <= *last {
            let seen = panes
                .range(end - window..end)
                .fold(EMPTY, |all, (_, cell)| Cell { sums: all.sums.plus(cell.sums), bad: all.bad + cell.bad });
            let verdict = match seen.sums.samples {
                0 if objective.no_data == NoData::Breach => Verdict::Breached,
                0 => Verdict::NoData,
                n if n < objective.min_samples => Verdict::Insufficient,
                _ if holds(indicator, target, &seen)? => Verdict::Met,
                _ => Verdict::Breached,
            };
            tally.verdicts[verdict as usize] += 1;
            end = end + every;
        }
    }
    Some(tally)
}

/// Whether a window meets the target, if its sums tell.
fn holds(indicator: &Indicator, target: &Condition, Cell { sums, bad }: &Cell) -> Option<bool> {
    let n = sums.samples as f64;
    let value = match indicator.aggregate {
        Aggregate::Mean | Aggregate::Accuracy => sums.total / n,
        Aggregate::Sum => sums.total,
        Aggregate::Count => n,
        Aggregate::Rate => n / indicator.window().as_seconds(),
        Aggregate::Min => sums.least,
        Aggregate::Max => sums.greatest,
        Aggregate::Ratio => (n - *bad as f64) / n,
        Aggregate::Quantile(share) => {
            // The value at this rank is the quantile: so many may lie below, and the rest above.
            let rank = nearest_rank(share, sums.samples);
            return match target.bounds() {
                (low, high) if low.is_finite() == high.is_finite() => None,
                (low, _) if low.is_finite() => Some(*bad < rank),
                _ => Some(*bad <= sums.samples - rank),
            };
        }
        _ => return None,
    };
    target.holds(&Value::Number(value))
}

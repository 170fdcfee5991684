//! `qualm compare`: which of two runs is better?

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::judged::{Judged, Tally, judge};
use super::{Format, Outcome};
use crate::contract::{Aggregate, Indicator};
use crate::engine::{Limits, Program, nearest_rank, short, test_of};
use crate::explain::Measure;
use crate::explain::statistics::{
    Moments, fisher_either, mann_whitney, mean_interval, quantile_interval, share_difference, welch, wilson,
};
use crate::report::Report;

mod stored;

const CONFIDENCE: f64 = 0.95;
/// A difference whose chance, times the number of objectives, is below this makes one run better.
const ALPHA: f64 = 0.05;
/// Values that are kept of one objective for tests on ranks.
const VALUES_MAX: usize = 2_000_000;

/// Compare two runs by a contract: objective by objective, which is better, by how much, and is that chance?
///
/// A and B are recordings, one report a line. With --runs, both are in one recording, told apart
/// by the label `run`. Means are compared by Welch's test, shares by Fisher's (interval after
/// Newcombe), quantiles by the Mann-Whitney test (intervals from order statistics), all else by
/// the share of judgements that were met. Exit code 1 if B is worse in anything.
///
/// With --database, two runs of a service or a replay are compared by the sums that are stored:
/// quantiles by the share of observations beyond the target. Windows are judged from these sums,
/// as far as they tell: each, mean, sum, count, rate, min, max, ratio, quantiles and accuracy.
///
/// Examples:
///   qualm compare --contract contracts/smart-building.yaml a.ndjson b.ndjson
///   qualm compare --contract contracts/smart-building.yaml both.ndjson --runs blue,green
///   qualm compare --contract contracts/smart-building.yaml --database sqlite:qualm.db --runs blue,green
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The contract
    #[arg(long)]
    contract: PathBuf,
    /// Where scripts are [default: the folder `policies` beside or in the contract's folder]
    #[arg(long)]
    policies: Option<PathBuf>,
    /// The recordings: A and B, or one with --runs
    #[arg(required_unless_present = "database", num_args = 1..=2)]
    reports: Vec<PathBuf>,
    /// The values of the label `run` that tell A and B apart
    #[arg(long, value_delimiter = ',', num_args = 1)]
    runs: Vec<String>,
    /// The database that holds both runs
    #[arg(long, conflicts_with = "reports")]
    database: Option<String>,
    /// How results are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// One run of one objective.
#[derive(Serialize)]
struct Side {
    value: Option<f64>,
    /// 95 % confidence.
    interval: Option<[f64; 2]>,
    n: u64,
    judgements_met: u64,
    judgements: u64,
    /// Unknown of stored runs.
    violations: Option<usize>,
    kept: Option<bool>,
}

/// One objective.
#[derive(Serialize)]
struct Line {
    objective: String,
    aggregate: String,
    a: Side,
    b: Side,
    /// A less B.
    difference: Option<f64>,
    interval: Option<[f64; 2]>,
    test: &'static str,
    p: f64,
    /// A, B, or neither.
    better: &'static str,
}

#[derive(Serialize)]
struct Comparison {
    contract: String,
    reports: [u64; 2],
    objectives: Vec<Line>,
    /// Which runs would have kept the contract; unknown if an objective of a stored run cannot be judged.
    kept: [Option<bool>; 2],
    /// Objectives of which stored sums do not tell.
    not_judged: Vec<String>,
}

/// A run: its verdicts, and its values by objective.
struct Run {
    judged: Judged,
    values: HashMap<String, Vec<f64>>,
    /// Out of a database: without values and violations.
    is_stored: bool,
    /// Objectives that could not be judged.
    not_judged: Vec<String>,
}

fn gather(program: &Arc<Program>, reports: &Path, run: Option<&str>) -> anyhow::Result<Run> {
    let spec = &program.contract.spec;
    let mut values: HashMap<String, Vec<f64>> = HashMap::new();
    let takes = |report: &Report<'_>| run.is_none_or(|run| report.dimension("run") == Some(run));
    let see = |report: &Report<'_>| {
        let dimensions = report.dimensions();
        if *report.application != *spec.scope.application || !spec.scope.matching.matches(&dimensions) {
            return;
        }
        for objective in &spec.objectives {
            let [("", indicator)] = objective.indicators()[..] else { continue };
            if !matches!(indicator.aggregate, Aggregate::Quantile(_)) || !indicator.filter.matches(&dimensions) {
                continue;
            }
            let of = values.entry(objective.name.clone()).or_default();
            let found = report.metrics.iter().filter(|(name, _)| **name == *indicator.attribute);
            of.extend(found.filter_map(|(_, value)| value.as_number()).take(VALUES_MAX - of.len().min(VALUES_MAX)));
        }
    };
    let judged = judge(std::slice::from_ref(program), Limits::default(), reports, takes, see, |_| {})?;
    for of in values.values_mut() {
        of.sort_by(f64::total_cmp);
    }
    Ok(Run { judged, values, is_stored: false, not_judged: Vec::new() })
}

/// Number, badness and squares of an objective's observations.
fn sums(run: &Run, program: &Program, indicator: &Indicator, attribute: &str, test: &str) -> (u64, f64, f64, u64) {
    let (mut n, mut total, mut squares, mut bad) = (0, 0.0, 0.0, 0);
    for row in run.judged.slices.iter().filter(|row| row.attribute == attribute) {
        let labels: BTreeMap<String, String> = serde_json::from_str(&row.slice).unwrap_or_default();
        let filters = [&program.contract.spec.scope.matching, &indicator.filter];
        if !crate::explain::matches(&labels, &filters) {
            continue;
        }
        if row.test.is_empty() {
            (n, total, squares) = (n + row.sums.samples, total + row.sums.total, squares + row.sums.squares);
        } else if row.test == test {
            bad += row.sums.samples;
        }
    }
    (n, total, squares, bad)
}

fn line(program: &Program, index: usize, a: &Run, b: &Run) -> Line {
    let objective = &program.contract.spec.objectives[index];
    let key = (program.name().to_owned(), objective.name.clone());
    let tallies = [a, b].map(|run| run.judged.objectives.get(&key).cloned().unwrap_or_default());
    let judged = tallies.each_ref().map(|tally| (tally.met(), tally.met() + tally.breached()));
    let side = |which: usize, value: Option<f64>, interval: Option<(f64, f64)>, n: u64| Side {
        value,
        interval: interval.map(|(low, high)| [low, high]),
        n,
        judgements_met: judged[which].0,
        judgements: judged[which].1,
        violations: (!a.is_stored).then(|| tallies[which].opened.len()),
        kept: kept(&tallies[which], objective.attainment),
    };
    let target = objective.target();
    let indicators = objective.indicators();
    let plain = match indicators[..] {
        [("", indicator)] => Some(indicator),
        _ => None,
    };
    let measured = plain.and_then(|indicator| Some((indicator, Measure::of(indicator, target, None)?)));
    let aggregate = plain.map_or("rule".to_owned(), |indicator| indicator.aggregate.to_string());
    let finish =
        |a: Side, b: Side, difference: Option<f64>, interval: Option<(f64, f64)>, test, p, a_better: bool| Line {
            objective: objective.name.clone(),
            aggregate: aggregate.clone(),
            a,
            b,
            difference,
            interval: interval.map(|(low, high)| [low, high]),
            test,
            p,
            better: match (p * program.contract.spec.objectives.len() as f64) < ALPHA {
                true if a_better => "A",
                true => "B",
                false => "neither",
            },
        };
    if let Some((indicator, (attribute, measure))) = &measured {
        let test = test_of(&objective.promise).map(|(_, condition)| condition.to_string()).unwrap_or_default();
        let [sa, sb] = [a, b].map(|run| sums(run, program, indicator, attribute, &test));
        let no_values = (Vec::new(), Vec::new());
        let raw = a.values.get(&objective.name).zip(b.values.get(&objective.name));
        let (va, vb) = raw.unwrap_or((&no_values.0, &no_values.1));
        match (indicator.aggregate, measure) {
            (Aggregate::Quantile(share), Measure::Test(_)) if !va.is_empty() && !vb.is_empty() => {
                let rank = |values: &[f64]| values[nearest_rank(share, values.len() as u64) as usize - 1];
                let (qa, qb) = (rank(va), rank(vb));
                let (p, _) = mann_whitney(va, vb);
                let less_is_better = target.is_some_and(|target| target.bounds().1.is_finite());
                let bounds = |values: &[f64]| Some(quantile_interval(values, share, CONFIDENCE));
                let (sa, sb) =
                    (side(0, Some(qa), bounds(va), va.len() as u64), side(1, Some(qb), bounds(vb), vb.len() as u64));
                return finish(sa, sb, Some(qa - qb), None, "Mann-Whitney", p, (qa < qb) == less_is_better);
            }
            (Aggregate::Ratio | Aggregate::Each | Aggregate::Quantile(_), Measure::Test(_))
            | (Aggregate::Accuracy, Measure::Wrong) => {
                let bad = |(n, total, _, bad): (u64, f64, f64, u64)| match measure {
                    Measure::Wrong => n - total.round() as u64,
                    _ => bad,
                };
                let (ga, gb) = (sa.0 - bad(sa), sb.0 - bad(sb));
                let share = |good: u64, n: u64| (n > 0).then(|| good as f64 / n as f64);
                let interval = (sa.0 > 0 && sb.0 > 0)
                    .then(|| share_difference((ga as f64, gb as f64), (sa.0 as f64, sb.0 as f64), CONFIDENCE));
                let p = fisher_either((bad(sa), bad(sb)), (sa.0, sb.0));
                let (shares, bounds) = ((share(ga, sa.0), share(gb, sb.0)), |good: u64, n: u64| {
                    (n > 0).then(|| wilson(good as f64, n as f64, CONFIDENCE))
                });
                let difference = shares.0.zip(shares.1).map(|(a, b)| a - b);
                let better = difference.is_some_and(|difference| difference > 0.0);
                return finish(
                    side(0, shares.0, bounds(ga, sa.0), sa.0),
                    side(1, shares.1, bounds(gb, sb.0), sb.0),
                    difference,
                    interval,
                    "Fisher",
                    p,
                    better,
                );
            }
            (Aggregate::Mean | Aggregate::Mae, Measure::Mean(sign)) => {
                let [ma, mb] = [sa, sb].map(|(n, total, squares, _)| Moments::of(n as f64, total, squares));
                if let Some(test) = welch(ma, mb, CONFIDENCE) {
                    let bounds = |m: Moments| mean_interval(m, CONFIDENCE);
                    let (la, lb) = (side(0, Some(ma.mean), bounds(ma), sa.0), side(1, Some(mb.mean), bounds(mb), sb.0));
                    let better = (ma.mean - mb.mean) * sign < 0.0;
                    return finish(la, lb, Some(ma.mean - mb.mean), Some(test.interval), "Welch", test.p, better);
                }
            }
            _ => {}
        }
    }
    let bad = judged.map(|(met, all)| all - met);
    let p = fisher_either((bad[0], bad[1]), (judged[0].1, judged[1].1));
    let share = |which: usize| (judged[which].1 > 0).then(|| judged[which].0 as f64 / judged[which].1 as f64);
    let difference = share(0).zip(share(1)).map(|(a, b)| a - b);
    let better = difference.is_some_and(|difference| difference > 0.0);
    finish(
        side(0, share(0), None, judged[0].1),
        side(1, share(1), None, judged[1].1),
        difference,
        None,
        "Fisher, judgements met",
        p,
        better,
    )
}

/// Whether an objective was kept; unknown without judgements.
fn kept(tally: &Tally, attainment: f64) -> Option<bool> {
    let all = tally.met() + tally.breached();
    (all > 0).then(|| tally.met() as f64 / all as f64 >= attainment)
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let program =
        super::read_contracts(std::slice::from_ref(&arguments.contract), arguments.policies.as_deref())?.remove(0).0;
    let stored = |url: &str, a: &str, b: &str| -> anyhow::Result<(Run, Run)> {
        super::runtime()?.block_on(async {
            let store = super::open_database(url).await?;
            Ok((stored::read(&store, &program, a).await?, stored::read(&store, &program, b).await?))
        })
    };
    if let Some(url) = &arguments.database {
        let [a, b] = &arguments.runs[..] else { anyhow::bail!("give --runs A,B with --database") };
        let (a, b) = stored(url, a, b)?;
        return report(arguments, &program, &a, &b);
    }
    let (a, b) = match (&arguments.reports[..], &arguments.runs[..]) {
        ([a, b], []) => (gather(&program, a, None)?, gather(&program, b, None)?),
        ([one], [a, b]) => (gather(&program, one, Some(a))?, gather(&program, one, Some(b))?),
        _ => anyhow::bail!("give two recordings, or one and --runs A,B"),
    };
    report(arguments, &program, &a, &b)
}

fn report(arguments: &Arguments, program: &Program, a: &Run, b: &Run) -> anyhow::Result<Outcome> {
    for (name, run) in [("A", &a), ("B", &b)] {
        anyhow::ensure!(run.judged.reports > 0, "run {name} holds no reports");
    }
    let objectives: Vec<Line> =
        (0..program.contract.spec.objectives.len()).map(|index| line(program, index, a, b)).collect();
    let further = b.not_judged.iter().filter(|name| !a.not_judged.contains(name));
    let not_judged: Vec<String> = a.not_judged.iter().chain(further).cloned().collect();
    let kept = [0, 1].map(|which| {
        let broken = objectives.iter().any(|line| [&line.a, &line.b][which].kept == Some(false));
        (broken || not_judged.is_empty()).then_some(!broken)
    });
    let worse = objectives.iter().any(|line| line.better == "A");
    let comparison = Comparison {
        contract: program.name().to_owned(),
        reports: [a.judged.reports, b.judged.reports],
        objectives,
        kept,
        not_judged,
    };
    let mut out = std::io::stdout().lock();
    match arguments.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&comparison)?)?,
        Format::Text => print(&mut out, &comparison)?,
    }
    Ok(if worse { Outcome::Findings } else { Outcome::Fine })
}

fn print(out: &mut impl Write, comparison: &Comparison) -> std::io::Result<()> {
    let value = |side: &Side| match (side.value, side.interval) {
        (Some(value), Some([low, high])) => format!("{} ({} to {})", short(value), short(low), short(high)),
        (Some(value), None) => short(value),
        _ => "-".to_owned(),
    };
    let header = ["objective", "aggregate", "A", "B", "A less B", "chance", "better"].map(str::to_owned).to_vec();
    let rows = comparison.objectives.iter().map(|line| {
        let difference = line.difference.map_or("-".to_owned(), short);
        let interval =
            line.interval.map(|[low, high]| format!(" ({} to {})", short(low), short(high))).unwrap_or_default();
        vec![
            line.objective.clone(),
            line.aggregate.clone(),
            value(&line.a),
            value(&line.b),
            format!("{difference}{interval}"),
            format!("{} ({})", short(line.p), line.test),
            line.better.to_owned(),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    for row in &rows {
        let cells: Vec<String> =
            row.iter().enumerate().map(|(column, cell)| format!("{cell:0$}", width(column))).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    if !comparison.not_judged.is_empty() {
        let names = comparison.not_judged.join(", ");
        writeln!(out, "What is stored does not tell whether {names} would have been met; compare the recordings.")?;
    }
    let word = |kept: Option<bool>| match kept {
        Some(true) => "would have kept",
        Some(false) => "would not have kept",
        None => "may or may not have kept",
    };
    writeln!(out, "A {} {}, B {} it", word(comparison.kept[0]), comparison.contract, word(comparison.kept[1]))
}

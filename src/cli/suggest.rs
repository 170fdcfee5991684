//! `qualm suggest`: what could be promised, by what was recorded?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::judged::judge;
use super::recording::Blocks;
use super::{Format, Outcome};
use crate::contract;
use crate::engine::{Limits, Program, short};
use crate::report::{self, Prediction, Value};
use crate::time::Span;

/// Objectives that are suggested at most.
const OBJECTIVES_MAX: usize = 200;
/// Attributes where less is worse.
const LESS_IS_WORSE: [&str; 7] = [
    "ml.confidence",
    "ml.accuracy",
    "data.completeness",
    "data.validity",
    "service.availability",
    "service.remaining_time",
    "service.throughput",
];

/// Propose a contract from recorded reports: for each attribute of each stage, a target that so many
/// windows would have met
///
/// Prints a contract to be edited; a comment at each objective says how many windows would have
/// met it. What was recorded is what was usual, not what is good: read before you sign.
///
/// Example: qualm suggest --reports reports.ndjson --share 0.99 > contract.yaml
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The reports, one a line
    #[arg(long)]
    reports: PathBuf,
    /// The application [default: the one that the reports are of]
    #[arg(long)]
    application: Option<String>,
    /// The window of each objective
    #[arg(long, default_value = "1m")]
    window: Span,
    /// The share of windows that are to meet each target
    #[arg(long, default_value_t = 0.99)]
    share: f64,
    /// How the proposal is printed: as a contract, or as JSON
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What kinds of values an attribute has.
#[derive(Default)]
struct Kinds {
    numbers: u64,
    yes: u64,
    no: u64,
}

/// One proposal.
#[derive(Serialize)]
struct Proposal {
    name: String,
    stage: String,
    attribute: String,
    aggregate: String,
    /// Whether the target is a greatest value; else a least one.
    at_most: bool,
    good: Option<bool>,
    target: f64,
    windows: usize,
    met: usize,
    share_met: f64,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    anyhow::ensure!(arguments.share > 0.0 && arguments.share <= 1.0, "--share is in 0..1");
    anyhow::ensure!(arguments.window > Span::ZERO, "--window must be greater than 0");
    let (tenant, application, mut proposals) = look(arguments)?;
    let program = compiled(&contract_of(&tenant, &application, arguments.window, &proposals, &BTreeMap::new()))?;
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let hear = |evaluation: &crate::engine::Evaluation| {
        if let Some(value) = evaluation.value.as_ref().and_then(|value| value.0.as_number()) {
            values.entry(evaluation.promised.objective.name.clone()).or_default().push(value);
        }
    };
    judge(&[program], Limits::default(), &arguments.reports, |_| true, |_| {}, hear)?;
    for proposal in &mut proposals {
        let Some(seen) = values.get_mut(&proposal.name) else { continue };
        seen.sort_by(f64::total_cmp);
        if !proposal.at_most {
            seen.reverse();
        }
        // The value that this share of windows keeps within, rounded away from it.
        let rank = ((seen.len() as f64 * arguments.share).ceil() as usize).clamp(1, seen.len());
        // Quantiles are shown within 1 %, but judged exactly.
        let shown = if proposal.aggregate.starts_with('p') { 1.01 } else { 1.0 };
        proposal.target = rounded(seen[rank - 1] * shown, proposal.at_most);
        proposal.windows = seen.len();
    }
    proposals.retain(|proposal| proposal.windows > 0);
    // How many windows would have met the targets, the engine itself says.
    let program = compiled(&contract_of(&tenant, &application, arguments.window, &proposals, &BTreeMap::new()))?;
    let judged =
        judge(std::slice::from_ref(&program), Limits::default(), &arguments.reports, |_| true, |_| {}, |_| {})?;
    for proposal in &mut proposals {
        let Some(tally) = judged.objectives.get(&(program.name().to_owned(), proposal.name.clone())) else { continue };
        (proposal.met, proposal.windows) = (tally.met() as usize, (tally.met() + tally.breached()) as usize);
        proposal.share_met = proposal.met as f64 / proposal.windows.max(1) as f64;
    }
    anyhow::ensure!(!proposals.is_empty(), "no window of {application} holds values; try a shorter --window");
    let mut out = std::io::stdout().lock();
    match arguments.format {
        Format::Json => {
            for proposal in &proposals {
                writeln!(out, "{}", serde_json::to_string(proposal)?)?;
            }
        }
        Format::Text => {
            let comments = proposals.iter().map(|p| {
                (
                    p.name.clone(),
                    format!("{} of {} windows would have met it ({} %)", p.met, p.windows, short(p.share_met * 100.0)),
                )
            });
            let comments = comments.collect();
            out.write_all(contract_of(&tenant, &application, arguments.window, &proposals, &comments).as_bytes())?;
        }
    }
    Ok(Outcome::Fine)
}

fn compiled(text: &str) -> anyhow::Result<Arc<Program>> {
    let mut loaded = contract::load("suggested.yaml", text);
    let program = Program::compile(&mut loaded, |name| Err(name.to_owned()));
    let faulty = || anyhow::anyhow!("cannot put the attributes into a contract:\n{}", loaded.errors());
    program.map(Arc::new).ok_or_else(faulty)
}

/// What there is to promise: the attributes of each stage, and predictions.
fn look(arguments: &Arguments) -> anyhow::Result<(String, String, Vec<Proposal>)> {
    let mut seen: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut kinds: BTreeMap<(String, String, String), Kinds> = BTreeMap::new();
    let mut predicted: BTreeMap<(String, String), BTreeSet<&'static str>> = BTreeMap::new();
    let mut answered = BTreeSet::new();
    let mut stages: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut blocks = Blocks::open(&arguments.reports)?;
    while let Some(block) = blocks.next()? {
        report::decode_all(block, |_, one| {
            let Ok(report) = one else { return };
            let application = report.application.to_string();
            *seen.entry((report.tenant.to_string(), application.clone())).or_default() += 1;
            for (attribute, value) in &report.metrics {
                let kinds =
                    kinds.entry((application.clone(), report.stage.to_string(), attribute.to_string())).or_default();
                match value {
                    Value::Number(_) => kinds.numbers += 1,
                    Value::Bool(true) => kinds.yes += 1,
                    Value::Bool(false) => kinds.no += 1,
                    Value::Text(_) => {}
                }
            }
            if let Some(inference) = &report.inference
                && let Some(prediction) = &inference.prediction
            {
                let kind = if matches!(prediction, Prediction::Number(_)) { "mae" } else { "accuracy" };
                predicted.entry((application.clone(), report.stage.to_string())).or_default().insert(kind);
                if stages.len() < 1_000_000 {
                    stages.insert(inference.id.to_string(), (application, report.stage.to_string()));
                }
            }
            for feedback in &report.feedback {
                answered.extend(stages.get(&*feedback.inference).cloned());
            }
        });
    }
    let wanted = |name: &String| arguments.application.as_ref().is_none_or(|application| application == name);
    let of: Vec<&(String, String)> = seen.keys().filter(|(_, name)| wanted(name)).collect();
    let (tenant, application) = match of[..] {
        [one] => one.clone(),
        [] => {
            anyhow::bail!("there are no reports of {}", arguments.application.as_deref().unwrap_or("any application"))
        }
        _ => anyhow::bail!(
            "there are reports of several applications: name one of {}",
            of.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", ")
        ),
    };
    let mut proposals = Vec::new();
    let mut add = |stage: &str, attribute: &str, aggregate: &str, at_most: bool, good: Option<bool>| {
        let plain =
            |text: &str| text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>();
        let mut name = format!("{}-{}-{aggregate}", plain(stage), plain(attribute));
        name.truncate(60);
        while proposals.iter().any(|known: &Proposal| known.name == name) {
            name.push('x');
        }
        let (stage, attribute, aggregate) = (stage.to_owned(), attribute.to_owned(), aggregate.to_owned());
        if proposals.len() < OBJECTIVES_MAX {
            proposals.push(Proposal {
                name,
                stage,
                attribute,
                aggregate,
                at_most,
                good,
                target: 0.0,
                windows: 0,
                met: 0,
                share_met: 0.0,
            });
        }
    };
    for ((_, stage, attribute), kinds) in kinds.iter().filter(|((of, ..), _)| *of == application) {
        if kinds.yes + kinds.no > 0 {
            add(stage, attribute, "ratio", false, Some(kinds.yes > kinds.no));
        } else if kinds.numbers > 0 {
            match attribute.as_str() {
                "service.response_time" => add(stage, attribute, "p95", true, None),
                other => add(stage, attribute, "mean", !LESS_IS_WORSE.contains(&other), None),
            }
        }
    }
    for (of, kinds) in predicted.iter().filter(|(of, _)| of.0 == application && answered.contains(*of)) {
        for kind in kinds {
            add(&of.1, contract::PREDICTION, kind, *kind == "mae", None);
        }
    }
    Ok((tenant, application, proposals))
}

/// To two digits, upwards or downwards.
fn rounded(value: f64, up: bool) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let step = 10_f64.powi(value.abs().log10().floor() as i32 - 1);
    let steps = if up { (value / step - 1e-9).ceil() } else { (value / step + 1e-9).floor() };
    // Through text, so that 0.07 is not 0.07000000000000001.
    short(steps * step).parse().unwrap_or(value)
}

fn contract_of(
    tenant: &str,
    application: &str,
    window: Span,
    proposals: &[Proposal],
    comments: &BTreeMap<String, String>,
) -> String {
    let name: String = application.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(60).collect();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        "apiVersion: qualm/v1\nkind: Contract\nmetadata:\n  name: {name}\n  version: 0.1.0\n  description: Proposed from recorded reports\n\
         spec:\n  scope: {{tenant: {}, application: {}}}\n  objectives:\n",
        quoted(tenant),
        quoted(application)
    );
    for proposal in proposals {
        if let Some(comment) = comments.get(&proposal.name) {
            let _ = writeln!(text, "    # {comment}");
        }
        let good = proposal.good.map(|good| format!(", good: {{equals: {good}}}")).unwrap_or_default();
        let bound = if proposal.at_most { "max" } else { "min" };
        let _ = writeln!(text, "    - name: {}", proposal.name);
        let _ = writeln!(
            text,
            "      indicator: {{attribute: {}, aggregate: {}, window: {window}, where: {{stage: {}}}{good}}}",
            proposal.attribute,
            proposal.aggregate,
            quoted(&proposal.stage)
        );
        let _ = writeln!(text, "      target: {{{bound}: {}}}", proposal.target);
    }
    text
}

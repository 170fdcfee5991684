//! Was the contract met? The report that both parties settle by.

use std::fmt::Write;

use serde_json::{Value as Json, json};

use super::context::{Context, span_json};
use super::facts::{Of, matches};
use super::{Answer, ExplainError, Result};
use crate::contract::{Aggregate, Condition, Contract, Excluded, Objective, Promise};
use crate::engine::{short, test_of};
use crate::store::Asked;
use crate::time::{Span, Timestamp};

const PERIOD: Span = Span::seconds(30 * 86_400);
/// The windows over which error budgets burn (Google, *Site Reliability Workbook*, chapter 5).
const BURN: [(&str, Span); 3] =
    [("1h", Span::seconds(3_600)), ("6h", Span::seconds(6 * 3_600)), ("3d", Span::seconds(3 * 86_400))];

/// Good and bad, of what the budget is made of.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    good: f64,
    bad: f64,
}

impl Tally {
    fn all(self) -> f64 {
        self.good + self.bad
    }

    fn bad_share(self) -> f64 {
        if self.all() > 0.0 { self.bad / self.all() } else { 0.0 }
    }
}

/// What the error budget of an objective is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Budget {
    /// Observations: a `ratio` of at least so much leaves the rest.
    Observations(f64),
    /// Judgements: `attainment` leaves the rest.
    Judgements(f64),
}

impl Budget {
    fn of(objective: &Objective) -> Budget {
        match &objective.promise {
            Promise::Target { indicator, target: Condition::Min(least) }
                if indicator.aggregate == Aggregate::Ratio && objective.attainment >= 1.0 && *least < 1.0 =>
            {
                Budget::Observations(1.0 - least)
            }
            _ => Budget::Judgements(1.0 - objective.attainment),
        }
    }

    fn share(self) -> f64 {
        match self {
            Budget::Observations(share) | Budget::Judgements(share) => share,
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Budget::Observations(_) => "observations",
            Budget::Judgements(_) => "judgements",
        }
    }
}

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let contract = context.asked_contract().await?;
    let name = contract.metadata.name.clone();
    let (tenant, application) = (contract.spec.scope.tenant.clone(), contract.spec.scope.application.clone());
    let of = Of { tenant: &tenant, application: &application };
    let clock = context.clock(&tenant, &application).await?;
    let period = context.period(clock, Some(PERIOD))?;
    if !contract.spec.effective.contains(period.1 - Span::from_micros(1))
        && contract.spec.effective.from.is_some_and(|from| from >= period.1)
    {
        return Err(ExplainError::NoData(format!("{name} was not in force before {}", period.1)));
    }
    let (mut rows, mut objectives) = (Vec::new(), Vec::new());
    let (mut judged, mut missed) = (0, Vec::new());
    for objective in &contract.spec.objectives {
        let verdicts = verdicts(&mut context, &contract, objective, period).await?;
        let [met, breached, no_data, insufficient, error] = verdicts;
        let budget = Budget::of(objective);
        let judgements = Tally { good: met as f64, bad: breached as f64 };
        let tally = match budget {
            Budget::Judgements(_) => judgements,
            Budget::Observations(_) => observations(&mut context, &of, &contract, objective, period).await?,
        };
        let attainment = (judgements.all() > 0.0).then(|| judgements.good / judgements.all());
        // A ratio over the whole period is met or not; anything else by how often it was.
        let is_met = match budget {
            Budget::Observations(share) => (tally.all() > 0.0).then(|| tally.bad_share() <= share),
            Budget::Judgements(_) => attainment.map(|attainment| attainment >= objective.attainment),
        };
        let spent = if budget.share() > 0.0 { Some(tally.bad_share() / budget.share()) } else { None };
        let mut burn = Vec::new();
        for (label, span) in BURN {
            let window = ((period.1 - span).max(period.0), period.1);
            let part = match budget {
                Budget::Judgements(_) => {
                    let [met, breached, ..] = self::verdicts(&mut context, &contract, objective, window).await?;
                    Tally { good: met as f64, bad: breached as f64 }
                }
                Budget::Observations(_) => observations(&mut context, &of, &contract, objective, window).await?,
            };
            let rate = (budget.share() > 0.0 && part.all() > 0.0).then(|| part.bad_share() / budget.share());
            burn.push((label, rate));
        }
        judged += usize::from(is_met.is_some());
        if is_met == Some(false) {
            missed.push(objective.name.clone());
        }
        let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{} %", short(share * 100.0)));
        rows.push(vec![
            objective.name.clone(),
            match is_met {
                Some(true) => "met",
                Some(false) => "not met",
                None => "not judged",
            }
            .to_owned(),
            percent(attainment),
            percent(Some(objective.attainment)),
            format!("{met} of {}", met + breached),
            spent.map_or("no budget".to_owned(), |spent| format!("{} %", short(spent * 100.0))),
            burn.iter().map(|(_, rate)| rate.map_or("-".to_owned(), short)).collect::<Vec<_>>().join(" / "),
        ]);
        objectives.push(json!({
            "objective": objective.name, "met": is_met, "severity": objective.severity, "responsible": objective.responsible,
            "judgements": {"met": met, "breached": breached, "no_data": no_data, "insufficient": insufficient, "error": error},
            "attainment": attainment, "attainment_promised": objective.attainment,
            "budget": {"of": budget.unit(), "share": budget.share(), "all": tally.all(), "bad": tally.bad, "spent": spent},
            "burn_rate": burn.iter().map(|(label, rate)| ((*label).to_owned(), json!(rate))).collect::<serde_json::Map<_, _>>(),
        }));
    }
    let violations = violations(&mut context, &contract, period, clock).await?;
    let excluded: Vec<&Excluded> = contract
        .spec
        .excluded
        .iter()
        .filter(|excluded| excluded.from < period.1 && excluded.until > period.0)
        .collect();
    let minutes: f64 = violations.iter().filter_map(|violation| violation["minutes"].as_f64()).sum();
    let met = (judged > 0).then_some(missed.is_empty());
    let mut sentences = vec![match met {
        Some(true) => {
            format!("{name} was met from {} until {}: all {judged} objectives that were judged.", period.0, period.1)
        }
        Some(false) => format!(
            "{name} was not met from {} until {}: {} of {judged} objectives missed: {}.",
            period.0,
            period.1,
            missed.len(),
            missed.join(", ")
        ),
        None => format!("{name} was not judged from {} until {}: there was no data.", period.0, period.1),
    }];
    sentences.push(format!("{} violations were open for {} minutes in all.", violations.len(), short(minutes)));
    if !excluded.is_empty() {
        sentences.push(format!("{} excluded periods do not count.", excluded.len()));
    }
    context.section(
        "Objectives",
        &["objective", "", "attained", "promised", "judgements met", "budget spent", "burn rate 1h / 6h / 3d"],
        rows,
    );
    let text = |violation: &Json, field: &str| violation[field].as_str().unwrap_or_default().to_owned();
    let rows = violations.iter().map(|violation| {
        vec![
            text(violation, "objective"),
            text(violation, "series"),
            text(violation, "severity"),
            text(violation, "opened_at"),
            violation["resolved_at"].as_str().unwrap_or("still open").to_owned(),
            short(violation["minutes"].as_f64().unwrap_or(0.0)),
        ]
    });
    let rows = rows.collect();
    context.section("Violations", &["objective", "series", "severity", "opened", "resolved", "minutes"], rows);
    let rows =
        excluded.iter().map(|one| vec![one.from.to_string(), one.until.to_string(), one.reason.clone()]).collect();
    context.section("Excluded periods", &["from", "until", "why"], rows);
    let evidence = json!({
        "contract": name, "version": contract.metadata.version, "parties": contract.spec.parties,
        "period": span_json(period), "met": met, "objectives": objectives, "violations": violations,
        "minutes_in_violation": minutes, "excluded": excluded,
    });
    Ok(context.answer(sentences, evidence))
}

/// Conditions that leave out excluded periods, from argument `next` on, with their arguments.
fn outside(column: &str, excluded: &[Excluded], next: usize) -> (String, Vec<Json>) {
    let (mut sql, mut arguments) = (String::new(), Vec::new());
    for (index, one) in excluded.iter().enumerate() {
        let n = next + 2 * index;
        let _ = write!(sql, " AND NOT ({column} >= ${n} AND {column} < ${})", n + 1);
        arguments.extend([one.from.into(), one.until.into()]);
    }
    (sql, arguments)
}

/// Verdicts of an objective in a period, in the order of [`crate::engine::Verdict::ALL`].
async fn verdicts(
    context: &mut Context<'_>,
    contract: &Contract,
    objective: &Objective,
    period: (Timestamp, Timestamp),
) -> Result<[u64; 5]> {
    let (outside, times) = outside("start_at", &contract.spec.excluded, 5);
    let sums = crate::engine::Verdict::ALL.map(|v| format!("CAST(SUM({0}) AS BIGINT) AS {0}", v.as_str())).join(", ");
    let sql = format!(
        "SELECT {sums} FROM tallies WHERE contract = $1 AND objective = $2 AND start_at >= $3 AND start_at < $4{outside}"
    );
    let arguments: [Json; 4] =
        [contract.metadata.name.as_str().into(), objective.name.as_str().into(), period.0.into(), period.1.into()];
    let asked = Asked::new(&format!("verdicts on {}", objective.name), sql, arguments.into_iter().chain(times));
    let rows = context.ask(asked).await?;
    let mut counts = [0; 5];
    if let Some(row) = rows.first() {
        for (count, verdict) in counts.iter_mut().zip(crate::engine::Verdict::ALL) {
            *count = row.count(verdict.as_str())?;
        }
    }
    Ok(counts)
}

/// Good and bad observations of a `ratio` objective in a period.
async fn observations(
    context: &mut Context<'_>,
    of: &Of<'_>,
    contract: &Contract,
    objective: &Objective,
    period: (Timestamp, Timestamp),
) -> Result<Tally> {
    let Some((attribute, condition)) = test_of(&objective.promise) else { return Ok(Tally::default()) };
    let indicators = objective.indicators();
    let Some((_, indicator)) = indicators.first() else { return Ok(Tally::default()) };
    let test = condition.to_string();
    let mut tally = Tally::default();
    // Between excluded periods; panes lie within them or without.
    for part in parts(period, &contract.spec.excluded) {
        let facts = context.by_slice(&format!("observations of {}", objective.name), of, attribute, part).await?;
        for fact in
            facts.iter().filter(|fact| matches(&fact.labels, &[&contract.spec.scope.matching, &indicator.filter]))
        {
            let bad = fact.tests.get(&test).copied().unwrap_or(0) as f64;
            tally.bad += bad;
            tally.good += fact.sums.samples as f64 - bad;
        }
    }
    Ok(tally)
}

/// What is left of a period without what is excluded.
fn parts(period: (Timestamp, Timestamp), excluded: &[Excluded]) -> Vec<(Timestamp, Timestamp)> {
    let mut parts = vec![period];
    for one in excluded {
        parts = parts
            .into_iter()
            .flat_map(|(from, until)| [(from, until.min(one.from)), (from.max(one.until), until)])
            .filter(|(from, until)| from < until)
            .collect();
    }
    parts
}

/// Violations that were open in a period, with the minutes that count.
async fn violations(
    context: &mut Context<'_>,
    contract: &Contract,
    period: (Timestamp, Timestamp),
    clock: Timestamp,
) -> Result<Vec<Json>> {
    let sql = "SELECT id, objective, series, severity, opened_at, resolved_at, acknowledged_by FROM violations \
               WHERE contract = $1 AND opened_at < $3 AND (resolved_at IS NULL OR resolved_at >= $2) ORDER BY opened_at, id LIMIT 10000";
    let arguments: [Json; 3] = [contract.metadata.name.as_str().into(), period.0.into(), period.1.into()];
    let rows = context.ask(Asked::new("violations", sql, arguments)).await?;
    let mut found = Vec::new();
    for row in &rows {
        let (opened, resolved) = (row.time("opened_at")?, row.maybe_time("resolved_at")?);
        let open = (opened.max(period.0), resolved.unwrap_or(clock).min(period.1));
        let open = if open.0 < open.1 { parts(open, &contract.spec.excluded) } else { Vec::new() };
        let minutes: f64 = open.iter().map(|(from, until)| until.since(*from).as_seconds() / 60.0).sum();
        let labels = context.pairs(&super::facts::labels_of(&row.json("series")?));
        found.push(json!({
            "id": row.text("id")?, "objective": row.text("objective")?, "series": labels.join(", "), "severity": row.text("severity")?,
            "opened_at": opened, "resolved_at": resolved, "minutes": minutes, "acknowledged_by": row.maybe("acknowledged_by")?,
        }));
    }
    Ok(found)
}

/// A page that prints well.
pub fn page(answer: &Answer) -> String {
    let title = format!("Compliance of {}", answer.evidence["contract"].as_str().unwrap_or_default());
    let met = answer.evidence["met"].as_bool();
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{0}</title>\n<style>\n\
         body {{ font: 11pt/1.45 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}\n\
         h1 {{ font-size: 20pt; margin-bottom: 0 }} h2 {{ font-size: 13pt; margin-top: 2rem }}\n\
         .verdict {{ display: inline-block; margin: .8rem 0; padding: .3rem .9rem; border: 2px solid; font-weight: 600 }}\n\
         .met {{ color: #116329 }} .missed {{ color: #a40e26 }} .none {{ color: #57606a }}\n\
         table {{ border-collapse: collapse; width: 100%; font-size: 9.5pt }}\n\
         th, td {{ text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #d0d7de; vertical-align: top }}\n\
         @media print {{ body {{ margin: 0 }} tr {{ break-inside: avoid }} }}\n</style>\n<h1>{0}</h1>\n",
        escape(&title)
    );
    let version = answer.evidence["version"].as_str().unwrap_or_default();
    let parties = answer.evidence["parties"].as_array().into_iter().flatten();
    let parties: Vec<String> = parties
        .map(|party| {
            format!("{} ({})", party["id"].as_str().unwrap_or_default(), party["role"].as_str().unwrap_or_default())
        })
        .collect();
    let _ = writeln!(html, "<p>Version {}, between {}</p>", escape(version), escape(&parties.join(", ")));
    let (class, words) = match met {
        Some(true) => ("met", "met"),
        Some(false) => ("missed", "not met"),
        None => ("none", "not judged"),
    };
    let _ = writeln!(html, "<p class=\"verdict {class}\">{words}</p>");
    for sentence in &answer.sentences {
        let _ = writeln!(html, "<p>{}</p>", escape(sentence));
    }
    for section in answer.sections.iter().filter(|section| !section.rows.is_empty()) {
        let _ = writeln!(html, "<h2>{}</h2>\n<table>", escape(&section.title));
        let cells = |cells: &[String], tag: &str| {
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
        };
        let _ = writeln!(html, "<tr>{}</tr>", cells(&section.columns, "th"));
        for row in &section.rows {
            let _ = writeln!(html, "<tr>{}</tr>", cells(row, "td"));
        }
        html.push_str("</table>\n");
    }
    html.push_str("</html>\n");
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excluded_periods_are_cut_out() {
        let at = |minute: i64| Timestamp::from_micros(minute * 60_000_000);
        let one = |from: i64, until: i64| Excluded { from: at(from), until: at(until), reason: String::new() };
        assert_eq!(parts((at(0), at(10)), &[one(2, 4), one(3, 5)]), [(at(0), at(2)), (at(5), at(10))]);
        assert_eq!(parts((at(0), at(10)), &[one(0, 10)]), []);
    }
}

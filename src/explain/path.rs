//! Where did one request go?

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::context::Context;
use super::facts::Of;
use super::trace::{Step, before, critical_path, duration};
use super::{Answer, ExplainError, Result};
use crate::engine::short;
use crate::time::Span;

/// Inferences that feed one another are followed so far.
const DEPTH_MAX: usize = 8;
const STEPS_MAX: usize = 1_000;

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let (column, id) = match (&context.subject.inference, &context.subject.request) {
        (Some(id), _) => ("inference", id.clone()),
        (None, Some(id)) => ("request", id.clone()),
        (None, None) => {
            return Err(ExplainError::Subject(
                "ask where about an inference or a request: its id is missing".to_owned(),
            ));
        }
    };
    let found = context.steps_by("the step", None, column, &id).await?;
    let Some((_, tenant, application)) = found.first().cloned() else {
        let what = if column == "inference" { "kept step of inference" } else { "kept step of request" };
        return Err(ExplainError::NotFound(what, id));
    };
    context.subject.tenant = Some(tenant.clone());
    context.subject.application = Some(application.clone());
    context.application().await?;
    let of = Of { tenant: &tenant, application: &application };
    let mut steps: Vec<Step> = found.into_iter().map(|(step, ..)| step).collect();
    let asked_for: Vec<Step> = steps.clone();
    gather(&mut context, &of, &mut steps, column).await?;
    steps.sort_by(|a, b| (a.start, a.end, &a.id).cmp(&(b.start, b.end, &b.id)));
    // Along the graph where it is known, else by time.
    let depths: Vec<usize> = before(&steps).iter().map(BTreeSet::len).collect();
    let mut order: Vec<usize> = (0..steps.len()).collect();
    order.sort_by_key(|index| (depths[*index], *index));
    let steps: Vec<Step> = order.into_iter().map(|index| steps[index].clone()).collect();
    let first = steps.iter().map(|step| step.start).min().unwrap_or_default();
    let last = steps.iter().max_by_key(|step| (step.end, !step.sources.is_empty())).cloned();
    let Some(last) = last else { return Err(ExplainError::NotFound("step", id)) };
    // The final result is of the step that was asked about, or of the last one that says something.
    let asked_first: &[Step] = if column == "inference" { &asked_for } else { &[] };
    let result = asked_first.iter().chain([&last]).chain(steps.iter().rev()).find(|step| step.class().is_some());
    let truth = match result.and_then(|step| step.inference.clone()) {
        Some(inference) => truth_of(&mut context, &of, &inference).await?,
        None => None,
    };
    let total = duration(&steps).as_seconds();
    let path = critical_path(&steps);
    let waiting: f64 = path.iter().filter(|stretch| stretch.step.is_none()).map(|stretch| stretch.seconds()).sum();
    let mut sentences = Vec::new();
    let stages: Vec<&str> = steps.iter().fold(Vec::new(), |mut names: Vec<&str>, step| {
        if !names.contains(&step.stage()) {
            names.push(step.stage());
        }
        names
    });
    let stages: Vec<&str> = stages.into_iter().map(|stage| context.shown("stage", stage)).collect();
    sentences.push(format!(
        "It went through {} {} in {} s: {}.",
        steps.len(),
        if steps.len() == 1 { "step" } else { "steps" },
        short(total),
        stages.join(" → ")
    ));
    let line = before(&steps);
    let late = (0..steps.len()).flat_map(|step| line[step].iter().map(move |earlier| (step, *earlier)));
    let disorder = late.map(|(step, earlier)| steps[earlier].end.since(steps[step].end)).max().unwrap_or(Span::ZERO);
    if disorder > Span::ZERO {
        sentences.push(format!(
            "The times do not fit: a step ended up to {} s before one that fed it, so waiting and times between are not to be trusted.",
            short(disorder.as_seconds())
        ));
    }
    let mut longest: Vec<(usize, f64)> = Vec::new();
    for stretch in &path {
        let Some(step) = stretch.step else { continue };
        match longest.iter_mut().find(|(known, _)| *known == step) {
            Some((_, seconds)) => *seconds += stretch.seconds(),
            None => longest.push((step, stretch.seconds())),
        }
    }
    longest.sort_by(|a, b| b.1.total_cmp(&a.1));
    if let Some((step, seconds)) = longest.first().filter(|_| total > 0.0) {
        sentences.push(format!(
            "{} held it up longest: {} s ({} %); {} s it waited between steps.",
            component(&context, &steps[*step]),
            short(*seconds),
            short(seconds / total * 100.0),
            short(waiting)
        ));
    }
    if let Some(step) = result
        && let Some(class) = step.class()
    {
        let sure =
            step.metric("ml.confidence").map(|c| format!(" with a confidence of {}", short(c))).unwrap_or_default();
        let was = match &truth {
            Some(truth) if *truth == class => "; that was right".to_owned(),
            Some(truth) => format!("; true was {truth}"),
            None => String::new(),
        };
        sentences.push(format!("The result was {class}{sure}{was}."));
        let sources = step.sources.len();
        if sources > 0 {
            let agree =
                steps.iter().filter(|other| other.inference.as_ref().is_some_and(|id| step.sources.contains(id)));
            let known: Vec<&Step> = agree.collect();
            let alike = known.iter().filter(|other| other.class().as_ref() == Some(&class)).count();
            let inferences = if sources == 1 { "inference" } else { "inferences" };
            let kept = known.len();
            sentences.push(format!("{sources} {inferences} fed it; {kept} kept, of which {alike} said the same."));
        }
    }
    let rows = steps.iter().map(|step| {
        let dimension = |name: &str| step.labels.get(name).map_or("", |value| context.shown(name, value)).to_owned();
        let at = step.start.since(first).as_seconds();
        vec![
            format!("+{} s", short(at)),
            component(&context, step),
            dimension("model"),
            dimension("device"),
            format!("{} s", short(step.end.since(step.start).as_seconds())),
            step.metric("ml.confidence").map_or(String::new(), short),
            step.class().unwrap_or_default(),
        ]
    });
    let rows = rows.collect();
    context.section("The steps", &["from", "where", "model", "device", "took", "confidence", "said"], rows);
    let name = |step: Option<usize>| step.map_or("waiting".to_owned(), |step| component(&context, &steps[step]));
    let rows: Vec<Vec<String>> = path
        .iter()
        .map(|s| vec![name(s.step), format!("{} s", short(s.seconds())), share(s.seconds(), total)])
        .collect();
    let json_path: Vec<Json> = path
        .iter()
        .map(|s| json!({"step": s.step.map(|step| steps[step].id.clone()), "at": name(s.step), "from": s.from, "until": s.until, "seconds": s.seconds()}))
        .collect();
    context.section("What held it up", &["where", "for", "share"], rows);
    let json_steps: Vec<Json> = steps.iter().map(|step| step_json(&context, step)).collect();
    let evidence = json!({
        "application": application, "seconds": total, "waiting_seconds": waiting,
        "disorder_seconds": disorder.as_seconds().max(0.0), "steps": json_steps, "critical_path": json_path,
        "result": result.map(|step| json!({"inference": step.inference, "prediction": step.prediction, "class": step.class(), "confidence": step.metric("ml.confidence"), "sources": step.sources})),
        "truth": truth,
    });
    Ok(context.answer(sentences, evidence))
}

/// Adds what belongs together: the whole request, and the inferences that fed a result.
async fn gather(context: &mut Context<'_>, of: &Of<'_>, steps: &mut Vec<Step>, column: &str) -> Result<()> {
    let mut known: BTreeSet<String> = steps.iter().map(|step| step.id.clone()).collect();
    let mut add = |steps: &mut Vec<Step>, found: Vec<(Step, String, String)>| {
        for (step, ..) in found {
            if steps.len() < STEPS_MAX && known.insert(step.id.clone()) {
                steps.push(step);
            }
        }
    };
    if column == "inference"
        && let Some(request) = steps.first().and_then(|step| step.request.clone())
    {
        let found = context.steps_by("its request", Some(of), "request", &request).await?;
        add(steps, found);
    }
    let mut asked: BTreeSet<String> = BTreeSet::new();
    for _ in 0..DEPTH_MAX {
        let here: BTreeSet<&String> = steps.iter().filter_map(|step| step.inference.as_ref()).collect();
        let missing: Vec<String> = steps
            .iter()
            .flat_map(|step| &step.sources)
            .filter(|source| !here.contains(source) && !asked.contains(*source))
            .cloned()
            .collect();
        if missing.is_empty() {
            break;
        }
        for source in missing {
            if asked.len() < STEPS_MAX && asked.insert(source.clone()) {
                let found = context.steps_by("an inference that fed it", Some(of), "inference", &source).await?;
                add(steps, found);
            }
        }
    }
    Ok(())
}

async fn truth_of(context: &mut Context<'_>, of: &Of<'_>, inference: &str) -> Result<Option<String>> {
    let sql = "SELECT truth FROM truths WHERE tenant = $1 AND application = $2 AND inference = $3";
    let arguments: [Json; 3] = [of.tenant.into(), of.application.into(), inference.into()];
    let rows = context.ask(crate::store::Asked::new("what was true", sql, arguments)).await?;
    Ok(rows.first().map(|row| row.text("truth")).transpose()?)
}

fn component(context: &Context<'_>, step: &Step) -> String {
    format!("{}/{}", context.shown("stage", step.stage()), context.shown("instance", step.instance()))
}

fn step_json(context: &Context<'_>, step: &Step) -> Json {
    json!({
        "id": step.id, "inference": step.inference, "request": step.request, "labels": context.shown_labels(&step.labels),
        "start": step.start, "end": step.end, "seconds": step.end.since(step.start).as_seconds(),
        "metrics": step.metrics, "prediction": step.prediction, "sources": step.sources,
        "upstream": step.upstream.iter().map(|name| context.shown("instance", name)).collect::<Vec<_>>(),
    })
}

fn share(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{} %", short(part / whole * 100.0)) } else { "-".to_owned() }
}

//! Which component brought the breach about?
//!
//! Each component (stage, instance) is compared with its own past, pane by pane and observation
//! by observation; both must say that it got worse, beyond chance and by an amount that matters.
//! Of time and cost, a component's part is what it adds to all that came on top: time is its own
//! time on the critical path of whole requests where these are known. Of quality, the cause is the
//! component that got worse while nothing before it in the graph did.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Value as Json, json};

use super::context::{Breach, Context, ceiling, span_json};
use super::facts::{ComponentPane, Of, together};
use super::statistics::{Moments, student_tail, welch};
use super::trace::{Step, WAITING, own_times, requests};
use super::which::{ALPHA, Measure};
use super::{Answer, Result};
use crate::contract::{REQUEST, REQUEST_COST, REQUEST_TIME};
use crate::engine::{Limits, PREDICTION_ERROR, REQUEST_STAGE, Sums, short};
use crate::store::Asked;
use crate::time::{Span, Timestamp};

/// The least change that matters, as a share of what was.
const EFFECT_MIN: f64 = 0.1;
/// Fewer panes before say nothing of how much panes differ.
const PANES_MIN: usize = 4;
/// Fewer observations in the window prove nothing.
const SUPPORT_MIN: f64 = 5.0;
/// Instances are named alone if they carry this much of their stage's excess...
const CARRIES_MIN: f64 = 0.75;
/// ...with no more than this much of its observations.
const NUMBER_MAX: f64 = 0.7;
/// Causes that carry less of the excess are not named.
const SHARE_MIN: f64 = 0.1;
const SHOWN_MAX: usize = 10;

/// A component; an empty instance stands for the whole stage.
type Component = (String, String);

/// How a breach is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Time,
    Cost,
    Quality,
}

impl Family {
    fn of(attribute: &str) -> Family {
        match attribute {
            "service.response_time" | REQUEST_TIME | "service.late" | "service.remaining_time" => Family::Time,
            REQUEST_COST => Family::Cost,
            other if other.starts_with("cost.") => Family::Cost,
            _ => Family::Quality,
        }
    }

    /// Whether an attribute tells of it.
    fn reads(self, attribute: &str) -> bool {
        match self {
            Family::Time => attribute == "service.response_time",
            Family::Cost => attribute.starts_with("cost."),
            Family::Quality => direction(attribute) != 0.0 && Family::of(attribute) == Family::Quality,
        }
    }
}

/// Panes of one attribute of one component, before and while it lasted.
#[derive(Debug, Clone, Default)]
struct Course {
    before: Vec<(Timestamp, Sums)>,
    now: Vec<(Timestamp, Sums)>,
}

/// What was found of one attribute of one component.
#[derive(Debug, Clone)]
struct Change {
    attribute: String,
    component: Component,
    now: Moments,
    before: Moments,
    /// How much worse all its observations are together than they would have been.
    excess: f64,
    p: f64,
    t: f64,
    onset: Option<Timestamp>,
}

/// A cause, ranked.
#[derive(Debug, Clone)]
struct Cause {
    component: Component,
    change: Change,
    score: f64,
}

/// Worse is greater (1), less (-1), or away in either direction (0).
fn direction(attribute: &str) -> f64 {
    const LESS: [&str; 9] = [
        "ml.confidence",
        "ml.accuracy",
        "data.completeness",
        "data.validity",
        "service.availability",
        "service.success",
        "service.throughput",
        "service.remaining_time",
        "prediction",
    ];
    const GREATER: [&str; 7] = [
        "service.response_time",
        "service.late",
        "service.error",
        "service.queue_length",
        "data.freshness",
        "data.duplicates",
        PREDICTION_ERROR,
    ];
    if LESS.contains(&attribute) {
        -1.0
    } else if GREATER.contains(&attribute) || attribute.starts_with("cost.") {
        1.0
    } else {
        0.0
    }
}

fn moments(panes: &[(Timestamp, Sums)]) -> Moments {
    let all = together(panes.iter().map(|(_, sums)| sums));
    Moments::of(all.samples as f64, all.total, all.squares)
}

/// Compares a component with its past.
fn compare(attribute: &str, component: &Component, course: &Course) -> Option<Change> {
    let (now, before) = (moments(&course.now), moments(&course.before));
    if now.n < SUPPORT_MIN || before.n < SUPPORT_MIN {
        return None;
    }
    let sign = match direction(attribute) {
        0.0 => {
            if now.mean >= before.mean {
                1.0
            } else {
                -1.0
            }
        }
        sign => sign,
    };
    let sides = if direction(attribute) == 0.0 { 2.0 } else { 1.0 };
    let single = welch(now, before, 0.95)?;
    let p_single = if sign * single.t > 0.0 { single.p / 2.0 } else { 1.0 - single.p / 2.0 };
    // Panes differ by more than their observations do where load comes in waves.
    let means = |panes: &[(Timestamp, Sums)]| -> Vec<f64> {
        panes.iter().map(|(_, sums)| sums.total / sums.samples.max(1) as f64).collect()
    };
    let (usual, lately) = (Moments::of_values(&means(&course.before)), Moments::of_values(&means(&course.now)));
    let (mut p, mut t) = (p_single, sign * single.t);
    let spread = usual.variance.sqrt();
    if course.before.len() >= PANES_MIN && spread > 0.0 {
        let error = spread * (1.0 / lately.n + 1.0 / usual.n).sqrt();
        let between = sign * (lately.mean - usual.mean) / error;
        p = p.max(student_tail(between, usual.n - 1.0));
        t = t.min(between);
    }
    let onset = course.now.iter().find(|(_, sums)| {
        let mean = sums.total / sums.samples.max(1) as f64;
        sign * (mean - usual.mean) > (3.0 * spread).max(EFFECT_MIN * usual.mean.abs())
    });
    Some(Change {
        attribute: attribute.to_owned(),
        component: component.clone(),
        excess: sign * (now.n * now.mean - now.n * before.mean),
        p: (p * sides).min(1.0),
        t,
        onset: onset.map(|(at, _)| *at),
        now,
        before,
    })
}

impl Change {
    fn matters(&self, looked_at: usize) -> bool {
        let change = (self.now.mean - self.before.mean).abs();
        self.excess > 0.0 && change > EFFECT_MIN * self.before.mean.abs() && self.p * looked_at as f64 <= ALPHA
    }
}

/// The graph of an application by stage: stage to the stages before it.
fn stages_before(breach: &Breach, state: &Json, steps: &[Step]) -> BTreeMap<String, BTreeSet<String>> {
    let mut before: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let stage_of = |instance: &Json| state["graph"]["instances"][instance.as_str().unwrap_or_default()].as_str();
    for edge in state["graph"]["edges"].as_array().into_iter().flatten() {
        if let (Some(from), Some(to)) = (stage_of(&edge[0]), stage_of(&edge[1]))
            && from != to
        {
            before.entry(to.to_owned()).or_default().insert(from.to_owned());
        }
    }
    // Inferences that fed others, and instances that steps name.
    let by_inference: BTreeMap<&str, &str> =
        steps.iter().filter_map(|step| Some((step.inference.as_deref()?, step.stage()))).collect();
    for step in steps {
        for from in step.sources.iter().filter_map(|source| by_inference.get(source.as_str())) {
            if *from != step.stage() {
                before.entry(step.stage().to_owned()).or_default().insert((*from).to_owned());
            }
        }
    }
    for (stage, those) in &breach.contract.spec.upstream {
        before.entry(stage.clone()).or_default().extend(those.iter().cloned());
    }
    before
}

/// All stages before a stage.
fn ancestors(before: &BTreeMap<String, BTreeSet<String>>, stage: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut next = VecDeque::from([stage.to_owned()]);
    while let Some(here) = next.pop_front() {
        for earlier in before.get(&here).into_iter().flatten() {
            if earlier != stage && found.insert(earlier.clone()) {
                next.push_back(earlier.clone());
            }
        }
    }
    found
}

/// The shortest way from a stage to one of others, along the graph.
fn way(before: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &BTreeSet<String>) -> Vec<String> {
    let after = |stage: &str| -> Vec<String> {
        before.iter().filter(|(_, those)| those.contains(stage)).map(|(later, _)| later.clone()).collect()
    };
    let mut ways = VecDeque::from([vec![from.to_owned()]]);
    let mut seen = BTreeSet::from([from.to_owned()]);
    while let Some(here) = ways.pop_front() {
        let last = here.last().cloned().unwrap_or_default();
        if to.contains(&last) {
            return here;
        }
        for later in after(&last) {
            if seen.insert(later.clone()) {
                ways.push_back(here.iter().cloned().chain([later]).collect());
            }
        }
    }
    vec![from.to_owned()]
}

/// Courses of the components' own time in whole requests.
fn own_time_courses(
    steps: Vec<Step>,
    width: Span,
    start: Timestamp,
    stages: Option<&BTreeSet<String>>,
) -> BTreeMap<Component, Course> {
    let mut panes: BTreeMap<Component, BTreeMap<Timestamp, Sums>> = BTreeMap::new();
    for request in requests(steps) {
        let Some(at) = request.iter().map(|step| step.end).max() else { continue };
        for (component, seconds) in own_times(&request) {
            if stages.is_some_and(|stages| !stages.contains(&component.0)) {
                continue;
            }
            let one =
                Sums { samples: 1, total: seconds, squares: seconds * seconds, least: seconds, greatest: seconds };
            let pane = panes.entry(component).or_default().entry(at.floor(width)).or_insert(together([]));
            *pane = together([&*pane, &one]);
        }
    }
    let courses = panes.into_iter().map(|(component, panes)| {
        let (now, before): (Vec<_>, Vec<_>) = panes.into_iter().partition(|(at, _)| *at >= start);
        (component, Course { before, now })
    });
    courses.collect()
}

fn courses(
    panes: &[ComponentPane],
    start: Timestamp,
    wanted: impl Fn(&ComponentPane) -> bool,
) -> BTreeMap<(String, Component), Course> {
    let mut courses: BTreeMap<(String, Component), Course> = BTreeMap::new();
    for pane in panes.iter().filter(|pane| pane.stage != REQUEST_STAGE && wanted(pane)) {
        let key = (pane.attribute.clone(), (pane.stage.clone(), pane.instance.clone()));
        let course = courses.entry(key).or_default();
        let list = if pane.start >= start { &mut course.now } else { &mut course.before };
        list.push((pane.start, pane.sums));
    }
    courses
}

/// Whole stages: the courses of their instances together.
fn by_stage(courses: &BTreeMap<(String, Component), Course>) -> BTreeMap<(String, Component), Course> {
    let mut stages: BTreeMap<(String, Component), [BTreeMap<Timestamp, Sums>; 2]> = BTreeMap::new();
    for ((attribute, (stage, instance)), course) in courses {
        if instance == WAITING {
            continue;
        }
        let both = stages.entry((attribute.clone(), (stage.clone(), String::new()))).or_default();
        for (index, list) in [&course.before, &course.now].into_iter().enumerate() {
            for (at, sums) in list {
                let pane = both[index].entry(*at).or_insert(together([]));
                *pane = together([&*pane, sums]);
            }
        }
    }
    let course = |[before, now]: [BTreeMap<Timestamp, Sums>; 2]| Course {
        before: before.into_iter().collect(),
        now: now.into_iter().collect(),
    };
    stages.into_iter().map(|(key, both)| (key, course(both))).collect()
}

pub(super) async fn answer(mut context: Context<'_>) -> Result<Answer> {
    let breach = context.breach().await?;
    let name = breach.name(&context);
    let (tenant, application) = (breach.violation.tenant.clone(), breach.violation.application.clone());
    let of = Of { tenant: &tenant, application: &application };
    let clock = context.clock(&tenant, &application).await?;
    let width = context.width(&of, breach.window.end).await?;
    let indicators = breach.objective.indicators();
    let attribute = indicators.first().map(|(_, i)| i.attribute.clone()).unwrap_or_default();
    // Requests count when they are complete; their steps were earlier.
    let sql = "SELECT state FROM applications WHERE tenant = $1 AND application = $2";
    let asked = Asked::new("the execution graph", sql, [tenant.as_str().into(), application.as_str().into()]);
    let rows = context.ask(asked).await?;
    let state = rows.first().map(|row| row.json("state")).transpose()?.unwrap_or_default();
    let timeout = || state["request_timeout"].as_str().and_then(|text| text.parse().ok());
    let earlier = match attribute.starts_with(REQUEST) {
        true => timeout().unwrap_or(Limits::default().request_timeout),
        false => Span::ZERO,
    };
    let shifted =
        |(from, until): (Timestamp, Timestamp)| (ceiling(from - earlier, width), ceiling(until - earlier, width));
    let [now, before] = breach.periods(clock, width).map(shifted);
    let both = (before.0, now.1);
    let family = Family::of(&attribute);
    let mut attributes = context.attributes(&of).await?;
    attributes.retain(|name| family.reads(name) || *name == attribute);
    let observed = "what each component observed, before and while it lasted";
    let panes = context.by_component(observed, &of, &attributes, both).await?;
    let steps = match family {
        Family::Time => context.drawn_steps("steps of requests, before and while it lasted", &of, both).await?,
        // What follows what is all that is asked of them.
        _ => context.drawn_steps("steps of requests while it lasted", &of, now).await?,
    };
    let before_stages = stages_before(&breach, &state, &steps);
    // Where the breach was seen.
    let seen = seen_at(&mut context, &breach, &of, &attribute, now, &before_stages, &panes).await?;
    let found = match family {
        Family::Time => time_courses(&attribute, &panes, steps, width, now.0, &seen),
        Family::Cost => courses(&panes, now.0, |pane| {
            pane.attribute.starts_with("cost.")
                && (attribute == REQUEST_COST || seen.contains(&pane.stage) || seen.is_empty())
        }),
        Family::Quality => {
            courses(&panes, now.0, |pane| direction(&pane.attribute) != 0.0 || pane.attribute == attribute)
        }
    };
    let stages = by_stage(&found);
    let changes = |courses: &BTreeMap<(String, Component), Course>| -> Vec<Change> {
        let change =
            |((attribute, component), course): (&(String, Component), &Course)| compare(attribute, component, course);
        courses.iter().filter_map(change).collect()
    };
    let (instances, stages) = (changes(&found), changes(&stages));
    let looked_at = instances.len() + stages.len();
    let causes = match family {
        Family::Quality => quality_causes(&instances, &stages, looked_at, &before_stages, &seen, &attribute),
        Family::Time | Family::Cost => excess_causes(&instances, &stages, looked_at),
    };
    // What came nearest, where nothing is sure.
    let worse = instances.iter().filter(|change| change.excess > 0.0 && change.p < 0.1);
    let suspect = worse.min_by(|a, b| a.p.total_cmp(&b.p)).cloned();
    let mut sentences = Vec::new();
    let spread = causes.first().map(|first| way(&before_stages, &first.component.0, &seen)).unwrap_or_default();
    match causes.first() {
        Some(first) => {
            sentences.push(format!(
                "{} brought {name} about: its {} went from {} to {}{}.",
                words(&context, &first.component),
                what(&first.change),
                short(first.change.before.mean),
                short(first.change.now.mean),
                if family == Family::Quality {
                    String::new()
                } else {
                    format!(", {} % of all that came on top", short(first.score.min(1.0) * 100.0))
                },
            ));
            sentences.push(format!(
                "It began at {}; the chance that this is luck is {}, with {looked_at} comparisons.",
                first.change.onset.map_or_else(|| "no single moment".to_owned(), |at| at.to_string()),
                short((first.change.p * looked_at as f64).min(1.0)),
            ));
            if spread.len() > 1 {
                let shown: Vec<&str> = spread.iter().map(|stage| context.shown("stage", stage)).collect();
                sentences.push(format!("From there it spread: {}.", shown.join(" → ")));
            }
            if let Some(second) = causes.get(1) {
                sentences.push(format!("Beside it, {} got worse too.", words(&context, &second.component)));
            }
        }
        None if looked_at == 0 => sentences.push(format!(
            "Too little is stored of the time before {name} was broken: there is no past to compare components with."
        )),
        None => {
            sentences.push(format!(
                "No component stands out: in {looked_at} comparisons with their own past, none got worse beyond chance while {name} was broken."
            ));
            if let Some(suspect) = &suspect {
                sentences.push(format!(
                    "Nearest is {}, whose {} went from {} to {} in {} observations; the chance of that is {}.",
                    words(&context, &suspect.component),
                    what(suspect),
                    short(suspect.before.mean),
                    short(suspect.now.mean),
                    suspect.now.n,
                    short((suspect.p * looked_at as f64).min(1.0)),
                ));
            }
        }
    }
    let rows = causes.iter().take(SHOWN_MAX).map(|cause| {
        vec![
            words(&context, &cause.component),
            what(&cause.change),
            short(cause.change.before.mean),
            short(cause.change.now.mean),
            format!("{} %", short(cause.score * 100.0)),
            cause.change.onset.map_or("-".to_owned(), |at| at.to_string()),
            short((cause.change.p * looked_at as f64).min(1.0)),
        ]
    });
    let rows = rows.collect();
    context.section("Causes", &["component", "what", "before", "now", "weight", "since", "chance"], rows);
    let change_json = |change: &Change| {
        json!({
            "stage": context.shown("stage", &change.component.0),
            "instance": context.shown("instance", &change.component.1),
            "attribute": change.attribute,
            "samples": change.now.n, "mean": change.now.mean,
            "samples_before": change.before.n, "mean_before": change.before.mean,
            "excess": change.excess, "t": change.t, "p": (change.p * looked_at as f64).min(1.0), "onset": change.onset,
        })
    };
    let causes_json: Vec<Json> = causes
        .iter()
        .take(SHOWN_MAX)
        .map(|cause| {
            let mut json = change_json(&cause.change);
            json["stage"] = context.shown("stage", &cause.component.0).into();
            json["instance"] = context.shown("instance", &cause.component.1).into();
            json["weight"] = cause.score.into();
            json
        })
        .collect();
    let evidence = json!({
        "period": span_json(now), "before": span_json(before), "comparisons": looked_at,
        "causes": causes_json,
        "nearest": suspect.as_ref().filter(|_| causes.is_empty()).map(&change_json),
        "compared": instances.iter().take(200).map(&change_json).collect::<Vec<_>>(),
        "graph": before_stages.iter().map(|(stage, those)| json!({"stage": context.shown("stage", stage), "after": those.iter().map(|s| context.shown("stage", s)).collect::<Vec<_>>()})).collect::<Vec<_>>(),
        "seen_at": seen.iter().map(|stage| context.shown("stage", stage)).collect::<Vec<_>>(),
        "propagation": spread.iter().map(|stage| context.shown("stage", stage)).collect::<Vec<_>>(),
    });
    Ok(context.answer(sentences, evidence))
}

/// The stages at which the breached attribute was observed; for whole requests, those that nothing follows.
async fn seen_at(
    context: &mut Context<'_>,
    breach: &Breach,
    of: &Of<'_>,
    attribute: &str,
    now: (Timestamp, Timestamp),
    before: &BTreeMap<String, BTreeSet<String>>,
    panes: &[ComponentPane],
) -> Result<BTreeSet<String>> {
    let indicators = breach.objective.indicators();
    if let Some((_, indicator)) = indicators.first()
        && !attribute.starts_with("request.")
        && let Some((read, _)) = Measure::of(indicator, breach.objective.target(), breach.value)
    {
        let facts = context.by_slice("where it was seen", of, &read, now).await?;
        let facts = super::which::of_objective(facts, breach, indicator);
        return Ok(facts.iter().filter_map(|fact| fact.labels.get("stage").cloned()).collect());
    }
    let all: BTreeSet<String> =
        panes.iter().map(|pane| pane.stage.clone()).filter(|stage| stage != REQUEST_STAGE).collect();
    let followed: BTreeSet<&String> = before.values().flatten().collect();
    Ok(all.into_iter().filter(|stage| !followed.contains(stage)).collect())
}

/// Own times where whole requests are known and the breach is of them or of a stage that waits for
/// others; else response times of the stages where it was seen.
fn time_courses(
    attribute: &str,
    panes: &[ComponentPane],
    steps: Vec<Step>,
    width: Span,
    start: Timestamp,
    seen: &BTreeSet<String>,
) -> BTreeMap<(String, Component), Course> {
    let own = own_time_courses(steps, width, start, None);
    let mean = |sums: Sums| sums.total / sums.samples.max(1) as f64;
    let of_seen = |course: &Course| together(course.now.iter().chain(&course.before).map(|(_, sums)| sums));
    let own_seen = mean(together(
        own.iter()
            .filter(|((stage, instance), _)| seen.contains(stage) && instance != WAITING)
            .map(|(_, c)| of_seen(c))
            .collect::<Vec<_>>()
            .iter(),
    ));
    let whole_seen = mean(together(
        panes
            .iter()
            .filter(|pane| pane.attribute == "service.response_time" && seen.contains(&pane.stage))
            .map(|pane| &pane.sums),
    ));
    let of_requests =
        attribute.starts_with("request.") || matches!(attribute, "service.late" | "service.remaining_time");
    let waits_for_others = own_seen > 0.0 && own_seen < 0.7 * whole_seen;
    let known = own.values().any(|course| !course.now.is_empty() && !course.before.is_empty());
    if known && (of_requests || waits_for_others) {
        let named = |(component, course)| (("own time".to_owned(), component), course);
        return own.into_iter().map(named).collect();
    }
    courses(panes, start, |pane| {
        pane.attribute == "service.response_time" && (of_requests || seen.is_empty() || seen.contains(&pane.stage))
    })
}

/// Time and cost: by what each adds to all that came on top.
fn excess_causes(instances: &[Change], stages: &[Change], looked_at: usize) -> Vec<Cause> {
    let all: f64 =
        stages.iter().chain(instances.iter().filter(|c| c.component.1 == WAITING)).map(|c| c.excess.max(0.0)).sum();
    let mut causes = Vec::new();
    let mut add = |component: Component, change: &Change| {
        let score = if all > 0.0 { change.excess / all } else { 0.0 };
        if score >= SHARE_MIN {
            causes.push(Cause { component, change: change.clone(), score });
        }
    };
    for stage in stages {
        for (component, change) in narrowed(stage, instances, looked_at) {
            add(component, change);
        }
    }
    for waiting in instances.iter().filter(|c| c.component.1 == WAITING && c.matters(looked_at)) {
        add(waiting.component.clone(), waiting);
    }
    causes.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.component.cmp(&b.component)));
    causes
}

/// The instances of a stage that got worse, if few carry all; else the stage, if it got worse.
fn narrowed<'c>(stage: &'c Change, instances: &'c [Change], looked_at: usize) -> Vec<(Component, &'c Change)> {
    let of_stage =
        |c: &&Change| c.attribute == stage.attribute && c.component.0 == stage.component.0 && c.component.1 != WAITING;
    let members: Vec<&Change> = instances.iter().filter(of_stage).collect();
    let worse: Vec<&Change> = members.iter().copied().filter(|c| c.matters(looked_at)).collect();
    if let ([one], true) = (&members[..], stage.matters(looked_at)) {
        return vec![(one.component.clone(), one)];
    }
    let excess: f64 = members.iter().map(|c| c.excess.max(0.0)).sum();
    let carried: f64 = worse.iter().map(|c| c.excess).sum();
    let (n, of_all) = (worse.iter().map(|c| c.now.n).sum::<f64>(), members.iter().map(|c| c.now.n).sum::<f64>());
    if !worse.is_empty() && carried >= CARRIES_MIN * excess && n <= NUMBER_MAX * of_all {
        return worse.into_iter().map(|change| (change.component.clone(), change)).collect();
    }
    if stage.matters(looked_at) { vec![((stage.component.0.clone(), String::new()), stage)] } else { Vec::new() }
}

/// Quality: components that got worse while nothing before them did, the most upstream first where
/// the breach was seen after them.
fn quality_causes(
    instances: &[Change],
    stages: &[Change],
    looked_at: usize,
    before: &BTreeMap<String, BTreeSet<String>>,
    seen: &BTreeSet<String>,
    attribute: &str,
) -> Vec<Cause> {
    let mut found: Vec<(Component, &Change)> = Vec::new();
    for stage in stages {
        found.extend(narrowed(stage, instances, looked_at));
    }
    let worse: BTreeSet<&String> = found.iter().map(|((stage, _), _)| stage).collect();
    let leads_here = |stage: &String| {
        seen.is_empty() || seen.contains(stage) || seen.iter().any(|at| ancestors(before, at).contains(stage))
    };
    let greatest = found.iter().map(|(_, change)| change.t).fold(0.0, f64::max);
    let mut causes: BTreeMap<Component, Cause> = BTreeMap::new();
    for (component, change) in &found {
        let is_first = ancestors(before, &component.0).iter().all(|earlier| !worse.contains(earlier));
        // Response times say little of quality.
        let of_quality = change.attribute == attribute
            || !matches!(change.attribute.as_str(), "service.response_time" | "service.queue_length")
                && !change.attribute.starts_with("cost.");
        let weight = match (leads_here(&component.0), is_first) {
            (true, true) => 1.0,
            (true, false) => 0.3,
            (false, _) => 0.1,
        };
        let strength = if greatest > 0.0 { 0.5 + 0.5 * (change.t / greatest).clamp(0.0, 1.0) } else { 0.5 };
        let score = weight * strength * if of_quality { 1.0 } else { 0.2 };
        let cause = Cause { component: component.clone(), change: (*change).clone(), score };
        let known = causes.entry(component.clone()).or_insert_with(|| cause.clone());
        if known.score < score {
            *known = cause;
        }
    }
    let mut causes: Vec<Cause> = causes.into_values().collect();
    causes.sort_by(|a, b| {
        let onset = |cause: &Cause| cause.change.onset.unwrap_or(Timestamp::MAX);
        b.score.total_cmp(&a.score).then(onset(a).cmp(&onset(b))).then_with(|| a.component.cmp(&b.component))
    });
    causes
}

/// A component for people.
fn words(context: &Context<'_>, (stage, instance): &Component) -> String {
    let stage = context.shown("stage", stage);
    match instance.as_str() {
        "" => format!("stage {stage}"),
        WAITING => format!("waiting before {stage}"),
        instance => format!("{stage}/{}", context.shown("instance", instance)),
    }
}

/// What changed, for people.
fn what(change: &Change) -> String {
    match change.attribute.as_str() {
        "prediction" => "share of right predictions".to_owned(),
        "own time" if change.component.1 == WAITING => "seconds".to_owned(),
        "own time" => "own time a request".to_owned(),
        other => format!("mean {other}"),
    }
}

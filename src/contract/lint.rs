//! What the schema cannot see: references, reachable targets, likely slips.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::schema::{Fault, nearest};
use super::{
    Aggregate, Baseline, Condition, Contract, Gap, Indicator, Level, Objective, PREDICTION, Promise, REQUEST,
    REQUEST_COST, REQUEST_SUCCESS, REQUEST_TIME, Reach, Scalar,
};
use crate::time::Span;

/// Attributes that Qualm's own documentation, examples and decoders use.
const KNOWN_ATTRIBUTES: [&str; 22] = [
    PREDICTION,
    "service.response_time",
    "service.remaining_time",
    "service.late",
    "service.error",
    "service.throughput",
    "service.availability",
    "service.queue_length",
    "ml.confidence",
    "ml.accuracy",
    "data.completeness",
    "data.validity",
    "data.freshness",
    "data.duplicates",
    "data.size",
    "cost.usd",
    "cost.energy",
    "resource.cpu",
    "resource.memory",
    REQUEST_TIME,
    REQUEST_COST,
    REQUEST_SUCCESS,
];

/// Attributes whose values lie in 0..1.
const RATIO_ATTRIBUTES: [&str; 5] =
    ["ml.confidence", "ml.accuracy", "data.completeness", "data.validity", "service.availability"];

/// The most panes that one window may merge.
const PANES_MAX: i64 = 1_440;

pub(super) struct Remark {
    pub(super) level: Level,
    pub(super) pointer: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

struct Remarks(Vec<Remark>);

impl Remarks {
    fn error(&mut self, pointer: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Level::Error, pointer, message, hint);
    }

    fn warn(&mut self, pointer: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Level::Warning, pointer, message, hint);
    }

    fn add(&mut self, level: Level, pointer: &str, message: impl Into<String>, hint: impl Into<String>) {
        let hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self.0.push(Remark { level, pointer: pointer.to_owned(), message: message.into(), hint });
    }
}

pub(super) fn check(contract: &Contract) -> Vec<Remark> {
    let mut remarks = Remarks(Vec::new());
    let spec = &contract.spec;
    if let (Some(from), Some(until)) = (spec.effective.from, spec.effective.until)
        && until <= from
    {
        remarks.error("/spec/effective/until", "the contract ends before it starts", "swap `from` and `until`");
    }
    for (index, excluded) in spec.excluded.iter().enumerate() {
        if excluded.until <= excluded.from {
            let pointer = format!("/spec/excluded/{index}/until");
            remarks.error(&pointer, "the excluded period ends before it starts", "swap `from` and `until`");
        }
    }
    unique(&mut remarks, "party", "/spec/parties", "id", spec.parties.iter().map(|p| p.id.as_str()));
    unique(&mut remarks, "objective", "/spec/objectives", "name", spec.objectives.iter().map(|o| o.name.as_str()));
    unique(&mut remarks, "action", "/spec/actions", "name", spec.actions.iter().map(|a| a.name.as_str()));
    for (index, objective) in spec.objectives.iter().enumerate() {
        check_objective(&mut remarks, contract, objective, &format!("/spec/objectives/{index}"));
    }
    for (index, action) in spec.actions.iter().enumerate() {
        let names: Vec<&str> = spec.objectives.iter().map(|o| o.name.as_str()).collect();
        for (at, name) in action.on.objectives.iter().enumerate() {
            if !names.contains(&name.as_str()) {
                let pointer = format!("/spec/actions/{index}/on/objectives/{at}");
                let message = format!("action `{}` is on an unknown objective `{name}`", action.name);
                remarks.error(&pointer, message, suggestion(name, &names, "objectives"));
            }
        }
    }
    remarks.0
}

fn unique<'a>(remarks: &mut Remarks, what: &str, pointer: &str, field: &str, names: impl Iterator<Item = &'a str>) {
    let mut seen = HashSet::new();
    for (index, name) in names.enumerate() {
        if !seen.insert(name) {
            let message = format!("two {} are named `{name}`", plural(what));
            remarks.error(&format!("{pointer}/{index}/{field}"), message, "rename one of them");
        }
    }
}

fn plural(what: &str) -> String {
    match what.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{what}s"),
    }
}

fn suggestion(name: &str, known: &[&str], what: &str) -> String {
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("the contract has no {what}"),
        None => format!("known {what}: {}", known.join(", ")),
    }
}

fn check_objective(remarks: &mut Remarks, contract: &Contract, objective: &Objective, pointer: &str) {
    let parties: Vec<&str> = contract.spec.parties.iter().map(|p| p.id.as_str()).collect();
    if let Some(responsible) = &objective.responsible
        && !parties.contains(&responsible.as_str())
    {
        let message = format!("unknown party `{responsible}`");
        remarks.error(&format!("{pointer}/responsible"), message, suggestion(responsible, &parties, "parties"));
    }
    match &objective.promise {
        Promise::Target { indicator, target } => {
            let at = format!("{pointer}/indicator");
            check_indicator(remarks, contract, indicator, &at);
            check_target(remarks, indicator, target, &format!("{pointer}/target"));
        }
        Promise::Rule { rule } => {
            let every: HashSet<Span> = rule.inputs.values().map(Indicator::every).collect();
            if every.len() > 1 {
                remarks.error(
                    &format!("{pointer}/rule/inputs"),
                    "the inputs of a rule are judged together, but their `every` differ",
                    "give all inputs the same `every`; windows may differ",
                );
            }
            for (name, indicator) in &rule.inputs {
                let at = format!("{pointer}/rule/inputs/{name}");
                check_indicator(remarks, contract, indicator, &at);
                if indicator.aggregate == Aggregate::Each {
                    let message = "a rule is judged at window ends and cannot take `each`";
                    remarks.error(&format!("{at}/aggregate"), message, "use `last`, `max` or another aggregate");
                }
            }
        }
    }
}

fn check_indicator(remarks: &mut Remarks, contract: &Contract, indicator: &Indicator, pointer: &str) {
    let name = indicator.attribute.as_str();
    let in_contract = contract.spec.objectives.iter().flat_map(Objective::indicators);
    let others: Vec<&str> = in_contract.map(|(_, i)| i.attribute.as_str()).filter(|other| *other != name).collect();
    if !KNOWN_ATTRIBUTES.contains(&name)
        && let Some(near) = nearest(name, KNOWN_ATTRIBUTES.into_iter().chain(others))
    {
        let message = format!("attribute `{name}` is not a known one");
        remarks.warn(&format!("{pointer}/attribute"), message, format!("did you mean `{near}`?"));
    }
    if indicator.scope == Reach::Request && !name.starts_with(REQUEST) {
        let message = format!("whole requests have no `{name}`");
        let hint = "use attribute: service.response_time, service.success or request.cost (the sum of all cost.*)";
        remarks.error(&format!("{pointer}/attribute"), message, hint);
    }
    check_window(remarks, indicator, pointer);
    check_source(remarks, indicator, pointer);
    check_settings(remarks, indicator, pointer);
    check_baseline(remarks, indicator, pointer);
}

/// Whether the aggregate fits the attribute.
fn check_source(remarks: &mut Remarks, indicator: &Indicator, pointer: &str) {
    let aggregate = indicator.of.unwrap_or(indicator.aggregate);
    let (attribute, at) = (indicator.attribute.as_str(), format!("{pointer}/aggregate"));
    if attribute != PREDICTION && (aggregate.is_joined() || aggregate == Aggregate::Coverage) {
        let message = format!("`{aggregate}` compares predictions with feedback; `{attribute}` has none");
        remarks.error(&at, message, "use attribute: prediction");
    }
    if attribute == "data.freshness" && indicator.aggregate != Aggregate::Last {
        let message = "`data.freshness` is the age of the newest report at the window's end";
        remarks.error(&at, message, "use aggregate: last");
    }
}

/// Settings that the aggregate needs or does not know.
fn check_settings(remarks: &mut Remarks, indicator: &Indicator, pointer: &str) {
    use Aggregate::*;
    let (own, of) = (indicator.aggregate, indicator.of.unwrap_or(indicator.aggregate));
    let disparity = own == Disparity;
    let needed = [
        (
            "good",
            of == Ratio,
            indicator.good.is_some(),
            "which observations count as good, for example good: {equals: false}",
        ),
        ("of", disparity, indicator.of.is_some(), "what is compared between groups, for example of: accuracy"),
        ("across", disparity, indicator.across.is_some(), "the label whose values are the groups"),
        (
            "baseline",
            own.is_drift() || own.is_chart(),
            indicator.baseline.is_some(),
            "what is compared with: {file: baselines/x.json}, {first: 1h} or {window: 7d}",
        ),
    ];
    for (name, needs, given, what) in needed {
        if needs && !given {
            remarks.error(&format!("{pointer}/aggregate"), format!("`{own}` needs `{name}`: {what}"), "");
        } else if given && !needs {
            remarks.error(&format!("{pointer}/{name}"), format!("`{own}` knows no `{name}`"), "remove it");
        }
    }
    let known = [
        ("average", indicator.average.is_some(), matches!(of, Precision | Recall | F1), "precision, recall and f1"),
        (
            "class",
            indicator.class.is_some(),
            matches!(of, Precision | Recall | F1 | Auc),
            "precision, recall, f1 and auc",
        ),
        ("metric", indicator.metric.is_some(), disparity, "disparity"),
        ("delta", indicator.delta.is_some(), own.is_detector(), "adwin and page_hinkley"),
        ("lambda", indicator.lambda.is_some(), matches!(own, PageHinkley | Ewma), "page_hinkley and ewma"),
        ("alpha", indicator.alpha.is_some(), own == PageHinkley, "page_hinkley"),
    ];
    for (name, given, knows, those) in known {
        if given && !knows {
            remarks.error(
                &format!("{pointer}/{name}"),
                format!("`{own}` knows no `{name}`"),
                format!("it is for {those}"),
            );
        }
    }
    if indicator.average.is_some() && indicator.class.is_some() {
        remarks.error(&format!("{pointer}/average"), "`average` and `class` exclude each other", "remove one of them");
    }
    if disparity && (of == Disparity || of == Each || of.is_drift() || of.is_detector() || of.is_chart()) {
        remarks.error(
            &format!("{pointer}/of"),
            format!("groups cannot be compared by `{of}`"),
            "for example of: accuracy",
        );
    }
    let unit = |value: Option<f64>| value.is_some_and(|value| value >= 1.0);
    if (own == Adwin && unit(indicator.delta)) || (own == Ewma && indicator.lambda.is_some_and(|lambda| lambda > 1.0)) {
        let name = if own == Adwin { "delta" } else { "lambda" };
        remarks.error(&format!("{pointer}/{name}"), format!("the `{name}` of `{own}` is at most 1"), "");
    }
}

fn check_baseline(remarks: &mut Remarks, indicator: &Indicator, pointer: &str) {
    let at = format!("{pointer}/baseline");
    match &indicator.baseline {
        Some(Baseline::File(_)) if indicator.aggregate.is_chart() => {
            let message = format!("`{}` compares with windows before, not with a file", indicator.aggregate);
            remarks.error(&at, message, "use {first: 1h} or {window: 1h}");
        }
        Some(Baseline::First(span) | Baseline::Window(span)) if *span < indicator.every() => {
            let message = format!("the baseline of {span} is shorter than every {}", indicator.every());
            remarks.error(&at, message, "make it longer");
        }
        _ => {}
    }
}

fn check_window(remarks: &mut Remarks, indicator: &Indicator, pointer: &str) {
    let (window, every) = (indicator.window, indicator.every());
    let at_window = format!("{pointer}/window");
    match (indicator.aggregate, window) {
        (Aggregate::Each, None) if indicator.every.is_none() => return,
        (Aggregate::Each, _) => {
            let message = "`each` judges every observation at once and takes no `window` or `every`";
            return remarks.error(pointer, message, "remove them");
        }
        (aggregate, None) => {
            return remarks.error(pointer, format!("`{aggregate}` needs a `window`"), "for example window: 1m");
        }
        _ => {}
    }
    let window = indicator.window();
    if every < Span::from_micros(100_000) || window < every {
        let message = format!("window {window}, every {every}: both are at least 100ms, and the window is no shorter");
        remarks.error(&at_window, message, "");
    } else if window.as_micros() % every.as_micros() != 0 {
        let message = format!("window {window} is not a multiple of every {every}");
        let nearest = window.as_micros() / every.as_micros() + 1;
        let better = Span::from_micros(nearest * every.as_micros());
        remarks.error(&at_window, message, format!("for example window: {better}"));
    } else if window.as_micros() / every.as_micros() > PANES_MAX {
        let message = format!("window {window} holds more than {PANES_MAX} times every {every}");
        remarks.error(&at_window, message, "judge less often");
    }
}

/// The least and greatest value an aggregate can take, where that is known.
fn possible(indicator: &Indicator) -> (f64, f64) {
    let infinite = f64::INFINITY;
    match indicator.aggregate {
        Aggregate::Ratio | Aggregate::Coverage | Aggregate::Js | Aggregate::Ks => (0.0, 1.0),
        Aggregate::Accuracy | Aggregate::Precision | Aggregate::Recall | Aggregate::F1 | Aggregate::Auc => (0.0, 1.0),
        Aggregate::R2 => (-infinite, 1.0),
        Aggregate::Disparity if indicator.metric == Some(Gap::Ratio) => (-infinite, 1.0),
        Aggregate::Count | Aggregate::Rate | Aggregate::Distinct | Aggregate::Stddev | Aggregate::Disparity => {
            (0.0, infinite)
        }
        Aggregate::Psi | Aggregate::Wasserstein | Aggregate::Chi2 | Aggregate::Adwin | Aggregate::PageHinkley => {
            (0.0, infinite)
        }
        Aggregate::Mae | Aggregate::Mse | Aggregate::Rmse | Aggregate::Mape | Aggregate::LogLoss => (0.0, infinite),
        Aggregate::Sum | Aggregate::Zscore | Aggregate::Ewma => (-infinite, infinite),
        _ if RATIO_ATTRIBUTES.contains(&indicator.attribute.as_str()) => (0.0, 1.0),
        _ => (-infinite, infinite),
    }
}

fn check_target(remarks: &mut Remarks, indicator: &Indicator, target: &Condition, pointer: &str) {
    let (least, greatest) = possible(indicator);
    let (low, high) = target.bounds();
    let what = format!("{} of {}", indicator.aggregate, indicator.attribute);
    if matches!(target, Condition::FalseAlarm(_)) {
        if !indicator.aggregate.is_drift() {
            let message = format!("`{}` has no rate of false alarms", indicator.aggregate);
            remarks.error(pointer, message, "it is for psi, ks, js, wasserstein and chi2; write min or max");
        }
    } else if low > high {
        remarks.error(pointer, format!("the range {low} to {high} is empty"), "swap the two");
    } else if low > greatest || high < least {
        let message = format!("the target cannot be met: {what} lies between {least} and {greatest}");
        remarks.error(pointer, message, "ratios are written 0..1, so 95 % is 0.95");
    } else if target.is_bound() && low <= least && high >= greatest {
        remarks.warn(pointer, format!("the target cannot be missed: {what} lies between {least} and {greatest}"), "");
    }
    let scalars: &[Scalar] = match target {
        Condition::Equals(scalar) => std::slice::from_ref(scalar),
        Condition::In(scalars) | Condition::NotIn(scalars) => scalars,
        _ => &[],
    };
    let takes_text = matches!(indicator.aggregate, Aggregate::Each | Aggregate::Last);
    if !takes_text && scalars.iter().any(|scalar| scalar.0.as_number().is_none()) {
        let hint = "text can be the target of `each` and `last`";
        remarks.error(pointer, format!("{what} is a number and is never a text"), hint);
    }
}

/// Secrets written out in a document: they belong into the environment.
pub(super) fn secrets(document: &Json) -> Vec<Fault> {
    let mut faults = Vec::new();
    search(document, "", &mut faults);
    faults
}

fn search(value: &Json, pointer: &str, faults: &mut Vec<Fault>) {
    match value {
        Json::Object(fields) => {
            for (name, value) in fields {
                let below = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                let lower = name.to_ascii_lowercase();
                let before = |word: &&str| lower.strip_suffix(word);
                let secret_name = ["secret", "password", "passwd", "token", "api_key", "apikey"]
                    .iter()
                    .filter_map(before)
                    .any(|before| before.is_empty() || before.ends_with('_'));
                if value.is_string() && secret_name {
                    faults.push(secret(&below, format!("`{name}` holds a secret in plain text")));
                } else {
                    search(value, &below, faults);
                }
            }
        }
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                search(item, &format!("{pointer}/{index}"), faults);
            }
        }
        Json::String(text) => {
            let credentials = text
                .split_once("://")
                .is_some_and(|(_, rest)| rest.split('/').next().is_some_and(|host| host.contains('@')));
            if text.starts_with("whsec_") || credentials {
                faults.push(secret(pointer, "a secret in plain text".to_owned()));
            }
        }
        _ => {}
    }
}

fn secret(pointer: &str, message: String) -> Fault {
    let hint =
        Some("contracts are shared: put it into an environment variable and name that with `secret_env`".to_owned());
    Fault { pointer: pointer.to_owned(), message, hint }
}

//! What was promised: [`Contract`] and its parts.
//!
//! A contract is read by [`load`], which checks syntax, the JSON Schema and the meaning,
//! and says where each fault stands.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use crate::report::{Dimensions, Value};
use crate::time::{Span, Timestamp};

mod document;
mod lint;
mod load;
mod schema;

pub use load::{ASSETS, Finding, Level, Loaded, files, load, parse};
pub use schema::SCHEMA;

/// The document that parties sign.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Contract {
    /// Name, version, description.
    pub metadata: Metadata,
    /// The promises and what follows when they break.
    pub spec: Spec,
}

/// Identifies a contract.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Metadata {
    /// Unique among the contracts of a service.
    pub name: String,
    /// Semantic version, as text.
    pub version: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl Contract {
    /// Every indicator, with the JSON pointer to it.
    pub fn indicators(&self) -> impl Iterator<Item = (String, &Indicator)> {
        self.spec.objectives.iter().enumerate().flat_map(|(index, objective)| {
            let at = move |name: &str| match name {
                "" => format!("/spec/objectives/{index}/indicator"),
                name => format!("/spec/objectives/{index}/rule/inputs/{name}"),
            };
            objective.indicators().into_iter().map(move |(name, indicator)| (at(name), indicator))
        })
    }
}

/// The body of a contract.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Spec {
    /// Who signed.
    #[serde(default)]
    pub parties: Vec<Party>,
    /// Which reports the contract is about.
    pub scope: Scope,
    /// When the contract holds, in event time.
    #[serde(default)]
    pub effective: Effective,
    /// What reported payloads look like; the share that does is `data.validity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Payload>,
    /// For each stage, the stages before it, where reports do not say so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub upstream: BTreeMap<String, Vec<String>>,
    /// The promises.
    pub objectives: Vec<Objective>,
    /// Event times that do not count when the contract is settled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<Excluded>,
    /// What answers to consumers may not name.
    #[serde(default, skip_serializing_if = "Visibility::is_open")]
    pub visibility: Visibility,
    /// What to do about violations.
    #[serde(default)]
    pub actions: Vec<ActionRule>,
    /// Whom to tell.
    #[serde(default)]
    pub notify: Vec<Notify>,
}

/// A party and its role.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Party {
    /// Referred to by `responsible`.
    pub id: String,
    /// provider, consumer, infrastructure...
    pub role: String,
    /// What it provides.
    #[serde(default)]
    pub provides: Vec<String>,
}

/// Which reports a contract is about.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Scope {
    /// Whose application.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// The application.
    pub application: String,
    /// Dimensions that must match.
    #[serde(default, rename = "match")]
    pub matching: Filter,
}

fn default_tenant() -> String {
    "default".to_owned()
}

/// The payloads of reports, and their JSON Schema.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Payload {
    /// A file with a JSON Schema.
    pub schema: String,
    /// Which reports' payloads are meant.
    #[serde(default, rename = "match")]
    pub matching: Filter,
}

/// The event times for which a contract holds: `from <= t < until`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize, Serialize)]
pub struct Effective {
    /// First instant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// First instant after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Effective {
    /// Whether an event time lies inside.
    pub fn contains(&self, time: Timestamp) -> bool {
        self.from.is_none_or(|from| from <= time) && self.until.is_none_or(|until| time < until)
    }
}

/// A period that does not count: maintenance, a move, a holiday.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Excluded {
    /// First instant.
    pub from: Timestamp,
    /// First instant after.
    pub until: Timestamp,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// What answers to consumers may not name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
pub struct Visibility {
    /// Dimensions whose values are kept back: labels, `stage`, `instance`.
    #[serde(default)]
    pub keep_back: Vec<String>,
}

impl Visibility {
    fn is_open(&self) -> bool {
        self.keep_back.is_empty()
    }
}

/// Conditions on dimensions (labels, `stage`, `instance`), all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Filter(pub BTreeMap<String, Match>);

impl Filter {
    /// Whether a report's dimensions pass.
    pub fn matches(&self, dimensions: &Dimensions<'_>) -> bool {
        self.0.iter().all(|(name, condition)| condition.matches(dimensions.get(name).unwrap_or("")))
    }
}

/// One condition: a text, one of a list, or neither.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Match {
    /// Exactly this.
    Is(String),
    /// One of these.
    In(Vec<String>),
    /// None of these.
    Not {
        /// What it must not be.
        not: Texts,
    },
}

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Texts {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Match {
    fn matches(&self, value: &str) -> bool {
        match self {
            Match::Is(text) => text == value,
            Match::In(texts) => texts.iter().any(|text| text == value),
            Match::Not { not: Texts::One(text) } => text != value,
            Match::Not { not: Texts::Many(texts) } => !texts.iter().any(|text| text == value),
        }
    }
}

/// One promise: an indicator and its target, or a rule over several indicators.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Objective {
    /// Unique within the contract.
    pub name: String,
    /// What is promised.
    #[serde(flatten)]
    pub promise: Promise,
    /// Breached this long before a violation opens.
    #[serde(default, rename = "for")]
    pub hold_open: Span,
    /// Healthy this long before a violation resolves.
    #[serde(default, rename = "keep")]
    pub hold_healthy: Span,
    /// How bad a violation is.
    #[serde(default)]
    pub severity: Severity,
    /// The party that answers for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub responsible: Option<String>,
    /// With fewer observations there is no verdict.
    #[serde(default = "one")]
    pub min_samples: u64,
    /// What an empty window means.
    #[serde(default)]
    pub no_data: NoData,
    /// The share of judgements that must be met for the objective to be met over a period.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub attainment: f64,
    /// An open violation without data for this long resolves as stale.
    #[serde(default = "hour")]
    pub stale_after: Span,
}

fn one() -> u64 {
    1
}

fn all() -> f64 {
    1.0
}

fn is_all(attainment: &f64) -> bool {
    *attainment >= 1.0
}

fn hour() -> Span {
    Span::seconds(3_600)
}

impl Objective {
    /// The indicators it rests on, each with its input name (empty for a plain indicator).
    pub fn indicators(&self) -> Vec<(&str, &Indicator)> {
        match &self.promise {
            Promise::Target { indicator, .. } => vec![("", indicator)],
            Promise::Rule { rule } => rule.inputs.iter().map(|(name, i)| (name.as_str(), i)).collect(),
        }
    }

    fn indicators_mut(&mut self) -> Vec<&mut Indicator> {
        match &mut self.promise {
            Promise::Target { indicator, .. } => vec![indicator],
            Promise::Rule { rule } => rule.inputs.values_mut().collect(),
        }
    }

    /// How often it is judged; zero for `each`.
    pub fn every(&self) -> Span {
        self.indicators().first().map_or(Span::ZERO, |(_, indicator)| indicator.every())
    }

    /// The target, where it has one.
    pub fn target(&self) -> Option<&Condition> {
        match &self.promise {
            Promise::Target { target, .. } => Some(target),
            Promise::Rule { .. } => None,
        }
    }
}

/// The two kinds of promises.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant)]
pub enum Promise {
    /// The indicator's value keeps within the target.
    Target {
        /// What is measured.
        indicator: Indicator,
        /// What was promised of it.
        target: Condition,
    },
    /// A Rhai function says whether the promise holds.
    Rule {
        /// The function and what it is given.
        rule: Rule,
    },
}

/// An attribute, how it is aggregated, and over which time.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Indicator {
    /// What is observed.
    pub attribute: String,
    /// Whether it is about single reports or whole requests.
    #[serde(default, skip_serializing_if = "Reach::is_report")]
    pub scope: Reach,
    /// How observations become one value.
    pub aggregate: Aggregate,
    /// The time it looks back; none for `each`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// The time between two judgements; the window unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<Span>,
    /// Which observations count.
    #[serde(default, rename = "where", skip_serializing_if = "is_default")]
    pub filter: Filter,
    /// Dimensions that split it into series.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
    /// For `ratio`: which observations are good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<Condition>,
    /// For `precision`, `recall` and `f1`: how classes are averaged; `macro` unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average: Option<Average>,
    /// For `precision`, `recall`, `f1` and `auc`: of this class alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// For `disparity`: what is compared between groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Aggregate>,
    /// For `disparity`: the dimension whose values are the groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub across: Option<String>,
    /// For `disparity`: how groups are compared; `difference` unless stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Gap>,
    /// For drift, `zscore` and `ewma`: what is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// For `adwin`: the significance; for `page_hinkley`: the change that is forgiven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<f64>,
    /// For `page_hinkley`: the threshold; for `ewma`: the weight of the newest window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// For `page_hinkley`: the forgetting factor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
}

/// What an observation of an indicator is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// One report of one stage.
    #[default]
    Report,
    /// All stages of one request, as the consumer sees it.
    Request,
}

impl Reach {
    fn is_report(&self) -> bool {
        *self == Reach::Report
    }
}

/// The attribute of inferences: the predicted class or value, and joined with feedback what the
/// prediction aggregates are made of.
pub const PREDICTION: &str = "prediction";

/// Attributes of whole requests begin with this.
pub const REQUEST: &str = "request.";
/// From the start of the first step to the end of the last, in seconds.
pub const REQUEST_TIME: &str = "request.response_time";
/// The sum of what its steps cost: of all `cost.*`.
pub const REQUEST_COST: &str = "request.cost";
/// Whether no step failed.
pub const REQUEST_SUCCESS: &str = "request.success";

/// How the values of several classes become one (as in scikit-learn).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// The mean of the classes.
    #[default]
    Macro,
    /// Of all classes together.
    Micro,
    /// The mean of the classes, weighted by how often each is true.
    Weighted,
}

/// How the values of groups are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gap {
    /// The greatest less the least; 0 is parity.
    #[default]
    Difference,
    /// The least by the greatest; 1 is parity.
    Ratio,
}

/// What a window is compared with.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Baseline {
    /// A file that `qualm baseline` made.
    File(String),
    /// The first so-long of each series.
    First(Span),
    /// The so-long before each window.
    Window(Span),
}

fn is_default(filter: &Filter) -> bool {
    filter.0.is_empty()
}

impl Indicator {
    /// Says in its attribute what its scope says.
    fn resolve(&mut self) {
        let of_requests = match (self.scope, self.attribute.as_str()) {
            (Reach::Request, "service.response_time") => REQUEST_TIME,
            (Reach::Request, "service.success") => REQUEST_SUCCESS,
            _ => return,
        };
        self.attribute = of_requests.to_owned();
    }

    /// The time between two judgements, and so the width of a pane; zero for `each`.
    pub fn every(&self) -> Span {
        self.every.or(self.window).unwrap_or_default()
    }

    /// The window; zero for `each`.
    pub fn window(&self) -> Span {
        self.window.unwrap_or_default()
    }
}

/// How observations become one value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    /// Every observation is judged on its own.
    Each,
    /// The observation with the greatest event time.
    Last,
    /// How many.
    Count,
    /// How many a second.
    Rate,
    /// Their sum.
    Sum,
    /// Their arithmetic mean.
    Mean,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// Sample standard deviation.
    Stddev,
    /// Quantile by nearest rank; the share is in 0..1.
    Quantile(f64),
    /// Share of good observations.
    Ratio,
    /// How many different values.
    Distinct,
    /// Share of predictions that are right.
    Accuracy,
    /// Share of the predictions of a class that are right.
    Precision,
    /// Share of a class that is predicted right.
    Recall,
    /// Harmonic mean of the two.
    F1,
    /// Mean negative logarithm of the score given to the truth.
    LogLoss,
    /// Area under the ROC curve.
    Auc,
    /// Mean absolute error.
    Mae,
    /// Mean squared error.
    Mse,
    /// Its root.
    Rmse,
    /// Mean absolute error as a share of the truth.
    Mape,
    /// Coefficient of determination.
    R2,
    /// Share of the window's inferences that have feedback by its end.
    Coverage,
    /// How far groups are apart.
    Disparity,
    /// Population stability index.
    Psi,
    /// Two-sample Kolmogorov-Smirnov statistic.
    Ks,
    /// Jensen-Shannon distance, base 2.
    Js,
    /// Wasserstein distance by the baseline's standard deviation.
    Wasserstein,
    /// Pearson's chi-squared statistic of categories.
    Chi2,
    /// Changes of the mean that ADWIN finds.
    Adwin,
    /// Changes of the mean that the Page-Hinkley test finds.
    PageHinkley,
    /// The window's mean in robust standard deviations from the median of windows before.
    Zscore,
    /// The exponentially weighted mean of windows in its standard deviations.
    Ewma,
}

/// Names of aggregates, [`Aggregate::Quantile`] aside.
const NAMES: [(&str, Aggregate); 33] = [
    ("each", Aggregate::Each),
    ("last", Aggregate::Last),
    ("count", Aggregate::Count),
    ("rate", Aggregate::Rate),
    ("sum", Aggregate::Sum),
    ("mean", Aggregate::Mean),
    ("min", Aggregate::Min),
    ("max", Aggregate::Max),
    ("stddev", Aggregate::Stddev),
    ("ratio", Aggregate::Ratio),
    ("distinct", Aggregate::Distinct),
    ("accuracy", Aggregate::Accuracy),
    ("precision", Aggregate::Precision),
    ("recall", Aggregate::Recall),
    ("f1", Aggregate::F1),
    ("log_loss", Aggregate::LogLoss),
    ("auc", Aggregate::Auc),
    ("mae", Aggregate::Mae),
    ("mse", Aggregate::Mse),
    ("rmse", Aggregate::Rmse),
    ("mape", Aggregate::Mape),
    ("r2", Aggregate::R2),
    ("coverage", Aggregate::Coverage),
    ("disparity", Aggregate::Disparity),
    ("psi", Aggregate::Psi),
    ("ks", Aggregate::Ks),
    ("js", Aggregate::Js),
    ("wasserstein", Aggregate::Wasserstein),
    ("chi2", Aggregate::Chi2),
    ("adwin", Aggregate::Adwin),
    ("page_hinkley", Aggregate::PageHinkley),
    ("zscore", Aggregate::Zscore),
    ("ewma", Aggregate::Ewma),
];

/// The spellings of aggregates, for messages.
pub fn aggregate_names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().map(|(name, _)| name).chain(["pNN"])
}

impl Aggregate {
    /// Whether it is made of predictions joined with their feedback.
    pub fn is_joined(self) -> bool {
        use Aggregate::*;
        matches!(self, Accuracy | Precision | Recall | F1 | LogLoss | Auc | Mae | Mse | Rmse | Mape | R2)
    }

    /// Whether it measures how far a window's distribution is from a baseline's.
    pub fn is_drift(self) -> bool {
        use Aggregate::*;
        matches!(self, Psi | Ks | Js | Wasserstein | Chi2)
    }

    /// Whether it looks for changes, an observation at a time.
    pub fn is_detector(self) -> bool {
        matches!(self, Aggregate::Adwin | Aggregate::PageHinkley)
    }

    /// Whether it compares a window's mean with those of windows before.
    pub fn is_chart(self) -> bool {
        matches!(self, Aggregate::Zscore | Aggregate::Ewma)
    }
}

impl FromStr for Aggregate {
    type Err = ();
    fn from_str(text: &str) -> Result<Aggregate, ()> {
        if let Some((_, aggregate)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*aggregate);
        }
        let digits = text.strip_prefix('p').ok_or(())?;
        if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(());
        }
        let percent: f64 = digits.parse().map_err(|_| ())?;
        if !(percent > 0.0 && percent < 100.0) {
            return Err(());
        }
        Ok(Aggregate::Quantile(percent / 100.0))
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // To 1e-9 percent, so that 0.999 prints as p99.9 and not p99.90000000000001.
        if let Aggregate::Quantile(share) = self {
            return write!(f, "p{}", (share * 1e11).round() / 1e9);
        }
        let (name, _) = NAMES.iter().find(|(_, aggregate)| aggregate == self).expect("all others have a name");
        f.write_str(name)
    }
}

impl Serialize for Aggregate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Aggregate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Aggregate, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom(format_args!("unknown aggregate {text:?}")))
    }
}

/// A condition on a value: the target of an objective, or what `ratio` calls good.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// At most.
    Max(f64),
    /// At least.
    Min(f64),
    /// Between the two, ends included.
    Range([f64; 2]),
    /// Exactly.
    Equals(Scalar),
    /// One of.
    In(Vec<Scalar>),
    /// None of.
    NotIn(Vec<Scalar>),
    /// For drift: no more than chance explains, at this rate of false alarms a window end.
    FalseAlarm(f64),
}

/// A value written in a contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Scalar(pub Value<'static>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        Value::deserialize(deserializer).map(|value| Scalar(value.into_owned()))
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Condition {
    /// Whether a value keeps it. `None` where the kinds do not fit (text against a bound).
    pub fn holds(&self, value: &Value<'_>) -> Option<bool> {
        match self {
            Condition::Equals(scalar) => Some(same(scalar, value)),
            Condition::In(scalars) => Some(scalars.iter().any(|s| same(s, value))),
            Condition::NotIn(scalars) => Some(!scalars.iter().any(|s| same(s, value))),
            // Judged by the chance of the value, not by the value.
            Condition::FalseAlarm(_) => None,
            _ => value.as_number().map(|number| self.holds_number(number)),
        }
    }

    fn holds_number(&self, number: f64) -> bool {
        let (low, high) = self.bounds();
        low <= number && number <= high
    }

    /// The least and greatest number allowed; infinite where there is no bound.
    pub fn bounds(&self) -> (f64, f64) {
        match self {
            Condition::Max(high) => (f64::NEG_INFINITY, *high),
            Condition::Min(low) => (*low, f64::INFINITY),
            Condition::Range([low, high]) => (*low, *high),
            Condition::Equals(_) | Condition::In(_) | Condition::NotIn(_) | Condition::FalseAlarm(_) => {
                (f64::NEG_INFINITY, f64::INFINITY)
            }
        }
    }

    /// Whether it bounds numbers.
    pub fn is_bound(&self) -> bool {
        matches!(self, Condition::Max(_) | Condition::Min(_) | Condition::Range(_))
    }
}

fn same(scalar: &Scalar, value: &Value<'_>) -> bool {
    match (&scalar.0, value) {
        (Value::Text(a), Value::Text(b)) => **a == **b,
        (Value::Text(_), _) | (_, Value::Text(_)) => false,
        (a, b) => a.as_number() == b.as_number(),
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |scalars: &[Scalar]| scalars.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Condition::Max(high) => write!(f, "at most {high}"),
            Condition::Min(low) => write!(f, "at least {low}"),
            Condition::Range([low, high]) => write!(f, "between {low} and {high}"),
            Condition::Equals(scalar) => write!(f, "equal to {scalar}"),
            Condition::In(scalars) => write!(f, "one of {}", list(scalars)),
            Condition::NotIn(scalars) => write!(f, "none of {}", list(scalars)),
            Condition::FalseAlarm(rate) => write!(f, "what chance explains, at a false-alarm rate of {rate}"),
        }
    }
}

/// A promise that a Rhai function judges.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Rule {
    /// The script's file name.
    pub policy: String,
    /// The function in it.
    pub function: String,
    /// What it is given, by name.
    pub inputs: BTreeMap<String, Indicator>,
    /// Constants of this contract.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub params: serde_json::Map<String, Json>,
}

/// How bad a violation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Little harm.
    Minor,
    /// Harm.
    #[default]
    Major,
    /// Stop everything.
    Critical,
}

/// What an empty window means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoData {
    /// Nothing: the state stays.
    #[default]
    Ignore,
    /// A breach.
    Breach,
    /// The last verdict goes on.
    Hold,
}

/// What to do about violations.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct ActionRule {
    /// Unique within the contract.
    pub name: String,
    /// Which violations.
    #[serde(default)]
    pub on: Trigger,
    /// What to do...
    #[serde(default, rename = "do", skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// ...or the Rhai function that decides it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decide: Option<Decide>,
    /// What holds it back.
    #[serde(default)]
    pub guard: Guard,
}

/// Which violations an action answers; an empty list means all.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
pub struct Trigger {
    /// Names of objectives.
    #[serde(default)]
    pub objectives: Vec<String>,
    /// Severities.
    #[serde(default)]
    pub severity: Vec<Severity>,
}

impl Trigger {
    /// Whether a violation of this objective is meant.
    pub fn fits(&self, objective: &Objective) -> bool {
        (self.objectives.is_empty() || self.objectives.contains(&objective.name))
            && (self.severity.is_empty() || self.severity.contains(&objective.severity))
    }
}

/// An adaptation command.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Command {
    /// retrain, scale, reroute... A token of the subject it leaves on.
    pub kind: String,
    /// For the executor.
    #[serde(default)]
    pub params: serde_json::Map<String, Json>,
}

/// A Rhai function that decides what to do.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Decide {
    /// The script's file name.
    pub policy: String,
    /// The function in it.
    pub function: String,
}

/// What holds an action back. Times are event times, so a replay decides alike.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
pub struct Guard {
    /// Least time between two.
    #[serde(default)]
    pub cooldown: Span,
    /// At most this many in any 24 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_day: Option<u32>,
    /// Whether an operator must approve it.
    #[serde(default)]
    pub approval: Approval,
}

/// Whether an operator must approve an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Approval {
    /// No.
    #[default]
    None,
    /// Yes.
    Required,
}

/// Whom to tell.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Notify {
    /// An HTTP endpoint.
    pub webhook: Webhook,
}

/// A webhook after the Standard Webhooks specification.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Webhook {
    /// Where to POST.
    pub url: String,
    /// The environment variable that holds the `whsec_...` secret.
    pub secret_env: String,
    /// Which events.
    #[serde(default = "all_events")]
    pub events: Vec<EventKind>,
}

fn all_events() -> Vec<EventKind> {
    vec![EventKind::Opened, EventKind::Resolved]
}

/// The events that leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub enum EventKind {
    /// A violation opened.
    #[serde(rename = "violation.opened")]
    Opened,
    /// A violation resolved.
    #[serde(rename = "violation.resolved")]
    Resolved,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_read_and_print() {
        for text in ["p50", "p99", "p99.9", "p99.99", "mean", "ratio", "each"] {
            assert_eq!(text.parse::<Aggregate>().expect(text).to_string(), text);
        }
        for bad in ["p0", "p100", "p", "pp", "p9x", "median", "p-1", "p1e1"] {
            assert_eq!(bad.parse::<Aggregate>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn conditions_hold() {
        let check = |json: &str, value: Value<'_>, expected: Option<bool>| {
            let condition: Condition = serde_json::from_str(json).expect(json);
            assert_eq!(condition.holds(&value), expected, "{json} on {value:?}");
        };
        check(r#"{"max":0.3}"#, Value::Number(0.3), Some(true));
        check(r#"{"max":0.3}"#, Value::Number(0.300001), Some(false));
        check(r#"{"min":1}"#, Value::Bool(true), Some(true));
        check(r#"{"range":[1,2]}"#, Value::Number(2.1), Some(false));
        check(r#"{"max":0.3}"#, Value::Text("x".into()), None);
        check(r#"{"equals":false}"#, Value::Bool(false), Some(true));
        check(r#"{"equals":"ok"}"#, Value::Text("ok".into()), Some(true));
        check(r#"{"in":["a",1]}"#, Value::Number(1.0), Some(true));
        check(r#"{"not_in":["a"]}"#, Value::Text("a".into()), Some(false));
    }
}

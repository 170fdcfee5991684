//! A contract made ready to run.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use uuid::Uuid;

use super::baseline::BaselineFile;
use super::gauge::{Fence, Gauge};
use super::memory::FileBaseline;
use super::verdict::{SeriesKey, SeriesLabels};
use crate::contract::{
    Aggregate, Baseline, Condition, Contract, Effective, Filter, Indicator, Level, Loaded, Objective,
};
use crate::contract::{PREDICTION, Promise};
use crate::policy::{self, Policies};
use crate::time::{Span, Timestamp};

/// Namespace of all derived ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x5155_414c_4d00_5000_8000_7175_616c_6d31);

/// One version of a contract with all that it names, compiled.
pub struct Program {
    /// The contract.
    pub contract: Contract,
    /// Its scripts.
    pub policies: Policies,
    /// The texts of its scripts, baselines and schemas by name, kept with the contract's version.
    pub files: BTreeMap<String, String>,
    /// The schema of payloads, and which reports' are meant.
    pub payload: Option<(Filter, jsonschema::Validator)>,
    /// Its objectives.
    pub promises: Vec<Arc<Promised>>,
    /// Their inputs, those that are counted together in one.
    pub bundles: Vec<Arc<Bundle>>,
}

/// Inputs that see the same observations in panes of the same width: they are counted together, in
/// one series with one pane for all and an accumulator for each.
#[derive(Debug)]
pub struct Bundle {
    /// The inputs...
    pub inputs: Vec<Arc<Input>>,
    /// ...and of each its objective and its number there. Slots number both.
    pub members: Vec<(u16, u16)>,
    /// What numbers are held against, by slot.
    pub fences: Vec<Fence>,
    /// A bit for each slot.
    pub all: u32,
    /// Whether every input takes numbers.
    pub takes_numbers: bool,
    /// Width of the panes; zero for `each`.
    pub every: Span,
    /// The longest window.
    pub longest: Span,
    /// When the contract is in force.
    pub effective: Effective,
    /// For `disparity`: the label that tells the groups that are compared.
    pub across: Option<String>,
    /// Digest of what is measured by which objective: state is stored under it.
    pub digest: String,
}

/// Inputs of one bundle at most: slots are bits.
const BUNDLE_MAX: usize = 32;

impl Bundle {
    fn new(contract: &Contract, promises: &[Arc<Promised>], members: Vec<(u16, u16)>) -> Bundle {
        let promised = |member: &(u16, u16)| &promises[usize::from(member.0)];
        let inputs: Vec<_> = members.iter().map(|m| promised(m).inputs[usize::from(m.1)].clone()).collect();
        let named = members.iter().zip(&inputs);
        let named: Vec<String> = named
            .map(|(member, input)| {
                let promised = promised(member);
                format!("{}\u{1f}{}\u{1f}{}", promised.objective.name, input.name, promised.measure)
            })
            .collect();
        Bundle {
            fences: inputs.iter().map(|input| input.gauge.fence()).collect(),
            all: u32::MAX >> (BUNDLE_MAX - members.len()),
            takes_numbers: inputs.iter().all(|input| input.gauge.takes_numbers()),
            every: inputs[0].every,
            longest: inputs.iter().map(|input| input.window).fold(Span::ZERO, Span::max),
            effective: contract.spec.effective,
            across: inputs[0].indicator.across.clone(),
            digest: format!("{:016x}", xxhash_rust::xxh3::xxh3_64(named.join("\u{1e}").as_bytes())),
            inputs,
            members,
        }
    }

    /// The inputs of a contract, together where that can be.
    fn all_of(contract: &Contract, promises: &[Arc<Promised>]) -> Vec<Arc<Bundle>> {
        let mut bundles: Vec<Vec<(u16, u16)>> = Vec::new();
        let input = |(objective, input): (u16, u16)| &*promises[usize::from(objective)].inputs[usize::from(input)];
        for (o, promised) in promises.iter().enumerate() {
            for i in 0..promised.inputs.len() {
                let member = (o as u16, i as u16);
                let fits = |bundle: &&mut Vec<(u16, u16)>| {
                    bundle.len() < BUNDLE_MAX && input(bundle[0]).goes_with(input(member))
                };
                match bundles.iter_mut().find(fits) {
                    Some(bundle) => bundle.push(member),
                    None => bundles.push(vec![member]),
                }
            }
        }
        bundles.into_iter().map(|members| Arc::new(Bundle::new(contract, promises, members))).collect()
    }

    /// What series are split by.
    pub fn group_by(&self) -> &[String] {
        &self.inputs[0].indicator.group_by
    }
}

/// The slots of a mask.
pub(super) fn slots(mask: u32) -> impl Iterator<Item = usize> {
    (0..BUNDLE_MAX).filter(move |slot| mask & (1 << slot) != 0)
}

/// One objective, made ready to run.
#[derive(Debug)]
pub struct Promised {
    /// The contract's name.
    pub contract: String,
    /// The contract's version.
    pub version: String,
    /// The objective.
    pub objective: Objective,
    /// What is measured for it.
    pub inputs: Vec<Arc<Input>>,
    /// Labels that split it into judged series.
    pub group_by: Vec<String>,
    /// Digest of what is promised: indicators, target or rule.
    pub measure: String,
}

/// One indicator, made ready to run.
#[derive(Debug)]
pub struct Input {
    /// Its name in a rule; empty for a plain indicator.
    pub name: String,
    /// What it is.
    pub indicator: Indicator,
    /// How it is aggregated.
    pub gauge: Gauge,
    /// Width of its panes; zero for `each`.
    pub every: Span,
    /// Its window; zero for `each`.
    pub window: Span,
    /// Where its observations come from.
    pub feed: Feed,
    /// The baseline, if it is a file's.
    pub baseline: Option<FileBaseline>,
    /// The rate of false alarms that is the target, if it is one.
    pub false_alarm: Option<f64>,
}

/// Where observations come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// Reported metrics.
    Metric,
    /// What inferences predicted.
    Predicted,
    /// Predictions joined with their feedback.
    Joined,
    /// Inferences, and feedback for them.
    Coverage,
    /// `data.freshness`: when reports come.
    Freshness,
    /// `data.duplicates`: whether a report's id was seen before.
    Duplicates,
    /// `data.validity`: whether payloads keep the contract's schema.
    Validity,
}

impl Feed {
    fn of(indicator: &Indicator, contract: &Contract) -> Feed {
        let aggregate = indicator.of.unwrap_or(indicator.aggregate);
        match indicator.attribute.as_str() {
            PREDICTION if aggregate.is_joined() => Feed::Joined,
            PREDICTION if aggregate == Aggregate::Coverage => Feed::Coverage,
            PREDICTION => Feed::Predicted,
            "data.freshness" => Feed::Freshness,
            "data.duplicates" => Feed::Duplicates,
            "data.validity" if contract.spec.payload.is_some() => Feed::Validity,
            _ => Feed::Metric,
        }
    }
}

impl Input {
    /// Whether two see the same observations in the same panes, and are judged at the same times.
    fn goes_with(&self, other: &Input) -> bool {
        let plain = |input: &Input| {
            // Inputs of rules have names: rules may be judged at other times.
            input.feed == Feed::Metric
                && input.name.is_empty()
                && input.every > Span::ZERO
                && input.indicator.across.is_none()
        };
        let (a, b) = (&self.indicator, &other.indicator);
        plain(self)
            && plain(other)
            && self.every == other.every
            && a.attribute == b.attribute
            && a.filter == b.filter
            && a.group_by == b.group_by
    }

    /// Whether it is the age of the newest report.
    pub fn is_freshness(&self) -> bool {
        self.feed == Feed::Freshness
    }
}

impl Program {
    /// Compiles what a contract names, and adds what is wrong to its findings. None if it cannot
    /// run. `read` brings the text of a script, baseline or schema, or says why it cannot.
    pub fn compile(loaded: &mut Loaded, read: impl Fn(&str) -> Result<String, String>) -> Option<Program> {
        let mut files = BTreeMap::new();
        let policies = policy::compile(loaded, &read, &mut files);
        let contract = loaded.contract.clone()?;
        let (mut parsed, mut baselines) = (BTreeMap::new(), BTreeMap::new());
        for (pointer, indicator) in contract.indicators() {
            if let Some(Baseline::File(file)) = &indicator.baseline {
                // Several indicators may name one file.
                let baseline = parsed.entry(file).or_insert_with(|| read_baseline(file, &read, &mut files));
                let found = baseline.as_ref().map_err(Clone::clone);
                match found.and_then(|baseline| of_attribute(file, baseline, &indicator.attribute)) {
                    Ok(baseline) => drop(baselines.insert((file.clone(), indicator.attribute.clone()), baseline)),
                    Err((message, hint)) => {
                        loaded.find(Level::Error, &format!("{pointer}/baseline/file"), message, Some(hint));
                    }
                }
            }
        }
        let mut payload = None;
        if let Some(wanted) = &contract.spec.payload {
            match read_schema(&wanted.schema, &read) {
                Ok((text, validator)) => {
                    files.insert(wanted.schema.clone(), text);
                    payload = Some((wanted.matching.clone(), validator));
                }
                Err(message) => loaded.find(Level::Error, "/spec/payload/schema", message, None),
            }
        }
        let (policies, _) = policies.zip(loaded.contract.as_ref())?;
        let promise = |objective| Arc::new(Promised::new(&contract, objective, &baselines));
        let promises: Vec<_> = contract.spec.objectives.iter().map(promise).collect();
        let bundles = Bundle::all_of(&contract, &promises);
        Some(Program { contract, policies, files, payload, promises, bundles })
    }

    /// The contract's name.
    pub fn name(&self) -> &str {
        &self.contract.metadata.name
    }
}

impl Promised {
    fn new(contract: &Contract, objective: &Objective, baselines: &Baselines) -> Promised {
        let inputs = objective.indicators().into_iter().map(|(name, indicator)| Input {
            name: name.to_owned(),
            indicator: indicator.clone(),
            gauge: Gauge::new(indicator, objective.target(), objective.min_samples),
            every: indicator.every(),
            window: indicator.window(),
            feed: Feed::of(indicator, contract),
            baseline: match &indicator.baseline {
                Some(Baseline::File(file)) => baselines.get(&(file.clone(), indicator.attribute.clone())).cloned(),
                _ => None,
            },
            false_alarm: match objective.target() {
                Some(Condition::FalseAlarm(rate)) => Some(*rate),
                _ => None,
            },
        });
        let group_by = match &objective.promise {
            Promise::Target { indicator, .. } => indicator.group_by.clone(),
            Promise::Rule { .. } => Vec::new(),
        };
        Promised {
            contract: contract.metadata.name.clone(),
            version: contract.metadata.version.clone(),
            objective: objective.clone(),
            inputs: inputs.map(Arc::new).collect(),
            group_by,
            measure: measure(&objective.promise),
        }
    }

    /// Whether every observation is judged by itself.
    pub fn is_each(&self) -> bool {
        self.inputs.iter().any(|input| input.indicator.aggregate == Aggregate::Each)
    }

    /// The time between two judgements.
    pub fn every(&self) -> Span {
        self.objective.every()
    }

    /// What stands as `aggregate` in evaluations.
    pub fn aggregate(&self) -> String {
        match &self.objective.promise {
            Promise::Target { indicator, .. } => indicator.aggregate.to_string(),
            Promise::Rule { .. } => "rule".to_owned(),
        }
    }

    /// What is measured, in words.
    pub fn indicator_words(&self) -> String {
        match &self.objective.promise {
            Promise::Target { indicator, .. } if indicator.aggregate == Aggregate::Each => indicator.attribute.clone(),
            Promise::Target { indicator, .. } if indicator.aggregate == Aggregate::Ratio => match &indicator.good {
                Some(good) => format!("share of {} {good}", indicator.attribute),
                None => format!("share of {}", indicator.attribute),
            },
            Promise::Target { indicator, .. } if indicator.attribute == "data.freshness" => {
                "age of the newest report in seconds".to_owned()
            }
            Promise::Target { indicator, .. } => {
                let mut words = format!("{} of ", indicator.aggregate);
                let across = indicator.across.as_deref().unwrap_or_default();
                if let Some(of) = indicator.of {
                    words = format!("{words}{of} across {across} of ");
                }
                let class = indicator.class.as_ref().map(|class| format!(" {class}")).unwrap_or_default();
                format!("{words}{}{class}", indicator.attribute)
            }
            Promise::Rule { rule } => format!("rule {} of {}", rule.function, rule.policy),
        }
    }

    /// The id of a violation: the same on every run over the same reports.
    pub fn violation_id(&self, series: &SeriesKey, end: Timestamp) -> Uuid {
        let labels = serde_json::to_string(&SeriesLabels(&self.group_by, series)).unwrap_or_default();
        let name = [&self.contract, &self.objective.name, labels.as_str(), &end.to_string()].join("\u{1f}");
        Uuid::new_v5(&NAMESPACE, name.as_bytes())
    }

    /// A series key as a JSON object.
    pub fn labels(&self, series: &SeriesKey) -> Json {
        serde_json::to_value(SeriesLabels(&self.group_by, series)).unwrap_or_default()
    }
}

/// An id derived from another and a name.
pub fn derived_id(parent: Uuid, name: &str) -> Uuid {
    Uuid::new_v5(&parent, name.as_bytes())
}

type Baselines = BTreeMap<(String, String), FileBaseline>;

/// A message and a hint.
type Fault = (String, String);

fn read_baseline(
    file: &str,
    read: &impl Fn(&str) -> Result<String, String>,
    files: &mut BTreeMap<String, String>,
) -> Result<BaselineFile, Fault> {
    let hint = || "make it with `qualm baseline --from reports.ndjson`".to_owned();
    let text = read(file).map_err(|message| (message, hint()))?;
    let parsed = BaselineFile::read(&text).map_err(|error| (format!("{file} is not a baseline: {error}"), hint()))?;
    files.insert(file.to_owned(), text);
    Ok(parsed)
}

fn of_attribute(file: &str, baseline: &BaselineFile, attribute: &str) -> Result<FileBaseline, Fault> {
    let known = || baseline.attributes.keys().cloned().collect::<Vec<_>>().join(", ");
    let missing = || (format!("{file} holds no attribute `{attribute}`"), format!("it holds: {}", known()));
    let distribution = baseline.attributes.get(attribute).ok_or_else(missing)?;
    Ok(FileBaseline { file: file.to_owned(), distribution: Arc::new(distribution.clone()) })
}

fn read_schema(
    file: &str,
    read: &impl Fn(&str) -> Result<String, String>,
) -> Result<(String, jsonschema::Validator), String> {
    let text = read(file)?;
    let schema: Json = serde_json::from_str(&text).map_err(|error| format!("{file} is not JSON: {error}"))?;
    let validator =
        jsonschema::validator_for(&schema).map_err(|error| format!("{file} is not a JSON Schema: {error}"))?;
    Ok((text, validator))
}

fn measure(promise: &Promise) -> String {
    let text = serde_json::to_string(promise).unwrap_or_default();
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}

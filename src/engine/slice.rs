//! What every stage, instance and label set observed, whether or not an objective asks for it by
//! itself: what explanations take apart. Collected only where it is going to be stored.
//!
//! A *slice* is one combination of stage, instance and labels. For each of its attributes, panes
//! hold the number, sum, sum of squares, least and greatest of the observations, and how many of
//! them broke a target of the application's contracts.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::application::Bound;
use super::predictions::Pair;
use super::route::Name;
use crate::contract::{Aggregate, Condition, PREDICTION, Promise};
use crate::report::{Dimensions, Value};
use crate::time::{Span, Timestamp};

/// Slices of an application; the observations of further ones are added up in `{}`.
const SLICES_MAX: usize = 1_000;
/// Attributes of an application; further ones are left out.
const ATTRIBUTES_MAX: usize = 200;
/// Tests of one attribute; further ones are left out.
const TESTS_MAX: usize = 4;
/// Classes and pairs of classes in one pane.
const PARTS_MAX: usize = 1_000;
/// Panes are as wide as the judgements are apart, within these bounds.
const WIDTH_MIN: Span = Span::seconds(1);
const WIDTH_MAX: Span = Span::seconds(60);

/// The attribute of inferences that were made; its parts are the predicted classes.
pub const MADE: &str = "prediction.made";
/// The attribute of predicted numbers joined with feedback: the absolute errors.
pub const ERROR: &str = "prediction.error";

/// A pane of one attribute of one slice. There are many, so they are small.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    start: Timestamp,
    width: Span,
    attribute: u16,
    dirty: bool,
    sums: Sums,
    /// Observations that break a test, in the order of the attribute's tests.
    bad: SmallVec<[u32; TESTS_MAX]>,
    /// Observations by class, or by true and predicted class.
    parts: Option<Box<Parts>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Parts(Vec<(Box<str>, u64)>);

/// Sums over observations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sums {
    /// How many.
    pub samples: u64,
    /// Their sum.
    pub total: f64,
    /// The sum of their squares.
    pub squares: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Sums {
    /// Of nothing.
    pub const NONE: Sums =
        Sums { samples: 0, total: 0.0, squares: 0.0, least: f64::INFINITY, greatest: f64::NEG_INFINITY };

    /// Of both together.
    pub fn plus(self, other: Sums) -> Sums {
        Sums {
            samples: self.samples + other.samples,
            total: self.total + other.total,
            squares: self.squares + other.squares,
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
        }
    }

    fn add(&mut self, value: f64) {
        self.samples += 1;
        self.total += value;
        self.squares += value * value;
        self.least = self.least.min(value);
        self.greatest = self.greatest.max(value);
    }
}

/// A row for the store. With a `test`, `samples` counts the observations that break it, or that
/// are of this class.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// The stage...
    pub stage: String,
    /// ...and the instance of the slice.
    pub instance: String,
    /// JSON object of stage, instance and labels.
    pub slice: String,
    /// Which attribute.
    pub attribute: String,
    /// A target, a class, or a true and a predicted class; empty for all observations.
    pub test: String,
    /// Start of the pane.
    pub start: Timestamp,
    /// Its width.
    pub width: Span,
    /// The sums.
    pub sums: Sums,
}

struct Slice {
    stage: Box<str>,
    instance: Box<str>,
    name: Box<str>,
    facts: Vec<Fact>,
}

struct Attribute {
    digest: u64,
    name: Box<str>,
    tests: SmallVec<[(Condition, Box<str>); TESTS_MAX]>,
}

/// The slices of an application.
pub(super) struct Slices {
    /// Whether anything is collected.
    pub keep: bool,
    width: Span,
    slices: Vec<Slice>,
    numbers: FxHashMap<u128, u32>,
    attributes: Vec<Attribute>,
    /// What tests the attributes of coming observations have.
    tests: Vec<(Box<str>, Condition)>,
}

impl Default for Slices {
    fn default() -> Slices {
        let others = Slice { stage: "".into(), instance: "".into(), name: "{}".into(), facts: Vec::new() };
        Slices {
            keep: false,
            width: WIDTH_MAX,
            slices: vec![others],
            numbers: FxHashMap::default(),
            attributes: Vec::new(),
            tests: Vec::new(),
        }
    }
}

/// What an objective calls a bad observation: the test's name and the condition that good ones keep.
pub fn test_of(promise: &Promise) -> Option<(&str, &Condition)> {
    let Promise::Target { indicator, target } = promise else { return None };
    use Aggregate::*;
    let condition = match indicator.aggregate {
        Ratio => indicator.good.as_ref()?,
        Each => target,
        Mean | Quantile(_) | Min | Max | Last if target.is_bound() => target,
        _ => return None,
    };
    Some((&indicator.attribute, condition))
}

/// Stage, instance and labels as a JSON object, by name.
pub(super) fn name_of(dimensions: &Dimensions<'_>) -> String {
    let mut names: Vec<(&str, &str)> = vec![("stage", dimensions.stage), ("instance", dimensions.instance)];
    names.extend(dimensions.labels.iter().map(|(name, value)| (&**name, &**value)));
    let object: serde_json::Map<String, serde_json::Value> =
        names.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    serde_json::Value::from(object).to_string()
}

impl Slices {
    /// Takes the tests from the contracts in force.
    pub fn bind(&mut self, bound: &[Bound]) {
        let watched = || bound.iter().flat_map(|bound| &bound.watched).map(|watched| &watched.promised);
        self.tests.clear();
        for promised in watched() {
            if let Some((attribute, condition)) = test_of(&promised.objective.promise)
                && !self.tests.iter().any(|(name, known)| **name == *attribute && known == condition)
                && self.tests.iter().filter(|(name, _)| **name == *attribute).count() < TESTS_MAX
            {
                self.tests.push((attribute.into(), condition.clone()));
            }
        }
        let every = watched().map(|promised| promised.every()).filter(|every| *every > Span::ZERO);
        let common = every.reduce(|a, b| Span::from_micros(gcd(a.as_micros(), b.as_micros()))).unwrap_or(WIDTH_MAX);
        self.width = if common < WIDTH_MIN { WIDTH_MIN } else { common.min(WIDTH_MAX) };
        for number in 0..self.attributes.len() {
            let tests = self.tests_of(&self.attributes[number].name);
            let before = std::mem::replace(&mut self.attributes[number].tests, tests);
            let now = &self.attributes[number].tests;
            let of_this = self.slices.iter_mut().flat_map(|slice| &mut slice.facts);
            for fact in of_this.filter(|fact| usize::from(fact.attribute) == number) {
                let place = |condition| before.iter().position(|(known, _)| known == condition);
                fact.bad = now.iter().map(|(condition, _)| place(condition).map_or(0, |at| fact.bad[at])).collect();
            }
        }
    }

    fn tests_of(&self, attribute: &str) -> SmallVec<[(Condition, Box<str>); TESTS_MAX]> {
        let tests = self.tests.iter().filter(|(name, _)| **name == *attribute);
        tests.map(|(_, condition)| (condition.clone(), condition.to_string().into())).collect()
    }

    /// The number of a slice.
    pub fn number(&mut self, digest: u128, dimensions: &Dimensions<'_>) -> u32 {
        if !self.keep {
            return 0;
        }
        if let Some(number) = self.numbers.get(&digest) {
            return *number;
        }
        let name = name_of(dimensions);
        // Labels may come in another order.
        let known = self.slices.iter().position(|slice| *slice.name == *name);
        if known.is_none() && self.slices.len() >= SLICES_MAX {
            return 0;
        }
        let number = known.unwrap_or_else(|| {
            let (stage, instance) = (dimensions.stage.into(), dimensions.instance.into());
            self.slices.push(Slice { stage, instance, name: name.into(), facts: Vec::new() });
            self.slices.len() - 1
        });
        self.numbers.insert(digest, number as u32);
        number as u32
    }

    /// Counts an observation.
    pub fn add(&mut self, slice: u32, attribute: Name<'_>, value: &Value<'_>, time: Timestamp, watermark: Timestamp) {
        let Some((fact, attribute)) = self.fact(slice, attribute, time, watermark) else { return };
        fact.sums.add(value.as_number().unwrap_or(0.0));
        for ((condition, _), bad) in attribute.tests.iter().zip(&mut fact.bad) {
            *bad = bad.saturating_add(u32::from(condition.holds(value) == Some(false)));
        }
    }

    /// Counts an inference by its predicted class.
    pub fn add_made(&mut self, slice: u32, predicted: &Value<'_>, time: Timestamp, watermark: Timestamp) {
        if let Some((fact, _)) = self.fact(slice, Name::of(MADE), time, watermark) {
            fact.sums.add(predicted.as_number().unwrap_or(0.0));
            if let Value::Text(class) = predicted {
                fact.part(class);
            }
        }
    }

    /// Counts a prediction joined with its feedback: whether it was right, or how far off.
    pub fn add_pair(&mut self, slice: u32, pair: &Pair<'_>, time: Timestamp, watermark: Timestamp) {
        let error = pair.error();
        let attribute = if error.is_some() { ERROR } else { PREDICTION };
        if let Some((fact, _)) = self.fact(slice, Name::of(attribute), time, watermark) {
            fact.sums.add(error.unwrap_or_else(|| f64::from(u8::from(pair.is_right()))));
            if error.is_none() {
                pair.with_classes(|truth, predicted| {
                    fact.part(&serde_json::Value::from(vec![truth, predicted]).to_string());
                });
            }
        }
    }

    /// The pane of a time; none where it was closed or there are too many attributes.
    fn fact(
        &mut self,
        slice: u32,
        attribute: Name<'_>,
        time: Timestamp,
        watermark: Timestamp,
    ) -> Option<(&mut Fact, &Attribute)> {
        let width = self.width;
        let start = time.floor(width);
        if !self.keep || start + width <= watermark {
            return None;
        }
        let number = match self.attributes.iter().position(|known| known.digest == attribute.digest) {
            Some(number) => number,
            None if self.attributes.len() >= ATTRIBUTES_MAX => return None,
            None => {
                let Name { text, digest } = attribute;
                let tests = self.tests_of(text);
                self.attributes.push(Attribute { digest, name: text.into(), tests });
                self.attributes.len() - 1
            }
        };
        let of = &self.attributes[number];
        let facts = &mut self.slices[slice as usize].facts;
        let known = facts
            .iter()
            .rposition(|fact| usize::from(fact.attribute) == number && fact.start == start && fact.width == width);
        let place = known.unwrap_or_else(|| {
            let bad = SmallVec::from_elem(0, of.tests.len());
            let attribute = number as u16;
            facts.push(Fact { start, width, attribute, dirty: true, sums: Sums::NONE, bad, parts: None });
            facts.len() - 1
        });
        facts[place].dirty = true;
        Some((&mut facts[place], of))
    }

    /// What changed since the last call; lets go of panes that have closed.
    pub fn take_changed(&mut self, tenant: &str, application: &str, watermark: Timestamp, rows: &mut Vec<SliceRow>) {
        for slice in &mut self.slices {
            for fact in &mut slice.facts {
                if !std::mem::take(&mut fact.dirty) {
                    continue;
                }
                let attribute = &self.attributes[usize::from(fact.attribute)];
                let row = |test: &str, sums: Sums| SliceRow {
                    tenant: tenant.to_owned(),
                    application: application.to_owned(),
                    stage: slice.stage.to_string(),
                    instance: slice.instance.to_string(),
                    slice: slice.name.to_string(),
                    attribute: attribute.name.to_string(),
                    test: test.to_owned(),
                    start: fact.start,
                    width: fact.width,
                    sums,
                };
                rows.push(row("", fact.sums));
                let counted =
                    |n: u64| Sums { samples: n, total: n as f64, squares: n as f64, least: 1.0, greatest: 1.0 };
                let tests =
                    attribute.tests.iter().map(|(_, name)| &**name).zip(fact.bad.iter().map(|bad| u64::from(*bad)));
                let parts = fact.parts.iter().flat_map(|parts| &parts.0).map(|(name, n)| (&**name, *n));
                rows.extend(tests.chain(parts).filter(|(_, n)| *n > 0).map(|(test, n)| row(test, counted(n))));
            }
            slice.facts.retain(|fact| fact.start + fact.width > watermark);
        }
        if self.slices.len() >= SLICES_MAX {
            self.forget_idle();
        }
    }

    /// Makes room for new slices where others have nothing open.
    fn forget_idle(&mut self) {
        let mut places = Vec::with_capacity(self.slices.len());
        let mut kept = 0;
        for (number, slice) in self.slices.iter().enumerate() {
            let keeps = number == 0 || !slice.facts.is_empty();
            places.push(keeps.then_some(kept));
            kept += u32::from(keeps);
        }
        self.numbers.retain(|_, number| match places[*number as usize] {
            Some(place) => {
                *number = place;
                true
            }
            None => false,
        });
        let mut number = 0;
        self.slices.retain(|_| {
            number += 1;
            places[number - 1].is_some()
        });
    }

    /// How many slices there are, for those who remember numbers: they change when this falls.
    pub fn len(&self) -> usize {
        self.slices.len()
    }

    /// Takes back a row. Rows of one pane without a test come before those with one.
    pub fn restore(&mut self, row: &SliceRow, watermark: Timestamp) {
        if !self.keep || row.width != self.width || row.start + row.width <= watermark {
            return;
        }
        let Ok(serde_json::Value::Object(names)) = serde_json::from_str(&row.slice) else { return };
        let text = |name: &str| names.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
        let labels: Vec<_> = names.iter().filter(|(name, _)| !matches!(name.as_str(), "stage" | "instance")).collect();
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| (name.as_str().into(), value.as_str().unwrap_or_default().into()))
            .collect();
        let dimensions = Dimensions { stage: text("stage"), instance: text("instance"), labels: &labels };
        let others = names.is_empty();
        let number = if others { 0 } else { self.number(dimensions.digest(), &dimensions) };
        let Some((fact, attribute)) = self.fact(number, Name::of(&row.attribute), row.start, Timestamp::EPOCH) else {
            return;
        };
        match row.test.as_str() {
            "" => fact.sums = row.sums,
            test => match attribute.tests.iter().position(|(_, name)| **name == *test) {
                Some(place) => fact.bad[place] = u32::try_from(row.sums.samples).unwrap_or(u32::MAX),
                None => fact.parts.get_or_insert_default().0.push((test.into(), row.sums.samples)),
            },
        }
        fact.dirty = false;
    }
}

impl Fact {
    fn part(&mut self, name: &str) {
        let parts = &mut self.parts.get_or_insert_default().0;
        match parts.binary_search_by(|(known, _)| (**known).cmp(name)) {
            Ok(place) => parts[place].1 += 1,
            Err(place) if parts.len() < PARTS_MAX => parts.insert(place, (name.into(), 1)),
            Err(_) => {}
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

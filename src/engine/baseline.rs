//! Baseline files: how attributes were distributed in reports of the past.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::distribution::{Distribution, deciles};
use super::memory::Memory;
use super::predictions::Predicted;
use crate::contract::PREDICTION;
use crate::report::Report;
use crate::time::Timestamp;

/// Attributes that a baseline file holds at most.
const ATTRIBUTES_MAX: usize = 1_000;

/// Categories that a summary names at most.
const CATEGORIES_SHOWN: usize = 20;

/// A baseline in short, for readers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaselineSummary {
    /// Start of what it was learned from, if it is learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Until when it is learned, if it is learned once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Values in it.
    pub samples: u64,
    /// Of its numbers: the mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Of its numbers: the sample standard deviation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
    /// Of its numbers: the deciles, from the first to the ninth.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deciles: Vec<f64>,
    /// Of its categories: the most frequent ones, with their counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<(String, u64)>,
}

impl BaselineSummary {
    /// Of a distribution.
    pub fn of(distribution: &Distribution) -> BaselineSummary {
        let moments = &distribution.numbers.moments;
        let sorted = distribution.numbers.weighted();
        let mut categories: Vec<(String, u64)> =
            distribution.categories.iter().map(|(name, count)| (name.to_string(), *count)).collect();
        categories.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        categories.truncate(CATEGORIES_SHOWN);
        BaselineSummary {
            from: None,
            until: None,
            samples: distribution.samples(),
            mean: (moments.n > 0).then_some(moments.mean),
            deviation: moments.deviation(),
            deciles: if sorted.is_empty() { Vec::new() } else { deciles(&sorted) },
            categories,
        }
    }

    /// Of what a series remembers, as the store keeps it; none where that is no baseline.
    pub fn of_memory(memory: &str) -> Result<Option<BaselineSummary>, serde_json::Error> {
        Ok(match serde_json::from_str(memory)? {
            Memory::First { from, until, baseline } => {
                Some(BaselineSummary { from: Some(from), until: Some(until), ..BaselineSummary::of(&baseline) })
            }
            Memory::Sliding { blocks } => {
                let mut all = Distribution::default();
                blocks.iter().for_each(|(_, block)| all.merge(block));
                Some(BaselineSummary { from: blocks.front().map(|(at, _)| *at), ..BaselineSummary::of(&all) })
            }
            _ => None,
        })
    }
}

/// What `qualm baseline` makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaselineFile {
    /// `qualm/v1`.
    pub api_version: String,
    /// `Baseline`.
    pub kind: String,
    /// The first event time.
    pub from: Timestamp,
    /// The last.
    pub until: Timestamp,
    /// Reports that went in.
    pub reports: u64,
    /// By attribute; `prediction` is what was predicted.
    pub attributes: BTreeMap<String, Distribution>,
}

impl Default for BaselineFile {
    fn default() -> BaselineFile {
        BaselineFile {
            api_version: "qualm/v1".to_owned(),
            kind: "Baseline".to_owned(),
            from: Timestamp::MAX,
            until: Timestamp::EPOCH,
            reports: 0,
            attributes: BTreeMap::new(),
        }
    }
}

impl BaselineFile {
    /// Takes in a report: the attributes that `wanted` is true of.
    pub fn add(&mut self, report: &Report<'_>, wanted: impl Fn(&str) -> bool) {
        self.reports += 1;
        self.from = self.from.min(report.time);
        self.until = self.until.max(report.time);
        for (attribute, value) in report.metrics.iter().filter(|(attribute, _)| wanted(attribute)) {
            if let Some(distribution) = self.attribute(attribute) {
                distribution.add(value);
            }
        }
        let prediction = report.inference.as_ref().and_then(|inference| inference.prediction.as_ref());
        if let Some(predicted) = prediction.filter(|_| wanted(PREDICTION)).and_then(Predicted::of)
            && let Some(distribution) = self.attribute(PREDICTION)
        {
            distribution.add(&predicted.value());
        }
    }

    fn attribute(&mut self, name: &str) -> Option<&mut Distribution> {
        if !self.attributes.contains_key(name) && self.attributes.len() < ATTRIBUTES_MAX {
            self.attributes.insert(name.to_owned(), Distribution::default());
        }
        self.attributes.get_mut(name)
    }

    /// Reads a file's text.
    pub fn read(text: &str) -> Result<BaselineFile, String> {
        let file: BaselineFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.api_version != "qualm/v1" || file.kind != "Baseline" {
            return Err("apiVersion must be qualm/v1 and kind Baseline".to_owned());
        }
        Ok(file)
    }
}

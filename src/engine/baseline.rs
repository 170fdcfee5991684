//! Baseline files: how attributes were distributed in reports of the past.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::distribution::Distribution;
use super::predictions::Predicted;
use crate::contract::PREDICTION;
use crate::report::Report;
use crate::time::Timestamp;

/// Attributes that a baseline file holds at most.
const ATTRIBUTES_MAX: usize = 1_000;

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

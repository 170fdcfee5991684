//! Which series a report's observations belong to: found once for each combination of
//! stage, instance and labels, then looked up by one hash.

use xxhash_rust::xxh3::Xxh3Default;

use super::application::{Bound, Place};
use super::pane::SourceId;
use super::verdict::SeriesKey;
use crate::contract::Indicator;
use crate::report::Report;

/// Where the observations of one (stage, instance, labels) go.
#[derive(Default)]
pub(super) struct Route {
    pub source: SourceId,
    attributes: Vec<(Box<str>, Vec<Target>)>,
}

/// One series that observations of an attribute belong to.
pub(super) struct Target {
    pub place: Place,
    pub key: SeriesKey,
    /// Known once the first observation came.
    pub series: Option<u32>,
}

impl Route {
    /// A digest of all that routing depends on. At 128 bits, collisions do not happen.
    pub fn digest(report: &Report<'_>) -> u128 {
        let mut hasher = Xxh3Default::new();
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u32).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(&report.stage);
        part(&report.instance);
        for (name, value) in &report.labels {
            part(name);
            part(value);
        }
        hasher.digest128()
    }

    pub fn find(bound: &[Bound], report: &Report<'_>, source: SourceId) -> Route {
        let mut route = Route { source, attributes: Vec::new() };
        for (b, bound) in bound.iter().enumerate() {
            if !bound.program.contract.spec.scope.matching.matches(report) {
                continue;
            }
            for (o, watched) in bound.watched.iter().enumerate() {
                for (i, input) in watched.promised.inputs.iter().enumerate() {
                    if input.indicator.filter.matches(report) {
                        let place = Place { bound: b as u16, objective: o as u16, input: i as u16 };
                        route.add(&input.indicator, place, report);
                    }
                }
            }
        }
        route
    }

    fn add(&mut self, indicator: &Indicator, place: Place, report: &Report<'_>) {
        let values = indicator.group_by.iter().map(|label| report.dimension(label).unwrap_or("").into());
        let target = Target { place, key: SeriesKey(values.collect()), series: None };
        match self.attributes.iter_mut().find(|(name, _)| **name == *indicator.attribute) {
            Some((_, targets)) => targets.push(target),
            None => self.attributes.push((indicator.attribute.as_str().into(), vec![target])),
        }
    }

    pub fn targets(&mut self, attribute: &str) -> Option<&mut Vec<Target>> {
        self.attributes.iter_mut().find(|(name, _)| **name == *attribute).map(|(_, targets)| targets)
    }
}

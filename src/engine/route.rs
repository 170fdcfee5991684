//! Which series a report's observations belong to: found once for each combination of
//! stage, instance and labels, then looked up by one hash.

use xxhash_rust::xxh3::Xxh3Default;

use super::application::{Bound, Place};
use super::pane::SourceId;
use super::program::{Feed, Input};
use super::verdict::SeriesKey;
use crate::report::Dimensions;
use crate::time::Timestamp;

/// Where the observations of one (stage, instance, labels) go.
#[derive(Default)]
pub(super) struct Route {
    pub source: SourceId,
    attributes: Vec<(Box<str>, Vec<Target>)>,
    /// What Qualm observes itself.
    own: Vec<(Feed, Vec<Target>)>,
    /// Digest of the upstream instances that were noted last, and when.
    pub upstream: (u64, Timestamp),
}

/// One series that observations of an attribute belong to.
pub(super) struct Target {
    pub place: Place,
    pub key: SeriesKey,
    /// For `disparity`: the group.
    pub part: Box<str>,
    /// Known once the first observation came.
    pub series: Option<u32>,
}

/// A digest of all that routing depends on. At 128 bits, collisions do not happen.
pub(super) fn digest(dimensions: &Dimensions<'_>) -> u128 {
    let mut hasher = Xxh3Default::new();
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u32).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(dimensions.stage);
    part(dimensions.instance);
    for (name, value) in dimensions.labels {
        part(name);
        part(value);
    }
    hasher.digest128()
}

impl Route {
    pub fn find(bound: &[Bound], dimensions: &Dimensions<'_>, source: SourceId) -> Route {
        let mut route = Route { source, ..Route::default() };
        for (b, bound) in bound.iter().enumerate() {
            if !bound.program.contract.spec.scope.matching.matches(dimensions) {
                continue;
            }
            for (o, watched) in bound.watched.iter().enumerate() {
                for (i, input) in watched.promised.inputs.iter().enumerate() {
                    if input.indicator.filter.matches(dimensions) {
                        let place = Place { bound: b as u16, objective: o as u16, input: i as u16 };
                        route.add(input, place, dimensions);
                    }
                }
            }
        }
        route
    }

    fn add(&mut self, input: &Input, place: Place, dimensions: &Dimensions<'_>) {
        let value_of = |label: &String| dimensions.get(label).unwrap_or("");
        let key = SeriesKey(input.indicator.group_by.iter().map(|label| value_of(label).into()).collect());
        let part = input.indicator.across.as_ref().map_or("", value_of).into();
        let target = Target { place, key, part, series: None };
        if input.feed == Feed::Metric {
            let attribute = &*input.indicator.attribute;
            match self.attributes.iter_mut().find(|(name, _)| **name == *attribute) {
                Some((_, targets)) => targets.push(target),
                None => self.attributes.push((attribute.into(), vec![target])),
            }
        } else {
            match self.own.iter_mut().find(|(feed, _)| *feed == input.feed) {
                Some((_, targets)) => targets.push(target),
                None => self.own.push((input.feed, vec![target])),
            }
        }
    }

    /// The series of a reported attribute.
    pub fn targets(&mut self, attribute: &str) -> Option<&mut Vec<Target>> {
        self.attributes.iter_mut().find(|(name, _)| **name == *attribute).map(|(_, targets)| targets)
    }

    /// The series of what Qualm observes itself.
    pub fn own(&mut self, feed: Feed) -> Option<&mut Vec<Target>> {
        self.own.iter_mut().find(|(known, _)| *known == feed).map(|(_, targets)| targets)
    }
}

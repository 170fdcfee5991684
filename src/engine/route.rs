//! Which series a report's observations belong to: found once for each combination of
//! stage, instance and labels, then looked up by one hash.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::application::{Bound, Place};
use super::pane::SourceId;
use super::program::{Feed, Input};
use super::verdict::SeriesKey;
use crate::contract::Effective;
use crate::report::Dimensions;
use crate::time::Timestamp;

const ROUTES_MAX: usize = 100_000;

/// One input of one objective, with all at hand that counting needs; routes name it by number.
pub(super) struct Lane {
    pub input: Arc<Input>,
    /// When the contract is in force.
    pub effective: Effective,
    /// Start of the pane that the newest observation fell into.
    pub pane: Timestamp,
    pub place: Place,
}

/// Where the observations of one (stage, instance, labels) go. There are many, so they are small.
#[derive(Default)]
pub(super) struct Route {
    pub source: SourceId,
    /// The number of its slice.
    pub slice: u32,
    targets: Vec<Target>,
    /// What is observed, and where its targets begin and end.
    sights: SmallVec<[(Sight, u16, u16); 4]>,
    /// Digest of the upstream instances that were noted last, and when.
    pub upstream: (u64, Timestamp),
}

/// What can be observed: an attribute, by its number in the application, or something of Qualm's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sight {
    Attribute(u16),
    Own(Feed),
}

/// One series that observations belong to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// [`UNKNOWN`] until the first observation came.
    pub series: u32,
    pub lane: u16,
    /// Where the instance stood last among the shares of a pane.
    pub share: u16,
}

/// Stands for a series that was not looked up yet.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// The group of `disparity` that an observation belongs to.
pub(super) fn part_of<'d>(input: &Input, dimensions: &Dimensions<'d>) -> &'d str {
    input.indicator.across.as_ref().and_then(|label| dimensions.get(label)).unwrap_or("")
}

/// The series of an input that an observation belongs to.
pub(super) fn key_of(input: &Input, dimensions: &Dimensions<'_>) -> SeriesKey {
    SeriesKey(input.indicator.group_by.iter().map(|label| dimensions.get(label).unwrap_or("").into()).collect())
}

/// The lanes of an application, and the attributes that they are about.
#[derive(Default)]
pub(super) struct Lanes {
    pub lanes: Vec<Lane>,
    attributes: Vec<Box<str>>,
}

impl Lanes {
    pub fn of(bound: &[Bound]) -> Lanes {
        let mut all = Lanes::default();
        for (b, bound) in bound.iter().enumerate() {
            for (o, watched) in bound.watched.iter().enumerate() {
                for (i, input) in watched.promised.inputs.iter().enumerate() {
                    let attribute = &*input.indicator.attribute;
                    if input.feed == Feed::Metric && all.number(attribute).is_none() {
                        all.attributes.push(attribute.into());
                    }
                    let place = Place { bound: b as u16, objective: o as u16, input: i as u16 };
                    let effective = bound.program.contract.spec.effective;
                    all.lanes.push(Lane { input: input.clone(), effective, pane: Timestamp::MAX, place });
                }
            }
        }
        all
    }

    /// The number of an attribute, if an objective is about it.
    fn number(&self, attribute: &str) -> Option<u16> {
        self.attributes.iter().position(|known| **known == *attribute).map(|number| number as u16)
    }

    /// An attribute, as routes know it.
    pub fn sight(&self, attribute: &str) -> Option<Sight> {
        self.number(attribute).map(Sight::Attribute)
    }

    /// Where observations of these dimensions go.
    pub fn route(&self, bound: &[Bound], dimensions: &Dimensions<'_>, source: SourceId) -> Route {
        let matching: Vec<bool> =
            bound.iter().map(|bound| bound.program.contract.spec.scope.matching.matches(dimensions)).collect();
        let mut found: Vec<(Sight, Target)> = Vec::new();
        for (number, lane) in self.lanes.iter().enumerate() {
            if !matching[usize::from(lane.place.bound)] || !lane.input.indicator.filter.matches(dimensions) {
                continue;
            }
            let sight = match lane.input.feed {
                Feed::Metric => self.sight(&lane.input.indicator.attribute),
                feed => Some(Sight::Own(feed)),
            };
            let target = Target { series: UNKNOWN, lane: number as u16, share: 0 };
            found.extend(sight.map(|sight| (sight, target)));
        }
        let mut route = Route { source, ..Route::default() };
        let mut rest = &found[..];
        while let Some((sight, _)) = rest.iter().find(|(sight, _)| !route.sights.iter().any(|known| known.0 == *sight))
        {
            let start = route.targets.len() as u16;
            route.targets.extend(rest.iter().filter(|(other, _)| other == sight).map(|(_, target)| *target));
            route.sights.push((*sight, start, route.targets.len() as u16));
            rest = &rest[1..];
        }
        route.targets.shrink_to_fit();
        route
    }
}

impl Route {
    /// The targets of what is observed.
    pub fn targets(&mut self, sight: Sight) -> Option<&mut [Target]> {
        let (_, start, end) = self.sights.iter().find(|(known, ..)| *known == sight)?;
        Some(&mut self.targets[usize::from(*start)..usize::from(*end)])
    }
}

/// The routes of an application, by digest.
#[derive(Default)]
pub(super) struct Routes {
    places: FxHashMap<u128, u32>,
    routes: Vec<Route>,
}

impl Routes {
    pub fn find(&self, digest: u128) -> Option<u32> {
        self.places.get(&digest).copied()
    }

    pub fn insert(&mut self, digest: u128, route: Route) -> u32 {
        if self.routes.len() >= ROUTES_MAX {
            self.clear();
        }
        self.places.insert(digest, self.routes.len() as u32);
        self.routes.push(route);
        self.routes.len() as u32 - 1
    }

    /// Takes a route out, to be put back.
    pub fn take(&mut self, place: u32) -> Route {
        std::mem::take(&mut self.routes[place as usize])
    }

    /// Puts a route back, unless all were forgotten meanwhile.
    pub fn put_back(&mut self, place: u32, route: Route) {
        if let Some(empty) = self.routes.get_mut(place as usize) {
            *empty = route;
        }
    }

    pub fn clear(&mut self) {
        self.places.clear();
        self.routes.clear();
    }
}

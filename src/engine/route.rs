//! Which series a report's observations belong to: found once for each combination of
//! stage, instance and labels, then looked up by one hash.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashTable;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::application::Bound;
use super::pane::SourceId;
use super::program::{Bundle, Feed};
use super::verdict::SeriesKey;
use crate::report::Dimensions;
use crate::time::Timestamp;

const ROUTES_MAX: usize = 100_000;

/// A bundle of a contract as it is bound to an application: the series that are counted for it.
pub(super) struct Lane {
    pub bundle: Arc<Bundle>,
    /// Start of the pane that the newest observation fell into.
    pub pane: Timestamp,
    pub series: BTreeMap<SeriesKey, u32>,
    pub chunks: Chunks,
}

/// Series are stored some together.
#[derive(Default)]
pub(super) struct Chunks {
    /// How many series each has.
    sizes: Vec<u8>,
    /// Those that lost a series since the last snapshot.
    pub changed: Vec<u32>,
}

/// Series of a chunk.
const CHUNK_MAX: u8 = 64;

impl Chunks {
    /// A chunk with room for one more series.
    pub fn take(&mut self) -> u32 {
        let chunk = self.sizes.iter().position(|size| *size < CHUNK_MAX).unwrap_or(self.sizes.len());
        self.put(chunk as u32);
        chunk as u32
    }

    /// Counts a series that is in a chunk.
    pub fn put(&mut self, chunk: u32) {
        let at = chunk as usize;
        self.sizes.resize(self.sizes.len().max(at + 1), 0);
        self.sizes[at] = self.sizes[at].saturating_add(1);
    }

    /// A series is gone.
    pub fn leave(&mut self, chunk: u32) {
        let size = &mut self.sizes[chunk as usize];
        *size = size.saturating_sub(1);
        self.changed.push(chunk);
    }
}

impl Lane {
    pub fn new(bundle: Arc<Bundle>) -> Lane {
        Lane { bundle, pane: Timestamp::MAX, series: BTreeMap::new(), chunks: Chunks::default() }
    }
}

/// Where the observations of one (stage, instance, labels) go. There are many, so they are small.
#[derive(Default)]
pub(super) struct Route {
    pub source: SourceId,
    /// The number of its slice.
    pub slice: u32,
    targets: SmallVec<[Target; 4]>,
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
    pub bound: u16,
    pub lane: u16,
    /// Where the instance stood last among the shares of a pane.
    pub share: u16,
}

/// Stands for a series that was not looked up yet.
pub(super) const UNKNOWN: u32 = u32::MAX;

/// The group of `disparity` that an observation belongs to.
pub(super) fn part_of<'d>(bundle: &Bundle, dimensions: &Dimensions<'d>) -> &'d str {
    bundle.across.as_ref().and_then(|label| dimensions.get(label)).unwrap_or("")
}

/// The series of a bundle that an observation belongs to.
pub(super) fn key_of(bundle: &Bundle, dimensions: &Dimensions<'_>) -> SeriesKey {
    SeriesKey(bundle.group_by().iter().map(|label| dimensions.get(label).unwrap_or("").into()).collect())
}

/// An attribute with its digest, by which it is known: at 64 bits, names of one application do not collide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name<'a> {
    pub text: &'a str,
    pub digest: u64,
}

impl<'a> Name<'a> {
    pub fn of(text: &'a str) -> Name<'a> {
        Name { text, digest: xxh3_64(text.as_bytes()) }
    }
}

/// Digests of the attributes that the objectives of an application are about; routes know them by number.
#[derive(Default)]
pub(super) struct Attributes(SmallVec<[u64; 6]>);

impl Attributes {
    pub fn of(bound: &[Bound]) -> Attributes {
        let mut all = Attributes::default();
        for bundle in bound.iter().flat_map(|bound| &bound.program.bundles) {
            let attribute = Name::of(&bundle.inputs[0].indicator.attribute);
            if bundle.inputs[0].feed == Feed::Metric && all.sight(attribute).is_none() {
                all.0.push(attribute.digest);
            }
        }
        all
    }

    /// An attribute, as routes know it, if an objective is about it.
    pub fn sight(&self, attribute: Name<'_>) -> Option<Sight> {
        let number = self.0.iter().position(|known| *known == attribute.digest);
        number.map(|number| Sight::Attribute(number as u16))
    }

    /// Where observations of these dimensions go.
    pub fn route(&self, bound: &[Bound], dimensions: &Dimensions<'_>, source: SourceId) -> Route {
        let mut found: Vec<(Sight, Target)> = Vec::new();
        let matching = |(_, bound): &(usize, &Bound)| bound.program.contract.spec.scope.matching.matches(dimensions);
        for (b, bound) in bound.iter().enumerate().filter(matching) {
            for (number, lane) in bound.lanes.iter().enumerate() {
                let input = &lane.bundle.inputs[0];
                if !input.indicator.filter.matches(dimensions) {
                    continue;
                }
                let sight = match input.feed {
                    Feed::Metric => self.sight(Name::of(&input.indicator.attribute)),
                    feed => Some(Sight::Own(feed)),
                };
                let target = Target { series: UNKNOWN, bound: b as u16, lane: number as u16, share: 0 };
                found.extend(sight.map(|sight| (sight, target)));
            }
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
    places: HashTable<u32>,
    /// Digest and route; none while it is taken out.
    routes: Vec<(u128, Option<Box<Route>>)>,
}

/// Digests are well mixed, so that a half of one serves as hash.
fn hash(digest: u128) -> u64 {
    digest as u64
}

impl Routes {
    pub fn find(&self, digest: u128) -> Option<u32> {
        self.places.find(hash(digest), |place| self.routes[*place as usize].0 == digest).copied()
    }

    pub fn insert(&mut self, digest: u128, route: Route) -> u32 {
        if self.routes.len() >= ROUTES_MAX {
            self.clear();
        }
        let place = self.routes.len() as u32;
        self.routes.push((digest, Some(Box::new(route))));
        self.places.insert_unique(hash(digest), place, |place| hash(self.routes[*place as usize].0));
        place
    }

    /// Takes a route out, to be put back.
    pub fn take(&mut self, place: u32) -> Box<Route> {
        self.routes[place as usize].1.take().unwrap_or_default()
    }

    /// Puts a route back, unless all were forgotten meanwhile.
    pub fn put_back(&mut self, place: u32, route: Box<Route>) {
        if let Some((_, empty)) = self.routes.get_mut(place as usize) {
            *empty = Some(route);
        }
    }

    pub fn clear(&mut self) {
        self.places.clear();
        self.routes.clear();
    }
}

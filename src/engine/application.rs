//! The state of one application: routes, series, windows, violations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::action::Past;
use super::gauge::Observed;
use super::graph::Graph;
use super::lifecycle::Lifecycle;
use super::memory::Memory;
use super::observe::Sighting;
use super::pane::{OTHERS, Panes, SourceId};
use super::predictions::Joiner;
use super::program::{Bundle, Program, Promised, slots};
use super::relays::Relays;
use super::requests::Requests;
use super::route::{self, Attributes, Lane, Route, Routes, Target, UNKNOWN};
use super::seen::Seen;
use super::slice::Slices;
use super::tally::Tally;
use super::verdict::{SeriesKey, Verdict};
use super::{Counts, Limits, Outputs};
use crate::contract::Promise;
use crate::report::Dimensions;
use crate::time::{Span, Timestamp};

/// A series without data for this long, and without open violation, is dropped.
pub const IDLE: Span = Span::seconds(86_400);
const SOURCES_MAX: usize = 100_000;

/// Everything that the engine knows of one (tenant, application).
pub struct Application {
    pub tenant: Arc<str>,
    pub name: Arc<str>,
    /// The greatest event time, or the time it was advanced to.
    pub clock: Timestamp,
    /// Windows that end by here were judged.
    pub watermark: Timestamp,
    pub(super) seen: Seen,
    pub(super) joiner: Joiner,
    /// Whether some objective is about predictions joined with feedback.
    pub(super) joins: bool,
    pub(super) relays: Relays,
    pub(super) graph: Graph,
    pub(super) requests: Requests,
    pub(super) slices: Slices,
    pub(super) bound: Vec<Bound>,
    pub(super) series: Slab,
    pub(super) sources: Sources,
    pub(super) attributes: Attributes,
    routes: Routes,
    /// When the next window ends or the next timer is due.
    pub(super) next_due: Option<Timestamp>,
    /// Whether it changed since the last snapshot.
    pub(super) dirty: bool,
    /// Whether the engine has it in its list of those that changed.
    pub(super) listed: bool,
    /// Memories dropped since the last snapshot: contract, objective, input, key.
    pub(super) forgotten: Vec<(String, String, String, SeriesKey)>,
    /// Contracts whose series are to be stored anew.
    pub(super) rewritten: Vec<String>,
}

/// A contract as it is bound to an application.
pub(super) struct Bound {
    pub program: Arc<Program>,
    pub watched: Vec<Watched>,
    /// In the order of the program's bundles.
    pub lanes: Vec<Lane>,
    /// By action name.
    pub past: BTreeMap<String, Past>,
}

/// The state of one objective.
pub(super) struct Watched {
    pub promised: Arc<Promised>,
    /// For each input, the lane and the slot that it is counted in.
    pub inputs: Vec<(u16, u16)>,
    /// Series of all inputs.
    pub alive: usize,
    /// For rules: where the rule stands. Other objectives keep that in their series.
    pub rule: Option<RuleState>,
    /// The next window end to judge.
    pub next_end: Option<Timestamp>,
    /// For `each`: when to look at which series again.
    pub timers: BTreeSet<(Timestamp, SeriesKey)>,
    pub tally: Tally,
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct RuleState {
    pub lifecycle: Lifecycle,
    pub last_data: Option<Timestamp>,
}

/// One series of a bundle: what is counted for all its inputs at once.
pub(super) struct Series {
    pub bound: u16,
    pub lane: u16,
    pub chunk: u32,
    pub key: SeriesKey,
    pub panes: Panes,
    /// Its newest observation.
    pub last_data: Timestamp,
    /// The latest of the members' `first`: no observation from then on changes one.
    pub settled: Timestamp,
    /// Whether some members took observations that others did not.
    pub uneven: bool,
    pub dirty: bool,
    /// By slot; none until it took an observation.
    pub members: Box<[Option<Member>]>,
}

/// One input's part of a series.
pub(super) struct Member {
    /// Start of its first pane (for `each`: first observation).
    pub first: Timestamp,
    /// Its newest observation, where the series is uneven.
    pub last_data: Timestamp,
    pub lifecycle: Lifecycle,
    /// What it remembers beyond its panes, and whether that changed since the last snapshot.
    pub memory: Option<Box<Memory>>,
    pub memory_dirty: bool,
}

/// Stands for a series with members that took nothing yet.
const UNSETTLED: Timestamp = Timestamp::from_micros(i64::MAX);

impl Series {
    pub fn new((bound, lane, chunk): (u16, u16, u32), key: SeriesKey, members: usize, time: Timestamp) -> Series {
        Series {
            bound,
            lane,
            chunk,
            key,
            panes: Panes::default(),
            last_data: time,
            settled: UNSETTLED,
            uneven: false,
            dirty: false,
            members: std::iter::repeat_with(|| None).take(members).collect(),
        }
    }

    /// The newest observation that a member took.
    pub fn last_data(&self, slot: usize) -> Timestamp {
        let own = self.members[slot].as_ref().filter(|_| self.uneven).map(|member| member.last_data);
        own.unwrap_or(self.last_data)
    }

    pub fn member(&self, slot: usize) -> &Member {
        self.members[slot].as_ref().expect("slots are named of members that are alive")
    }

    pub fn member_mut(&mut self, slot: usize) -> &mut Member {
        self.members[slot].as_mut().expect("slots are named of members that are alive")
    }

    /// How many of its members took an observation.
    pub fn alive(&self) -> usize {
        self.members.iter().flatten().count()
    }

    /// Brings up to date what follows from its members.
    pub fn settle(&mut self) {
        let first = |member: &Option<Member>| member.as_ref().map_or(UNSETTLED, |member| member.first);
        self.settled = self.members.iter().map(first).max().unwrap_or(UNSETTLED);
    }

    /// Takes in that the slots of `taken` take an observation. Members that do so for the first time
    /// come into being; there may be `room` of them. The slots that take it, and those that are new.
    fn take(
        &mut self,
        bundle: &Bundle,
        taken: u32,
        (start, time): (Timestamp, Timestamp),
        room: usize,
        out: &mut Outputs,
    ) -> (u32, u32) {
        if !self.uneven && taken != bundle.all && self.alive() > 0 {
            self.uneven = true;
            self.members.iter_mut().flatten().for_each(|member| member.last_data = self.last_data);
        }
        let (mut took, mut born) = (0, 0u32);
        for slot in slots(taken) {
            match &mut self.members[slot] {
                Some(member) => {
                    member.first = member.first.min(start);
                    member.last_data = member.last_data.max(time);
                }
                None if born.count_ones() as usize >= room => {
                    out.counts.series_refused += 1;
                    continue;
                }
                empty => {
                    *empty = Some(Member {
                        first: start,
                        last_data: time,
                        lifecycle: Lifecycle::default(),
                        memory: Memory::new(&bundle.inputs[slot], start).map(Box::new),
                        memory_dirty: true,
                    });
                    born |= 1 << slot;
                }
            }
            took |= 1 << slot;
        }
        self.settle();
        (took, born)
    }
}

/// Which contract, objective and input of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub bound: u16,
    pub objective: u16,
    pub input: u16,
}

impl Application {
    pub(super) fn new(tenant: Arc<str>, name: Arc<str>) -> Application {
        Application {
            tenant,
            name,
            clock: Timestamp::EPOCH,
            watermark: Timestamp::EPOCH,
            seen: Seen::default(),
            joiner: Joiner::default(),
            joins: false,
            relays: Relays::default(),
            graph: Graph::default(),
            requests: Requests::default(),
            slices: Slices::default(),
            bound: Vec::new(),
            series: Slab::default(),
            sources: Sources::default(),
            attributes: Attributes::default(),
            routes: Routes::default(),
            next_due: None,
            dirty: false,
            listed: false,
            forgotten: Vec::new(),
            rewritten: Vec::new(),
        }
    }

    /// Looks up where the observations of these dimensions go, and does something with it.
    pub(super) fn with_route<R>(
        &mut self,
        digest: u128,
        dimensions: &Dimensions<'_>,
        then: impl FnOnce(&mut Application, &mut Route) -> R,
    ) -> R {
        let place = self.routes.find(digest).unwrap_or_else(|| {
            let source = self.sources.intern(dimensions.stage, dimensions.instance);
            let slice = self.slices.number(digest, dimensions);
            let mut route = self.attributes.route(&self.bound, dimensions, source);
            route.slice = slice;
            self.routes.insert(digest, route)
        });
        let mut route = self.routes.take(place);
        let result = then(self, &mut route);
        self.routes.put_back(place, route);
        result
    }

    /// Counts one observation for the inputs of one bundle; false if it came too late.
    pub(super) fn count(
        &mut self,
        target: &mut Target,
        source: SourceId,
        sighting: &Sighting<'_>,
        limits: &Limits,
        out: &mut Outputs,
    ) -> bool {
        let Sighting { dimensions, time, observed } = sighting;
        let time = *time;
        let (b, l) = (usize::from(target.bound), usize::from(target.lane));
        let lane = &mut self.bound[b].lanes[l];
        let bundle = &*lane.bundle;
        if !bundle.effective.contains(time) {
            return true;
        }
        let taken = bundle.takes(observed);
        out.counts.wrong_type += u64::from((bundle.all & !taken).count_ones());
        if taken == 0 {
            return true;
        }
        let each = bundle.every == Span::ZERO;
        let same_pane = lane.pane <= time && time < lane.pane + bundle.every;
        let start = match (each, same_pane) {
            (true, _) => time,
            (_, true) => lane.pane,
            (_, false) => time.floor(bundle.every),
        };
        if !each && start + bundle.every <= self.watermark {
            return false;
        }
        if target.series == UNKNOWN {
            let key = route::key_of(bundle, dimensions);
            let known = lane.series.get(&key).copied();
            if known.is_none() && self.series.live >= limits.series_max {
                out.counts.series_refused += u64::from(taken.count_ones());
                return true;
            }
            target.series = known.unwrap_or_else(|| {
                let place = (target.bound, target.lane, lane.chunks.take());
                let index = self.series.insert(Series::new(place, key.clone(), bundle.inputs.len(), time));
                lane.series.insert(key, index);
                index
            });
        }
        let room = limits.series_max.saturating_sub(self.series.live);
        let keep = self.series.keep;
        let series = self.series.touch(target.series);
        let (mut took, mut born) = (taken, 0);
        if start < series.settled || series.uneven || taken != bundle.all {
            (took, born) = series.take(bundle, taken, (start, time), room, out);
            if took == 0 {
                return true;
            }
        }
        series.last_data = series.last_data.max(time);
        if each {
            if born != 0 {
                let key = series.key.clone();
                self.come_alive(b, l, born);
                let (objective, _) = self.bound[b].lanes[l].bundle.members[0];
                self.bound[b].watched[usize::from(objective)].timers.insert((time + IDLE, key));
            }
            if let Observed::Value(value) = observed {
                self.judge_each((target.bound, target.lane), target.series, source, time, value, out);
            }
            return true;
        }
        let pane = series.panes.at(start, bundle);
        let part = route::part_of(bundle, dimensions);
        pane.add(bundle, took, source, time, observed, part, &mut target.share);
        pane.dirty = keep;
        if !same_pane || born != 0 {
            let end = start + bundle.every;
            lane.pane = start;
            self.come_alive(b, l, born);
            let bound = &mut self.bound[b];
            for (objective, _) in &bound.lanes[l].bundle.members {
                let watched = &mut bound.watched[usize::from(*objective)];
                if watched.next_end.is_none_or(|next| end < next) {
                    watched.next_end = Some(end);
                    self.next_due = Some(self.next_due.map_or(end, |due| due.min(end)));
                }
            }
        }
        true
    }

    /// Counts members that took their first observation.
    fn come_alive(&mut self, bound: usize, lane: usize, born: u32) {
        let bound = &mut self.bound[bound];
        for slot in slots(born) {
            let (objective, _) = bound.lanes[lane].bundle.members[slot];
            bound.watched[usize::from(objective)].alive += 1;
            self.series.live += 1;
        }
    }

    /// The slot of an input, and its series in the order of their keys.
    pub(super) fn members(&self, place: Place) -> (usize, Vec<u32>) {
        let bound = &self.bound[usize::from(place.bound)];
        let (lane, slot) = bound.watched[usize::from(place.objective)].inputs[usize::from(place.input)];
        let slot = usize::from(slot);
        let all = bound.lanes[usize::from(lane)].series.values().copied();
        (slot, all.filter(|index| self.series.get(*index).members[slot].is_some()).collect())
    }

    /// Gives the members of a series new places in a contract: for each slot its lane and slot there.
    /// `chunk` says where they are stored already.
    pub(super) fn adopt(&mut self, bound: usize, homes: &[Option<(u16, u16)>], mut old: Series, chunk: Option<u32>) {
        let lanes: BTreeSet<u16> = homes.iter().flatten().map(|(lane, _)| *lane).collect();
        for l in lanes {
            let there = |home: &Option<(u16, u16)>| home.filter(|home| home.0 == l).map(|home| usize::from(home.1));
            let slots_there: Vec<Option<usize>> = homes.iter().map(there).collect();
            let mut both = slots_there.iter().zip(&old.members);
            if !both.any(|(home, member)| home.is_some() && member.is_some()) {
                continue;
            }
            let lane = &mut self.bound[bound].lanes[usize::from(l)];
            let bundle = lane.bundle.clone();
            let index = match lane.series.get(&old.key) {
                Some(index) => *index,
                None => {
                    let chunk = match chunk {
                        Some(chunk) => {
                            lane.chunks.put(chunk);
                            chunk
                        }
                        None => lane.chunks.take(),
                    };
                    let place = (bound as u16, l, chunk);
                    let new = Series::new(place, old.key.clone(), bundle.inputs.len(), old.last_data);
                    let index = self.series.insert(new);
                    lane.series.insert(old.key.clone(), index);
                    index
                }
            };
            // Members from different series may have seen different observations.
            let met = self.series.get(index).alive() > 0;
            let mut born = 0;
            for (slot, home) in slots_there.iter().enumerate() {
                let (Some(home), last_data) = (*home, old.last_data(slot)) else { continue };
                let Some(member) = old.members[slot].take() else { continue };
                self.series.get_mut_quietly(index).members[home] = Some(Member { last_data, ..member });
                born |= 1 << home;
            }
            self.come_alive(bound, usize::from(l), born);
            let series = self.series.get_mut_quietly(index);
            series.uneven |= old.uneven || met;
            series.last_data = series.last_data.max(old.last_data);
            series.settle();
            for pane in &old.panes.0 {
                let moved = pane.clone().moved(&slots_there, &bundle);
                series.panes.at(pane.start, &bundle).take_in(moved);
            }
        }
    }

    /// Moves the clock on and judges what has become due.
    pub(super) fn advance(&mut self, clock: Timestamp, limits: &Limits, out: &mut Outputs) {
        self.clock = self.clock.max(clock);
        let watermark = self.watermark.max(self.clock - limits.lateness);
        if let Some(end) = self.requests.next_end() {
            self.complete_requests(end, watermark, limits, out);
        }
        self.watermark = watermark;
        self.judge_until(watermark, out);
    }

    /// Judges what is due by a time.
    pub(super) fn judge_until(&mut self, time: Timestamp, out: &mut Outputs) {
        while let Some(due) = self.next_due.filter(|due| *due <= time) {
            self.dirty = true;
            self.judge_due(due, out);
            self.next_due = self.find_next_due();
        }
    }

    pub(super) fn find_next_due(&self) -> Option<Timestamp> {
        let live = self.series.live > 0;
        let ends = self.bound.iter().flat_map(|bound| {
            let until = bound.program.contract.spec.effective.until.filter(|until| live && *until > self.watermark);
            let watched = bound.watched.iter();
            watched.flat_map(|w| w.next_end.into_iter().chain(w.timers.first().map(|(due, _)| *due))).chain(until)
        });
        ends.min()
    }

    /// The time by which every window that holds data has closed.
    pub fn last_end(&self) -> Option<Timestamp> {
        let ends = self.series.iter().filter_map(|(_, series)| {
            let bundle = &self.bound[usize::from(series.bound)].lanes[usize::from(series.lane)].bundle;
            (bundle.every > Span::ZERO).then(|| series.last_data.floor(bundle.every) + bundle.longest)
        });
        ends.max()
    }

    /// Forgets what was looked up; what follows from an observation's pane is looked at anew.
    pub(super) fn forget_routes(&mut self) {
        self.routes.clear();
        let lanes = self.bound.iter_mut().flat_map(|bound| &mut bound.lanes);
        lanes.for_each(|lane| lane.pane = Timestamp::MAX);
    }
}

impl Watched {
    fn new(promised: Arc<Promised>) -> Watched {
        let is_rule = matches!(promised.objective.promise, Promise::Rule { .. });
        Watched {
            inputs: vec![(0, 0); promised.inputs.len()],
            alive: 0,
            rule: is_rule.then(RuleState::default),
            next_end: None,
            timers: BTreeSet::new(),
            tally: Tally::default(),
            promised,
        }
    }
}

impl Bound {
    pub(super) fn new(program: Arc<Program>) -> Bound {
        let mut watched: Vec<Watched> = program.promises.iter().cloned().map(Watched::new).collect();
        for (lane, bundle) in program.bundles.iter().enumerate() {
            for (slot, (objective, input)) in bundle.members.iter().enumerate() {
                watched[usize::from(*objective)].inputs[usize::from(*input)] = (lane as u16, slot as u16);
            }
        }
        let lanes = program.bundles.iter().cloned().map(Lane::new).collect();
        Bound { program, watched, lanes, past: BTreeMap::new() }
    }

    /// Where the input of this name of the objective of this name is counted.
    pub(super) fn home(&self, objective: &str, input: &str) -> Option<(u16, u16)> {
        let watched = self.watched.iter().find(|watched| watched.promised.objective.name == objective)?;
        let input = watched.promised.inputs.iter().position(|known| known.name == input)?;
        Some(watched.inputs[input])
    }
}

impl Bundle {
    /// The slots that take an observation.
    #[inline]
    fn takes(&self, observed: &Observed<'_>) -> u32 {
        if self.takes_numbers && matches!(observed, Observed::Value(crate::report::Value::Number(_))) {
            return self.all;
        }
        let takes =
            |(slot, input): (usize, &Arc<super::program::Input>)| u32::from(input.gauge.takes(observed)) << slot;
        self.inputs.iter().enumerate().map(takes).sum()
    }
}

/// The series of an application, by index. Freed places are used again.
#[derive(Default)]
pub(super) struct Slab {
    places: Vec<Option<Series>>,
    free: Vec<u32>,
    changed: Vec<u32>,
    /// Whether changes are kept for snapshots.
    pub keep: bool,
    /// Members of all series that took an observation.
    pub live: usize,
}

impl Slab {
    pub fn insert(&mut self, series: Series) -> u32 {
        match self.free.pop() {
            Some(index) => {
                self.places[index as usize] = Some(series);
                index
            }
            None => {
                self.places.push(Some(series));
                (self.places.len() - 1) as u32
            }
        }
    }

    pub fn get(&self, index: u32) -> &Series {
        self.places[index as usize].as_ref().expect("indices are handed out for live series and dropped with them")
    }

    /// For a change that the next snapshot must hold.
    pub fn touch(&mut self, index: u32) -> &mut Series {
        let series =
            self.places[index as usize].as_mut().expect("indices are handed out for live series and dropped with them");
        if self.keep && !series.dirty {
            series.dirty = true;
            self.changed.push(index);
        }
        series
    }

    pub fn remove(&mut self, index: u32) -> Option<Series> {
        let series = self.places[index as usize].take();
        if let Some(series) = &series {
            self.live -= series.alive();
            self.free.push(index);
        }
        series
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Series)> {
        self.places.iter().enumerate().filter_map(|(index, series)| Some((index as u32, series.as_ref()?)))
    }

    /// The series that changed since the last call.
    pub fn take_changed(&mut self) -> Vec<u32> {
        let mut changed = std::mem::take(&mut self.changed);
        changed.sort_unstable();
        changed.dedup();
        changed.retain(|index| self.places[*index as usize].as_ref().is_some_and(|series| series.dirty));
        for index in &changed {
            if let Some(series) = &mut self.places[*index as usize] {
                series.dirty = false;
            }
        }
        changed
    }

    pub fn get_mut_quietly(&mut self, index: u32) -> &mut Series {
        self.places[index as usize].as_mut().expect("indices are handed out for live series and dropped with them")
    }
}

/// Names of instances by number; 0 stands for all that are too many.
pub(super) struct Sources {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, SourceId>,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources { names: vec!["others".into()], numbers: HashMap::new() }
    }
}

impl Sources {
    fn intern(&mut self, stage: &str, instance: &str) -> SourceId {
        self.number(&format!("{stage}/{instance}"))
    }

    pub fn number(&mut self, name: &str) -> SourceId {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.names.len() >= SOURCES_MAX {
            return OTHERS;
        }
        let (number, name): (SourceId, Arc<str>) = (self.names.len() as SourceId, name.into());
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    pub fn name(&self, number: SourceId) -> &str {
        &self.names[number as usize]
    }
}

impl Counts {
    pub(super) fn evaluated(&mut self, verdict: Verdict) {
        self.evaluations[verdict as usize] += 1;
    }
}

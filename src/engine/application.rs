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
use super::program::{Program, Promised};
use super::relays::Relays;
use super::requests::Requests;
use super::route::{self, Lanes, Route, Routes, Target, UNKNOWN};
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
    pub(super) lanes: Lanes,
    routes: Routes,
    /// When the next window ends or the next timer is due.
    pub(super) next_due: Option<Timestamp>,
    /// Whether it changed since the last snapshot.
    pub(super) dirty: bool,
    /// Whether the engine has it in its list of those that changed.
    pub(super) listed: bool,
    /// Series dropped since the last snapshot: contract, objective, input, key.
    pub(super) forgotten: Vec<(String, String, String, SeriesKey)>,
}

/// A contract as it is bound to an application.
pub(super) struct Bound {
    pub program: Arc<Program>,
    pub watched: Vec<Watched>,
    /// By action name.
    pub past: BTreeMap<String, Past>,
}

/// The state of one objective.
pub(super) struct Watched {
    pub promised: Arc<Promised>,
    /// For each input, its series.
    pub inputs: Vec<BTreeMap<SeriesKey, u32>>,
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

/// One series of one input.
pub(super) struct Series {
    pub place: Place,
    pub key: SeriesKey,
    pub panes: Panes,
    /// Start of its first pane (for `each`: first observation).
    pub first: Timestamp,
    /// Its newest observation.
    pub last_data: Timestamp,
    pub lifecycle: Lifecycle,
    /// What it remembers beyond its panes, and whether that changed since the last snapshot.
    pub memory: Option<Box<Memory>>,
    pub memory_dirty: bool,
    pub dirty: bool,
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
            lanes: Lanes::default(),
            routes: Routes::default(),
            next_due: None,
            dirty: false,
            listed: false,
            forgotten: Vec::new(),
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
            let mut route = self.lanes.route(&self.bound, dimensions, source);
            route.slice = slice;
            self.routes.insert(digest, route)
        });
        let mut route = self.routes.take(place);
        let result = then(self, &mut route);
        self.routes.put_back(place, route);
        result
    }

    /// Counts one observation for one input; false if it came too late.
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
        let lane = &mut self.lanes.lanes[usize::from(target.lane)];
        if !lane.effective.contains(time) {
            return true;
        }
        let input = &*lane.input;
        if !input.gauge.takes(observed) {
            out.counts.wrong_type += 1;
            return true;
        }
        let each = input.every == Span::ZERO;
        let same_pane = lane.pane <= time && time < lane.pane + input.every;
        let start = match (each, same_pane) {
            (true, _) => time,
            (_, true) => lane.pane,
            (_, false) => time.floor(input.every),
        };
        if !each && start + input.every <= self.watermark {
            return false;
        }
        if target.series == UNKNOWN {
            let place = lane.place;
            let watched = &mut self.bound[usize::from(place.bound)].watched[usize::from(place.objective)];
            let key = route::key_of(input, dimensions);
            match watched.find_series(&mut self.series, place, key, (start, time), limits) {
                Some(index) => target.series = index,
                None => {
                    out.counts.series_refused += 1;
                    return true;
                }
            }
        }
        let keep = self.series.keep;
        let series = self.series.touch(target.series);
        series.first = series.first.min(start);
        series.last_data = series.last_data.max(time);
        if each {
            if let Observed::Value(value) = observed {
                let place = lane.place;
                self.judge_each(place, target.series, source, time, value, out);
            }
            return true;
        }
        let pane = series.panes.at(start, &input.gauge);
        let part = route::part_of(input, dimensions);
        pane.add(&input.gauge, source, time, observed, part, &mut target.share);
        pane.dirty = keep;
        if !same_pane {
            let end = start + input.every;
            lane.pane = start;
            let bound = &mut self.bound[usize::from(lane.place.bound)];
            let watched = &mut bound.watched[usize::from(lane.place.objective)];
            if watched.next_end.is_none_or(|next| end < next) {
                watched.next_end = Some(end);
                self.next_due = Some(self.next_due.map_or(end, |due| due.min(end)));
            }
        }
        true
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
            let watched = &self.bound[usize::from(series.place.bound)].watched[usize::from(series.place.objective)];
            let input = &watched.promised.inputs[usize::from(series.place.input)];
            (input.every > Span::ZERO).then(|| series.last_data.floor(input.every) + input.window)
        });
        ends.max()
    }

    /// Forgets what was looked up; what follows from an observation's pane is looked at anew.
    pub(super) fn forget_routes(&mut self) {
        self.routes.clear();
        self.lanes.lanes.iter_mut().for_each(|lane| lane.pane = Timestamp::MAX);
    }
}

impl Watched {
    pub(super) fn new(promised: Arc<Promised>) -> Watched {
        let is_rule = matches!(promised.objective.promise, Promise::Rule { .. });
        Watched {
            inputs: vec![BTreeMap::new(); promised.inputs.len()],
            rule: is_rule.then(RuleState::default),
            next_end: None,
            timers: BTreeSet::new(),
            tally: Tally::default(),
            promised,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inputs.iter().all(BTreeMap::is_empty)
    }

    /// The series of a key, made if missing, for an observation of a pane's start and a time; none
    /// where there are too many.
    fn find_series(
        &mut self,
        slab: &mut Slab,
        place: Place,
        key: SeriesKey,
        (first, time): (Timestamp, Timestamp),
        limits: &Limits,
    ) -> Option<u32> {
        let members = &mut self.inputs[usize::from(place.input)];
        if let Some(index) = members.get(&key) {
            return Some(*index);
        }
        if slab.live >= limits.series_max {
            return None;
        }
        let input = &self.promised.inputs[usize::from(place.input)];
        let index = slab.insert(Series {
            place,
            key: key.clone(),
            panes: Panes::default(),
            first,
            last_data: time,
            lifecycle: Lifecycle::default(),
            memory: Memory::new(input, first).map(Box::new),
            memory_dirty: true,
            dirty: false,
        });
        if input.every == Span::ZERO {
            self.timers.insert((time + IDLE, key.clone()));
        }
        members.insert(key, index);
        Some(index)
    }
}

impl Bound {
    pub(super) fn new(program: Arc<Program>) -> Bound {
        let watched = program.promises.iter().cloned().map(Watched::new).collect();
        Bound { program, watched, past: BTreeMap::new() }
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
    pub live: usize,
}

impl Slab {
    pub fn insert(&mut self, series: Series) -> u32 {
        self.live += 1;
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
        if series.is_some() {
            self.live -= 1;
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

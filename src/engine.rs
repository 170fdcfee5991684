//! The core: reports and time in, evaluations, transitions and actions out.
//!
//! A pure state machine: no I/O, no clock, no randomness. Time enters as report times and as
//! explicit [`Engine::advance`] calls, so the same input gives the same output everywhere.
//! State belongs to one (tenant, application) and to nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::report::{Report, application_digest};
use crate::time::{Span, Timestamp};

// A report comes in...
mod observe;
mod application;
mod route;
mod seen;
mod predictions;
mod relays;
mod graph;
mod slice;
mod requests;
// ...is counted...
mod program;
mod pane;
mod gauge;
mod aggregate;
mod quantile;
mod distinct;
mod confusion;
mod regression;
mod ranking;
mod distribution;
// ...compared with what was before...
mod memory;
mod baseline;
mod drift;
mod chance;
mod detector;
mod chart;
// ...and judged.
mod ahead;
mod judge;
mod verdict;
mod tally;
mod detail;
mod lifecycle;
mod action;
mod snapshot;

pub use aggregate::Accumulator;
use application::{Application, Bound, Place, Watched};
pub use baseline::{BaselineFile, BaselineSummary};
pub use detail::{Detail, Drift, Part};
pub use graph::Graph;
pub use lifecycle::Open;
pub use lifecycle::{Latest, Lifecycle, Phase, Resolution};
pub use program::{Feed, Program, Promised, derived_id};
pub use quantile::nearest_rank;
pub use requests::{STAGE as REQUEST_STAGE, StepRow, TruthRow};
use route::Attributes;
pub use seen::{MEMORY as ID_MEMORY, Seen};
pub use slice::{ERROR as PREDICTION_ERROR, MADE as PREDICTIONS_MADE, SliceRow, Sums, test_of};
pub use snapshot::{ApplicationRow, IdRow, JoinRow, MemoryRow, PaneRow, SeriesRow, Snapshot, Standing, standings};
pub use tally::TallyRow;
pub use verdict::{
    Action, ActionState, Contributor, Counterfactual, Evaluation, Evidence, State, Transition, Verdict, Window, short,
    short_value,
};

/// Bounds of an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// How far the watermark stays behind the greatest event time.
    pub lateness: Span,
    /// Series of one application.
    pub series_max: usize,
    /// Report ids remembered in all applications together.
    pub ids_max: usize,
    /// How long inferences and feedback wait for each other, in event time.
    pub join_horizon: Span,
    /// A request is complete when no step of it has come for this long, in event time.
    pub request_timeout: Span,
    /// Inferences and feedback that wait, in all applications together.
    pub pending_max: usize,
    /// Whether [`Engine::snapshot`] is going to be called, so that changes must be kept for it.
    pub snapshots: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            lateness: Span::seconds(5),
            series_max: 200_000,
            ids_max: 1_000_000,
            join_horizon: Span::seconds(3_600),
            request_timeout: Span::seconds(10),
            pending_max: 500_000,
            snapshots: false,
        }
    }
}

/// The engine of one shard.
pub struct Engine {
    limits: Limits,
    programs: BTreeMap<String, Arc<Program>>,
    /// By digest of tenant and name, where an application stands.
    places: FxHashMap<u128, u32>,
    applications: Vec<Application>,
    /// Where applications stand that changed since they were snapshotted, and the mark that was
    /// set when the change began; the longest unsaved first.
    changed: VecDeque<(u32, i64)>,
    mark: i64,
    ids: usize,
    pending: usize,
}

/// What comes out, in order.
pub struct Outputs {
    /// Evaluations, transitions, actions.
    pub list: Vec<Output>,
    /// Whether evaluations are put into the list; they are counted anyway.
    pub keep_evaluations: bool,
    /// What was counted.
    pub counts: Counts,
    /// Measures scripts; stands still unless a caller with a clock sets it.
    pub stopwatch: fn() -> Duration,
}

/// One thing that came out.
#[derive(Debug, Clone)]
pub enum Output {
    /// A verdict.
    Evaluation(Evaluation),
    /// A violation opened or resolved.
    Transition(Box<Transition>),
    /// A violation causes an action.
    Action(Box<Action>),
}

impl Output {
    /// One JSON object with its `type`.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Typed<'a, T> {
            r#type: &'static str,
            #[serde(flatten)]
            value: &'a T,
        }
        match self {
            Output::Evaluation(evaluation) => serde_json::to_string(evaluation),
            Output::Transition(value) => serde_json::to_string(&Typed { r#type: "violation", value }),
            Output::Action(value) => serde_json::to_string(&Typed { r#type: "action", value }),
        }
    }
}

/// Counts since the outputs were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Reports taken in.
    pub reports: u64,
    /// Reports of applications that no contract is about.
    pub unwatched: u64,
    /// Reports whose id was seen before.
    pub duplicates: u64,
    /// Observations that at least one objective watches.
    pub observations: u64,
    /// Observations for windows already judged.
    pub late: u64,
    /// Observations of a kind that an objective cannot aggregate.
    pub wrong_type: u64,
    /// Observations of series beyond the limit.
    pub series_refused: u64,
    /// Report ids forgotten before their time.
    pub ids_forgotten: u64,
    /// Predictions joined with feedback.
    pub pairs: u64,
    /// Inferences without feedback within the join horizon.
    pub unanswered: u64,
    /// Inferences and feedback that count for nothing: repeated, or too long after the inference.
    pub unjoined: u64,
    /// Inferences and feedback given up before their time, because too many waited.
    pub given_up: u64,
    /// Evaluations by verdict, in the order of [`Verdict::ALL`].
    pub evaluations: [u64; 5],
    /// Calls of scripts.
    pub script_calls: u64,
    /// Time in scripts.
    pub script_time: Duration,
}

impl Counts {
    fn scripts(&mut self, started: Duration, ended: Duration) {
        self.script_calls += 1;
        self.script_time += ended.saturating_sub(started);
    }
}

impl Default for Outputs {
    fn default() -> Outputs {
        Outputs { list: Vec::new(), keep_evaluations: true, counts: Counts::default(), stopwatch: || Duration::ZERO }
    }
}

impl Engine {
    /// An engine without contracts.
    pub fn new(limits: Limits) -> Engine {
        Engine {
            limits,
            programs: BTreeMap::new(),
            places: FxHashMap::default(),
            applications: Vec::new(),
            changed: VecDeque::new(),
            mark: 0,
            ids: 0,
            pending: 0,
        }
    }

    /// Takes in a report.
    pub fn observe(&mut self, report: &Report<'_>, out: &mut Outputs) {
        self.observe_at(self.places.get(&report.digests.application).copied(), report, out);
    }

    /// Takes in reports, those of one application after the other, each application's in their
    /// order: its state is at hand then. What comes out is what [`Engine::observe`] gives, in
    /// another order of applications.
    pub fn observe_all(&mut self, reports: &[Report<'_>], out: &mut Outputs) {
        let place = |report: &Report<'_>| self.places.get(&report.digests.application).copied();
        let mut order: Vec<(Option<u32>, u32)> = reports.iter().map(place).zip(0..).collect();
        order.sort_unstable();
        for (place, index) in order {
            self.observe_at(place, &reports[index as usize], out);
        }
    }

    fn observe_at(&mut self, place: Option<u32>, report: &Report<'_>, out: &mut Outputs) {
        out.counts.reports += 1;
        let Some(place) = place else {
            out.counts.unwatched += 1;
            return;
        };
        let application = &mut self.applications[place as usize];
        let (ids, pending) = (application.seen.count(), application.joiner.len());
        application.observe(report, &self.limits, out);
        self.ids = self.ids + application.seen.count() - ids;
        self.pending = self.pending + application.joiner.len() - pending;
        while self.pending > self.limits.pending_max && application.joiner.len() > 0 {
            application.joiner.forget_oldest();
            self.pending -= 1;
            out.counts.given_up += u64::from(application.joins);
        }
        while self.ids > self.limits.ids_max && application.seen.forget_oldest() {
            self.ids -= 1;
            out.counts.ids_forgotten += 1;
        }
        self.note_change(place);
    }

    /// Whether a report of this application (by digest) will likely make windows end, if its time is near `now`.
    pub fn is_about_to_judge(&self, application: u128, now: Timestamp) -> bool {
        let application = self.places.get(&application).map(|place| &self.applications[*place as usize]);
        application.and_then(|one| one.next_due).is_some_and(|due| due <= now - self.limits.lateness)
    }

    /// Sets the mark that changes from now on are remembered with: a position in the source.
    pub fn set_mark(&mut self, mark: i64) {
        self.mark = mark;
    }

    /// The mark of the oldest change that no snapshot holds.
    pub fn unsaved_since(&self) -> Option<i64> {
        self.changed.iter().map(|(_, mark)| *mark).min()
    }

    /// How many applications changed that no snapshot holds.
    pub fn unsaved(&self) -> usize {
        self.changed.len()
    }

    fn note_change(&mut self, place: u32) {
        let application = &mut self.applications[place as usize];
        if self.limits.snapshots && application.dirty && !std::mem::replace(&mut application.listed, true) {
            self.changed.push_back((place, self.mark));
        }
    }

    fn place(&self, tenant: &str, application: &str) -> Option<u32> {
        self.places.get(&application_digest(tenant, application)).copied()
    }

    fn application(&self, tenant: &str, application: &str) -> Option<&Application> {
        self.place(tenant, application).map(|place| &self.applications[place as usize])
    }

    fn application_mut(&mut self, tenant: &str, application: &str) -> Option<&mut Application> {
        self.place(tenant, application).map(|place| &mut self.applications[place as usize])
    }

    /// Moves the clock of one application on and judges what becomes due.
    pub fn advance(&mut self, tenant: &str, application: &str, clock: Timestamp, out: &mut Outputs) {
        if let Some(place) = self.place(tenant, application) {
            self.applications[place as usize].advance(clock, &self.limits, out);
            self.note_change(place);
        }
    }

    /// Advances every application until each window that holds data has closed.
    pub fn finish(&mut self, out: &mut Outputs) {
        for (tenant, name) in self.names() {
            let complete = self.application(&tenant, &name).and_then(|application| application.requests.last_end());
            if let Some(end) = complete {
                self.advance(&tenant, &name, end + self.limits.lateness + Span::from_micros(1), out);
            }
            let end = self.application(&tenant, &name).and_then(Application::last_end);
            if let Some(end) = end {
                self.advance(&tenant, &name, end + self.limits.lateness, out);
            }
        }
    }

    /// Tenant and name of all applications, in order.
    pub fn names(&self) -> Vec<(Arc<str>, Arc<str>)> {
        let mut names: Vec<_> = self.applications.iter().map(|a| (a.tenant.clone(), a.name.clone())).collect();
        names.sort();
        names
    }

    /// The clock of an application, and the clock at which something becomes due.
    pub fn due(&self, tenant: &str, application: &str) -> Option<(Timestamp, Option<Timestamp>)> {
        let application = self.application(tenant, application)?;
        let complete = application.requests.next_end().map(|at| at + Span::from_micros(1));
        let due = application.next_due.into_iter().chain(complete).min();
        Some((application.clock, due.map(|due| due + self.limits.lateness)))
    }

    /// How far watermarks stay behind.
    pub fn lateness(&self) -> Span {
        self.limits.lateness
    }

    /// The contracts in force.
    pub fn programs(&self) -> impl Iterator<Item = &Arc<Program>> {
        self.programs.values()
    }

    /// How many series there are.
    pub fn series(&self) -> usize {
        self.applications.iter().map(|application| application.series.live).sum()
    }

    /// Puts a contract into force, or a new version of it. Panes and violations of unchanged
    /// objectives go on; violations of others close as withdrawn.
    pub fn set_contract(&mut self, program: Arc<Program>, out: &mut Outputs) {
        let scope = &program.contract.spec.scope;
        let old = self.programs.insert(program.name().to_owned(), program.clone());
        if let Some(old) = old.filter(|old| old.contract.spec.scope != program.contract.spec.scope) {
            self.unbind(&old, out);
        }
        let place = *self.places.entry(application_digest(&scope.tenant, &scope.application)).or_insert_with(|| {
            self.applications.push(Application::new(scope.tenant.as_str().into(), scope.application.as_str().into()));
            self.applications.len() as u32 - 1
        });
        let application = &mut self.applications[place as usize];
        application.seen.keep = self.limits.snapshots;
        application.series.keep = self.limits.snapshots;
        application.joiner.keep = self.limits.snapshots;
        application.relays.keep = self.limits.snapshots;
        application.requests.keep = self.limits.snapshots;
        application.slices.keep = self.limits.snapshots;
        application.bind(program, out);
        self.note_change(place);
    }

    /// Takes a contract out of force; its open violations close as withdrawn.
    pub fn remove_contract(&mut self, name: &str, out: &mut Outputs) {
        if let Some(program) = self.programs.remove(name) {
            self.unbind(&program, out);
        }
    }

    fn unbind(&mut self, program: &Program, out: &mut Outputs) {
        let scope = &program.contract.spec.scope;
        if let Some(place) = self.place(&scope.tenant, &scope.application) {
            self.applications[place as usize].unbind(program.name(), out);
            self.note_change(place);
        }
    }
}

impl Application {
    fn bind(&mut self, program: Arc<Program>, out: &mut Outputs) {
        self.forget_routes();
        self.dirty = true;
        let Err(at) = self.bound.binary_search_by(|bound| bound.program.name().cmp(program.name())) else {
            return self.rebind(program, out);
        };
        self.bound.insert(at, Bound::new(program));
        self.renumber();
    }

    /// A new version of a contract that is bound already.
    fn rebind(&mut self, program: Arc<Program>, out: &mut Outputs) {
        let Some(b) = self.bound.iter().position(|bound| bound.program.name() == program.name()) else { return };
        // The number of an objective in the new version, if it promises the same there.
        let goes_on = |old: &Promised| {
            let same = |new: &Arc<Promised>| {
                new.objective.promise == old.objective.promise && new.objective.name == old.objective.name
            };
            program.promises.iter().position(same)
        };
        for o in 0..self.bound[b].watched.len() {
            if goes_on(&self.bound[b].watched[o].promised).is_none() {
                let place = Place { bound: b as u16, objective: o as u16, input: 0 };
                self.end_objective(place, self.watermark, Resolution::Withdrawn, out);
            }
        }
        let mut old = std::mem::replace(&mut self.bound[b], Bound::new(program.clone()));
        let new = &mut self.bound[b];
        new.past = std::mem::take(&mut old.past);
        for watched in old.watched {
            if let Some(o) = goes_on(&watched.promised) {
                let Watched { promised, inputs, alive, .. } = &new.watched[o];
                new.watched[o] =
                    Watched { promised: promised.clone(), inputs: inputs.clone(), alive: *alive, ..watched };
            }
        }
        for lane in old.lanes {
            let home = |member: &(u16, u16)| {
                let o = goes_on(&old.program.promises[usize::from(member.0)])?;
                Some(self.bound[b].watched[o].inputs[usize::from(member.1)])
            };
            let homes: Vec<_> = lane.bundle.members.iter().map(home).collect();
            for index in lane.series.values() {
                if let Some(series) = self.series.remove(*index) {
                    self.adopt(b, &homes, series, None);
                }
            }
        }
        self.rewrite(program.name());
        self.renumber();
    }

    fn unbind(&mut self, name: &str, out: &mut Outputs) {
        let Some(b) = self.bound.iter().position(|bound| bound.program.name() == name) else { return };
        self.forget_routes();
        self.dirty = true;
        for o in 0..self.bound[b].watched.len() {
            let place = Place { bound: b as u16, objective: o as u16, input: 0 };
            self.end_objective(place, self.watermark, Resolution::Withdrawn, out);
        }
        self.rewrite(name);
        self.bound.remove(b);
        self.renumber();
    }

    /// Tells every series where its objective stands now.
    fn renumber(&mut self) {
        for (b, bound) in self.bound.iter().enumerate() {
            for index in bound.lanes.iter().flat_map(|lane| lane.series.values()) {
                self.series.get_mut_quietly(*index).bound = b as u16;
            }
        }
        self.attributes = Attributes::of(&self.bound);
        let mut inputs = self.bound.iter().flat_map(|bound| &bound.watched).flat_map(|w| &w.promised.inputs);
        self.joins = inputs.clone().any(|input| matches!(input.feed, Feed::Joined | Feed::Coverage));
        self.requests.want(inputs.any(|input| input.indicator.attribute.starts_with(crate::contract::REQUEST)));
        self.slices.bind(&self.bound);
        self.next_due = self.find_next_due();
    }
}

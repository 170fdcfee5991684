//! What the store must keep so that an engine can go on where it was.
//!
//! A snapshot holds only what changed since the one before: panes, series, and a few words an
//! application. Written in one transaction with the position in the stream, it makes a restart
//! the same as no restart.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::action::Past;
use super::aggregate::Accumulator;
use super::application::{Application, IDLE, Member, RuleState, Series, Slab, Sources};
use super::graph::Graph;
use super::lifecycle::Lifecycle;
use super::pane::{Brought, OTHERS, Pane, SourceId};
use super::predictions::Entry;
use super::relays::Relay;
use super::requests::{self, StepRow, TruthRow};
use super::slice::SliceRow;
use super::tally::TallyRow;
use super::verdict::{SeriesKey, SeriesLabels};
use super::{Engine, Limits};
use crate::time::{Span, Timestamp};

/// Changes since the snapshot before.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// A row for each application that changed.
    pub applications: Vec<ApplicationRow>,
    /// Contracts of which all earlier series, panes and memories are void: tenant, application, contract.
    pub rewritten: Vec<[String; 3]>,
    /// Series that changed, some together.
    pub series: Vec<SeriesRow>,
    /// Their panes that changed.
    pub panes: Vec<PaneRow>,
    /// Memories that changed.
    pub memories: Vec<MemoryRow>,
    /// Memories that were dropped: tenant, application, contract, objective, input, key.
    pub forgotten: Vec<[String; 6]>,
    /// Report ids that were noted.
    pub ids: Vec<IdRow>,
    /// Inferences, feedback and passed-on observations that were noted.
    pub joins: Vec<JoinRow>,
    /// Panes of slices that changed.
    pub slices: Vec<SliceRow>,
    /// Verdicts by minute.
    pub tallies: Vec<TallyRow>,
    /// Steps of requests.
    pub steps: Vec<StepRow>,
    /// Ground truth of inferences.
    pub truths: Vec<TruthRow>,
}

/// An application's clock and guards.
#[derive(Debug, Clone)]
pub struct ApplicationRow {
    /// Whose.
    pub tenant: String,
    /// Which.
    pub application: String,
    /// Greatest event time seen.
    pub clock: Timestamp,
    /// Panes that start before this are not needed by any window that is still to be judged.
    pub needed_from: Timestamp,
    /// JSON.
    pub state: String,
}

/// Some series that are counted together for the same objectives, and where their violations stand.
#[derive(Debug, Clone)]
pub struct SeriesRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// Which contract.
    pub contract: String,
    /// Digest of what is measured for which objectives.
    pub bundle: String,
    /// Which series of these.
    pub chunk: u32,
    /// JSON; [`standings`] tells what it says.
    pub state: String,
}

/// Panes of the series of a [`SeriesRow`] that start at the same time.
#[derive(Debug, Clone)]
pub struct PaneRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// Which contract.
    pub contract: String,
    /// Digest of what is measured for which objectives.
    pub bundle: String,
    /// Which series of these.
    pub chunk: u32,
    /// Where they start.
    pub start: Timestamp,
    /// MessagePack: only a restart reads it.
    pub state: Vec<u8>,
}

/// What a series remembers beyond its panes.
#[derive(Debug, Clone)]
pub struct MemoryRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// Which contract.
    pub contract: String,
    /// Which objective.
    pub objective: String,
    /// Which input of a rule; empty for a plain indicator.
    pub input: String,
    /// JSON array of label values.
    pub key: String,
    /// JSON object of labels, for readers.
    pub labels: String,
    /// JSON.
    pub memory: String,
}

/// Where a series of an objective stands, as a [`SeriesRow`] tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Which objective.
    pub objective: String,
    /// Which input of a rule; empty for a plain indicator.
    pub input: String,
    /// Labels as a JSON object.
    pub labels: serde_json::Value,
    /// Where its violation stands.
    pub lifecycle: Lifecycle,
}

/// What the state of a [`SeriesRow`] says, in the order of objectives and series.
pub fn standings(state: &str) -> Result<Vec<Standing>, serde_json::Error> {
    let ChunkState { objectives, labels, series } = serde_json::from_str(state)?;
    let mut found = Vec::new();
    for (slot, (objective, input)) in objectives.iter().enumerate() {
        for SeriesState { key, members, .. } in &series {
            if let Some(Some(member)) = members.get(slot) {
                let labels = serde_json::to_value(SeriesLabels(&labels, key))?;
                let (objective, input) = (objective.clone(), input.clone());
                found.push(Standing { objective, input, labels, lifecycle: member.lifecycle.clone() });
            }
        }
    }
    Ok(found)
}

/// Report ids of an application, packed: 16 bytes of id and 8 bytes of time each.
#[derive(Debug, Clone)]
pub struct IdRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// The newest of the times.
    pub newest: Timestamp,
    /// Packed.
    pub ids: Vec<u8>,
}

/// Changes of an application's waiting inferences, as JSON.
#[derive(Debug, Clone)]
pub struct JoinRow {
    /// Whose.
    pub tenant: String,
    /// Which application.
    pub application: String,
    /// The newest of their times.
    pub newest: Timestamp,
    /// Older rows than this are needed no more.
    pub needed_from: Timestamp,
    /// JSON.
    pub entries: String,
}

#[derive(Serialize, Deserialize)]
struct JoinLog {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inferences: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    relayed: Vec<Relay>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requests: Vec<requests::Change>,
}

#[derive(Serialize, Deserialize)]
struct ApplicationState {
    clock: Timestamp,
    watermark: Timestamp,
    #[serde(default)]
    heard: BTreeMap<Box<str>, Timestamp>,
    #[serde(default)]
    graph: Graph,
    #[serde(default)]
    sampling: requests::Sampling,
    /// For readers.
    #[serde(default)]
    request_timeout: Span,
    contracts: BTreeMap<String, ContractState>,
}

#[derive(Serialize, Deserialize, Default)]
struct ContractState {
    past: BTreeMap<String, Past>,
    next_ends: BTreeMap<String, Timestamp>,
    rules: BTreeMap<String, RuleState>,
}

/// Series that are stored together. Objective and input of each slot, the names of labels, series.
#[derive(Serialize, Deserialize)]
struct ChunkState {
    objectives: Vec<(String, String)>,
    labels: Vec<String>,
    series: Vec<SeriesState>,
}

#[derive(Serialize, Deserialize)]
struct SeriesState {
    key: SeriesKey,
    last_data: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    uneven: bool,
    members: Vec<Option<MemberState>>,
}

#[derive(Serialize, Deserialize)]
struct MemberState {
    first: Timestamp,
    last_data: Timestamp,
    lifecycle: Lifecycle,
}

/// Panes of one start, and the names of instances in them; borrowed and owned, in the same form.
#[derive(Serialize)]
struct PanesOut<'a> {
    sources: Vec<&'a str>,
    panes: Vec<PaneOut<'a>>,
}

#[derive(Serialize)]
struct PaneOut<'a> {
    key: &'a SeriesKey,
    accumulators: &'a [Accumulator],
    brought: Vec<BroughtState>,
    misses: &'a [u32],
}

#[derive(Deserialize)]
struct PanesIn {
    sources: Vec<String>,
    panes: Vec<PaneIn>,
}

#[derive(Deserialize)]
struct PaneIn {
    key: SeriesKey,
    accumulators: Box<[Accumulator]>,
    brought: Vec<BroughtState>,
    misses: Vec<u32>,
}

/// Place of the instance's name, slots, observations, sum.
type BroughtState = (u32, u32, u32, f64);

impl Snapshot {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        let Snapshot {
            applications, rewritten, series, panes, memories, forgotten, ids, joins, slices, tallies, ..
        } = self;
        let Snapshot { steps, truths, .. } = self;
        let gone = rewritten.len() + forgotten.len();
        let state = applications.len() + series.len() + panes.len() + memories.len() + ids.len() + joins.len();
        gone + state + slices.len() + tallies.len() + steps.len() + truths.len()
    }
}

impl Engine {
    /// What changed since the last call, whole applications, the longest unsaved first, until
    /// there are so many rows.
    pub fn snapshot(&mut self, rows_max: usize) -> Snapshot {
        let mut snapshot = Snapshot::default();
        while snapshot.rows() < rows_max
            && let Some((place, _)) = self.changed.pop_front()
        {
            self.applications[place as usize].save(&self.limits, &mut snapshot);
        }
        snapshot
    }

    /// What changed of one application.
    pub fn snapshot_of(&mut self, tenant: &str, application: &str) -> Snapshot {
        let mut snapshot = Snapshot::default();
        if let Some(place) = self.place(tenant, application) {
            self.changed.retain(|(changed, _)| *changed != place);
            self.applications[place as usize].save(&self.limits, &mut snapshot);
        }
        snapshot
    }

    /// Takes back an application's row. Contracts must be set before, and these rows come first.
    pub fn restore_application(&mut self, row: &ApplicationRow) -> Result<(), serde_json::Error> {
        let state: ApplicationState = serde_json::from_str(&row.state)?;
        let Some(application) = self.application_mut(&row.tenant, &row.application) else {
            return Ok(());
        };
        application.clock = state.clock;
        application.watermark = state.watermark;
        application.relays.heard = state.heard;
        application.graph = state.graph;
        application.requests.restore_sampling(state.sampling);
        for bound in &mut application.bound {
            let Some(known) = state.contracts.get(bound.program.name()) else { continue };
            bound.past = known.past.clone();
            for watched in &mut bound.watched {
                let name = &watched.promised.objective.name;
                watched.next_end = known.next_ends.get(name).copied();
                watched.rule = known.rules.get(name).cloned().or(watched.rule.take());
            }
        }
        application.next_due = application.find_next_due();
        Ok(())
    }

    /// Takes back series. What objectives no longer measure is left out.
    pub fn restore_series(&mut self, row: &SeriesRow) -> Result<(), serde_json::Error> {
        let ChunkState { objectives, series, .. } = serde_json::from_str(&row.state)?;
        let Some(application) = self.application_mut(&row.tenant, &row.application) else {
            return Ok(());
        };
        let Some(b) = application.bound_of(&row.contract) else { return Ok(()) };
        let bound = &application.bound[b];
        let homes: Vec<_> = objectives.iter().map(|(objective, input)| bound.home(objective, input)).collect();
        let known = bound.lanes.iter().any(|lane| lane.bundle.digest == row.bundle);
        for state in series {
            let mut series = Series::new((0, 0, 0), state.key, homes.len(), state.last_data);
            series.uneven = state.uneven;
            for (member, state) in series.members.iter_mut().zip(state.members) {
                *member = state.map(|state| Member {
                    first: state.first,
                    last_data: state.last_data,
                    lifecycle: state.lifecycle,
                    memory: None,
                    memory_dirty: false,
                });
            }
            application.restore_timers(b, &homes, &series);
            application.adopt(b, &homes, series, known.then_some(row.chunk));
        }
        application.next_due = application.find_next_due();
        if !known {
            application.dirty = true;
            application.rewrite(&row.contract);
            if let Some(place) = self.place(&row.tenant, &row.application) {
                self.note_change(place);
            }
        }
        Ok(())
    }

    /// Takes back what a series remembers. It must have been restored before.
    pub fn restore_memory(&mut self, row: &MemoryRow) -> Result<(), serde_json::Error> {
        let key: SeriesKey = serde_json::from_str(&row.key)?;
        let memory = serde_json::from_str(&row.memory)?;
        let Some(application) = self.application_mut(&row.tenant, &row.application) else { return Ok(()) };
        let Some(b) = application.bound_of(&row.contract) else { return Ok(()) };
        let bound = &application.bound[b];
        let Some((lane, slot)) = bound.home(&row.objective, &row.input) else { return Ok(()) };
        if let Some(index) = bound.lanes[usize::from(lane)].series.get(&key)
            && let Some(member) = &mut application.series.get_mut_quietly(*index).members[usize::from(slot)]
        {
            member.memory = Some(Box::new(memory));
        }
        Ok(())
    }

    /// Takes back panes. Their series must have been restored before.
    pub fn restore_panes(&mut self, row: &PaneRow) -> Result<(), rmp_serde::decode::Error> {
        let PanesIn { sources, panes } = rmp_serde::from_slice(&row.state)?;
        let Some(application) = self.application_mut(&row.tenant, &row.application) else {
            return Ok(());
        };
        let Some(b) = application.bound_of(&row.contract) else { return Ok(()) };
        let bound = &application.bound[b];
        let Some(lane) = bound.lanes.iter().find(|lane| lane.bundle.digest == row.bundle) else { return Ok(()) };
        // All objectives of a bundle are judged at the same times.
        let next_end = |(objective, _): &(u16, u16)| bound.watched[usize::from(*objective)].next_end;
        let needed_from = lane.bundle.members.iter().filter_map(next_end).min().map(|end| end - lane.bundle.longest);
        if needed_from.is_none_or(|from| row.start < from) {
            return Ok(());
        }
        let sources: Vec<_> = sources.iter().map(|name| application.sources.number(name)).collect();
        for PaneIn { key, accumulators, brought, misses } in panes {
            let whole = accumulators.len() == lane.bundle.inputs.len();
            let Some(index) = lane.series.get(&key).filter(|_| whole) else { continue };
            let brought = brought.into_iter().map(|(source, taken, samples, sum)| Brought {
                source: sources.get(source as usize).copied().unwrap_or(OTHERS),
                taken,
                samples,
                sum,
            });
            let brought = brought.collect();
            let pane = application.series.get_mut_quietly(*index).panes.at(row.start, &lane.bundle);
            *pane = Pane { start: row.start, accumulators, brought, misses, dirty: false };
        }
        Ok(())
    }

    /// Takes back report ids, the oldest rows first.
    pub fn restore_ids(&mut self, row: &IdRow) {
        let Some(application) = self.application_mut(&row.tenant, &row.application) else { return };
        for packed in row.ids.chunks_exact(24) {
            let id = u128::from_le_bytes(packed[..16].try_into().expect("16 of 24 bytes"));
            let time = i64::from_le_bytes(packed[16..].try_into().expect("8 of 24 bytes"));
            application.seen.restore(id, Timestamp::from_micros(time));
        }
        self.ids += row.ids.len() / 24;
    }

    /// Takes back waiting inferences, the oldest rows first.
    pub fn restore_joins(&mut self, row: &JoinRow) -> Result<(), serde_json::Error> {
        let log: JoinLog = serde_json::from_str(&row.entries)?;
        let (horizon, timeout) = (self.limits.join_horizon, self.limits.request_timeout);
        let Some(application) = self.application_mut(&row.tenant, &row.application) else {
            return Ok(());
        };
        let before = application.joiner.len();
        log.inferences.into_iter().for_each(|entry| application.joiner.restore(entry));
        log.relayed.into_iter().for_each(|relay| application.relays.restore(relay));
        log.requests.into_iter().for_each(|change| application.requests.restore(change, timeout));
        // What has left its horizon was forgotten before the row was written, or would be now.
        application.joiner.forget_before(application.watermark - horizon);
        application.relays.forget_before(application.watermark - horizon);
        let after = application.joiner.len();
        self.pending = self.pending + after - before;
        Ok(())
    }

    /// Takes back a pane of a slice, rows without a test first.
    pub fn restore_slice(&mut self, row: &SliceRow) {
        if let Some(application) = self.application_mut(&row.tenant, &row.application) {
            application.slices.restore(row, application.watermark);
        }
    }

    /// Takes back a minute of verdicts.
    pub fn restore_tally(&mut self, row: &TallyRow) {
        let Some(application) = self.application_mut(&row.tenant, &row.application) else { return };
        let watermark = application.watermark;
        let of_contract = application.bound.iter_mut().find(|bound| bound.program.name() == row.contract);
        let mut watched = of_contract.into_iter().flat_map(|bound| &mut bound.watched);
        if let Some(watched) = watched.find(|watched| watched.promised.objective.name == row.objective) {
            watched.tally.restore(row.start, row.counts, watermark);
        }
    }
}

impl Application {
    fn bound_of(&self, contract: &str) -> Option<usize> {
        self.bound.iter().position(|bound| bound.program.name() == contract)
    }

    /// Looks again at the series of `each` objectives. A timer only makes the engine look; due times
    /// are computed anew then.
    fn restore_timers(&mut self, b: usize, homes: &[Option<(u16, u16)>], series: &Series) {
        let soon = self.watermark + Span::from_micros(1);
        let bound = &mut self.bound[b];
        for (member, home) in series.members.iter().zip(homes) {
            let (Some(member), Some((lane, slot))) = (member, home) else { continue };
            let (objective, _) = bound.lanes[usize::from(*lane)].bundle.members[usize::from(*slot)];
            let watched = &mut bound.watched[usize::from(objective)];
            if watched.promised.is_each() {
                let due = if member.lifecycle.open().is_some() { soon } else { series.last_data + IDLE };
                watched.timers.insert((due, series.key.clone()));
            }
        }
    }

    /// All that is stored of a contract's series is to be stored anew.
    pub(super) fn rewrite(&mut self, contract: &str) {
        if self.series.keep && !self.rewritten.iter().any(|known| known == contract) {
            self.rewritten.push(contract.to_owned());
        }
    }

    /// The oldest pane start that open windows still need.
    fn needed_from(&self) -> Option<Timestamp> {
        let needed = self.bound.iter().flat_map(|bound| &bound.watched).flat_map(|watched| {
            let windowed = watched.promised.inputs.iter().filter(|input| input.every > Span::ZERO);
            windowed.filter_map(|input| Some(watched.next_end? - input.window))
        });
        needed.min()
    }

    fn save(&mut self, limits: &Limits, snapshot: &mut Snapshot) {
        self.listed = false;
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        let (tenant, application) = (self.tenant.to_string(), self.name.to_string());
        snapshot.applications.push(ApplicationRow {
            tenant: tenant.clone(),
            application: application.clone(),
            clock: self.clock,
            needed_from: self.needed_from().unwrap_or(self.clock),
            state: json(&self.state(limits)),
        });
        for (contract, objective, input, key) in std::mem::take(&mut self.forgotten) {
            snapshot.forgotten.push([tenant.clone(), application.clone(), contract, objective, input, json(&key)]);
        }
        self.save_series(snapshot);
        let fresh = self.seen.take_fresh();
        if let Some(newest) = fresh.iter().map(|(_, time)| *time).max() {
            let mut ids = Vec::with_capacity(fresh.len() * 24);
            for (id, time) in fresh {
                ids.extend_from_slice(&id.to_le_bytes());
                ids.extend_from_slice(&time.as_micros().to_le_bytes());
            }
            snapshot.ids.push(IdRow { tenant: tenant.clone(), application: application.clone(), newest, ids });
        }
        let watermark = self.watermark;
        for watched in self.bound.iter_mut().flat_map(|bound| &mut bound.watched) {
            for (start, counts) in watched.tally.take_changed(watermark) {
                snapshot.tallies.push(TallyRow {
                    tenant: tenant.clone(),
                    application: application.clone(),
                    contract: watched.promised.contract.clone(),
                    objective: watched.promised.objective.name.clone(),
                    start,
                    counts,
                });
            }
        }
        let slices = self.slices.len();
        self.slices.take_changed(&tenant, &application, self.watermark, &mut snapshot.slices);
        if self.slices.len() < slices {
            self.forget_routes();
        }
        let log = JoinLog {
            inferences: self.joiner.take_log(),
            relayed: self.relays.take_log(),
            requests: self.requests.take_changed(&mut snapshot.steps, &mut snapshot.truths),
        };
        let times = log.inferences.iter().map(Entry::time).chain(log.relayed.iter().map(|Relay(_, at)| *at));
        let times = times.chain(log.requests.iter().map(requests::Change::time));
        if let Some(newest) = times.max() {
            let needed_from = self.watermark - limits.join_horizon.max(limits.request_timeout);
            snapshot.joins.push(JoinRow { tenant, application, newest, needed_from, entries: json(&log) });
        }
    }

    /// The series, panes and memories that changed; what is stored together is written whole.
    fn save_series(&mut self, snapshot: &mut Snapshot) {
        let (tenant, application) = (self.tenant.to_string(), self.name.to_string());
        for contract in std::mem::take(&mut self.rewritten) {
            let bound = self.bound_of(&contract).map(|b| &self.bound[b]);
            for index in bound.into_iter().flat_map(|bound| &bound.lanes).flat_map(|lane| lane.series.values()) {
                let series = self.series.touch(*index);
                series.panes.0.iter_mut().for_each(|pane| pane.dirty = true);
                series.members.iter_mut().flatten().for_each(|member| member.memory_dirty = true);
            }
            snapshot.rewritten.push([tenant.clone(), application.clone(), contract]);
        }
        let mut changed: BTreeSet<(u16, u16, u32)> = BTreeSet::new();
        for index in self.series.take_changed() {
            let series = self.series.get(index);
            changed.insert((series.bound, series.lane, series.chunk));
        }
        for (b, bound) in self.bound.iter_mut().enumerate() {
            for (l, lane) in bound.lanes.iter_mut().enumerate() {
                changed.extend(lane.chunks.changed.drain(..).map(|chunk| (b as u16, l as u16, chunk)));
            }
        }
        let mut changed = changed.into_iter().peekable();
        while let Some((b, l, _)) = changed.peek().copied() {
            let bound = &self.bound[usize::from(b)];
            let lane = &bound.lanes[usize::from(l)];
            let mut chunks: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            while let Some((.., chunk)) = changed.next_if(|next| (next.0, next.1) == (b, l)) {
                chunks.insert(chunk, Vec::new());
            }
            for index in lane.series.values() {
                if let Some(chunk) = chunks.get_mut(&self.series.get(*index).chunk) {
                    chunk.push(*index);
                }
            }
            let promised = |member: &(u16, u16)| &*bound.watched[usize::from(member.0)].promised;
            let names = |member: &(u16, u16)| {
                let promised = promised(member);
                (promised.objective.name.clone(), promised.inputs[usize::from(member.1)].name.clone())
            };
            let objectives: Vec<_> = lane.bundle.members.iter().map(names).collect();
            let contract = bound.program.name().to_owned();
            let bundle = &lane.bundle;
            for (chunk, indices) in chunks {
                let mut starts = BTreeSet::new();
                for index in &indices {
                    let series = self.series.get_mut_quietly(*index);
                    starts.extend(series.panes.0.iter().filter(|pane| pane.dirty).map(|pane| pane.start));
                    for (slot, member) in series.members.iter_mut().enumerate() {
                        let Some(member) = member else { continue };
                        let changed = std::mem::take(&mut member.memory_dirty);
                        let Some(memory) = member.memory.as_ref().filter(|_| changed) else { continue };
                        let (objective, input) = objectives[slot].clone();
                        snapshot.memories.push(MemoryRow {
                            tenant: tenant.clone(),
                            application: application.clone(),
                            contract: contract.clone(),
                            objective,
                            input,
                            key: json(&series.key),
                            labels: json(&SeriesLabels(bundle.group_by(), &series.key)),
                            memory: json(memory),
                        });
                    }
                }
                let states = indices.iter().map(|index| SeriesState::of(self.series.get(*index)));
                let state = ChunkState {
                    objectives: objectives.clone(),
                    labels: bundle.group_by().to_vec(),
                    series: states.collect(),
                };
                snapshot.series.push(SeriesRow {
                    tenant: tenant.clone(),
                    application: application.clone(),
                    contract: contract.clone(),
                    bundle: bundle.digest.clone(),
                    chunk,
                    state: json(&state),
                });
                for start in starts {
                    let state = panes_of(&self.series, &self.sources, &indices, start);
                    snapshot.panes.push(PaneRow {
                        tenant: tenant.clone(),
                        application: application.clone(),
                        contract: contract.clone(),
                        bundle: bundle.digest.clone(),
                        chunk,
                        start,
                        state,
                    });
                }
                for index in indices {
                    let series = self.series.get_mut_quietly(index);
                    series.panes.0.iter_mut().for_each(|pane| pane.dirty = false);
                }
            }
        }
    }

    fn state(&self, limits: &Limits) -> ApplicationState {
        let contracts = self.bound.iter().map(|bound| {
            let named = |watched: &super::application::Watched| watched.promised.objective.name.clone();
            let state = ContractState {
                past: bound.past.clone(),
                next_ends: bound.watched.iter().filter_map(|w| Some((named(w), w.next_end?))).collect(),
                rules: bound.watched.iter().filter_map(|w| Some((named(w), w.rule.clone()?))).collect(),
            };
            (bound.program.name().to_owned(), state)
        });
        ApplicationState {
            clock: self.clock,
            watermark: self.watermark,
            heard: self.relays.heard.clone(),
            graph: self.graph.clone(),
            sampling: self.requests.sampling().clone(),
            request_timeout: limits.request_timeout,
            contracts: contracts.collect(),
        }
    }
}

impl SeriesState {
    fn of(series: &Series) -> SeriesState {
        let members = (0..series.members.len()).map(|slot| {
            series.members[slot].as_ref().map(|member| MemberState {
                first: member.first,
                last_data: series.last_data(slot),
                lifecycle: member.lifecycle.clone(),
            })
        });
        SeriesState {
            key: series.key.clone(),
            last_data: series.last_data,
            uneven: series.uneven,
            members: members.collect(),
        }
    }
}

/// The panes of these series that start at a time, as MessagePack.
fn panes_of(slab: &Slab, names: &Sources, indices: &[u32], start: Timestamp) -> Vec<u8> {
    let mut out = PanesOut { sources: Vec::new(), panes: Vec::new() };
    let mut places: BTreeMap<SourceId, u32> = BTreeMap::new();
    for index in indices {
        let series = slab.get(*index);
        let Some(pane) = series.panes.0.iter().find(|pane| pane.start == start) else { continue };
        let brought = pane.brought.iter().map(|brought| {
            let place = *places.entry(brought.source).or_insert_with(|| {
                out.sources.push(names.name(brought.source));
                out.sources.len() as u32 - 1
            });
            (place, brought.taken, brought.samples, brought.sum)
        });
        let brought = brought.collect();
        let (key, accumulators, misses) = (&series.key, &*pane.accumulators, &*pane.misses);
        out.panes.push(PaneOut { key, accumulators, brought, misses });
    }
    rmp_serde::to_vec(&out).expect("a list in memory takes all that engine state holds")
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("engine state has text keys only and serializes without errors")
}

//! What the store must keep so that an engine can go on where it was.
//!
//! A snapshot holds only what changed since the one before: panes, series, and a few words an
//! application. Written in one transaction with the position in the stream, it makes a restart
//! the same as no restart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::action::Past;
use super::aggregate::Accumulator;
use super::application::{Application, IDLE, Place, RuleState, Series};
use super::graph::Graph;
use super::lifecycle::Lifecycle;
use super::pane::{Pane, Panes, Share};
use super::predictions::Entry;
use super::program::{Input, Promised};
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
    /// Series that changed.
    pub series: Vec<SeriesRow>,
    /// Series that were dropped: tenant, application, contract, objective, input, key.
    pub forgotten: Vec<[String; 6]>,
    /// Panes that changed.
    pub panes: Vec<PaneRow>,
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

/// A series and where its violation stands.
#[derive(Debug, Clone)]
pub struct SeriesRow {
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
    pub state: String,
    /// JSON; none where it did not change, or there is none.
    pub memory: Option<String>,
}

/// A pane.
#[derive(Debug, Clone)]
pub struct PaneRow {
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
    /// Digest of what is measured; panes of an earlier definition are not mixed in.
    pub measure: String,
    /// JSON array of label values.
    pub key: String,
    /// Where it starts.
    pub start: Timestamp,
    /// Observations.
    pub samples: u64,
    /// JSON.
    pub state: String,
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

#[derive(Serialize, Deserialize)]
struct SeriesState {
    first: Timestamp,
    last_data: Timestamp,
    lifecycle: Lifecycle,
}

#[derive(Serialize, Deserialize)]
struct PaneState {
    accumulator: Accumulator,
    shares: Vec<(String, Share)>,
}

impl Snapshot {
    /// How many rows it has.
    pub fn rows(&self) -> usize {
        let Snapshot { applications, series, panes, ids, joins, forgotten, slices, tallies, steps, truths } = self;
        let state = applications.len() + series.len() + panes.len() + ids.len() + joins.len() + forgotten.len();
        state + slices.len() + tallies.len() + steps.len() + truths.len()
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

    /// Takes back a series.
    pub fn restore_series(&mut self, row: &SeriesRow) -> Result<(), serde_json::Error> {
        let state: SeriesState = serde_json::from_str(&row.state)?;
        let key: SeriesKey = serde_json::from_str(&row.key)?;
        let Some(application) = self.application_mut(&row.tenant, &row.application) else {
            return Ok(());
        };
        let Some(place) = application.place(&row.contract, &row.objective, &row.input) else { return Ok(()) };
        let memory = row.memory.as_deref().map(serde_json::from_str).transpose()?;
        let index = application.series.insert(Series {
            place,
            key: key.clone(),
            panes: Panes::default(),
            first: state.first,
            last_data: state.last_data,
            lifecycle: state.lifecycle,
            memory,
            memory_dirty: false,
            dirty: false,
        });
        let watched = &mut application.bound[usize::from(place.bound)].watched[usize::from(place.objective)];
        if watched.promised.is_each() {
            // A timer only makes the engine look; due times are computed anew then.
            let soon = application.watermark + Span::from_micros(1);
            let due =
                if application.series.get(index).lifecycle.open().is_some() { soon } else { state.last_data + IDLE };
            watched.timers.insert((due, key.clone()));
        }
        watched.inputs[usize::from(place.input)].insert(key, index);
        application.next_due = application.find_next_due();
        Ok(())
    }

    /// Takes back a pane. Its series must have been restored before.
    pub fn restore_pane(&mut self, row: &PaneRow) -> Result<(), serde_json::Error> {
        let state: PaneState = serde_json::from_str(&row.state)?;
        let key: SeriesKey = serde_json::from_str(&row.key)?;
        let Some(application) = self.application_mut(&row.tenant, &row.application) else {
            return Ok(());
        };
        let Some(place) = application.place(&row.contract, &row.objective, &row.input) else { return Ok(()) };
        let watched = &application.bound[usize::from(place.bound)].watched[usize::from(place.objective)];
        let Some(index) = watched.inputs[usize::from(place.input)].get(&key).copied() else { return Ok(()) };
        let gauge = &watched.promised.inputs[usize::from(place.input)].gauge;
        let shares = state.shares.into_iter();
        let shares = shares.map(|(name, share)| Share { source: application.sources.number(&name), ..share }).collect();
        let pane = application.series.get_mut_quietly(index).panes.at(row.start, gauge);
        *pane = Pane { start: row.start, accumulator: state.accumulator, shares, dirty: false };
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

    /// The oldest pane start that open windows still need, by tenant, application, contract,
    /// objective, input and measure;
    /// for loading panes after [`Engine::restore_series`].
    pub fn needed_from(&self) -> Vec<([String; 6], Timestamp)> {
        let mut needed = Vec::new();
        for application in self.applications.iter() {
            for (promised, input, from) in application.needed_from() {
                let key = [
                    &*application.tenant,
                    &*application.name,
                    &promised.contract,
                    &promised.objective.name,
                    &input.name,
                    &promised.measure,
                ];
                needed.push((key.map(str::to_owned), from));
            }
        }
        needed.sort();
        needed
    }
}

impl Application {
    fn place(&self, contract: &str, objective: &str, input: &str) -> Option<Place> {
        let b = self.bound.iter().position(|bound| bound.program.name() == contract)?;
        let o = self.bound[b].watched.iter().position(|watched| watched.promised.objective.name == objective)?;
        let inputs = &self.bound[b].watched[o].promised.inputs;
        let i = inputs.iter().position(|known| known.name == input)?;
        Some(Place { bound: b as u16, objective: o as u16, input: i as u16 })
    }

    fn needed_from(&self) -> impl Iterator<Item = (&Promised, &Input, Timestamp)> {
        self.bound.iter().flat_map(|bound| &bound.watched).flat_map(|watched| {
            let windowed = watched.promised.inputs.iter().filter(|input| input.every > Span::ZERO);
            windowed.filter_map(|input| Some((&*watched.promised, &**input, watched.next_end? - input.window)))
        })
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
            needed_from: self.needed_from().map(|(.., from)| from).min().unwrap_or(self.clock),
            state: json(&self.state(limits)),
        });
        for (contract, objective, input, key) in std::mem::take(&mut self.forgotten) {
            snapshot.forgotten.push([tenant.clone(), application.clone(), contract, objective, input, json(&key)]);
        }
        for index in self.series.take_changed() {
            let series = self.series.get_mut_quietly(index);
            let changed = std::mem::take(&mut series.memory_dirty);
            let memory = series.memory.as_ref().filter(|_| changed).map(json);
            let series = self.series.get(index);
            let watched = &self.bound[usize::from(series.place.bound)].watched[usize::from(series.place.objective)];
            let promised = watched.promised.clone();
            let input = &promised.inputs[usize::from(series.place.input)];
            let row = SeriesRow {
                tenant: tenant.clone(),
                application: application.clone(),
                contract: promised.contract.clone(),
                objective: promised.objective.name.clone(),
                input: input.name.clone(),
                key: json(&series.key),
                labels: json(&SeriesLabels(&input.indicator.group_by, &series.key)),
                state: json(&SeriesState {
                    first: series.first,
                    last_data: series.last_data,
                    lifecycle: series.lifecycle.clone(),
                }),
                memory,
            };
            let mut panes = std::mem::take(&mut self.series.get_mut_quietly(index).panes);
            for pane in &mut panes.0 {
                if !std::mem::take(&mut pane.dirty) {
                    continue;
                }
                let shares = pane.shares.iter().map(|share| (self.sources.name(share.source).to_owned(), *share));
                snapshot.panes.push(PaneRow {
                    tenant: tenant.clone(),
                    application: application.clone(),
                    contract: row.contract.clone(),
                    objective: row.objective.clone(),
                    input: row.input.clone(),
                    measure: promised.measure.clone(),
                    key: row.key.clone(),
                    start: pane.start,
                    samples: pane.accumulator.samples(),
                    state: json(&PaneState { accumulator: pane.accumulator.clone(), shares: shares.collect() }),
                });
            }
            self.series.get_mut_quietly(index).panes = panes;
            snapshot.series.push(row);
        }
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

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("engine state has text keys only and serializes without errors")
}

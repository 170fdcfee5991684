//! Judging what is due: windows into evaluations, evaluations into transitions and actions.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::action;
use super::aggregate::Accumulator;
use super::application::{Application, IDLE, Member, Place};
use super::chance::{Effort, rejected};
use super::detail::Detail;
use super::gauge::Summary;
use super::lifecycle::{Change, Latest, Open, Resolution};
use super::memory::drifted;
use super::pane::{OTHERS, Share, SourceId};
use super::program::{Input, Promised};
use super::route::Lane;
use super::verdict::{
    Action, Contributor, Evaluation, Evidence, SeriesKey, SeriesLabels, State, Transition, Verdict, Window,
    counterfactual, judge, short, short_value,
};
use super::{Output, Outputs};
use crate::contract::{Aggregate, Condition, Promise, Scalar};
use crate::policy;
use crate::report::Value;
use crate::time::{Span, Timestamp};

/// Contributors that evidence names at most.
const CONTRIBUTORS_MAX: usize = 10;

/// One judgement, before it becomes an evaluation.
#[derive(Clone)]
struct Judged {
    window: Window,
    value: Option<Scalar>,
    samples: u64,
    verdict: Verdict,
    message: Option<String>,
    detail: Option<Box<Detail>>,
}

impl Application {
    /// Judges all windows that end, and all timers that are due, at `due`.
    pub(super) fn judge_due(&mut self, due: Timestamp, out: &mut Outputs) {
        for b in 0..self.bound.len() {
            let watched = self.bound[b].watched.iter().filter(|watched| watched.next_end == Some(due));
            let judged: BTreeSet<u16> =
                watched.flat_map(|watched| watched.inputs.iter().map(|(lane, _)| *lane)).collect();
            self.read_ahead(b, &judged);
            for o in 0..self.bound[b].watched.len() {
                let place = Place { bound: b as u16, objective: o as u16, input: 0 };
                let watched = &self.bound[b].watched[o];
                if watched.next_end == Some(due) {
                    match watched.promised.objective.promise {
                        Promise::Target { .. } => self.judge_windows(place, due, out),
                        Promise::Rule { .. } => self.judge_rule(place, due, out),
                    }
                    let watched = &mut self.bound[b].watched[o];
                    let next = due + watched.promised.every();
                    watched.next_end = (watched.alive > 0).then_some(next);
                }
                self.look_at_timers(place, due, out);
            }
            // What the next windows do not need.
            for lane in judged {
                let Lane { bundle, series, .. } = &self.bound[b].lanes[usize::from(lane)];
                for index in series.values() {
                    let panes = &mut self.series.get_mut_quietly(*index).panes;
                    panes.forget_before(due - bundle.longest + bundle.every);
                }
            }
            let until = self.bound[b].program.contract.spec.effective.until;
            if until.is_some_and(|until| until <= due) {
                for o in 0..self.bound[b].watched.len() {
                    let place = Place { bound: b as u16, objective: o as u16, input: 0 };
                    self.end_objective(place, due, Resolution::Expired, out);
                }
            }
        }
    }

    fn judge_windows(&mut self, place: Place, end: Timestamp, out: &mut Outputs) {
        let (b, o) = (usize::from(place.bound), usize::from(place.objective));
        let promised = self.bound[b].watched[o].promised.clone();
        let [input] = &promised.inputs[..] else { return };
        let window = Window { start: end - input.window, end };
        let (slot, members) = self.members(place);
        let judged_by_chance = input.false_alarm.map(|rate| (rate, members.len()));
        let mut looks = Vec::new();
        for index in members {
            if self.series.get(index).member(slot).first >= end {
                continue;
            }
            let (summary, merged) = self.look(&promised, input, (index, slot), window, judged_by_chance);
            if judged_by_chance.is_some() {
                // All series count in the judgement of each.
                looks.push((index, summary, merged));
            } else {
                self.judge_window(place, &promised, (index, slot), window, (summary, merged, false), out);
            }
        }
        let mut verdicts = chance(&looks, input.false_alarm, promised.objective.min_samples).into_iter();
        for (index, summary, merged) in looks {
            let look = (summary, merged, verdicts.next().unwrap_or(false));
            self.judge_window(place, &promised, (index, slot), window, look, out);
        }
    }

    /// Judges what a window of a series came to: its summary, its accumulator, and whether chance does not
    /// explain its drift.
    fn judge_window(
        &mut self,
        place: Place,
        promised: &std::sync::Arc<Promised>,
        (index, slot): (u32, usize),
        window: Window,
        (summary, merged, beyond_chance): (Summary, Accumulator, bool),
        out: &mut Outputs,
    ) {
        let (Promise::Target { target, .. }, [input]) = (&promised.objective.promise, &promised.inputs[..]) else {
            return;
        };
        let end = window.end;
        let min_samples = if input.is_freshness() { 0 } else { promised.objective.min_samples };
        let (verdict, message) = judge(target, &summary, min_samples, beyond_chance);
        let Summary { samples, value, detail, .. } = summary;
        let judged = Judged { window, value, samples, verdict, message, detail };
        let series = self.series.touch(index);
        let last_data = series.last_data(slot);
        let lifecycle = &mut series.member_mut(slot).lifecycle;
        lifecycle.latest = Some(judged.latest());
        let change = lifecycle.judge(&promised.objective, end, verdict, last_data);
        if change.is_some() || out.keep_evaluations {
            let key = series.key.clone();
            let evidence = matches!(change, Some(Change::Opens { .. })).then(|| {
                let shares = self.series.get(index).panes.shares(slot, window.start, end);
                self.evidence(promised, &merged, &shares, &judged)
            });
            self.emit(place, promised, &key, &judged, out);
            self.change(place, promised, &key, Holder::Series(index, slot), judged, change, evidence, out);
        } else {
            self.note(place, &judged, out);
        }
        self.leave(input, (index, slot), &merged, window);
        self.drop_if_idle(place, (index, slot), end);
    }

    /// What a window of a series comes to, and its accumulator. Takes in the pane that has just closed.
    fn look(
        &mut self,
        promised: &Promised,
        input: &Input,
        (index, slot): (u32, usize),
        window: Window,
        judged_by_chance: Option<(f64, usize)>,
    ) -> (Summary, Accumulator) {
        let series = self.series.touch(index);
        let closing = window.end - input.every;
        let member = series.members[slot].as_mut();
        if let Some(Member { memory: Some(memory), memory_dirty, .. }) = member
            && let Some(pane) = series.panes.get(slot, closing)
        {
            *memory_dirty |= memory.close(pane, closing, window);
        }
        let merged = if input.indicator.aggregate.is_detector() {
            Accumulator::Values { n: series.panes.samples(slot, window.start, window.end), values: Vec::new() }
        } else {
            series.panes.merged(slot, window.start, window.end, &input.gauge)
        };
        let effort = judged_by_chance
            .map(|(rate, series_count)| Effort::new(rate, series_count, seed(promised, &series.key, window.end)));
        let summary = match (&series.member(slot).memory, &input.baseline, &merged) {
            (Some(memory), _, _) => memory.summary(input, &merged, window, effort),
            (None, Some(baseline), Accumulator::Distribution(distribution)) => {
                drifted(input, &baseline.distribution, distribution, baseline.file.clone(), effort)
            }
            (None, ..) => input.gauge.summary(&merged, window.start),
        };
        (summary, merged)
    }

    /// Takes in what the next window will not hold.
    fn leave(&mut self, input: &Input, (index, slot): (u32, usize), merged: &Accumulator, window: Window) {
        let series = self.series.get_mut_quietly(index);
        if let Some(Member { memory: Some(memory), memory_dirty, .. }) = &mut series.members[slot] {
            *memory_dirty |= memory.leave(input, series.panes.get(slot, window.start), merged, window);
        }
    }

    fn judge_rule(&mut self, place: Place, end: Timestamp, out: &mut Outputs) {
        let (b, o) = (usize::from(place.bound), usize::from(place.objective));
        let promised = self.bound[b].watched[o].promised.clone();
        let Promise::Rule { rule } = &promised.objective.promise else { return };
        let mut inputs = BTreeMap::new();
        let mut samples = 0;
        let mut contributors = Vec::new();
        let mut longest = Span::ZERO;
        let mut members = Vec::new();
        let mut fault = None;
        for (i, input) in promised.inputs.iter().enumerate() {
            longest = longest.max(input.window);
            let mut series = Vec::new();
            let (slot, of_input) = self.members(Place { input: i as u16, ..place });
            for index in of_input {
                members.push((i, (index, slot)));
                let window = Window { start: end - input.window, end };
                let (summary, merged) = self.look(&promised, input, (index, slot), window, None);
                self.leave(input, (index, slot), &merged, window);
                fault = fault.or_else(|| summary.fault.map(|fault| format!("input {}: {fault}", input.name)));
                samples += summary.samples;
                let Some(value) = summary.value else { continue };
                let key = self.series.get(index).key.clone();
                let labels = SeriesLabels(&input.indicator.group_by, &key).to_string();
                let source = if labels.is_empty() { input.name.clone() } else { format!("{}: {labels}", input.name) };
                let number = value.0.as_number();
                contributors.push(Contributor { source, samples: summary.samples, bad: None, value: number });
                let names = input.indicator.group_by.iter().cloned();
                series.push(policy::InputSeries {
                    key: names.zip(key.0.iter().map(ToString::to_string)).collect(),
                    value: serde_json::to_value(&value).unwrap_or_default(),
                    count: summary.samples,
                });
            }
            let grouped = !input.indicator.group_by.is_empty();
            let count = series.iter().map(|series| series.count).sum();
            let value = if grouped { None } else { series.first().map(|series| series.value.clone()) };
            inputs.insert(input.name.as_str(), policy::Input { value, count, series: grouped.then_some(series) });
        }
        let window = Window { start: end - longest, end };
        let (verdict, value, message) = if fault.is_some() {
            (Verdict::Error, None, fault)
        } else if samples == 0 {
            (Verdict::NoData, None, None)
        } else if samples < promised.objective.min_samples {
            (Verdict::Insufficient, None, None)
        } else {
            let started = (out.stopwatch)();
            let ruling = self.bound[b].program.policies.rule(rule, &inputs);
            out.counts.scripts(started, (out.stopwatch)());
            match ruling {
                Ok(ruling) => {
                    let verdict = if ruling.ok { Verdict::Met } else { Verdict::Breached };
                    (verdict, ruling.value.map(|value| Scalar(Value::Number(value))), ruling.message)
                }
                Err(error) => (Verdict::Error, None, Some(error.to_string())),
            }
        };
        let judged = Judged { window, value, samples, verdict, message, detail: None };
        let newest = members.iter().map(|(_, (index, slot))| self.series.get(*index).last_data(*slot));
        let newest = newest.filter(|at| *at < end).max();
        let state = self.bound[b].watched[o].rule.get_or_insert_default();
        state.last_data = state.last_data.max(newest);
        state.lifecycle.latest = Some(judged.latest());
        let last_data = state.last_data.unwrap_or(end);
        let change = state.lifecycle.judge(&promised.objective, end, verdict, last_data);
        let evidence = matches!(change, Some(Change::Opens { .. })).then(|| {
            contributors.sort_by(|a, b| b.value.unwrap_or_default().total_cmp(&a.value.unwrap_or_default()));
            contributors.truncate(CONTRIBUTORS_MAX);
            let indicator = promised.indicator_words();
            Evidence { window, indicator, counterfactual: None, contributors, detail: None }
        });
        let key = SeriesKey::default();
        self.emit(place, &promised, &key, &judged, out);
        self.change(place, &promised, &key, Holder::Rule, judged, change, evidence, out);
        for (i, member) in members {
            self.drop_if_idle(Place { input: i as u16, ..place }, member, end);
        }
    }

    /// Judges one observation of an `each` objective.
    pub(super) fn judge_each(
        &mut self,
        (bound, lane): (u16, u16),
        index: u32,
        source: SourceId,
        time: Timestamp,
        value: &Value<'_>,
        out: &mut Outputs,
    ) {
        let b = usize::from(bound);
        // It has a bundle of its own.
        let (objective, input) = self.bound[b].lanes[usize::from(lane)].bundle.members[0];
        let place = Place { bound, objective, input };
        let o = usize::from(objective);
        let promised = self.bound[b].watched[o].promised.clone();
        let Promise::Target { target, .. } = &promised.objective.promise else { return };
        let series = self.series.touch(index);
        let lifecycle = &mut series.member_mut(0).lifecycle;
        let window = Window { start: time, end: time };
        let change = match target.holds(value) {
            Some(true) => lifecycle.good_observation(time, promised.objective.hold_healthy),
            Some(false) => lifecycle.breach(time, promised.objective.hold_open),
            None => {
                out.counts.wrong_type += 1;
                return;
            }
        };
        let breached = target.holds(value) == Some(false);
        let verdict = if breached { Verdict::Breached } else { Verdict::Met };
        let value_kept = Some(Scalar(value.clone().into_owned()));
        let judged = Judged { window, value: value_kept, samples: 1, verdict, message: None, detail: None };
        if lifecycle.latest.as_ref().is_none_or(|latest| latest.at <= time) {
            lifecycle.latest = Some(judged.latest());
        }
        let key = series.key.clone();
        if breached {
            self.emit(place, &promised, &key, &judged, out);
        } else if self.slices.keep {
            self.bound[b].watched[o].tally.count(verdict, time, self.watermark);
        }
        let evidence = matches!(change, Some(Change::Opens { .. })).then(|| {
            let sum = value.as_number().unwrap_or_default();
            let share = Share { source, samples: 1, misses: 1, sum };
            self.evidence(&promised, &Accumulator::Count { n: 1 }, &[share], &judged)
        });
        self.change(place, &promised, &key, Holder::Series(index, 0), judged, change, evidence, out);
        if let Some(due) =
            self.series.get(index).member(0).lifecycle.open().and_then(|open| each_due(&promised, open, time))
        {
            self.bound[b].watched[o].timers.insert((due, key));
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
    }

    /// Looks at the `each` series whose timers have come: resolves and drops.
    fn look_at_timers(&mut self, place: Place, due: Timestamp, out: &mut Outputs) {
        let (b, o) = (usize::from(place.bound), usize::from(place.objective));
        while let Some((at, key)) = self.bound[b].watched[o].timers.first().cloned().filter(|(at, _)| *at <= due) {
            self.bound[b].watched[o].timers.remove(&(at, key.clone()));
            let (lane, _) = self.bound[b].watched[o].inputs[0];
            let Some(index) = self.bound[b].lanes[usize::from(lane)].series.get(&key).copied() else { continue };
            let promised = self.bound[b].watched[o].promised.clone();
            let series = self.series.touch(index);
            let last_data = series.last_data;
            let lifecycle = &mut series.member_mut(0).lifecycle;
            let Some(open) = lifecycle.open() else {
                if !self.drop_if_idle(place, (index, 0), due) {
                    self.bound[b].watched[o].timers.insert((last_data + IDLE, key));
                }
                continue;
            };
            let healthy = open.healthy_since.is_some() && open.last_breach + promised.objective.hold_healthy <= due;
            let stale = last_data + promised.objective.stale_after <= due;
            let change = match (healthy, stale) {
                (true, _) => lifecycle.resolve(Resolution::Met),
                (false, true) => lifecycle.resolve(Resolution::Stale),
                (false, false) => None,
            };
            let next = match lifecycle.open().and_then(|open| each_due(&promised, open, last_data)) {
                Some(next) if next > due => next,
                _ => (last_data + IDLE).max(due + Span::seconds(1)),
            };
            let latest = lifecycle.latest.clone();
            self.bound[b].watched[o].timers.insert((next, key.clone()));
            let judged = Judged {
                window: Window { start: due, end: due },
                value: latest.and_then(|latest| latest.value),
                samples: 0,
                verdict: Verdict::Met,
                message: None,
                detail: None,
            };
            self.change(place, &promised, &key, Holder::Series(index, 0), judged, change, None, out);
        }
    }

    /// Counts a verdict.
    fn note(&mut self, place: Place, judged: &Judged, out: &mut Outputs) {
        out.counts.evaluated(judged.verdict);
        if self.slices.keep {
            let watched = &mut self.bound[usize::from(place.bound)].watched[usize::from(place.objective)];
            watched.tally.count(judged.verdict, judged.window.end, Timestamp::EPOCH);
        }
    }

    fn emit(
        &mut self,
        place: Place,
        promised: &std::sync::Arc<Promised>,
        key: &SeriesKey,
        judged: &Judged,
        out: &mut Outputs,
    ) {
        self.note(place, judged, out);
        if !out.keep_evaluations {
            return;
        }
        out.list.push(Output::Evaluation(Evaluation {
            promised: promised.clone(),
            series: key.clone(),
            window: judged.window,
            value: judged.value.clone(),
            samples: judged.samples,
            verdict: judged.verdict,
            message: judged.message.clone(),
            detail: judged.detail.clone(),
        }));
    }

    #[allow(clippy::too_many_arguments)]
    fn change(
        &mut self,
        place: Place,
        promised: &Promised,
        key: &SeriesKey,
        holder: Holder,
        judged: Judged,
        change: Option<Change>,
        evidence: Option<Evidence>,
        out: &mut Outputs,
    ) {
        let at = judged.window.end;
        let (state, since, opened, id, reason) = match change {
            None => return,
            Some(Change::Opens { since }) => {
                let id = promised.violation_id(key, at);
                let open = Open { id, since, opened: at, last_breach: at, healthy_since: None };
                match holder {
                    Holder::Series(index, slot) => self.series.touch(index).member_mut(slot).lifecycle.opened(open),
                    Holder::Rule => {
                        let watched = &mut self.bound[usize::from(place.bound)].watched[usize::from(place.objective)];
                        watched.rule.get_or_insert_default().lifecycle.opened(open);
                    }
                }
                (State::Open, since, at, id, None)
            }
            Some(Change::Resolves(open, resolution)) => {
                (State::Resolved, open.since, open.opened, open.id, Some(resolution))
            }
        };
        let transition = Transition {
            id,
            tenant: self.tenant.clone(),
            application: self.name.clone(),
            contract: promised.contract.clone(),
            version: promised.version.clone(),
            objective: promised.objective.name.clone(),
            series: promised.labels(key),
            state,
            at,
            since,
            opened,
            severity: promised.objective.severity,
            responsible: promised.objective.responsible.clone(),
            message: sentence(promised, key, &judged, opened, reason),
            value: judged.value,
            samples: judged.samples,
            target: promised.objective.target().cloned(),
            reason,
            evidence,
        };
        let actions = if state == State::Open { self.act(place, &transition) } else { Vec::new() };
        out.list.push(Output::Transition(Box::new(transition)));
        out.list.extend(actions.into_iter().map(|action| Output::Action(Box::new(action))));
    }

    fn act(&mut self, place: Place, violation: &Transition) -> Vec<Action> {
        let bound = &mut self.bound[usize::from(place.bound)];
        let objective = &bound.watched[usize::from(place.objective)].promised.objective;
        let program = &bound.program;
        let fitting = program.contract.spec.actions.iter().filter(|rule| rule.on.fits(objective));
        fitting
            .flat_map(|rule| action::caused(program, rule, bound.past.entry(rule.name.clone()).or_default(), violation))
            .collect()
    }

    /// Ends all open violations of an objective, and forgets its series.
    pub(super) fn end_objective(&mut self, place: Place, at: Timestamp, why: Resolution, out: &mut Outputs) {
        let (b, o) = (usize::from(place.bound), usize::from(place.objective));
        let promised = self.bound[b].watched[o].promised.clone();
        let silent = |latest: Option<Latest>| Judged {
            window: Window { start: at, end: at },
            value: latest.and_then(|latest| latest.value),
            samples: 0,
            verdict: Verdict::NoData,
            message: None,
            detail: None,
        };
        if let Some(rule) = &mut self.bound[b].watched[o].rule {
            let judged = silent(rule.lifecycle.latest.clone());
            let change = rule.lifecycle.resolve(why);
            self.change(place, &promised, &SeriesKey::default(), Holder::Rule, judged, change, None, out);
        }
        for input in 0..promised.inputs.len() {
            let place = Place { input: input as u16, ..place };
            let (slot, members) = self.members(place);
            for index in members {
                let key = self.series.get(index).key.clone();
                let lifecycle = &mut self.series.touch(index).member_mut(slot).lifecycle;
                let judged = silent(lifecycle.latest.clone());
                let change = lifecycle.resolve(why);
                self.change(place, &promised, &key, Holder::Series(index, slot), judged, change, None, out);
                self.forget_member(place, (index, slot));
            }
        }
        let watched = &mut self.bound[b].watched[o];
        watched.next_end = None;
        watched.timers.clear();
    }

    fn evidence(&self, promised: &Promised, merged: &Accumulator, shares: &[Share], judged: &Judged) -> Evidence {
        let counts_misses = promised.inputs.iter().any(|input| match input.indicator.aggregate {
            Aggregate::Ratio | Aggregate::Accuracy | Aggregate::Precision | Aggregate::Recall | Aggregate::F1 => true,
            aggregate => {
                promised.objective.target().is_some_and(Condition::is_bound)
                    && !(aggregate.is_drift() || aggregate.is_detector() || aggregate.is_chart())
            }
        });
        let mut shares = shares.to_vec();
        // The sum of all others is nobody to turn to, so it comes last.
        let rank = |share: &Share| (share.source == OTHERS, Reverse(share.misses), Reverse(share.samples));
        let name = |share: &Share| self.sources.name(share.source);
        shares.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| name(a).cmp(name(b))));
        let contributors = shares.iter().take(CONTRIBUTORS_MAX).map(|share| Contributor {
            source: self.sources.name(share.source).to_owned(),
            samples: u64::from(share.samples),
            bad: counts_misses.then_some(u64::from(share.misses)),
            value: (share.samples > 0).then(|| share.sum / f64::from(share.samples)),
        });
        let value = judged.value.as_ref().and_then(|value| value.0.as_number());
        Evidence {
            window: judged.window,
            indicator: promised.indicator_words(),
            counterfactual: counterfactual(promised, merged, value),
            contributors: contributors.collect(),
            detail: judged.detail.clone(),
        }
    }

    fn drop_if_idle(&mut self, place: Place, (index, slot): (u32, usize), now: Timestamp) -> bool {
        let series = self.series.get(index);
        if series.member(slot).lifecycle.open().is_some() || now.since(series.last_data(slot)) < IDLE {
            return false;
        }
        self.forget_member(place, (index, slot));
        true
    }

    /// Drops one input's part of a series, and the series with its last part.
    fn forget_member(&mut self, place: Place, (index, slot): (u32, usize)) {
        self.forget_routes();
        let bound = &mut self.bound[usize::from(place.bound)];
        let watched = &mut bound.watched[usize::from(place.objective)];
        let keep = self.series.keep;
        let series = self.series.touch(index);
        let lane = &mut bound.lanes[usize::from(series.lane)];
        let Some(member) = series.members[slot].take() else { return };
        watched.alive -= 1;
        if keep && member.memory.is_some() {
            let promised = &watched.promised;
            let input = promised.inputs[usize::from(place.input)].name.clone();
            let key = series.key.clone();
            self.forgotten.push((promised.contract.clone(), promised.objective.name.clone(), input, key));
        }
        let gauge = &lane.bundle.inputs[slot].gauge;
        for pane in &mut series.panes.0 {
            pane.forget(slot, gauge);
            pane.dirty = keep;
        }
        series.settle();
        if series.alive() == 0 {
            lane.series.remove(&series.key);
            lane.chunks.leave(series.chunk);
            self.series.remove(index);
        }
        self.series.live -= 1;
    }
}

/// Who holds the lifecycle.
#[derive(Clone, Copy)]
enum Holder {
    Series(u32, usize),
    Rule,
}

impl Judged {
    fn latest(&self) -> Latest {
        Latest {
            at: self.window.end,
            verdict: self.verdict,
            value: self.value.clone(),
            samples: self.samples,
            message: self.message.clone(),
            detail: self.detail.clone(),
        }
    }
}

/// Of each window, whether chance does not explain its drift, all series of the objective considered.
fn chance<I, M>(looks: &[(I, Summary, M)], rate: Option<f64>, min_samples: u64) -> Vec<bool> {
    let Some(rate) = rate else { return Vec::new() };
    let enough = |summary: &Summary| summary.p_value.filter(|_| summary.samples >= min_samples);
    let p_values: Vec<f64> = looks.iter().filter_map(|(_, summary, _)| enough(summary)).collect();
    let mut verdicts = rejected(&p_values, rate).into_iter();
    looks.iter().map(|(_, summary, _)| enough(summary).and_then(|_| verdicts.next()).unwrap_or(false)).collect()
}

/// What simulations of one window's chance are seeded by.
fn seed(promised: &Promised, key: &SeriesKey, end: Timestamp) -> u64 {
    xxhash_rust::xxh3::xxh3_64(promised.violation_id(key, end).as_bytes())
}

/// When an open violation of an `each` objective may resolve without a further observation.
fn each_due(promised: &Promised, open: &Open, last_data: Timestamp) -> Option<Timestamp> {
    let stale = last_data + promised.objective.stale_after;
    Some(match open.healthy_since {
        Some(_) => stale.min(open.last_breach + promised.objective.hold_healthy),
        None => stale,
    })
}

/// A transition in one sentence.
fn sentence(
    promised: &Promised,
    key: &SeriesKey,
    judged: &Judged,
    opened: Timestamp,
    why: Option<Resolution>,
) -> String {
    let series = SeriesLabels(&promised.group_by, key).to_string();
    let of = if series.is_empty() { String::new() } else { format!(" ({series})") };
    let what = format!("{}{of}", promised.indicator_words());
    let value = judged.value.as_ref().map(short_value);
    let after = judged.window.end.since(opened);
    let promise = promised.objective.target().map_or("the rule holds".to_owned(), |target| format!("{target}"));
    match (why, value) {
        (None, Some(value)) => match &judged.message {
            Some(message) => format!("{what}: {message}"),
            None => match judged.detail.as_deref() {
                Some(Detail::Drift(drift)) => {
                    format!(
                        "{what} was {value}, chance alone makes it {}; promised is {promise}",
                        short(drift.expected)
                    )
                }
                _ => format!("{what} was {value}; promised is {promise}"),
            },
        },
        (None, None) => match &judged.message {
            Some(message) => format!("{what}: {message}"),
            None if judged.samples == 0 => format!("{what} had no data; promised is {promise}"),
            None => format!("{what} does not hold"),
        },
        (Some(Resolution::Met), Some(value)) => format!("{what} is {value}; the promise is kept again, after {after}"),
        (Some(Resolution::Met), None) => format!("{what}: the promise is kept again, after {after}"),
        (Some(Resolution::Stale), _) => {
            format!("{what} had no data for {}; resolved as stale after {after}", promised.objective.stale_after)
        }
        (Some(Resolution::Withdrawn), _) => format!("{what} is no longer promised; closed after {after}"),
        (Some(Resolution::Expired), _) => format!("{what}: the contract has ended; closed after {after}"),
    }
}

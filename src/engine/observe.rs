//! Taking in a report: its metrics, what Qualm observes of it by itself, its inference and its
//! feedback, and what it passes on from others.

use serde_json::Value as Json;

use super::application::Application;
use super::gauge::Observed;
use super::graph;
use super::predictions::{Joined, Met, Pair, Predicted};
use super::program::Feed;
use super::requests;
use super::route::{Name, Route, Sight};
use super::{Limits, Outputs};
use crate::report::{Dimensions, Relayed, Report, Text, Value};
use crate::time::Timestamp;

/// The label that a QoA4ML instance is known by to others.
const INSTANCE_ID: &str = "instance_id";

/// One observation, with where and when it was made.
pub(super) struct Sighting<'a> {
    pub dimensions: Dimensions<'a>,
    pub time: Timestamp,
    pub observed: Observed<'a>,
}

impl Application {
    /// Takes in a report; false if its id was seen before.
    pub(super) fn observe(&mut self, report: &Report<'_>, limits: &Limits, out: &mut Outputs) -> bool {
        self.dirty = true;
        let dimensions = report.dimensions();
        let digest = report.digests.dimensions;
        let fresh = self.seen.insert(report.digest, report.time, self.clock);
        self.with_route(digest, &dimensions, |application, route| {
            let duplicate = Value::Bool(!fresh);
            let sighting = Sighting { dimensions, time: report.time, observed: Observed::Value(&duplicate) };
            application.count_all(route, Sight::Own(Feed::Duplicates), &sighting, limits, out);
            if fresh {
                application.count_report(route, report, limits, out);
            }
        });
        if !fresh {
            out.counts.duplicates += 1;
            return false;
        }
        if self.requests.listens() {
            self.note_steps(report, limits, out);
        }
        self.join(report, digest, limits, out);
        for relayed in &report.relayed {
            self.count_relayed(relayed, report.time, limits, out);
        }
        self.advance(report.time, limits, out);
        let before = self.watermark - limits.join_horizon;
        let unanswered = self.joiner.forget_before(before);
        out.counts.unanswered += if self.joins { unanswered } else { 0 };
        self.relays.forget_before(before);
        true
    }

    fn count_report(&mut self, route: &mut Route, report: &Report<'_>, limits: &Limits, out: &mut Outputs) {
        let dimensions = report.dimensions();
        let own_id = report.start.and_then(|_| report.dimension(INSTANCE_ID));
        if let Some(id) = own_id {
            self.relays.hear(id, report.time);
            self.graph.name(id, &report.instance);
        }
        for (index, (attribute, value)) in report.metrics.iter().enumerate() {
            // Another instance may have passed it on before.
            let passed = own_id.zip(report.start).is_some_and(|(id, start)| {
                let place = nth(report.metrics.iter().take(index), attribute);
                self.relays.is_counted(id, attribute, start, place)
            });
            if passed {
                continue;
            }
            let name = Name::of(attribute);
            self.slices.add(route.slice, name, value, report.time, self.watermark);
            if let Some(sight) = self.attributes.sight(name) {
                let observed = Observed::Value(value);
                self.count_all(route, sight, &Sighting { dimensions, time: report.time, observed }, limits, out);
            }
        }
        let sighting = |observed| Sighting { dimensions, time: report.time, observed };
        self.count_all(route, Sight::Own(Feed::Freshness), &sighting(Observed::Report), limits, out);
        if let Some(payload) = report.payload {
            self.count_validity(route, report, payload, limits, out);
        }
        let prediction = report.inference.as_ref().and_then(|inference| inference.prediction.as_ref());
        if self.slices.keep
            && let Some(predicted) = prediction.and_then(Predicted::of)
        {
            self.slices.add_made(route.slice, &predicted.value(), report.time, self.watermark);
        }
        if route.targets(Sight::Own(Feed::Predicted)).is_some()
            && let Some(predicted) = prediction.and_then(Predicted::of)
        {
            let value = predicted.value();
            let sighting = Sighting { dimensions, time: report.time, observed: Observed::Value(&value) };
            self.count_all(route, Sight::Own(Feed::Predicted), &sighting, limits, out);
        }
        self.note_upstream(route, report);
    }

    /// Counts one observation for every series that it belongs to.
    fn count_all(
        &mut self,
        route: &mut Route,
        sight: Sight,
        sighting: &Sighting<'_>,
        limits: &Limits,
        out: &mut Outputs,
    ) {
        let source = route.source;
        let Some(targets) = route.targets(sight) else { return };
        out.counts.observations += 1;
        let mut late = false;
        for target in targets {
            late |= !self.count(target, source, sighting, limits, out);
        }
        out.counts.late += u64::from(late);
    }

    /// Whether the payload keeps the schema of each contract that names one.
    fn count_validity(
        &mut self,
        route: &mut Route,
        report: &Report<'_>,
        payload: &str,
        limits: &Limits,
        out: &mut Outputs,
    ) {
        let source = route.source;
        let Some(targets) = route.targets(Sight::Own(Feed::Validity)) else { return };
        let Ok(payload) = serde_json::from_str::<Json>(payload) else { return };
        out.counts.observations += 1;
        let mut late = false;
        for target in targets {
            let program = &self.bound[usize::from(target.bound)].program;
            let Some((matching, validator)) = &program.payload else { continue };
            let dimensions = report.dimensions();
            if matching.matches(&dimensions) {
                let valid = Value::Bool(validator.is_valid(&payload));
                let sighting = Sighting { dimensions, time: report.time, observed: Observed::Value(&valid) };
                late |= !self.count(target, source, &sighting, limits, out);
            }
        }
        out.counts.late += u64::from(late);
    }

    fn note_upstream(&mut self, route: &mut Route, report: &Report<'_>) {
        let (digest, at) = (report.digests.upstream, report.time);
        if report.upstream.is_empty() {
            return;
        }
        if route.upstream.0 != digest || at.since(route.upstream.1) >= graph::STEP {
            route.upstream = (digest, at);
            self.graph.note(&report.stage, &report.instance, report.upstream.iter().map(|name| &**name), at);
        }
    }

    /// Counts what another instance passed on, unless its own instance speaks for itself.
    fn count_relayed(&mut self, relayed: &Relayed<'_>, at: Timestamp, limits: &Limits, out: &mut Outputs) {
        let labels = [(Text::from(INSTANCE_ID), relayed.id.clone())];
        let dimensions = Dimensions { stage: &relayed.stage, instance: &relayed.instance, labels: &labels };
        let upstream = relayed.upstream.iter().map(|name| &**name);
        self.graph.note(dimensions.stage, dimensions.instance, upstream, at);
        if self.relays.is_heard(&relayed.id, at, limits.join_horizon) {
            return;
        }
        self.with_route(dimensions.digest(), &dimensions, |application, route| {
            for (index, (attribute, value)) in relayed.metrics.iter().enumerate() {
                let place = nth(relayed.metrics.iter().take(index), attribute);
                if application.relays.count(&relayed.id, attribute, relayed.start, place) {
                    let name = Name::of(attribute);
                    application.slices.add(route.slice, name, value, relayed.start, application.watermark);
                    let Some(sight) = application.attributes.sight(name) else { continue };
                    let sighting = Sighting { dimensions, time: relayed.start, observed: Observed::Value(value) };
                    application.count_all(route, sight, &sighting, limits, out);
                }
            }
        });
    }

    /// Joins the report's inference and feedback with what came before.
    fn join(&mut self, report: &Report<'_>, digest: u128, limits: &Limits, out: &mut Outputs) {
        if !self.joins && !self.slices.keep {
            return;
        }
        if let Some(inference) = &report.inference
            && let Some(predicted) = inference.prediction.as_ref().and_then(Predicted::of)
        {
            let met = self.joiner.inference(&inference.id, predicted, report, digest, limits.join_horizon);
            if !matches!(met, Met::Idle) {
                let dimensions = report.dimensions();
                self.with_route(digest, &dimensions, |application, route| {
                    let sighting = Sighting { dimensions, time: report.time, observed: Observed::Inference };
                    application.count_all(route, Sight::Own(Feed::Coverage), &sighting, limits, out);
                });
            }
            self.count_met(met, limits, out);
        }
        for feedback in &report.feedback {
            self.requests.truth(&feedback.inference, &feedback.label, report.time, &self.tenant, &self.name);
            let met = self.joiner.feedback(&feedback.inference, &feedback.label, report.time, limits.join_horizon);
            self.count_met(met, limits, out);
        }
    }

    /// Takes in the steps of requests that the report tells of.
    fn note_steps(&mut self, report: &Report<'_>, limits: &Limits, out: &mut Outputs) {
        let mut request = String::new();
        requests::steps(report, &mut request, &mut |step| {
            out.counts.late +=
                self.requests.step(step, &self.tenant, &self.name, limits.request_timeout, self.watermark);
        });
    }

    /// Counts the requests that are complete before what is due at the same time is judged.
    pub(super) fn complete_requests(
        &mut self,
        first: Timestamp,
        watermark: Timestamp,
        limits: &Limits,
        out: &mut Outputs,
    ) {
        let mut next = Some(first);
        while let Some(at) = next.filter(|at| *at < watermark) {
            // A request counts in the window that begins when it is complete, not in that which ends then.
            self.watermark = self.watermark.max(at);
            self.judge_until(at, out);
            while let Some(complete) = self.requests.complete(at) {
                self.dirty = true;
                let labels: Vec<(Text<'_>, Text<'_>)> =
                    complete.labels.iter().map(|(name, value)| ((&**name).into(), (&**value).into())).collect();
                let dimensions = Dimensions { stage: requests::STAGE, instance: "", labels: &labels };
                self.with_route(dimensions.digest(), &dimensions, |application, route| {
                    for (attribute, value) in &complete.metrics {
                        let name = Name::of(attribute);
                        application.slices.add(route.slice, name, value, at, application.watermark);
                        let Some(sight) = application.attributes.sight(name) else { continue };
                        let sighting = Sighting { dimensions, time: at, observed: Observed::Value(value) };
                        application.count_all(route, sight, &sighting, limits, out);
                    }
                });
            }
            next = self.requests.next_end();
        }
    }

    fn count_met(&mut self, met: Met, limits: &Limits, out: &mut Outputs) {
        match met {
            Met::Waits => {}
            Met::Idle => out.counts.unjoined += u64::from(self.joins),
            Met::Pair(joined) => {
                out.counts.pairs += u64::from(self.joins);
                let Joined { inference, at, predicted, truth, origin } = *joined;
                let pair = Pair { predicted: &predicted, truth: &truth };
                origin.with_dimensions(|dimensions| {
                    self.with_route(dimensions.digest(), dimensions, |application, route| {
                        application.slices.add_pair(route.slice, &pair, at, application.watermark);
                        for (feed, observed) in
                            [(Feed::Joined, Observed::Pair(pair)), (Feed::Coverage, Observed::Answer(inference))]
                        {
                            let sighting = Sighting { dimensions: *dimensions, time: at, observed };
                            application.count_all(route, Sight::Own(feed), &sighting, limits, out);
                        }
                    });
                });
            }
        }
    }
}

/// How many of these observations are of an attribute.
fn nth<'a, 'b: 'a>(before: impl Iterator<Item = &'a (Text<'b>, Value<'b>)>, attribute: &str) -> usize {
    before.filter(|(name, _)| **name == *attribute).count()
}

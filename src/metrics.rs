//! What Qualm says of itself, in the Prometheus text format.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::engine::{Counts, Verdict};

/// One label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// One label `verdict`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

/// One label `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeliveryLabels {
    kind: String,
    outcome: &'static str,
}

/// One label `contract`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ContractLabel {
    contract: String,
}

/// All metrics of a service.
pub struct Metrics {
    registry: Registry,
    reports: Counter,
    unwatched: Counter,
    duplicates: Counter,
    observations: Counter,
    late: Counter,
    rejected: Family<Reason, Counter>,
    rejected_unpublished: Counter,
    ids_forgotten: Counter,
    pairs: Counter,
    unanswered: Counter,
    unjoined: Counter,
    given_up: Counter,
    evaluations: Family<VerdictLabel, Counter>,
    script_calls: Counter,
    script_seconds: Counter<f64, AtomicU64>,
    deliveries: Family<DeliveryLabels, Counter>,
    contract_faulty: Family<ContractLabel, Gauge>,
    /// Messages of the source that were not read yet.
    pub lag: Gauge,
    /// Deliveries that wait.
    pub outbox_pending: Gauge,
    /// Deliveries that were given up.
    pub outbox_dead: Gauge,
    /// Contracts in force.
    pub contracts: Gauge,
    /// Live series.
    pub series: Family<ShardLabel, Gauge>,
    /// Commits that failed and were tried again.
    pub commit_failures: Counter,
    /// How long a commit takes, from its begin to its end.
    commit_seconds: Family<CommitLabel, Histogram, fn() -> Histogram>,
}

/// What a commit holds: `events`, or `state` of applications.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommitLabel {
    holds: &'static str,
}

/// From half a millisecond to 4 s, doubling.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 14))
}

/// One label `shard`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ShardLabel {
    /// Number of the shard, from 0.
    pub shard: u64,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("qualm"),
            reports: Counter::default(),
            unwatched: Counter::default(),
            duplicates: Counter::default(),
            observations: Counter::default(),
            late: Counter::default(),
            rejected: Family::default(),
            rejected_unpublished: Counter::default(),
            ids_forgotten: Counter::default(),
            pairs: Counter::default(),
            unanswered: Counter::default(),
            unjoined: Counter::default(),
            given_up: Counter::default(),
            evaluations: Family::default(),
            script_calls: Counter::default(),
            script_seconds: Counter::default(),
            deliveries: Family::default(),
            contract_faulty: Family::default(),
            lag: Gauge::default(),
            outbox_pending: Gauge::default(),
            outbox_dead: Gauge::default(),
            contracts: Gauge::default(),
            series: Family::default(),
            commit_failures: Counter::default(),
            commit_seconds: Family::new_with_constructor(histogram),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("reports", "Reports taken in", self.reports.clone());
        r.register("reports_unwatched", "Reports of applications that no contract is about", self.unwatched.clone());
        r.register("reports_duplicate", "Reports whose id was seen before", self.duplicates.clone());
        r.register("observations", "Observations that an objective watches", self.observations.clone());
        r.register("observations_late", "Observations for windows already judged", self.late.clone());
        r.register("rejected", "Reports and observations refused, by reason", self.rejected.clone());
        r.register(
            "rejected_unpublished",
            "Refused reports that could not be passed on to qoa.rejected",
            self.rejected_unpublished.clone(),
        );
        r.register("report_ids_forgotten", "Report ids forgotten before their time", self.ids_forgotten.clone());
        r.register("predictions_joined", "Predictions joined with feedback", self.pairs.clone());
        r.register(
            "predictions_unanswered",
            "Inferences without feedback within the join horizon",
            self.unanswered.clone(),
        );
        r.register(
            "predictions_unjoined",
            "Inferences and feedback that came again, or too long after the inference",
            self.unjoined.clone(),
        );
        r.register(
            "predictions_given_up",
            "Inferences and feedback given up before their time, because too many waited",
            self.given_up.clone(),
        );
        r.register("evaluations", "Evaluations, by verdict", self.evaluations.clone());
        r.register("script_calls", "Calls of policy scripts", self.script_calls.clone());
        r.register("script_seconds", "Time spent in policy scripts", self.script_seconds.clone());
        r.register("deliveries", "Attempts to deliver, by kind and outcome", self.deliveries.clone());
        r.register(
            "contract_faulty",
            "1 while the newest version of a contract is refused",
            self.contract_faulty.clone(),
        );
        r.register("lag_messages", "Messages of the source that were not read yet", self.lag.clone());
        r.register("outbox_pending", "Deliveries that wait", self.outbox_pending.clone());
        r.register("outbox_dead", "Deliveries that were given up", self.outbox_dead.clone());
        r.register("contracts", "Contracts in force", self.contracts.clone());
        r.register("series", "Live series", self.series.clone());
        r.register("commit_failures", "Commits that failed and were tried again", self.commit_failures.clone());
        r.register(
            "commit_seconds",
            "How long commits to the database take, of events and of state",
            self.commit_seconds.clone(),
        );
    }

    /// Adds what an engine counted.
    pub fn count(&self, counts: &Counts) {
        self.reports.inc_by(counts.reports);
        self.unwatched.inc_by(counts.unwatched);
        self.duplicates.inc_by(counts.duplicates);
        self.observations.inc_by(counts.observations);
        self.late.inc_by(counts.late);
        self.ids_forgotten.inc_by(counts.ids_forgotten);
        self.pairs.inc_by(counts.pairs);
        self.unanswered.inc_by(counts.unanswered);
        self.unjoined.inc_by(counts.unjoined);
        self.given_up.inc_by(counts.given_up);
        self.script_calls.inc_by(counts.script_calls);
        self.script_seconds.inc_by(counts.script_time.as_secs_f64());
        for (reason, n) in [("wrong_type", counts.wrong_type), ("series_limit", counts.series_refused)] {
            if n > 0 {
                self.rejected.get_or_create(&Reason { reason }).inc_by(n);
            }
        }
        for verdict in Verdict::ALL {
            let n = counts.evaluations[verdict as usize];
            if n > 0 {
                self.evaluations.get_or_create(&VerdictLabel { verdict: verdict.as_str() }).inc_by(n);
            }
        }
    }

    /// A report was refused.
    pub fn rejected(&self, reason: crate::report::Reason) {
        self.rejected.get_or_create(&Reason { reason: reason.as_str() }).inc();
    }

    /// A refused report could not be passed on.
    pub fn rejected_unpublished(&self) {
        self.rejected_unpublished.inc();
    }

    /// A commit was written.
    pub fn committed(&self, state: bool, took: std::time::Duration) {
        let label = CommitLabel { holds: if state { "state" } else { "events" } };
        self.commit_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// A delivery was tried; `outcome` is sent, failed or dead.
    pub fn delivery(&self, kind: &str, outcome: &'static str) {
        self.deliveries.get_or_create(&DeliveryLabels { kind: kind.to_owned(), outcome }).inc();
    }

    /// The contracts (or files) whose newest version is refused.
    pub fn set_faulty<'a>(&self, contracts: impl Iterator<Item = &'a str>) {
        self.contract_faulty.clear();
        for contract in contracts {
            self.contract_faulty.get_or_create(&ContractLabel { contract: contract.to_owned() }).set(1);
        }
    }

    /// All of it as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing into a string does not fail");
        text
    }
}

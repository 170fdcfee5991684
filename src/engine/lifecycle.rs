//! From verdicts to violations: `pending → open → resolved`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::detail::Detail;
use super::verdict::Verdict;
use crate::contract::{NoData, Objective, Scalar};
use crate::time::{Span, Timestamp};

/// Where one series stands.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Lifecycle {
    /// Its phase.
    pub phase: Phase,
    /// Its newest evaluation.
    pub latest: Option<Latest>,
}

/// The phases of a series.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No breach.
    #[default]
    Healthy,
    /// Breached, but not yet for long enough.
    Pending {
        /// The first breach.
        since: Timestamp,
    },
    /// A violation is open.
    Open(Open),
}

/// An open violation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The violation's id.
    pub id: Uuid,
    /// The first breach.
    pub since: Timestamp,
    /// When it opened.
    pub opened: Timestamp,
    /// The newest breach.
    pub last_breach: Timestamp,
    /// Since when it is healthy again.
    pub healthy_since: Option<Timestamp>,
}

/// The newest evaluation of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latest {
    /// The window's end.
    pub at: Timestamp,
    /// What was judged.
    pub verdict: Verdict,
    /// The value.
    pub value: Option<Scalar>,
    /// Observations in the window.
    pub samples: u64,
    /// What a script said, or why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the value rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<Detail>>,
}

/// Why a violation resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The promise is kept again.
    Met,
    /// No data for `stale_after`.
    Stale,
    /// The contract or the objective was taken back or redefined.
    Withdrawn,
    /// The contract's `effective.until` passed.
    Expired,
}

/// A change of phase that others must hear of.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A violation is to open: breached since.
    Opens {
        /// The first breach.
        since: Timestamp,
    },
    /// The violation resolved.
    Resolves(Open, Resolution),
}

impl Lifecycle {
    /// The open violation.
    pub fn open(&self) -> Option<&Open> {
        match &self.phase {
            Phase::Open(open) => Some(open),
            _ => None,
        }
    }

    /// Takes in the verdict of a window that ends at `at`. `last_data` is the newest
    /// observation of the series.
    pub fn judge(
        &mut self,
        objective: &Objective,
        at: Timestamp,
        verdict: Verdict,
        last_data: Timestamp,
    ) -> Option<Change> {
        let breached = match (verdict, objective.no_data) {
            (Verdict::Breached, _) | (Verdict::NoData, NoData::Breach) => Some(true),
            (Verdict::Met, _) => Some(false),
            (Verdict::NoData, NoData::Hold) => match &self.phase {
                Phase::Pending { .. } => Some(true),
                Phase::Open(open) => Some(open.healthy_since.is_none()),
                Phase::Healthy => Some(false),
            },
            _ => None,
        };
        let stale = verdict == Verdict::NoData
            && objective.no_data != NoData::Breach
            && at.since(last_data) >= objective.stale_after;
        if stale && self.open().is_some() {
            return self.resolve(Resolution::Stale);
        }
        match breached {
            Some(true) => self.breach(at, objective.hold_open),
            Some(false) => self.heal(at, objective.hold_healthy),
            None => None,
        }
    }

    /// A breach at `at`.
    pub fn breach(&mut self, at: Timestamp, hold_open: Span) -> Option<Change> {
        let since = match &mut self.phase {
            Phase::Open(open) => {
                open.last_breach = open.last_breach.max(at);
                open.healthy_since = open.healthy_since.filter(|healthy| *healthy > at);
                return None;
            }
            Phase::Pending { since } => *since,
            Phase::Healthy => at,
        };
        self.phase = Phase::Pending { since };
        (at.since(since) >= hold_open).then_some(Change::Opens { since })
    }

    /// A window that kept the promise.
    fn heal(&mut self, at: Timestamp, hold_healthy: Span) -> Option<Change> {
        match &mut self.phase {
            Phase::Healthy => None,
            Phase::Pending { .. } => {
                self.phase = Phase::Healthy;
                None
            }
            Phase::Open(open) => {
                let healthy_since = *open.healthy_since.get_or_insert(at);
                if at.since(healthy_since) >= hold_healthy { self.resolve(Resolution::Met) } else { None }
            }
        }
    }

    /// For `each`: a good observation at `at`. Those before the newest breach say nothing.
    pub fn good_observation(&mut self, at: Timestamp, hold_healthy: Span) -> Option<Change> {
        match &mut self.phase {
            Phase::Healthy => None,
            Phase::Pending { since } => {
                if at > *since {
                    self.phase = Phase::Healthy;
                }
                None
            }
            Phase::Open(open) if at <= open.last_breach => None,
            Phase::Open(open) => {
                open.healthy_since.get_or_insert(at);
                if at.since(open.last_breach) >= hold_healthy { self.resolve(Resolution::Met) } else { None }
            }
        }
    }

    /// The violation opened.
    pub fn opened(&mut self, open: Open) {
        self.phase = Phase::Open(open);
    }

    /// Ends the open violation, if there is one.
    pub fn resolve(&mut self, resolution: Resolution) -> Option<Change> {
        match std::mem::take(&mut self.phase) {
            Phase::Open(open) => Some(Change::Resolves(open, resolution)),
            _ => None,
        }
    }
}

//! A recording judged by contracts in one go, for commands that compare.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::recording::{Blocks, Rejected, parts};
use crate::engine::{Engine, Evaluation, Limits, Output, Outputs, Program, SliceRow, State, Verdict};
use crate::report::{self, Report};

/// What a recording comes to.
#[derive(Default)]
pub(super) struct Judged {
    pub reports: u64,
    /// By contract and objective.
    pub objectives: BTreeMap<(String, String), Tally>,
    /// What every slice observed.
    pub slices: Vec<SliceRow>,
}

/// The verdicts on one objective.
#[derive(Default, Clone, PartialEq)]
pub(super) struct Tally {
    /// In the order of [`Verdict::ALL`].
    pub verdicts: [u64; 5],
    /// Series and window end of what opened.
    pub opened: Vec<(String, String)>,
    pub actions: u64,
}

impl Tally {
    pub fn met(&self) -> u64 {
        self.verdicts[Verdict::Met as usize]
    }

    pub fn breached(&self) -> u64 {
        self.verdicts[Verdict::Breached as usize]
    }
}

/// Judges a file, with snapshots on for its slices; `see` gets each report that `takes` lets pass, `hear` each evaluation.
pub(super) fn judge(
    programs: &[Arc<Program>],
    limits: Limits,
    reports: &Path,
    takes: impl Fn(&Report<'_>) -> bool,
    mut see: impl FnMut(&Report<'_>),
    mut hear: impl FnMut(&Evaluation),
) -> anyhow::Result<Judged> {
    let mut out = Outputs::default();
    let mut engine = Engine::new(Limits { snapshots: true, ..limits });
    for program in programs {
        engine.set_contract(program.clone(), &mut out);
    }
    let (mut judged, mut rejected) = (Judged::default(), Rejected::default());
    let mut panes: BTreeMap<SliceKey, SliceRow> = BTreeMap::new();
    let applications = engine.names().len();
    let mut blocks = Blocks::open(reports)?;
    let mut take = |engine: &mut Engine, out: &mut Outputs, judged: &mut Judged| {
        for output in out.list.drain(..) {
            match output {
                Output::Evaluation(evaluation) => {
                    let promised = &evaluation.promised;
                    let key = (promised.contract.clone(), promised.objective.name.clone());
                    judged.objectives.entry(key).or_default().verdicts[evaluation.verdict as usize] += 1;
                    hear(&evaluation);
                }
                Output::Transition(transition) if transition.state == State::Open => {
                    let key = (transition.contract.clone(), transition.objective.clone());
                    let opened = (transition.series.to_string(), transition.at.to_string());
                    judged.objectives.entry(key).or_default().opened.push(opened);
                }
                Output::Action(action) => {
                    let key = (action.contract.clone(), action.objective.clone());
                    judged.objectives.entry(key).or_default().actions += 1;
                }
                Output::Transition(_) => {}
            }
        }
        for row in engine.snapshot(usize::MAX).slices {
            let key = (row.application.clone(), row.attribute.clone(), row.start, row.slice.clone(), row.test.clone());
            panes.insert(key, row);
        }
    };
    while let Some(block) = blocks.next()? {
        for part in parts(block, applications) {
            report::decode_all(part, |_, one| match one {
                Ok(report) if takes(report) => {
                    see(report);
                    engine.observe(report, &mut out);
                }
                Ok(_) => {}
                Err(rejection) => rejected.note(out.counts.reports, &rejection),
            });
            take(&mut engine, &mut out, &mut judged);
        }
    }
    engine.finish(&mut out);
    take(&mut engine, &mut out, &mut judged);
    rejected.end();
    judged.reports = out.counts.reports;
    judged.slices = panes.into_values().collect();
    Ok(judged)
}

type SliceKey = (String, String, crate::time::Timestamp, String, String);

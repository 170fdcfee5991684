//! Reading ahead. When windows end, thousands of series are judged that have not been looked at since
//! the last time, and caches no longer hold them: judging them one after the other would wait for
//! memory at each step. So a little of everything is read first, step by step for all of them:
//! memory answers many such questions at once. Nothing is changed here.

use std::collections::BTreeSet;
use std::hint::black_box;

use super::aggregate::Accumulator;
use super::application::{Application, Series};
use super::pane::Pane;

impl Application {
    /// Brings near what is going to be judged of some lanes of a contract.
    pub(super) fn read_ahead(&self, bound: usize, lanes: &BTreeSet<u16>) {
        let bound = &self.bound[bound];
        let indices = lanes.iter().flat_map(|lane| bound.lanes[usize::from(*lane)].series.values());
        let series: Vec<&Series> = indices.map(|index| self.series.get(*index)).collect();
        let members = series.iter().flat_map(|series| series.members.iter().flatten());
        black_box(members.map(|member| member.first.as_micros()).fold(0, i64::wrapping_add));
        let panes: Vec<&Pane> = series.iter().flat_map(|series| &series.panes.0).collect();
        let accumulators = panes.iter().flat_map(|pane| &pane.accumulators);
        black_box(accumulators.map(Accumulator::read).fold(0, u64::wrapping_add));
    }
}

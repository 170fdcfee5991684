//! Actions that a violation causes, and what holds them back. Guards count event time, so a
//! replay decides as the service did.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::program::{Program, derived_id};
use super::verdict::{Action, ActionState, Transition};
use crate::contract::{ActionRule, Approval, Command, Guard};
use crate::time::{Span, Timestamp};

const DAY: Span = Span::seconds(86_400);

/// When an action was last let through.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Past(VecDeque<Timestamp>);

impl Past {
    /// Why a guard holds an action back at `at`, or `None`, and then it counts as let through.
    fn pass(&mut self, guard: &Guard, at: Timestamp) -> Option<String> {
        while self.0.front().is_some_and(|past| at.since(*past) >= DAY.max(guard.cooldown)) {
            self.0.pop_front();
        }
        if let Some(last) = self.0.back()
            && at.since(*last) < guard.cooldown
        {
            return Some(format!("cooldown of {} since {last}", guard.cooldown));
        }
        let today = self.0.iter().filter(|past| at.since(**past) < DAY).count();
        if let Some(max) = guard.max_per_day
            && today >= max as usize
        {
            return Some(format!("max_per_day of {max} is used up"));
        }
        // Only what a guard asks about is kept, so this list stays short.
        if guard.cooldown > Span::ZERO || guard.max_per_day.is_some() {
            self.0.push_back(at);
        }
        None
    }
}

/// The actions that the opening of a violation causes under one action rule.
pub fn caused(program: &Program, rule: &ActionRule, past: &mut Past, violation: &Transition) -> Vec<Action> {
    let decided = match (&rule.command, &rule.decide) {
        (Some(command), _) => Ok(vec![command.clone()]),
        (None, Some(decide)) => {
            let facts = serde_json::json!({
                "id": violation.id, "contract": violation.contract, "version": violation.version,
                "application": &*violation.application, "tenant": &*violation.tenant,
                "objective": violation.objective, "series": violation.series, "severity": violation.severity,
                "responsible": violation.responsible, "value": violation.value, "target": violation.target,
                "samples": violation.samples, "at": violation.at, "message": violation.message,
            });
            program.policies.decide(decide, &facts)
        }
        (None, None) => Ok(Vec::new()),
    };
    let commands = match decided {
        Ok(commands) => commands,
        Err(error) => {
            let command = Command { kind: "decide".to_owned(), params: serde_json::Map::new() };
            return vec![action(rule, violation, 0, command, ActionState::Failed, Some(error.to_string()))];
        }
    };
    if commands.is_empty() {
        return Vec::new();
    }
    let held_back = past.pass(&rule.guard, violation.at);
    let state = match (&held_back, rule.guard.approval) {
        (Some(_), _) => ActionState::Suppressed,
        (None, Approval::Required) => ActionState::AwaitingApproval,
        (None, Approval::None) => ActionState::Requested,
    };
    let make = |(index, command)| action(rule, violation, index, command, state, held_back.clone());
    commands.into_iter().enumerate().map(make).collect()
}

fn action(
    rule: &ActionRule,
    violation: &Transition,
    index: usize,
    command: Command,
    state: ActionState,
    reason: Option<String>,
) -> Action {
    Action {
        id: derived_id(violation.id, &format!("{}\u{1f}opened\u{1f}{index}", rule.name)),
        violation: violation.id,
        tenant: violation.tenant.clone(),
        application: violation.application.clone(),
        contract: violation.contract.clone(),
        objective: violation.objective.clone(),
        name: rule.name.clone(),
        kind: command.kind,
        params: command.params,
        state,
        reason,
        at: violation.at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_hold_back() {
        let guard = Guard { cooldown: Span::seconds(60), max_per_day: Some(2), approval: Approval::None };
        let mut past = Past::default();
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        assert_eq!(past.pass(&guard, at(0)), None);
        assert!(past.pass(&guard, at(59)).expect("held").contains("cooldown"));
        assert_eq!(past.pass(&guard, at(60)), None);
        assert!(past.pass(&guard, at(200)).expect("held").contains("max_per_day"));
        assert_eq!(past.pass(&guard, at(86_400)), None, "the first is a day old");
    }
}

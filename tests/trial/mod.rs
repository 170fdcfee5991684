//! An engine under test, in words that tests read by; and what a store would keep of it.

#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::sync::Arc;

use qualm::engine::{Engine, Limits, Output, Outputs, Program, Snapshot, State};
use qualm::time::{Span, Timestamp};
use qualm::{contract, report};

/// A multiple of every window used here, in epoch seconds.
pub const START: f64 = 1_200_000.0;

/// A contract on application `shop` with these objectives, a YAML list item a line.
pub fn contract_text(spec: &str) -> String {
    format!(
        "apiVersion: qualm/v1\nkind: Contract\nmetadata: {{name: shop, version: 1.0.0}}\nspec:\n  scope: {{application: shop}}\n{spec}\n"
    )
}

pub fn program(spec: &str, script: &str) -> Arc<Program> {
    let mut loaded = contract::load("shop.yaml", &contract_text(spec));
    let program = Program::compile(&mut loaded, |_| Ok(script.to_owned()));
    Arc::new(program.unwrap_or_else(|| panic!("{:?}", loaded.findings)))
}

/// An engine under test, and what came out of it, in short words.
pub struct Trial {
    pub engine: Engine,
    pub out: Outputs,
    script: &'static str,
}

/// An engine with one contract of these objectives, without lateness.
pub fn given(spec: &str) -> Trial {
    given_script(spec, "")
}

pub fn given_script(spec: &str, script: &'static str) -> Trial {
    let mut trial = Trial {
        engine: Engine::new(Limits { lateness: Span::ZERO, ..Limits::default() }),
        out: Outputs::default(),
        script,
    };
    trial.contract(spec);
    trial
}

impl Trial {
    pub fn contract(&mut self, spec: &str) {
        self.engine.set_contract(program(spec, self.script), &mut self.out);
    }

    /// A value of the attribute `x.y` at so many seconds.
    pub fn x(&mut self, at: f64, value: f64) -> &mut Trial {
        self.report(at, &format!("\"metrics\":{{\"x.y\":{value}}}"))
    }

    pub fn report(&mut self, at: f64, rest: &str) -> &mut Trial {
        let time = START + at;
        let text = format!("{{\"time\":{time},\"application\":\"shop\",\"stage\":\"s\",\"instance\":\"i\",{rest}}}");
        let mut reports = 0;
        report::decode(text.as_bytes(), |_, decoded| {
            self.engine.observe(decoded.unwrap(), &mut self.out);
            reports += 1;
        });
        assert_eq!(reports, 1, "{text}");
        self
    }

    pub fn advance(&mut self, at: f64) -> &mut Trial {
        let time = Timestamp::from_epoch_seconds(START + at).unwrap();
        self.engine.advance("default", "shop", time, &mut self.out);
        self
    }

    /// Outputs since the last call: `10 met 0.5` for evaluations, `20 open`, `30 resolved met`
    /// for transitions, `20 action scale requested`; times in seconds.
    pub fn then(&mut self) -> Vec<String> {
        self.out.list.drain(..).map(|output| words(&output)).collect()
    }

    /// The same, transitions and actions only.
    pub fn events(&mut self) -> Vec<String> {
        self.out.list.retain(|output| !matches!(output, Output::Evaluation(_)));
        self.then()
    }
}

pub fn words(output: &Output) -> String {
    let seconds = |at: Timestamp| at.as_micros() as f64 / 1e6 - START;
    match output {
        Output::Evaluation(evaluation) => {
            let json: serde_json::Value = serde_json::from_str(&output.to_json().unwrap()).unwrap();
            let series =
                if json["series"] == serde_json::json!({}) { String::new() } else { format!(" {}", json["series"]) };
            let value = if json["value"].is_null() { String::new() } else { format!(" {}", json["value"]) };
            format!("{} {}{value}{series}", seconds(evaluation.window.end), evaluation.verdict.as_str())
        }
        Output::Transition(transition) => {
            let reason = serde_json::to_value(transition.reason).unwrap();
            match transition.state {
                State::Open => format!("{} open", seconds(transition.at)),
                State::Resolved => format!("{} resolved {}", seconds(transition.at), reason.as_str().unwrap()),
            }
        }
        Output::Action(action) => {
            let state = serde_json::to_value(action.state).unwrap();
            let reason = action.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("{} action {} {}{reason}", seconds(action.at), action.kind, state.as_str().unwrap())
        }
    }
}

/// What a store would keep of snapshots.
#[derive(Default)]
pub struct Kept {
    snapshots: Snapshot,
}

impl Kept {
    pub fn keep(&mut self, new: Snapshot) {
        let all = &mut self.snapshots;
        // There is one application with one contract.
        if !new.rewritten.is_empty() {
            (all.series, all.panes, all.memories) = Default::default();
        }
        for [.., objective, input, key] in new.forgotten {
            all.memories.retain(|row| (&row.objective, &row.input, &row.key) != (&objective, &input, &key));
        }
        all.applications =
            if new.applications.is_empty() { std::mem::take(&mut all.applications) } else { new.applications };
        let by =
            |rows: Vec<qualm::engine::SeriesRow>| rows.into_iter().map(|row| ((row.bundle.clone(), row.chunk), row));
        let series: BTreeMap<_, _> = by(std::mem::take(&mut all.series)).chain(by(new.series)).collect();
        all.series = series.into_values().collect();
        let by = |rows: Vec<qualm::engine::PaneRow>| {
            rows.into_iter().map(|row| ((row.bundle.clone(), row.chunk, row.start), row))
        };
        let panes: BTreeMap<_, _> = by(std::mem::take(&mut all.panes)).chain(by(new.panes)).collect();
        all.panes = panes.into_values().collect();
        let by = |rows: Vec<qualm::engine::MemoryRow>| {
            rows.into_iter().map(|row| ((row.objective.clone(), row.input.clone(), row.key.clone()), row))
        };
        let memories: BTreeMap<_, _> = by(std::mem::take(&mut all.memories)).chain(by(new.memories)).collect();
        all.memories = memories.into_values().collect();
        all.ids.extend(new.ids);
        all.joins.extend(new.joins);
    }

    /// A new engine from what was kept, as a restart makes it.
    pub fn restart(&self, limits: Limits, spec: &str, script: &'static str) -> Engine {
        let mut engine = Engine::new(limits);
        engine.set_contract(program(spec, script), &mut Outputs::default());
        let rows = &self.snapshots;
        rows.applications.iter().for_each(|row| engine.restore_application(row).unwrap());
        rows.series.iter().for_each(|row| engine.restore_series(row).unwrap());
        rows.memories.iter().for_each(|row| engine.restore_memory(row).unwrap());
        rows.panes.iter().for_each(|row| engine.restore_panes(row).unwrap());
        rows.ids.iter().for_each(|row| engine.restore_ids(row));
        rows.joins.iter().for_each(|row| engine.restore_joins(row).unwrap());
        engine
    }
}

/// The outputs of a stream of reports, each with whether a restart comes after it; without the
/// restarts unless `restarts`.
pub fn outputs_of(
    limits: Limits,
    (spec, script): (&str, &'static str),
    steps: &[(String, bool)],
    restarts: bool,
) -> Vec<String> {
    let mut engine = Engine::new(limits);
    let mut out = Outputs::default();
    engine.set_contract(program(spec, script), &mut out);
    let mut kept = Kept::default();
    for (text, restart) in steps {
        report::decode(text.as_bytes(), |_, decoded| engine.observe(decoded.unwrap(), &mut out));
        if restarts && *restart {
            kept.keep(engine.snapshot(usize::MAX));
            engine = kept.restart(limits, spec, script);
        }
    }
    engine.finish(&mut out);
    out.list.iter().map(|output| output.to_json().unwrap()).collect()
}

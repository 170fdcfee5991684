//! What the engine makes of reports: each exact meaning of contracts, by example, and the law
//! that a restart at any point changes nothing.

#![allow(clippy::unwrap_used)]

mod trial;

use proptest::prelude::*;
use qualm::engine::{Engine, Limits, Output};
use qualm::time::{Span, Timestamp};
use trial::{START, Trial, given, given_script};

const MEAN: &str =
    "  objectives:\n    - {name: o, indicator: {attribute: x.y, aggregate: mean, window: 10s}, target: {max: 1}";

/// [`MEAN`] with more settings.
fn mean(more: &str) -> String {
    format!("{MEAN}{more}}}")
}

#[test]
fn windows_close_when_the_watermark_reaches_their_end() {
    let mut trial = given(&mean(""));
    assert!(trial.x(1.0, 0.5).x(9.999, 1.0).then().is_empty());
    assert_eq!(trial.x(10.0, 3.0).then(), ["10 met 0.75"], "the end itself belongs to the next window");
    assert_eq!(trial.advance(20.0).then(), ["20 breached 3.0", "20 open"]);
    assert!(trial.advance(19.0).then().is_empty(), "time does not go back");
}

#[test]
fn sliding_windows_end_at_multiples_of_every() {
    let spec = "  objectives:\n    - {name: o, indicator: {attribute: x.y, aggregate: sum, window: 10s, every: 5s}, target: {min: 0}}";
    let mut trial = given(spec);
    trial.x(1.0, 1.0).x(6.0, 2.0).x(11.0, 4.0).advance(25.0);
    assert_eq!(trial.then(), ["5 met 1.0", "10 met 3.0", "15 met 6.0", "20 met 4.0", "25 no_data"]);
}

#[test]
fn late_observations_are_counted_not_judged() {
    let mut trial = given(&mean(""));
    trial.engine = Engine::new(Limits { lateness: Span::seconds(5), ..Limits::default() });
    trial.contract(&mean(""));
    assert!(trial.x(1.0, 0.5).x(14.0, 9.0).then().is_empty(), "the watermark is at 9");
    assert!(trial.x(9.0, 1.5).then().is_empty(), "in time");
    assert_eq!(trial.x(15.0, 9.0).then(), ["10 met 1.0"]);
    assert_eq!(trial.out.counts.late, 0);
    trial.x(9.5, 7.0);
    assert_eq!(trial.out.counts.late, 1);
}

#[test]
fn a_report_id_counts_once_within_ten_minutes() {
    let mut trial = given(&mean(""));
    let twice = |trial: &mut Trial, at: f64| {
        trial.report(at, "\"id\":\"r-1\",\"metrics\":{\"x.y\":1}");
    };
    twice(&mut trial, 1.0);
    twice(&mut trial, 2.0);
    assert_eq!((trial.out.counts.duplicates, trial.out.counts.observations), (1, 1));
    trial.x(700.0, 1.0);
    twice(&mut trial, 701.0);
    assert_eq!((trial.out.counts.duplicates, trial.out.counts.observations), (1, 3));
    trial.x(702.0, 1.0).x(702.0, 1.0);
    assert_eq!(trial.out.counts.duplicates, 2, "without an id, the same bytes are the same report");
}

#[test]
fn a_breach_opens_after_for_and_resolves_after_keep() {
    let mut trial = given(&mean(", for: 20s, keep: 10s"));
    for (second, value) in [(1.0, 2.0), (11.0, 2.0), (21.0, 2.0), (31.0, 0.0), (41.0, 2.0), (51.0, 0.0), (61.0, 0.0)] {
        trial.x(second, value);
    }
    trial.advance(70.0);
    let expected = [
        "10 breached 2.0",
        "20 breached 2.0",
        "30 breached 2.0",
        "30 open",
        "40 met 0.0",
        "50 breached 2.0",
        "60 met 0.0",
        "70 met 0.0",
        "70 resolved met",
    ];
    assert_eq!(trial.then(), expected);
    trial.x(71.0, 2.0).x(81.0, 0.0).x(91.0, 2.0).x(101.0, 2.0).advance(110.0);
    assert!(trial.events().is_empty(), "a breach that ends in time was pending only");
}

#[test]
fn no_data_is_ignored_or_a_breach_or_holds() {
    let events = |no_data: &str| {
        let mut trial = given(&mean(&format!(", no_data: {no_data}")));
        trial.x(1.0, 2.0).x(31.0, 2.0).x(41.0, 0.0).x(61.0, 0.0).advance(90.0);
        trial.events()
    };
    assert_eq!(events("ignore"), ["10 open", "50 resolved met"]);
    assert_eq!(events("breach"), ["10 open", "50 resolved met", "60 open", "70 resolved met", "80 open"]);
    let mut trial = given(&mean(", no_data: hold, for: 20s"));
    trial.x(1.0, 2.0).advance(30.0);
    assert_eq!(trial.events(), ["30 open"], "the last verdict goes on");
    let mut trial = given(&mean(", no_data: ignore, for: 20s"));
    trial.x(1.0, 2.0).advance(30.0);
    assert!(trial.events().is_empty(), "silence does not prolong a breach");
}

#[test]
fn an_open_violation_without_data_becomes_stale() {
    let mut trial = given(&mean(", stale_after: 1m"));
    trial.x(1.0, 2.0).advance(59.0);
    assert_eq!(trial.events(), ["10 open"]);
    trial.advance(200.0);
    assert_eq!(trial.events(), ["70 resolved stale"]);
}

#[test]
fn too_few_samples_are_insufficient() {
    let mut trial = given(&mean(", min_samples: 2"));
    assert_eq!(trial.x(1.0, 5.0).advance(10.0).then(), ["10 insufficient 5.0"]);
    assert_eq!(trial.x(11.0, 5.0).x(12.0, 5.0).advance(20.0).then(), ["20 breached 5.0", "20 open"]);
    assert_eq!(trial.x(21.0, 0.0).advance(30.0).then(), ["30 insufficient 0.0"], "and leave the state as it is");
    let spec = MEAN.replace("mean", "stddev") + "}";
    let mut trial = given(&spec);
    assert_eq!(trial.x(1.0, 5.0).advance(10.0).then(), ["10 insufficient"], "one value has no deviation");
}

#[test]
fn each_judges_at_arrival_and_resolves_after_keep() {
    let spec =
        "  objectives:\n    - {name: o, indicator: {attribute: x.y, aggregate: each}, target: {max: 1}, keep: 10s}";
    let mut trial = given(spec);
    assert_eq!(trial.x(1.0, 0.5).then(), [""; 0]);
    assert_eq!(trial.x(2.0, 2.0).then(), ["2 breached 2.0", "2 open"]);
    assert_eq!(trial.x(4.0, 3.0).then(), ["4 breached 3.0"]);
    assert!(trial.x(13.0, 0.5).then().is_empty());
    assert_eq!(trial.x(14.5, 0.5).events(), ["14.5 resolved met"]);
    assert_eq!(
        trial.x(20.0, 2.0).advance(40.0).events(),
        ["20 open"],
        "without an observation nothing is known to be well"
    );
}

#[test]
fn grouped_series_stand_alone_and_a_missing_label_is_empty() {
    let spec = "  objectives:\n    - {name: o, indicator: {attribute: x.y, aggregate: max, window: 10s, group_by: [device], where: {zone: {not: test}}}, target: {max: 1}}";
    let mut trial = given(spec);
    trial.report(1.0, "\"labels\":{\"device\":\"a\"},\"metrics\":{\"x.y\":1}");
    trial.report(2.0, "\"labels\":{\"device\":\"b\",\"zone\":\"live\"},\"metrics\":{\"x.y\":2}");
    trial.report(3.0, "\"labels\":{\"device\":\"b\",\"zone\":\"test\"},\"metrics\":{\"x.y\":9}");
    trial.report(4.0, "\"metrics\":{\"x.y\":0}").advance(10.0);
    let expected = [
        "10 met 0.0 {\"device\":\"\"}",
        "10 met 1.0 {\"device\":\"a\"}",
        "10 breached 2.0 {\"device\":\"b\"}",
        "10 open",
    ];
    assert_eq!(trial.then(), expected);
}

#[test]
fn a_contract_counts_from_and_until_its_dates() {
    let time = |seconds: f64| Timestamp::from_epoch_seconds(START + seconds).unwrap();
    let spec = format!("  effective: {{from: {}, until: {}}}\n{}", time(20.0), time(40.0), mean(""));
    let mut trial = given(&spec);
    for second in [1.0, 11.0, 21.0, 31.0, 41.0, 51.0] {
        trial.x(second, 2.0);
    }
    trial.advance(70.0);
    assert_eq!(trial.then(), ["30 breached 2.0", "30 open", "40 breached 2.0", "40 resolved expired"]);
}

#[test]
fn an_observation_that_comes_after_the_end_of_a_contract_is_judged_with_its_window() {
    let time = |at: f64| Timestamp::from_epoch_seconds(START + at).unwrap();
    let mut trial = given(&format!("  effective: {{until: {}}}\n{MEAN}}}", time(15.0)));
    trial.x(1.0, 0.5).advance(10.0);
    trial.x(11.0, 0.5).advance(15.0);
    trial.x(14.0, 0.5);
    assert_eq!(trial.advance(20.0).then(), ["10 met 0.5", "20 met 0.5"]);
}

#[test]
fn a_changed_contract_keeps_unchanged_objectives_and_withdraws_removed_ones() {
    let two = |second: &str| {
        format!(
            "{}\n    - {{name: p, indicator: {{attribute: x.y, aggregate: {second}, window: 10s}}, target: {{max: 1}}}}",
            mean("")
        )
    };
    let mut trial = given(&two("max"));
    trial.x(1.0, 2.0).advance(10.0);
    assert_eq!(trial.events(), ["10 open", "10 open"]);
    trial.x(11.0, 2.0).contract(&two("min"));
    assert_eq!(trial.events(), ["11 resolved withdrawn"], "p promises something else now");
    trial.x(12.0, 0.0).advance(20.0);
    assert_eq!(trial.then(), ["20 met 1.0", "20 resolved met", "20 met 0.0"]);
}

#[test]
fn ids_are_derived_from_what_they_name() {
    let ids = || {
        let spec = format!("{}\n  actions:\n    - {{name: a, do: {{kind: scale}}}}", mean(""));
        let mut trial = given(&spec);
        trial.x(1.0, 2.0).advance(10.0);
        let outputs: Vec<String> = trial.out.list.iter().map(|output| output.to_json().unwrap()).collect();
        let parsed: Vec<serde_json::Value> = outputs.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        (parsed[1]["id"].clone(), parsed[2]["id"].clone(), parsed[2]["violation"].clone())
    };
    let (violation, action, cause) = ids();
    assert_eq!((violation.clone(), action.clone(), cause), ids());
    assert_eq!(violation, ids().2);
    assert_ne!(violation, action);
    for id in [violation, action] {
        assert_eq!(id.as_str().unwrap().as_bytes()[14], b'5', "UUID version 5");
    }
}

#[test]
fn guards_hold_actions_back() {
    let spec =
        |guard: &str| format!("{}\n  actions:\n    - {{name: a, do: {{kind: scale}}, guard: {guard}}}", mean(""));
    let events = |guard: &str| {
        let mut trial = given(&spec(guard));
        for second in 0..6 {
            trial.x(f64::from(second) * 10.0 + 1.0, if second % 2 == 0 { 2.0 } else { 0.0 });
        }
        trial.advance(60.0);
        let mut events = trial.events();
        events.retain(|event| event.contains("action"));
        events.into_iter().map(|event| event.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let requested = |at: u32| format!("{at} action scale requested");
    let suppressed = |at: u32| format!("{at} action scale suppressed");
    assert_eq!(events("{cooldown: 0s}"), [requested(10), requested(30), requested(50)]);
    assert_eq!(events("{cooldown: 30s}"), [requested(10), suppressed(30), requested(50)]);
    assert_eq!(events("{max_per_day: 2}"), [requested(10), requested(30), suppressed(50)]);
    assert_eq!(events("{approval: required}")[0], "10 action scale awaiting_approval");
}

const RULE: &str = "  objectives:\n    - name: o\n      rule: {policy: p.rhai, function: f, inputs: {a: {attribute: x.y, aggregate: mean, window: 10s}, \
     b: {attribute: x.y, aggregate: max, window: 10s, group_by: [device]}}, params: {limit: 1}}";

#[test]
fn rules_judge_several_indicators() {
    let script =
        "fn f(inputs, params) { #{ok: inputs.a.value <= params.limit, value: inputs.b.series.len(), message: \"so\"} }";
    let mut trial = given_script(RULE, script);
    trial.report(1.0, "\"labels\":{\"device\":\"a\"},\"metrics\":{\"x.y\":0.5}");
    trial.report(2.0, "\"labels\":{\"device\":\"b\"},\"metrics\":{\"x.y\":1.5}");
    assert_eq!(trial.advance(10.0).then(), ["10 met 2.0"]);
    assert_eq!(
        trial.x(11.0, 2.0).advance(20.0).then(),
        ["20 breached 1.0", "20 open"],
        "series without data are left out"
    );
}

#[test]
fn a_failing_script_gives_an_error_with_its_place_and_disturbs_no_other() {
    let scripts = [
        ("fn f(inputs, params) {\n  inputs.a.value.nope()\n}", "p.rhai:2:18: "),
        ("fn f(inputs, params) { loop { } }", "operations"),
        ("fn f(inputs, params) { f(inputs, params) }", "overflow"),
        ("fn f(inputs, params) { let s = \"x\"; loop { s += s; } }", "string"),
        ("fn f(inputs, params) { 42 }", "bool"),
    ];
    for (script, expected) in scripts {
        let spec = format!(
            "{RULE}\n    - {{name: p, indicator: {{attribute: x.y, aggregate: mean, window: 10s}}, target: {{max: 1}}}}"
        );
        let mut trial = given_script(&spec, script);
        trial.x(1.0, 0.5).advance(10.0);
        let Some(Output::Evaluation(error)) = trial.out.list.first().cloned() else { panic!("{script}") };
        let message = error.message.clone().unwrap_or_default().to_lowercase();
        assert!(message.contains(expected), "{script}: {message}");
        assert_eq!(trial.then(), ["10 error", "10 met 0.5"], "{script}");
    }
}

const MANY: &str = "  objectives:
    - {name: a, indicator: {attribute: x.y, aggregate: p90, window: 10s, every: 5s, group_by: [device]}, target: {max: 1}, for: 5s, keep: 5s}
    - {name: b, indicator: {attribute: x.y, aggregate: each}, target: {max: 1.8}, keep: 7s, stale_after: 30s}
    - {name: c, indicator: {attribute: x.y, aggregate: last, window: 4s}, target: {max: 1.5}, no_data: breach}
    - {name: d, indicator: {attribute: x.y, aggregate: distinct, window: 20s, every: 4s}, target: {max: 3}}
    - {name: e, indicator: {attribute: x.y, aggregate: stddev, window: 12s, every: 6s, group_by: [stage]}, target: {max: 0.5}, no_data: hold}
    - {name: f, rule: {policy: p.rhai, function: f, inputs: {a: {attribute: x.y, aggregate: mean, window: 6s, group_by: [device]}, b: {attribute: x.y, aggregate: ratio, good: {max: 1}, window: 6s}}}}
  actions:
    - {name: act, do: {kind: scale}, guard: {cooldown: 15s, max_per_day: 5}}";
const MANY_SCRIPT: &str = "fn f(inputs, params) { inputs.b.value == () || inputs.b.value > 0.5 }";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// A stream with disorder, duplicates and gaps, cut by restarts anywhere, gives the same
    /// outputs as without them.
    #[test]
    fn a_restart_at_any_point_changes_nothing(
        steps in prop::collection::vec((0u32..400, 0u32..80, 0u32..4, prop::bool::weighted(0.15)), 1..80)
    ) {
        let limits = Limits { lateness: Span::seconds(3), snapshots: true, ..Limits::default() };
        let mut at = 0.0;
        let mut texts = Vec::new();
        for (tenths, back, device, restart) in &steps {
            // Mostly small steps; rarely a gap.
            at += if *tenths > 390 { 45.0 } else { f64::from(tenths % 20) / 10.0 };
            let time = START + (at - f64::from(*back) / 20.0).max(0.0);
            let value = f64::from(tenths % 5) / 2.0;
            let text = format!(
                "{{\"id\":\"r{}\",\"time\":{time},\"application\":\"shop\",\"stage\":\"s\",\"instance\":\"i{device}\",\
                 \"labels\":{{\"device\":\"{device}\"}},\"metrics\":{{\"x.y\":{value}}}}}",
                tenths % 97
            );
            texts.push((text, *restart));
        }
        let run = |restarts| trial::outputs_of(limits, (MANY, MANY_SCRIPT), &texts, restarts);
        let (cut, whole) = (run(true), run(false));
        for (cut, whole) in cut.iter().zip(&whole) {
            prop_assert_eq!(cut, whole);
        }
        prop_assert_eq!(cut.len(), whole.len());
    }
}

/// Objectives that see the same observations, some of kinds that only some of them take.
const TOGETHER: [&str; 9] = [
    "{name: mean, indicator: {attribute: x.y, aggregate: mean, window: 20s, every: 10s, group_by: [device]}, target: {max: 0.9}, stale_after: 1m}",
    "{name: p50, indicator: {attribute: x.y, aggregate: p50, window: 30s, every: 10s, group_by: [device]}, target: {min: 0.6}}",
    "{name: count, indicator: {attribute: x.y, aggregate: count, window: 10s, group_by: [device]}, target: {min: 2}, no_data: breach}",
    "{name: small, indicator: {attribute: x.y, aggregate: ratio, good: {max: 1}, window: 30s, every: 10s, group_by: [device]}, target: {min: 0.7}}",
    "{name: named, indicator: {attribute: x.y, aggregate: ratio, good: {equals: a}, window: 30s, every: 10s, group_by: [device]}, target: {min: 0.1}}",
    "{name: last, indicator: {attribute: x.y, aggregate: last, window: 20s, every: 10s, group_by: [device]}, target: {not_in: [2, b]}, no_data: hold}",
    "{name: distinct, indicator: {attribute: x.y, aggregate: distinct, window: 20s, every: 10s, group_by: [device]}, target: {max: 3}}",
    "{name: max, indicator: {attribute: x.y, aggregate: max, window: 10s, group_by: [device]}, target: {max: 1.5}, for: 20s}",
    "{name: chart, indicator: {attribute: x.y, aggregate: zscore, baseline: {window: 1m}, window: 10s, group_by: [device]}, target: {max: 2}}",
];

fn spec_of(objectives: &[&str]) -> String {
    format!("  objectives:\n    - {}\n", objectives.join("\n    - "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Counted together, objectives give what each gives alone, with the same evidence.
    #[test]
    fn objectives_together_give_what_each_gives_alone(
        steps in prop::collection::vec((0u32..400, 0u32..80, 0u32..3, 0u32..10, prop::bool::weighted(0.1)), 1..80)
    ) {
        let limits = Limits { lateness: Span::seconds(3), snapshots: true, ..Limits::default() };
        let mut at = 0.0;
        let mut texts = Vec::new();
        for (n, (tenths, back, device, kind, restart)) in steps.iter().enumerate() {
            // Mostly small steps; rarely a gap, or one after which series are dropped.
            at += match tenths {
                399 => 100_000.0,
                390..399 => 45.0,
                _ => f64::from(tenths % 40) / 10.0,
            };
            let time = START + (at - f64::from(*back) / 20.0).max(0.0);
            let value = match kind {
                0 => "\"a\"".to_owned(),
                1 => "\"b\"".to_owned(),
                2 => "true".to_owned(),
                _ => (f64::from(tenths % 5) / 2.0).to_string(),
            };
            let text = format!(
                "{{\"id\":\"r{n}\",\"time\":{time},\"application\":\"shop\",\"stage\":\"s\",\"instance\":\"i{}\",\
                 \"labels\":{{\"device\":\"{device}\"}},\"metrics\":{{\"x.y\":{value}}}}}",
                tenths % 3
            );
            texts.push((text, *restart));
        }
        let together = trial::outputs_of(limits, (&spec_of(&TOGETHER), ""), &texts, true);
        for objective in TOGETHER {
            let alone = trial::outputs_of(limits, (&spec_of(&[objective]), ""), &texts, false);
            let name = objective.split([':', ',']).nth(1).unwrap().trim();
            let named = format!("\"objective\":\"{name}\"");
            let mut of_this: Vec<&String> = together.iter().filter(|line| line.contains(&named)).collect();
            // Together, time goes on until the longest window has closed.
            of_this.truncate(alone.len());
            prop_assert_eq!(of_this, alone.iter().collect::<Vec<_>>());
        }
    }
}

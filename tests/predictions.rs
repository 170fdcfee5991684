//! Predictions and their feedback, drift, detectors, data quality, QoA4ML reports: each exact
//! meaning by example, and that a restart at any point changes nothing of them.

#![allow(clippy::unwrap_used)]

mod common;
mod trial;

use proptest::prelude::*;
use qualm::contract;
use qualm::engine::{Engine, Graph, Limits, Output, Outputs, Program};
use qualm::report;
use qualm::time::Span;
use serde_json::{Value as Json, json};
use trial::{START, Trial, given};

fn indicator(text: &str) -> String {
    format!("  objectives:\n    - {{name: o, indicator: {{{text}}}, target: {{min: 0}}}}")
}

fn accuracy(more: &str) -> Trial {
    given(&indicator(&format!("attribute: prediction, aggregate: accuracy, window: 10s{more}")))
}

fn infer(trial: &mut Trial, at: f64, id: &str, prediction: &str) {
    trial.report(at, &format!("\"id\":\"i{id}{at}\",\"inference\":{{\"id\":\"{id}\",\"prediction\":{prediction}}}"));
}

fn feed(trial: &mut Trial, at: f64, id: &str, label: &str) {
    let feedback = format!("{{\"inference\":\"{id}\",\"label\":{label}}}");
    let name = label.replace('"', "");
    trial.report(at, &format!("\"id\":\"f{id}{at}{name}\",\"feedback\":[{feedback}]"));
}

#[test]
fn feedback_joins_after_before_with_and_never() {
    let mut trial = accuracy("");
    infer(&mut trial, 1.0, "after", "\"cat\"");
    feed(&mut trial, 2.0, "after", "\"cat\"");
    feed(&mut trial, 3.0, "before", "\"dog\"");
    infer(&mut trial, 4.0, "before", "\"cat\"");
    trial.report(
        5.0,
        "\"inference\":{\"id\":\"w\",\"prediction\":\"a\"},\"feedback\":[{\"inference\":\"w\",\"label\":\"a\"}]",
    );
    infer(&mut trial, 6.0, "never", "\"cat\"");
    feed(&mut trial, 7.0, "unknown", "\"cat\"");
    assert_eq!(trial.advance(10.0).then(), [format!("10 met {}", 2.0 / 3.0)]);
    assert_eq!((trial.out.counts.pairs, trial.out.counts.unjoined), (3, 0));
}

#[test]
fn a_pair_counts_at_the_later_time_with_the_labels_of_the_inference() {
    let mut trial = given(&indicator(
        "attribute: prediction, aggregate: accuracy, window: 10s, group_by: [model], where: {stage: s}",
    ));
    trial.report(1.0, "\"labels\":{\"model\":\"m1\"},\"inference\":{\"id\":\"a\",\"prediction\":\"x\"}");
    trial.report(12.0, "\"labels\":{\"model\":\"m2\"},\"feedback\":[{\"inference\":\"a\",\"label\":\"x\"}]");
    assert_eq!(trial.advance(20.0).then(), ["20 met 1.0 {\"model\":\"m1\"}"]);
}

#[test]
fn the_first_feedback_counts_and_an_inference_counts_once() {
    let mut trial = accuracy("");
    infer(&mut trial, 1.0, "a", "\"cat\"");
    feed(&mut trial, 2.0, "a", "\"cat\"");
    feed(&mut trial, 3.0, "a", "\"dog\"");
    infer(&mut trial, 4.0, "a", "\"dog\"");
    feed(&mut trial, 5.0, "b", "\"cat\"");
    feed(&mut trial, 6.0, "b", "\"dog\"");
    infer(&mut trial, 7.0, "b", "\"cat\"");
    assert_eq!(trial.advance(10.0).then(), ["10 met 1.0"]);
    assert_eq!((trial.out.counts.pairs, trial.out.counts.unjoined), (2, 3));
}

#[test]
fn feedback_counts_up_to_the_join_horizon() {
    let mut trial = accuracy("");
    infer(&mut trial, 0.0, "a", "\"cat\"");
    infer(&mut trial, 0.0, "b", "\"cat\"");
    feed(&mut trial, 3600.0, "a", "\"cat\"");
    feed(&mut trial, 3600.1, "b", "\"cat\"");
    trial.advance(3700.0);
    assert_eq!((trial.out.counts.pairs, trial.out.counts.unjoined), (1, 1));
    infer(&mut trial, 10_000.0, "c", "\"cat\"");
    trial.x(20_000.0, 1.0);
    assert_eq!(trial.out.counts.unanswered, 2, "b and c");
    feed(&mut trial, 20_001.0, "a", "\"cat\"");
    assert_eq!(trial.out.counts.pairs, 1, "it was forgotten, with its feedback");
}

#[test]
fn what_waits_is_bounded_and_what_was_given_up_is_counted() {
    let mut trial = accuracy("");
    trial.engine = Engine::new(Limits { pending_max: 3, ..Limits::default() });
    trial.contract(&indicator("attribute: prediction, aggregate: accuracy, window: 10s"));
    for id in ["a", "b", "c", "d", "e"] {
        infer(&mut trial, 1.0, id, "\"x\"");
    }
    assert_eq!(trial.out.counts.given_up, 2);
    feed(&mut trial, 2.0, "e", "\"x\"");
    feed(&mut trial, 2.0, "a", "\"x\"");
    assert_eq!(trial.out.counts.pairs, 1, "a was given up");
}

#[test]
fn coverage_is_the_share_of_the_windows_inferences_with_feedback_by_its_end() {
    let mut trial = given(&indicator("attribute: prediction, aggregate: coverage, window: 20s, every: 10s"));
    infer(&mut trial, 1.0, "a", "\"x\"");
    infer(&mut trial, 2.0, "b", "\"x\"");
    feed(&mut trial, 3.0, "a", "\"x\"");
    infer(&mut trial, 11.0, "c", "\"x\"");
    feed(&mut trial, 12.0, "b", "\"x\"");
    feed(&mut trial, 25.0, "c", "\"x\"");
    trial.advance(40.0);
    // At 30 the window starts at 10: c alone was made in it.
    assert_eq!(trial.then(), ["10 met 0.5", &format!("20 met {}", 2.0 / 3.0), "30 met 1.0", "40 no_data"]);
}

#[test]
fn scores_predict_the_class_with_the_greatest_one_and_numbers_are_classes_by_spelling() {
    let mut trial = accuracy("");
    infer(&mut trial, 1.0, "a", "{\"cat\":0.2,\"dog\":0.8}");
    feed(&mut trial, 2.0, "a", "\"dog\"");
    infer(&mut trial, 3.0, "b", "{\"cat\":0.5,\"dog\":0.5}");
    feed(&mut trial, 4.0, "b", "\"cat\"");
    infer(&mut trial, 5.0, "c", "7");
    feed(&mut trial, 6.0, "c", "\"7\"");
    infer(&mut trial, 7.0, "d", "true");
    feed(&mut trial, 8.0, "d", "true");
    assert_eq!(trial.advance(10.0).then(), ["10 met 1.0"]);
}

#[test]
fn pairs_of_a_kind_that_an_aggregate_cannot_take_are_counted() {
    let mut trial = given(&indicator("attribute: prediction, aggregate: mae, window: 10s"));
    infer(&mut trial, 1.0, "a", "\"cat\"");
    feed(&mut trial, 2.0, "a", "\"cat\"");
    infer(&mut trial, 3.0, "b", "2.5");
    feed(&mut trial, 4.0, "b", "2");
    assert_eq!(trial.advance(10.0).then(), ["10 met 0.5"]);
    assert_eq!(trial.out.counts.wrong_type, 1);
}

#[test]
fn the_confusion_matrix_stands_beside_the_value_and_in_the_evidence() {
    let spec = "  objectives:\n    - {name: o, indicator: {attribute: prediction, aggregate: accuracy, window: 10s}, target: {min: 0.9}}";
    let mut trial = given(spec);
    for (id, predicted, truth) in [("a", "\"x\"", "\"x\""), ("b", "\"x\"", "\"y\""), ("c", "\"y\"", "\"y\"")] {
        infer(&mut trial, 1.0, id, predicted);
        feed(&mut trial, 2.0, id, truth);
    }
    trial.advance(10.0);
    let outputs: Vec<Json> =
        trial.out.list.iter().map(|o| serde_json::from_str(&o.to_json().unwrap()).unwrap()).collect();
    let matrix = json!({"confusion": {"classes": ["x", "y"], "matrix": [[1, 0], [1, 1]]}});
    assert_eq!(outputs[0]["detail"], matrix);
    assert_eq!(outputs[1]["evidence"]["detail"], matrix);
    let counterfactual = json!({"value": 0.9, "bad": 1, "bad_allowed": 0});
    assert_eq!(outputs[1]["evidence"]["counterfactual"], counterfactual);
    assert_eq!(
        outputs[1]["evidence"]["contributors"][0],
        json!({"source": "s/i", "samples": 3, "bad": 1, "value": 2.0 / 3.0})
    );
}

#[test]
fn disparity_compares_groups_that_have_enough_samples() {
    let value = |more: &str| {
        let spec = format!(
            "  objectives:\n    - {{name: o, min_samples: 2, indicator: {{attribute: prediction, aggregate: disparity, across: group, window: 10s, {more}}}, target: {{min: 0}}}}"
        );
        let mut trial = given(&spec);
        // Group a: 2 of 4 predicted yes, 3 of 4 right; b: 1 of 4 yes, all right; c: a single one.
        let pairs = [
            ("a", "yes", "yes"),
            ("a", "yes", "no"),
            ("a", "no", "no"),
            ("a", "no", "no"),
            ("b", "yes", "yes"),
            ("b", "no", "no"),
            ("b", "no", "no"),
            ("b", "no", "no"),
            ("c", "yes", "no"),
        ];
        for (number, (group, predicted, truth)) in pairs.iter().enumerate() {
            trial.report(1.0, &format!(
                "\"id\":\"{number}\",\"labels\":{{\"group\":\"{group}\"}},\"inference\":{{\"id\":\"{number}\",\"prediction\":\"{predicted}\"}},\"feedback\":[{{\"inference\":\"{number}\",\"label\":\"{truth}\"}}]"
            ));
        }
        trial.advance(10.0).then()
    };
    assert_eq!(value("of: accuracy"), ["10 met 0.25"], "accuracy gap");
    assert_eq!(value("of: ratio, good: {equals: \"yes\"}"), ["10 met 0.25"], "demographic parity: 2/4 against 1/4");
    assert_eq!(value("of: ratio, good: {equals: \"yes\"}, metric: ratio"), ["10 met 0.5"]);
    assert_eq!(value("of: recall, class: \"yes\""), ["10 met 0.0"], "equal opportunity: 1/1 against 1/1");
}

#[test]
fn freshness_is_judged_while_nothing_comes() {
    let spec = "  objectives:\n    - {name: o, indicator: {attribute: data.freshness, aggregate: last, window: 10s, group_by: [instance]}, target: {max: 25}}";
    let mut trial = given(spec);
    trial.x(4.0, 1.0).x(12.0, 1.0);
    trial.advance(60.0);
    let expected = [
        "10 met 6.0",
        "20 met 8.0",
        "30 met 18.0",
        "40 breached 28.0",
        "40 open",
        "50 breached 38.0",
        "60 breached 48.0",
    ];
    let plain: Vec<String> = trial.then().iter().map(|words| words.replace(" {\"instance\":\"i\"}", "")).collect();
    assert_eq!(plain, expected);
    trial.x(61.0, 1.0).advance(70.0);
    assert_eq!(trial.events(), ["70 resolved met"]);
}

#[test]
fn duplicates_are_a_share_of_the_reports_that_came() {
    let mut trial =
        given(&indicator("attribute: data.duplicates, aggregate: ratio, good: {equals: true}, window: 10s"));
    for at in [1.0, 2.0, 2.0, 3.0] {
        trial.report(at, "\"id\":\"same\",\"metrics\":{\"x.y\":1}");
    }
    trial.x(4.0, 1.0);
    assert_eq!(trial.advance(10.0).then(), ["10 met 0.6"]);
}

#[test]
fn validity_is_the_share_of_payloads_that_keep_the_contracts_schema() {
    let schema = r#"{"type": "object", "required": ["image"], "properties": {"image": {"type": "string"}}}"#;
    let spec = format!(
        "  payload: {{schema: schemas/input.json, match: {{stage: s}}}}\n{}",
        indicator("attribute: data.validity, aggregate: mean, window: 10s")
    );
    let mut loaded = contract::load("shop.yaml", &trial::contract_text(&spec));
    let program = Program::compile(&mut loaded, |name| {
        assert_eq!(name, "schemas/input.json");
        Ok(schema.to_owned())
    });
    let mut trial = accuracy("");
    trial.engine = Engine::new(Limits { lateness: Span::ZERO, ..Limits::default() });
    trial.engine.set_contract(program.unwrap_or_else(|| panic!("{:?}", loaded.findings)).into(), &mut trial.out);
    trial.report(1.0, "\"metrics\":{\"x.y\":1},\"payload\":{\"image\":\"a.png\"}");
    trial.report(2.0, "\"metrics\":{\"x.y\":1},\"payload\":{\"image\":7}");
    trial.report(3.0, "\"metrics\":{\"x.y\":1},\"payload\":[]");
    trial.report(4.0, "\"metrics\":{\"x.y\":1},\"payload\":{\"image\":\"\",\"more\":[1]}");
    trial.report(5.0, "\"metrics\":{\"x.y\":1}");
    assert_eq!(trial.advance(10.0).then(), ["10 met 0.5"]);
}

#[test]
fn a_baseline_is_learned_first_then_windows_are_compared_with_it() {
    let spec = "  objectives:\n    - {name: o, indicator: {attribute: x.y, aggregate: ks, window: 10s, baseline: {first: 20s}}, target: {max: 0.5}}";
    let mut trial = given(spec);
    for number in 0..40 {
        trial.x(f64::from(number) / 2.0, f64::from(number % 10));
    }
    for number in 0..20 {
        trial.x(20.0 + f64::from(number) / 2.0, f64::from(number % 10) + 6.0);
    }
    trial.advance(30.0);
    assert_eq!(trial.then(), ["10 insufficient", "20 insufficient", "30 breached 0.6000000000000001", "30 open"]);
}

#[test]
fn more_observations_than_a_detector_keeps_are_an_error() {
    let mut trial = given(&indicator("attribute: x.y, aggregate: adwin, window: 10s"));
    for number in 0..=100_000u32 {
        trial.x(f64::from(number) / 20_000.0, 1.0);
    }
    trial.x(11.0, 1.0);
    assert_eq!(trial.advance(20.0).then(), ["10 error 0.0", "20 met 0.0"]);
}

#[test]
fn drift_shows_what_chance_would_make_it_and_false_alarms_are_kept_over_all_series() {
    // 20 series from one distribution, 200 windows: a window end at which chance raises an
    // alarm in any series comes at most once in ten.
    let spec = "  objectives:\n    - {name: o, indicator: {attribute: x.y, aggregate: psi, window: 50s, group_by: [device], baseline: {first: 500s}}, target: {false_alarm: 0.1}}";
    let mut trial = given(spec);
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut bad_ends = std::collections::BTreeSet::new();
    for second in 0..10_500 {
        for device in 0..20 {
            let value = random().powi(2);
            trial.report(f64::from(second), &format!("\"id\":\"{second}-{device}\",\"labels\":{{\"device\":\"{device}\"}},\"metrics\":{{\"x.y\":{value}}}"));
        }
        for output in trial.out.list.drain(..) {
            let row: Json = serde_json::from_str(&output.to_json().unwrap()).unwrap();
            if row["verdict"] == "breached" {
                assert!(row["detail"]["drift"]["p_value"].as_f64().unwrap() <= 0.1, "{row}");
                bad_ends.insert(row["window"]["end"].as_str().unwrap().to_owned());
            }
            if row["verdict"] == "met" {
                let expected = row["detail"]["drift"]["expected"].as_f64().unwrap();
                assert!((expected - 9.0 * (1.0 / 50.0 + 1.0 / 500.0)).abs() < 1e-9, "{row}");
            }
        }
    }
    // 200 window ends; three standard deviations of their share are 0.064.
    let share = bad_ends.len() as f64 / 199.0;
    assert!((share - 0.1).abs() < 0.064, "{share}");
}

/// A QoA4ML report of an instance with two stages before it.
fn qoa4ml(instance: &str, at: f64, own: &[(&str, &str, f64, f64)]) -> String {
    let stages: Vec<String> = own
        .iter()
        .map(|(stage, id, start, seconds)| {
            format!("\"{stage}\":{{\"name\":\"{stage}\",\"metrics\":{{\"response_time\":{{\"id-{id}\":{{\"metric_name\":\"response_time\",\"records\":[{{\"startTime\":{},\"responseTime\":{seconds}}}],\"unit\":null}}}}}}}}", START + start)
        })
        .collect();
    let stage = own.last().unwrap().0;
    format!(
        "{{\"metadata\":{{\"client_config\":{{\"id\":\"x\",\"name\":\"{instance}\",\"instance_id\":\"id-{instance}\",\"instance_name\":\"{instance}\",\"stage_id\":\"{stage}\",\"application_name\":\"shop\",\"functionality\":\"REST\",\"run_id\":\"r\"}},\"timestamp\":{}}},\"service\":{{{}}},\"data\":{{}},\"ml_inference\":{{}}}}",
        START + at,
        stages.join(",")
    )
}

fn observe(trial: &mut Trial, text: &str) {
    report::decode(text.as_bytes(), |_, decoded| {
        let report = decoded.unwrap_or_else(|error| panic!("{error}: {text}"));
        trial.engine.observe(report, &mut trial.out);
    });
}

#[test]
fn relayed_metrics_count_while_their_instance_is_silent_and_once() {
    let rates = "attribute: service.response_time, aggregate: count, window: 20m, group_by: [instance]";
    let counted = |texts: &[String]| {
        let mut trial = given(&indicator(rates));
        texts.iter().for_each(|text| observe(&mut trial, text));
        trial.advance(1200.0).then()
    };
    let (gw, pre) = (("gateway", "gw", 1.0, 0.1), ("pre", "pre", 1.2, 0.2));
    let heard = [qoa4ml("gw", 1.1, &[gw]), qoa4ml("pre", 1.4, &[gw, pre])];
    let one_each = ["1200 met 1.0 {\"instance\":\"gw\"}", "1200 met 1.0 {\"instance\":\"pre\"}"];
    assert_eq!(counted(&heard), one_each);
    // Nobody hears the gateway itself; two stages pass it on.
    let silent = [qoa4ml("pre", 1.4, &[gw, pre]), qoa4ml("m", 1.6, &[gw, pre, ("model", "m", 1.5, 0.1)])];
    let by_id = [
        "1200 met 1.0 {\"instance\":\"id-gw\"}",
        "1200 met 1.0 {\"instance\":\"m\"}",
        "1200 met 1.0 {\"instance\":\"pre\"}",
    ];
    assert_eq!(counted(&silent), by_id);
    // The downstream report overtakes the gateway's own: the measurement counts once all the same.
    let overtaken = [qoa4ml("pre", 1.4, &[gw, pre]), qoa4ml("gw", 1.1, &[gw])];
    assert_eq!(counted(&overtaken).len(), 2);
    // After an hour of silence of its own, what is passed on counts again.
    let (late, late_pre) = (("gateway", "gw", 3800.0, 0.1), ("pre", "pre", 3800.2, 0.2));
    let mut trial = given(&indicator(rates));
    observe(&mut trial, &qoa4ml("gw", 1.1, &[gw]));
    observe(&mut trial, &qoa4ml("pre", 3800.4, &[late, late_pre]));
    trial.advance(7200.0);
    assert!(trial.then().contains(&"4800 met 1.0 {\"instance\":\"id-gw\"}".to_owned()));
}

#[test]
fn relayed_metrics_feed_the_execution_graph() {
    let mut trial = given(&indicator("attribute: x.y, aggregate: count, window: 1h"));
    trial.engine = Engine::new(Limits { snapshots: true, ..Limits::default() });
    trial.contract(&indicator("attribute: x.y, aggregate: count, window: 1h"));
    let stages = [("gateway", "gw", 1.0, 0.1), ("pre", "pre", 1.2, 0.2), ("model", "m", 1.5, 0.1)];
    observe(&mut trial, &qoa4ml("m", 1.6, &stages));
    observe(&mut trial, &qoa4ml("pre", 1.4, &stages[..2]));
    let row = trial.engine.snapshot(usize::MAX).applications.remove(0);
    let state: Json = serde_json::from_str(&row.state).unwrap();
    let graph: Graph = serde_json::from_value(state["graph"].clone()).unwrap();
    let edges: Vec<(&str, &str)> = graph.edges.iter().map(|(from, to, _)| (&**from, &**to)).collect();
    assert_eq!(edges, [("id-gw", "pre"), ("pre", "m")]);
    assert_eq!(&*graph.instances["m"], "model");
}

/// The recordings of the real client, where they exist beside the project.
#[test]
fn recorded_qoa4ml_reports_count_what_the_instances_measured_themselves() {
    let attributes = ["service.response_time", "data.image_width", "data.completeness", "ml.accuracy", "ml.confidence"];
    for name in ["ml-reports.ndjson", "rohe-reports.ndjson"] {
        let Ok(text) = std::fs::read_to_string(common::root().join("../shared/data/qoa4ml").join(name)) else { return };
        let mut own = std::collections::BTreeMap::new();
        for line in text.lines() {
            let row: Json = serde_json::from_str(line).unwrap();
            let client = &row["metadata"]["client_config"];
            let (id, instance) = (client["instance_id"].as_str().unwrap(), client["instance_name"].as_str().unwrap());
            let stages = if row["inference_report"].is_null() { &row } else { &row["inference_report"] };
            for category in ["service", "data"] {
                for metric in
                    stages[category].as_object().unwrap().values().flat_map(|s| s["metrics"].as_object().unwrap())
                {
                    let records = metric.1[id]["records"].as_array().map_or(0, Vec::len);
                    *own.entry((metric.0.clone(), instance.to_owned())).or_insert(0) += records;
                }
            }
            let listed = stages["ml_inference"][id]["metrics"].as_array();
            let linked = stages["ml_specific"]["linked_list"][id]["instance"]["metrics"].as_array();
            for metric in listed.or(linked).into_iter().flatten() {
                let key = (metric["metric_name"].as_str().unwrap().to_owned(), instance.to_owned());
                *own.entry(key).or_insert(0) += metric["records"].as_array().unwrap().len();
            }
        }
        own.retain(|_, count| *count > 0);
        let objectives = attributes.map(|attribute| {
            let name = attribute.replace('.', "-");
            format!("    - {{name: {name}, indicator: {{attribute: {attribute}, aggregate: count, window: 1d, group_by: [instance]}}, target: {{min: 1}}}}\n")
        });
        let slow = "    - {name: slow, indicator: {attribute: service.response_time, aggregate: p90, window: 5s, every: 1s, where: {stage: inference}, group_by: [instance]}, target: {max: 0.02}}\n";
        let spec = format!("  objectives:\n{}{slow}", objectives.concat());
        let text_of = trial::contract_text(&spec).replace("application: shop", "application: object_detection");
        let mut loaded = contract::load("c.yaml", &text_of);
        let program = Program::compile(&mut loaded, |name| Err(name.to_owned()))
            .unwrap_or_else(|| panic!("{:?}", loaded.findings));
        let (mut engine, mut out) = (Engine::new(Limits::default()), Outputs::default());
        engine.set_contract(program.into(), &mut out);
        report::decode_all(text.as_bytes(), |_, decoded| engine.observe(decoded.unwrap(), &mut out));
        engine.finish(&mut out);
        let mut counted = std::collections::BTreeMap::new();
        let mut opened = Vec::new();
        for output in &out.list {
            let row: Json = serde_json::from_str(&output.to_json().unwrap()).unwrap();
            let instance = row["series"]["instance"].as_str().unwrap_or_default().to_owned();
            if row["type"] == "violation" && row["state"] == "open" {
                opened.push(instance);
            } else if let Some(count) = row["value"].as_u64().or(row["value"].as_f64().map(|v| v as u64))
                && row["objective"] != "slow"
            {
                let metric = row["objective"].as_str().unwrap().split_once('-').unwrap().1.to_owned();
                *counted.entry((metric, instance)).or_insert(0) += count as usize;
            }
        }
        assert_eq!(counted, own, "{name}");
        assert_eq!(opened, ["yolo-0"], "{name}: the slow detector, once");
    }
}

/// Accuracy of the recorded ensembles equals a join by brute force, in total and by window.
#[test]
fn recorded_accuracy_equals_a_brute_force_join() {
    for file in common::recordings() {
        let text = std::fs::read_to_string(&file).unwrap();
        let rows: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let mut truths = std::collections::HashMap::new();
        let mut seen = std::collections::HashSet::new();
        let fresh: Vec<&Json> = rows.iter().filter(|row| seen.insert(row["id"].as_str().unwrap().to_owned())).collect();
        let time = |row: &Json| row["time"].as_str().unwrap().parse::<qualm::time::Timestamp>().unwrap();
        for row in &fresh {
            for feedback in row["feedback"].as_array().into_iter().flatten() {
                let label = feedback["label"].as_str().unwrap().to_owned();
                truths.entry(feedback["inference"].as_str().unwrap().to_owned()).or_insert((time(row), label));
            }
        }
        let mut by_window = std::collections::BTreeMap::new();
        let mut met = std::collections::HashSet::new();
        let minute = Span::seconds(60);
        for row in &fresh {
            let Some(id) = row["inference"]["id"].as_str().filter(|id| met.insert(id.to_string())) else { continue };
            if let (Some((at, truth)), "aggregation") = (truths.get(id), row["stage"].as_str().unwrap()) {
                let end = (*at).max(time(row)).floor(minute) + minute;
                let (right, all) = by_window.entry(end).or_insert((0u32, 0u32));
                *right += u32::from(row["inference"]["prediction"] == truth.as_str());
                *all += 1;
            }
        }
        let spec = "  objectives:\n    - {name: minutes, indicator: {attribute: prediction, aggregate: accuracy, window: 1m, where: {stage: aggregation}}, target: {min: 0}}\n    - {name: total, indicator: {attribute: prediction, aggregate: accuracy, window: 10d, where: {stage: aggregation}}, target: {min: 0}}";
        let text_of = trial::contract_text(spec).replace("application: shop", "application: smart_building");
        let mut loaded = contract::load("c.yaml", &text_of);
        let program = Program::compile(&mut loaded, |name| Err(name.to_owned())).unwrap();
        let (mut engine, mut out) = (Engine::new(Limits::default()), Outputs::default());
        engine.set_contract(program.into(), &mut out);
        report::decode_all(text.as_bytes(), |_, decoded| engine.observe(decoded.unwrap(), &mut out));
        engine.finish(&mut out);
        let mut ours = std::collections::BTreeMap::new();
        let mut total = None;
        for output in &out.list {
            let Output::Evaluation(evaluation) = output else { continue };
            let row: Json = serde_json::from_str(&output.to_json().unwrap()).unwrap();
            if let Some(value) = row["value"].as_f64() {
                match row["objective"].as_str().unwrap() {
                    "total" => total = Some((value, evaluation.samples)),
                    _ => drop(ours.insert(evaluation.window.end, (value, evaluation.samples))),
                }
            }
        }
        let share = |(right, all): (u32, u32)| (f64::from(right) / f64::from(all), u64::from(all));
        let theirs: std::collections::BTreeMap<_, _> =
            by_window.iter().map(|(end, counts)| (*end, share(*counts))).collect();
        assert_eq!(ours, theirs, "{}", file.display());
        let sums = by_window.values().fold((0, 0), |(right, all), (r, a)| (right + r, all + a));
        assert_eq!(total, Some(share(sums)), "{}", file.display());
        assert!(sums.1 > 50, "a recording has feedback");
    }
}

const ALL: &str = "  objectives:
    - {name: a, indicator: {attribute: prediction, aggregate: f1, window: 20s, every: 10s, group_by: [device]}, target: {min: 0.5}}
    - {name: whole, indicator: {attribute: request.response_time, aggregate: mean, window: 20s, every: 5s, group_by: [device]}, target: {max: 0.5}}
    - {name: dear, indicator: {attribute: request.cost, aggregate: sum, window: 10s}, target: {max: 3}}
    - {name: b, indicator: {attribute: prediction, aggregate: coverage, window: 20s, every: 5s}, target: {min: 0.5}}
    - {name: c, indicator: {attribute: x.y, aggregate: ks, window: 10s, every: 5s, baseline: {first: 20s}, group_by: [device]}, target: {false_alarm: 0.2}}
    - {name: d, indicator: {attribute: x.y, aggregate: wasserstein, window: 10s, every: 5s, baseline: {window: 40s}}, target: {max: 0.4}}
    - {name: e, indicator: {attribute: x.y, aggregate: page_hinkley, window: 10s, lambda: 2}, target: {max: 0}}
    - {name: f, indicator: {attribute: x.y, aggregate: adwin, window: 10s, delta: 0.3}, target: {max: 0}}
    - {name: g, indicator: {attribute: x.y, aggregate: zscore, window: 2s, baseline: {window: 60s}}, target: {max: 2}}
    - {name: h, indicator: {attribute: x.y, aggregate: ewma, window: 2s, baseline: {first: 20s}}, target: {max: 2}}
    - {name: i, indicator: {attribute: data.freshness, aggregate: last, window: 2s, group_by: [device]}, target: {max: 3}}
    - {name: j, indicator: {attribute: data.duplicates, aggregate: ratio, good: {equals: false}, window: 10s}, target: {min: 0.95}}
    - {name: k, indicator: {attribute: prediction, aggregate: disparity, of: accuracy, across: device, window: 10s}, target: {max: 0.5}}
    - {name: l, indicator: {attribute: prediction, aggregate: psi, window: 10s, baseline: {first: 20s}}, target: {false_alarm: 0.2}}
    - {name: m, rule: {policy: p.rhai, function: f, inputs: {a: {attribute: prediction, aggregate: accuracy, window: 10s}, b: {attribute: x.y, aggregate: js, window: 10s, baseline: {window: 30s}}}}}";
const ALL_SCRIPT: &str = "fn f(inputs, params) { inputs.b.value == () || inputs.b.value < 0.3 }";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The same law as in `engine.rs`, for all that remembers more than panes.
    #[test]
    fn a_restart_at_any_point_changes_nothing(
        steps in prop::collection::vec((0u32..200, 0u32..60, 0u32..3, prop::bool::weighted(0.1)), 40..160)
    ) {
        let limits = Limits { lateness: Span::seconds(3), join_horizon: Span::seconds(30), snapshots: true, ..Limits::default() };
        let mut at = 0.0;
        let mut texts = Vec::new();
        for (number, (tenths, back, device, restart)) in steps.iter().enumerate() {
            at += f64::from(tenths % 20) / 10.0;
            let time = START + (at - f64::from(*back) / 20.0).max(0.0);
            let value = f64::from(tenths % 7) + at / 50.0;
            // Feedback for an inference nearby, before or after it; some never, some twice.
            let request = number / 3 - (number / 3) % 2 * usize::from(number % 7 == 0);
            let (inference, answered) = (number / 2, (number + *tenths as usize % 9) / 2);
            let id = if tenths % 13 == 0 { 1 } else { number };
            let text = format!(
                "{{\"id\":\"r{id}\",\"time\":{time},\"application\":\"shop\",\"stage\":\"s\",\"instance\":\"i{device}\",\
                 \"labels\":{{\"device\":\"{device}\"}},\"metrics\":{{\"x.y\":{value},\"service.response_time\":{value},\"cost.usd\":{value}}},\
                 \"inference\":{{\"id\":\"{inference}\",\"request\":\"q{request}\",\"prediction\":\"{}\"}},\
                 \"feedback\":[{{\"inference\":\"{answered}\",\"label\":\"{}\"}}]}}",
                ["x", "y", "z"][*tenths as usize % 3], ["x", "y"][*back as usize % 2],
            );
            let relay = qoa4ml(["p", "q"][number % 2], at, &[("gateway", "gw", at, value), ("pre", ["p", "q"][number % 2], at, value)]);
            let text = if number % 5 == 0 { relay } else { text };
            texts.push((text, *restart));
        }
        let run = |restarts| trial::outputs_of(limits, (ALL, ALL_SCRIPT), &texts, restarts);
        let (cut, whole) = (run(true), run(false));
        for (cut, whole) in cut.iter().zip(&whole) {
            prop_assert_eq!(cut, whole);
        }
        prop_assert_eq!(cut.len(), whole.len());
    }
}

/// Two steps of one request are put together: from the first start to the last end, costs added, and
/// counted once the time-out has passed since the last step; a step that comes twice counts once.
#[test]
fn whole_requests_are_put_together() {
    let objectives = "  objectives:
    - {name: time, indicator: {attribute: service.response_time, scope: request, aggregate: max, window: 10s}, target: {max: 1}}
    - {name: cost, indicator: {attribute: request.cost, aggregate: sum, window: 10s}, target: {max: 100}}
    - {name: good, indicator: {attribute: request.success, aggregate: ratio, good: {equals: true}, window: 10s}, target: {min: 1}}
";
    let step = |id: &str, at: f64, took: f64, more: &str| {
        let time = START + at;
        format!(
            "{{\"id\":\"{id}-{at}\",\"time\":{time},\"application\":\"shop\",\"stage\":\"{id}\",\"instance\":\"i\",\
             \"metrics\":{{\"service.response_time\":{took},\"cost.usd\":2{more}}},\"inference\":{{\"id\":\"{id}\",\"request\":\"q\"}}}}"
        )
    };
    let texts = [
        (step("a", 1.0, 0.5, ""), false),
        (step("a", 1.5, 0.5, ""), false),
        (step("b", 3.0, 1.0, ",\"service.error\":true"), false),
        (step("late", 60.0, 0.1, ""), false),
    ];
    let found = |seconds| {
        let limits = Limits { request_timeout: Span::seconds(seconds), snapshots: true, ..Limits::default() };
        trial::outputs_of(limits, (objectives, ""), &texts, false)
    };
    let value_of = |found: &[String], objective: &str| {
        let of: Vec<&String> = found
            .iter()
            .filter(|line| line.contains(&format!("\"objective\":\"{objective}\"")) && line.contains("\"evaluation\""))
            .collect();
        let with_data = of.iter().find(|line| line.contains("\"samples\":1,")).unwrap_or_else(|| panic!("{of:#?}"));
        serde_json::from_str::<serde_json::Value>(with_data).unwrap()
    };
    let (in_ten, in_four) = (found(10), found(4));
    let value = |objective: &str| value_of(&in_ten, objective);
    assert_eq!(value("time")["value"], 2.5, "from 0.5 to 3");
    assert_eq!(value("cost")["value"], 4.0, "a step that comes again adds nothing");
    assert_eq!(value("good")["value"], 0.0, "one step failed");
    let end = |found: &[String]| value_of(found, "time")["window"]["end"].clone();
    let at = |seconds: f64| qualm::time::Timestamp::from_epoch_seconds(START + seconds).unwrap().to_string();
    assert_eq!((end(&in_ten), end(&in_four)), (at(20.0).into(), at(10.0).into()), "complete at 13 s, or at 7 s");
}

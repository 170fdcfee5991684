//! `compare`, `suggest` and `replay --against`, on runs whose difference is known.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;

use common::{qualm, run, stderr, stdout};
use serde_json::{Value as Json, json};

const CONTRACT: &str = "
apiVersion: qualm/v1
kind: Contract
metadata: {name: race, version: 1.0.0}
spec:
  scope: {application: race}
  objectives:
    - {name: quick, indicator: {attribute: service.response_time, aggregate: mean, window: 1m}, target: {max: 0.03}}
    - {name: sure, indicator: {attribute: ml.confidence, aggregate: mean, window: 1m}, target: {min: 0.5}}
    - {name: on-time, indicator: {attribute: service.late, aggregate: ratio, good: {equals: false}, window: 1m}, target: {min: 0.9}}
    - {name: tail, indicator: {attribute: service.response_time, aggregate: p90, window: 2m, every: 30s}, target: {max: 0.045}, min_samples: 60}
    - {name: spread, indicator: {attribute: service.response_time, aggregate: stddev, window: 1m}, target: {max: 1}}
    - {name: once, indicator: {attribute: data.duplicates, aggregate: ratio, good: {equals: false}, window: 1m}, target: {min: 0.5}}
";

/// Ten minutes of two runs side by side: blue is quick, green slow and often late; both are as sure.
fn reports(folder: &Path) -> String {
    let mut lines = String::new();
    for n in 0..1_200_u32 {
        let blue = n % 2 == 0;
        let wobble = f64::from(n * 7_919 % 101) / 10_100.0;
        let (seconds, late) = if blue { (0.02 + wobble, n % 50 == 0) } else { (0.04 + wobble, n % 5 == 0) };
        let report = json!({
            "id": format!("r-{n}"), "time": 1_790_000_000.0 + f64::from(n) / 2.0, "application": "race", "stage": "s", "instance": "i",
            "labels": {"run": if blue { "blue" } else { "green" }},
            "metrics": {"service.response_time": seconds, "ml.confidence": 0.8 + wobble, "service.late": late},
        });
        lines.push_str(&format!("{report}\n"));
    }
    let file = folder.join("both.ndjson");
    std::fs::write(&file, lines).unwrap();
    std::fs::write(folder.join("race.yaml"), CONTRACT).unwrap();
    file.display().to_string()
}

fn better(comparison: &Json) -> Vec<&str> {
    comparison["objectives"].as_array().unwrap().iter().map(|line| line["better"].as_str().unwrap()).collect()
}

#[test]
fn the_better_run_is_told_from_files_and_from_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let both = reports(folder.path());
    let contract = folder.path().join("race.yaml").display().to_string();
    let compare = |arguments: &[&str]| {
        let output = run(qualm().args(["compare", "--contract", &contract, "--format", "json"]).args(arguments));
        (
            output.status.code(),
            serde_json::from_slice::<Json>(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output))),
        )
    };
    let (code, comparison) = compare(&[&both, "--runs", "blue,green"]);
    assert_eq!(
        (code, better(&comparison)),
        (Some(1), vec!["A", "neither", "A", "A", "neither", "neither"]),
        "{comparison:#}"
    );
    assert_eq!(comparison["kept"], json!([true, false]));
    assert_eq!(comparison["reports"], json!([600, 600]));
    let mean = comparison["objectives"][0]["difference"].as_f64().unwrap();
    assert!((mean + 0.02).abs() < 1e-3, "green takes 0.02 s more: {mean}");
    let (code, turned) = compare(&[&both, "--runs", "green,blue"]);
    assert_eq!((code, better(&turned)), (Some(0), vec!["B", "neither", "B", "B", "neither", "neither"]));

    let database = format!("sqlite:{}", folder.path().join("both.db").display());
    run(qualm().args(["replay", "--contract", &contract, "--reports", &both, "--database", &database]));
    let (_, stored) = compare(&["--database", &database, "--runs", "blue,green"]);
    assert_eq!(better(&stored), ["A", "neither", "A", "A", "neither", "neither"]);
    // Sums do not tell of a standard deviation, nor of what Qualm observes by itself (yet B broke other
    // promises); all else is judged as by replay.
    assert_eq!((&stored["kept"], &stored["not_judged"]), (&json!([null, false]), &json!(["spread", "once"])));
    for index in 0..4 {
        for (side, field) in
            [("a", "judgements"), ("a", "judgements_met"), ("b", "judgements"), ("b", "judgements_met")]
        {
            let judged = |of: &Json| of["objectives"][index][side][field].as_u64().unwrap();
            assert!(judged(&comparison) > 0 || field == "judgements_met", "{comparison:#}");
            assert_eq!(
                judged(&stored),
                judged(&comparison),
                "{} {side} {field}",
                stored["objectives"][index]["objective"]
            );
        }
    }
    let other = folder.path().join("other.yaml");
    std::fs::write(&other, CONTRACT.replace("max: 0.03}", "max: 0.04}")).unwrap();
    let output =
        run(qualm().args(["compare", "--database", &database, "--runs", "blue,green", "--contract"]).arg(&other));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("which observations of service.response_time are at most 0.04"),
        "{}",
        stderr(&output)
    );
    for index in 0..3 {
        let number = |of: &Json, field: &str| of["objectives"][index][field].as_f64().unwrap();
        assert!((number(&stored, "difference") - number(&comparison, "difference")).abs() < 1e-9);
        assert!((number(&stored, "p") - number(&comparison, "p")).abs() < 1e-9);
    }
    let output = run(qualm().args(["compare", "--contract", &contract, &both, "--runs", "blue,red"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("run B holds no reports"), "{}", stderr(&output));
}

#[test]
fn what_is_suggested_is_a_sound_contract_that_the_recording_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let both = reports(folder.path());
    let output = run(qualm().args(["suggest", "--reports", &both, "--share", "1"]));
    assert!(output.status.success(), "{}", stderr(&output));
    let file = folder.path().join("suggested.yaml");
    std::fs::write(&file, &output.stdout).unwrap();
    let text = stdout(&output);
    assert!(text.contains("aggregate: ratio") && text.contains("windows would have met it (100 %)"), "{text}");
    let output = run(qualm().arg("check").arg(&file));
    assert!(output.status.success(), "{}", stdout(&output));
    let output = run(qualm().args(["replay", "--reports", &both, "--contract"]).arg(&file));
    assert_eq!(output.status.code(), Some(0), "the recording keeps what it suggests: {}", stdout(&output));
    let output = run(qualm().args(["suggest", "--reports", &both, "--share", "0.5", "--format", "json"]));
    for line in stdout(&output).lines() {
        let proposal: Json = serde_json::from_str(line).unwrap();
        let share = proposal["share_met"].as_f64().unwrap();
        assert!((0.5..=1.0).contains(&share), "{proposal}");
    }
}

#[test]
fn a_changed_contract_says_what_it_would_have_done() {
    let folder = tempfile::tempdir().unwrap();
    let both = reports(folder.path());
    let changed = CONTRACT.replace("max: 0.03}", "max: 0.05}").replace("min: 0.5}", "min: 0.9}");
    std::fs::write(folder.path().join("changed.yaml"), changed).unwrap();
    let against = |from: &str, to: &str| {
        let output = run(qualm()
            .args(["replay", "--format", "json", "--reports", &both, "--contract"])
            .arg(folder.path().join(from))
            .arg("--against")
            .arg(folder.path().join(to)));
        let lines: Vec<Json> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (output.status.code(), lines)
    };
    let (code, lines) = against("race.yaml", "changed.yaml");
    let of = |name: &str| lines.iter().find(|line| line["objective"] == name).unwrap();
    assert_eq!(code, Some(1), "a further violation opens");
    assert_eq!(of("on-time")["what"], "the same");
    assert_eq!((&of("sure")["before"]["violations"], &of("sure")["after"]["violations"]), (&json!(0), &json!(1)));
    assert_eq!(of("sure")["violations_new"].as_array().unwrap().len(), 1);
    let (code, lines) = against("race.yaml", "race.yaml");
    assert_eq!(code, Some(0));
    assert!(lines.iter().all(|line| line["what"] == "the same"));
}

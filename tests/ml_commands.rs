//! The commands that have to do with quality of predictions and data: `baseline`, `import`, and what
//! `check` says of such objectives.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{qualm, run, stderr, stdout};
use serde_json::{Value as Json, json};

/// A contract with one objective, and what `qualm check` says of it: level and message.
const FAULTY: [(&str, &str); 17] = [
    (
        "attribute: x.y, aggregate: accuracy, window: 1m}, target: {min: 0}",
        "`accuracy` compares predictions with feedback",
    ),
    ("attribute: prediction, aggregate: accuracy, window: 1m}, target: {min: 80}", "the target cannot be met"),
    ("attribute: prediction, aggregate: accurcy, window: 1m}, target: {min: 0.8}", "did you mean \"accuracy\"?"),
    (
        "attribute: prediction, aggregate: f1, average: mikro, window: 1m}, target: {min: 0.8}",
        "did you mean \"micro\"?",
    ),
    (
        "attribute: prediction, aggregate: accuracy, class: a, window: 1m}, target: {min: 0.8}",
        "`accuracy` knows no `class`",
    ),
    (
        "attribute: prediction, aggregate: recall, class: a, average: micro, window: 1m}, target: {min: 0.8}",
        "`average` and `class` exclude each other",
    ),
    (
        "attribute: prediction, aggregate: disparity, of: accuracy, window: 1m}, target: {max: 0.1}",
        "`disparity` needs `across`",
    ),
    (
        "attribute: prediction, aggregate: disparity, of: psi, across: sex, window: 1m}, target: {max: 0.1}",
        "groups cannot be compared by `psi`",
    ),
    ("attribute: x.y, aggregate: psi, window: 1m}, target: {max: 0.2}", "`psi` needs `baseline`"),
    (
        "attribute: x.y, aggregate: mean, baseline: {first: 1h}, window: 1m}, target: {max: 2}",
        "`mean` knows no `baseline`",
    ),
    ("attribute: x.y, aggregate: psi, baseline: {last: 1h}, window: 1m}, target: {max: 2}", "unknown field `last`"),
    (
        "attribute: x.y, aggregate: psi, baseline: {first: 10s}, window: 1m}, target: {max: 2}",
        "is shorter than every 1m",
    ),
    (
        "attribute: x.y, aggregate: ks, baseline: {file: baselines/none.json}, window: 1m}, target: {max: 2}",
        "file baselines/none.json is missing in",
    ),
    (
        "attribute: x.y, aggregate: zscore, baseline: {file: baselines/none.json}, window: 1m}, target: {max: 2}",
        "not with a file",
    ),
    ("attribute: x.y, aggregate: mean, window: 1m}, target: {false_alarm: 0.01}", "`mean` has no rate of false alarms"),
    ("attribute: data.freshness, aggregate: mean, window: 1m}, target: {max: 10}", "use aggregate: last"),
    (
        "attribute: x.y, aggregate: adwin, delta: 3, window: 1m}, target: {max: 0}",
        "the `delta` of `adwin` is at most 1",
    ),
];

fn contract(indicator: &str) -> String {
    // The indicator's text closes itself and goes on to the target.
    format!(
        "apiVersion: qualm/v1\nkind: Contract\nmetadata: {{name: c, version: 1.0.0}}\nspec:\n  scope: {{application: a}}\n  objectives:\n    - {{name: o, indicator: {{{indicator}}}\n"
    )
}

#[test]
fn check_knows_what_belongs_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yaml");
    for (indicator, message) in FAULTY {
        std::fs::write(&file, contract(indicator)).unwrap();
        let output = run(qualm().arg("check").arg(&file));
        assert!(stdout(&output).contains(message), "{indicator}\n{}", stdout(&output));
        assert!(stdout(&output).contains(":7:"), "{}", stdout(&output));
        assert_eq!(output.status.code(), Some(1), "{indicator}");
    }
}

#[test]
fn a_baseline_is_made_checked_and_compared_with() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["contracts", "baselines"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let baseline = folder.path().join("baselines/usual.json");
    let made = |arguments: &[&str]| {
        let from = ["baseline", "--from", "examples/smart-building.ndjson", "--output", baseline.to_str().unwrap()];
        run(qualm().args(from).args(arguments))
    };
    let output = made(&["--where", "stage=inference", "--attribute", "ml.confidence"]);
    assert!(stdout(&output).contains("ml.confidence: "), "{}{}", stdout(&output), stderr(&output));
    let file: Json = serde_json::from_str(&std::fs::read_to_string(&baseline).unwrap()).unwrap();
    assert_eq!(file["attributes"].as_object().unwrap().len(), 1);

    let contract = folder.path().join("contracts/c.yaml");
    let objective = |attribute: &str| {
        format!(
            "attribute: {attribute}, aggregate: ks, where: {{stage: inference}}, window: 1d, baseline: {{file: baselines/usual.json}}}}, target: {{max: 0.5}}"
        )
    };
    let text = |attribute: &str| {
        self::contract(&objective(attribute)).replace("application: a", "application: smart_building")
    };
    std::fs::write(&contract, text("ml.confidence")).unwrap();
    let output = run(qualm().arg("check").arg(folder.path().join("contracts")));
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let arguments = ["replay", "--reports", "examples/smart-building.ndjson", "--format", "json", "--contract"];
    let output = run(qualm().args(arguments).arg(&contract));
    let row: Json = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
    assert_eq!((&row["value"], &row["verdict"]), (&json!(0.0), &json!("met")), "the same reports: no distance at all");
    assert_eq!(row["detail"]["drift"]["baseline"], "baselines/usual.json");

    std::fs::write(&contract, text("ml.accuracy")).unwrap();
    let output = run(qualm().arg("check").arg(&contract));
    assert!(stdout(&output).contains("holds no attribute `ml.accuracy`"), "{}", stdout(&output));
    std::fs::write(&baseline, "{}").unwrap();
    let output = run(qualm().arg("check").arg(&contract));
    assert!(stdout(&output).contains("is not a baseline: "), "{}", stdout(&output));

    assert_eq!(made(&["--attribute", "no.such"]).status.code(), Some(2));
    assert_eq!(made(&["--where", "stage"]).status.code(), Some(2));
    assert_eq!(made(&["--application", "other"]).status.code(), Some(2));
}

fn imported(kind: &str, source: &Json, more: &[&str]) -> (Json, Json) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("source.json");
    std::fs::write(&file, source.to_string()).unwrap();
    let output = run(qualm().args(["import", kind]).arg(&file).args(["--format", "json"]).args(more));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let answer: Json = serde_json::from_str(&stdout(&output)).unwrap();
    let contract = qualm::contract::parse(answer["contract"].as_str().unwrap()).unwrap();
    (contract, answer["notes"].clone())
}

fn noted(notes: &Json, words: &str) -> bool {
    notes.as_array().unwrap().iter().any(|note| note.as_str().unwrap().contains(words))
}

#[test]
fn qoa4ml_contracts_come_over() {
    let constraint = |metric: &str, unit: Json, operator: &str, value: Json, function: &str| json!({"metrics": {"metric_name": metric, "unit": unit}, "condition": {"operator": operator, "value": value}, "aggregate_function": function});
    let source = json!({
        "stakeholders": [{"id": "aalto", "name": "A", "roles": ["ml_provider"], "provisioning": ["ml_models"]}],
        "resources": {},
        "quality": {
            "service": [{"constraint_list": [
                constraint("response_time", json!("ms"), "less_equal", json!(50), "AVERAGE"),
                constraint("availability", json!("%"), "range", json!({"min": 95, "max": 100}), "MIN"),
                constraint("reliability", Json::Null, "greater_than", json!(0.9), "PRODUCT"),
            ]}],
            "ml_specific": [{"constraint_list": [constraint("accuracy", Json::Null, "greater_than", json!(0.8), "AVERAGE")]}],
            "fairness": [{"constraint_list": [constraint("bias", Json::Null, "less_equal", json!(0.1), "MAX")]}],
            "security": [{"encryption": {}}],
        },
    });
    let (contract, notes) = imported("qoa4ml", &source, &["--application", "detect"]);
    assert_eq!(contract["spec"]["scope"]["application"], "detect");
    assert_eq!(contract["spec"]["parties"][0], json!({"id": "aalto", "role": "provider", "provides": ["ml_models"]}));
    let objectives = contract["spec"]["objectives"].as_array().unwrap();
    let find = |name: &str| objectives.iter().find(|objective| objective["name"] == name).unwrap().clone();
    let response = find("service-response-time");
    assert_eq!(
        response["indicator"],
        json!({"attribute": "service.response_time", "aggregate": "mean", "window": "1m"})
    );
    assert_eq!(response["target"], json!({"max": 0.05}), "milliseconds became seconds");
    assert_eq!(find("service-availability")["target"], json!({"range": [0.95, 1.0]}));
    assert_eq!(find("ml-accuracy")["target"], json!({"min": 0.8}));
    assert_eq!(objectives.len(), 3);
    for words in ["PRODUCT", "fairness", "security", "resources", "no window", "bound itself"] {
        assert!(noted(&notes, words), "{words}: {notes}");
    }
}

#[test]
fn the_recorded_older_contract_comes_over() {
    let Ok(text) = std::fs::read_to_string(common::root().join("../shared/data/qoa4ml/bts-contract.json")) else {
        return;
    };
    let (contract, notes) = imported("qoa4ml", &serde_json::from_str(&text).unwrap(), &["--application", "bts"]);
    let names: Vec<&str> =
        contract["spec"]["objectives"].as_array().unwrap().iter().map(|o| o["name"].as_str().unwrap()).collect();
    let expected = [
        "data-accuracy",
        "data-completeness",
        "ml-accuracy-small",
        "ml-accuracy-normal",
        "service-response-time-small",
        "service-response-time-normal",
        "service-reliability-normal",
    ];
    assert_eq!(names, expected);
    assert_eq!(contract["spec"]["parties"].as_array().unwrap().len(), 6);
    for words in ["privacy", "pricingmodel", "machinetype", "predictionbias"] {
        assert!(noted(&notes, words), "{words}: {notes}");
    }
}

#[test]
fn rohe_contracts_come_over_with_consumer_defined_metrics() {
    let count = |name: &str| json!({"type": "count", "filters": {"name": name, "class": "human"}});
    let source = json!({
        "contract": {
            "contract_id": "C 1", "tenant_id": "t1", "pipeline_id": "traffic", "effective_from": "2026-01-01T00:00:00",
            "performance_slo": {"response_time_p99_ms": 300, "response_time_p50_ms": null, "availability_percent": 99.5},
            "quality_slo": {
                "builtin_metrics": {"confidence": {"operator": ">=", "value": 0.7, "window": "10m", "action_on_violation": "degrade"}},
                "cdm_thresholds": {
                    "errors": {"operator": "<=", "value": 0.25, "action_on_violation": "reroute"},
                    "ninth": {"operator": ">", "value": 0.5},
                    "circle": {"operator": ">", "value": 0.5},
                    "unknown": {"operator": ">", "value": 0.5},
                },
            },
        },
        "cdms": [
            {"name": "errors", "metric_type": "per_period", "window": "10s", "expression": {"type": "ratio", "operands": [count("error"), {"type": "cdm_ref", "cdm_ref": "all"}]}},
            {"name": "all", "metric_type": "per_period", "expression": count("response_time")},
            {"name": "ninth", "metric_type": "per_request", "expression": {"type": "percentile", "percentile_value": 0.9, "filters": {"name": "confidence"}}},
            {"name": "circle", "metric_type": "per_period", "expression": {"type": "cdm_ref", "cdm_ref": "circle"}},
        ],
    });
    let (contract, notes) = imported("rohe", &source, &[]);
    assert_eq!(contract["metadata"]["name"], "c-1");
    assert_eq!(contract["spec"]["scope"], json!({"application": "traffic", "tenant": "t1"}));
    assert_eq!(contract["spec"]["effective"], json!({"from": "2026-01-01T00:00:00Z"}));
    let objectives = contract["spec"]["objectives"].as_array().unwrap();
    let find = |name: &str| objectives.iter().find(|objective| objective["name"] == name).unwrap().clone();
    assert_eq!(find("response-time-p99")["target"], json!({"max": 0.3}));
    assert_eq!(find("availability")["target"], json!({"min": 0.995}));
    assert_eq!(find("confidence")["indicator"]["window"], "10m");
    assert_eq!(find("ninth")["indicator"]["aggregate"], "p90");
    assert_eq!(find("errors")["rule"]["params"]["expression"]["ratio"].as_array().unwrap().len(), 2);
    let kinds: Vec<&str> =
        contract["spec"]["actions"].as_array().unwrap().iter().map(|a| a["do"]["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["degrade", "reroute"]);
    for words in ["refers to itself", "unknown is not in the file", "bound itself", "nearest rank", "for each request"]
    {
        assert!(noted(&notes, words), "{words}: {notes}");
    }
    judges_ratios(&source);
}

/// The imported ratio, judged: one error in four is kept, one in three is not.
fn judges_ratios(source: &Json) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("contracts")).unwrap();
    let (file, contract) = (folder.path().join("source.json"), folder.path().join("contracts/c.yaml"));
    std::fs::write(&file, source.to_string()).unwrap();
    let output = run(qualm().args(["import", "rohe"]).arg(&file).arg("--output").arg(&contract));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(folder.path().join("policies/expression.rhai").exists());
    let reports = folder.path().join("reports.ndjson");
    let line = |at: u32, attribute: &str| {
        json!({
            "id": format!("{at}-{attribute}"), "time": 1_772_366_400 + at, "tenant": "t1", "application": "traffic", "stage": "s",
            "instance": "i", "labels": {"class": "human"}, "metrics": {attribute: 1.0},
        })
    };
    let mut text = String::new();
    for at in [0, 1, 2, 3, 10, 11, 12] {
        text.push_str(&format!("{}\n", line(at, "service.response_time")));
    }
    for at in [4, 14] {
        text.push_str(&format!("{}\n", line(at, "service.error")));
    }
    std::fs::write(&reports, text).unwrap();
    let output =
        run(qualm().args(["replay", "--format", "json", "--contract"]).arg(&contract).arg("--reports").arg(&reports));
    let rows: Vec<Json> = stdout(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let found: Vec<(&Json, &Json)> = rows
        .iter()
        .filter(|row| row["type"] == "evaluation" && row["objective"] == "errors")
        .map(|row| (&row["value"], &row["verdict"]))
        .take(2)
        .collect();
    assert_eq!(found, [(&json!(0.25), &json!("met")), (&json!(1.0 / 3.0), &json!("breached"))]);
}

#[test]
fn what_is_no_contract_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("qoa4ml", "{}", "it has no `quality`"),
        ("rohe", "{}", "it has no `pipeline_id`"),
        ("qoa4ml", "{\"quality\": {\"security\": []}}", "nothing of the contract has an equivalent"),
        ("rohe", "{", ":1:"),
        ("rohe", "{\"pipeline_id\": \"p\"}", "nothing of the contract has an equivalent"),
    ];
    for (kind, text, message) in cases {
        let file = folder.path().join("x.json");
        std::fs::write(&file, text).unwrap();
        let output = run(qualm().args(["import", kind]).arg(&file));
        assert_eq!(output.status.code(), Some(2), "{kind} {text}");
        assert!(stderr(&output).contains(message), "{}", stderr(&output));
    }
    assert_eq!(run(qualm().args(["import", "rohe"]).arg(Path::new("nowhere.json"))).status.code(), Some(2));
}

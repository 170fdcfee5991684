#!/usr/bin/env python3
"""Qualm beside other tools on the same generated reports, in one run; prints a table.

usage: benches/peers/run.py [NAME...]     (opa rohe river evidently whylogs prometheus)

Each tool is given what it does best: its input is decoded beforehand where it has no decoder of
its own, and Qualm is timed with decoding. Times of Python tools are without their imports.
"""
import datetime
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QUALM = os.environ.get("QUALM", str(ROOT / "target/release/qualm"))
HEAD = "apiVersion: qualm/v1\nkind: Contract\nmetadata: {name: peer, version: 1.0.0}\nspec:\n  scope: {application: app-0}\n  objectives:\n"


def objective(name, attribute, aggregate, target, more=""):
    return (
        f"    - {{name: {name}, indicator: {{attribute: {attribute}, aggregate: {aggregate}{more}}}, target: {target}}}\n"
    )


def reports(folder, count):
    file = folder / f"reports-{count}.ndjson"
    if not file.exists():
        subprocess.run([QUALM, "bench", "--to", file, "--count", str(count)], check=True, stderr=subprocess.DEVNULL)
    return file


def decoded(file):
    return [json.loads(line) for line in file.open()]


def qualm(folder, file, objectives, cores="0"):
    """Seconds and summary of a replay on one core."""
    contract = folder / "contract.yaml"
    contract.write_text(HEAD + "".join(objectives))
    command = ["taskset", "-c", cores, QUALM, "replay", "--format", "json", "--contract", contract, "--reports", file]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode in (0, 1), out.stderr
    rows = [json.loads(line) for line in out.stdout.splitlines()]
    return rows[-1]["seconds"], rows


def opa(folder):
    """Three thresholds on each report."""
    file = reports(folder, 20_000)
    project = HERE / "opa"
    environment = dict(os.environ, CARGO_TARGET_DIR=str(ROOT / "target/peers"))
    subprocess.run(["cargo", "build", "--quiet", "--release", "--manifest-path", project / "Cargo.toml"], check=True, env=environment)
    program = ROOT / "target/peers/release/opa"
    out = subprocess.run(["taskset", "-c", "0", program, file], capture_output=True, text=True, check=True).stdout.split()
    theirs, violations = float(out[2]), int(out[1])
    ours, rows = qualm(folder, file, [
        objective("fast", "service.response_time", "each", "{max: 0.2}"),
        objective("sure", "ml.confidence", "each", "{min: 0.5}"),
        objective("known", "service.response_time", "count", "{min: 0}", ", window: 10s, group_by: [device]"),
    ])
    breached = sum(1 for row in rows if row["type"] == "evaluation" and row["verdict"] == "breached")
    assert breached == violations, (breached, violations)
    return "regorus 0.5.0, a policy in the manner of QoA4ML's", "reports", 20_000, theirs, ours


def rohe(folder):
    """Two thresholds on means, each 2,000 reports; ROHE looks at the newest 1,000 values."""
    from rohe.models.contracts import ServiceContract
    from rohe.quality.evaluator import ExpressionEvaluator
    from rohe.quality.rules import ContractChecker

    file = reports(folder, 20_000)
    rows = decoded(file)
    names = ["service.response_time", "ml.confidence"]
    limits = {"service.response_time": {"operator": "<=", "value": 1}, "ml.confidence": {"operator": ">=", "value": 0.1}}
    contract = {
        "contract_id": "c", "tenant_id": "default", "pipeline_id": "app-0", "effective_from": "2020-01-01T00:00:00Z",
        "performance_slo": {}, "quality_slo": {"builtin_metrics": limits},
    }
    try:
        ServiceContract.model_validate(contract)
    except Exception:
        contract["performance_slo"] = {"max_latency_ms": 1000, "min_throughput_rps": 1}
        ServiceContract.model_validate(contract)

    class Contracts:
        def list_contracts(self, is_active=True):
            return [contract]

        def get_cdm(self, name):
            return None

    class Metrics:
        """In memory, the newest first, as its MongoDB repository gives them."""
        def __init__(self):
            self.by_name = {name: [] for name in names}

        def query_metrics(self, filters, limit):
            return self.by_name[filters["name"]][: -limit - 1 : -1]

    metrics = Metrics()
    checker = ContractChecker(Contracts(), metrics, ExpressionEvaluator())
    started = time.perf_counter()
    for number, row in enumerate(rows, 1):
        for name in names:
            metrics.by_name[name].append({"pipeline_id": "app-0", "name": name, "value": row["metrics"][name]})
        if number % 2_000 == 0:
            assert checker.check_all_contracts() == []
    theirs = time.perf_counter() - started
    window = ", window: 100ms"
    ours, _ = qualm(folder, file, [
        objective("fast", "service.response_time", "mean", "{max: 1}", window),
        objective("sure", "ml.confidence", "mean", "{min: 0.1}", window),
    ])
    return "ROHE 0.2.1 ContractChecker, repositories in memory", "reports", 20_000, theirs, ours


def river(folder):
    """ADWIN and Page-Hinkley on each value."""
    import river.drift

    file = reports(folder, 100_000)
    values = [row["metrics"]["service.response_time"] for row in decoded(file)]
    detectors = [river.drift.ADWIN(), river.drift.PageHinkley()]
    started = time.perf_counter()
    for value in values:
        for detector in detectors:
            detector.update(value)
    theirs = time.perf_counter() - started
    ours, _ = qualm(folder, file, [
        objective("steady", "service.response_time", "adwin", "{max: 0}", ", window: 1s"),
        objective("level", "service.response_time", "page_hinkley", "{max: 0}", ", window: 1s"),
    ])
    return "river 0.22.0: ADWIN and PageHinkley", "reports", 100_000, theirs, ours


def evidently(folder):
    """Drift of two columns against a baseline, ten windows of 10,000 values."""
    import pandas
    from evidently import Report
    from evidently.presets import DataDriftPreset

    file = reports(folder, 110_000)
    frame = pandas.DataFrame([row["metrics"] for row in decoded(file)])
    frame.columns = ["response_time", "confidence"]
    baseline = frame[:10_000]
    started = time.perf_counter()
    for start in range(10_000, 110_000, 10_000):
        Report([DataDriftPreset(method="psi")]).run(frame[start : start + 10_000], baseline)
    theirs = time.perf_counter() - started
    more = ", window: 500ms, baseline: {first: 500ms}"
    ours, _ = qualm(folder, file, [
        objective("latency", "service.response_time", "psi", "{max: 9}", more),
        objective("confidence", "ml.confidence", "psi", "{max: 9}", more),
    ])
    return "Evidently 0.7.11: drift report (PSI)", "reports", 110_000, theirs, ours


def whylogs(folder):
    """Counts, means, extremes, quantiles, distinct values of two metrics; whylogs also of five labels."""
    import pandas
    import whylogs as why

    file = reports(folder, 100_000)
    frame = pandas.DataFrame([row["metrics"] | row["labels"] for row in decoded(file)])
    started = time.perf_counter()
    why.log(frame)
    theirs = time.perf_counter() - started
    window = ", window: 10s"
    aggregates = ["count", "mean", "stddev", "min", "max", "p50", "p99", "distinct"]
    ours, _ = qualm(folder, file, [
        objective(f"o{number}-{aggregate}", attribute, aggregate, "{min: 0}", window)
        for number, attribute in enumerate(["service.response_time", "ml.confidence"]) for aggregate in aggregates
    ])
    return "whylogs 1.6.4: profile of a data frame", "reports", 100_000, theirs, ours


def prometheus(folder):
    """Mean, greatest and least of two metrics of eight devices, over a minute, each 10 s, for an hour."""
    promtool = subprocess.check_output([ROOT / "scripts/find-prometheus"], text=True).strip()
    rules = folder / "rules.yml"
    functions = {"mean": "avg_over_time", "max": "max_over_time", "min": "min_over_time"}
    metrics = {"response_time": "service.response_time", "confidence": "ml.confidence"}
    rule = lambda metric, function: {"record": f"{metric}:{function}", "expr": f"{functions[function]}({metric}[1m])"}
    group = {"name": "peer", "interval": "10s", "rules": [rule(m, f) for m in metrics for f in functions]}
    rules.write_text(json.dumps({"groups": [group]}))
    start, lines, series = 1_790_000_000, [], []
    for device in range(8):
        values = {m: [round(math.sin(device + second) / 9 + 0.5, 6) for second in range(3_600)] for m in metrics}
        for metric in metrics:
            samples = " ".join(map(str, values[metric]))
            series.append({"series": f'{metric}{{device="{device}"}}', "values": samples})
        for second in range(3_600):
            body = {name: values[m][second] for m, name in metrics.items()}
            lines.append((second, device, {
                "id": f"{device}-{second}", "time": start + second, "application": "app-0", "stage": "s", "instance": "i",
                "labels": {"device": str(device)}, "metrics": body,
            }))
    file = folder / "prometheus.ndjson"
    file.write_text("".join(json.dumps(line) + "\n" for *_, line in sorted(lines, key=lambda line: line[:2])))
    test = folder / "test.yml"
    check = {"expr": "count(response_time:mean)", "eval_time": "59m", "exp_samples": [{"labels": "{}", "value": 8}]}
    tests = [{"interval": "1s", "input_series": series, "promql_expr_test": [check]}]
    test.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "10s", "tests": tests}))
    started = time.perf_counter()
    subprocess.run(["taskset", "-c", "0", promtool, "test", "rules", test], check=True, stdout=subprocess.DEVNULL)
    theirs = time.perf_counter() - started
    ours, _ = qualm(folder, file, [
        objective(f"{metric.replace('_', '-')}-{aggregate}", name, aggregate, "{max: 9}", ", window: 1m, every: 10s, group_by: [device]")
        for metric, name in metrics.items() for aggregate in functions
    ])
    return "Prometheus 2.42.0 rules (promtool test rules)", "samples", len(lines) * 2, theirs, ours


def main():
    warnings.filterwarnings("ignore")
    known = [opa, rohe, river, evidently, whylogs, prometheus]
    wanted = sys.argv[1:] or [peer.__name__ for peer in known]
    print("| peer | work | peer | Qualm | ratio |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for peer in known:
            if peer.__name__ in wanted:
                name, unit, count, theirs, ours = peer(pathlib.Path(folder))
                rate = lambda seconds: f"{count / seconds:,.0f} {unit}/s"
                print(f"| {name} | {peer.__doc__} | {rate(theirs)} | {rate(ours)} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()

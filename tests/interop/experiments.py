"""`qualm compare` and the intervals of `qualm explain quality` against SciPy: pairs of runs of random sizes and shifts."""
import json
import os
import subprocess
import tempfile

import numpy as np
from scipy import stats

from common import QUALM, START, Agreement, contract, stamp

CASES = 200
OBJECTIVES = [
    {"name": "mean", "indicator": {"attribute": "x.value", "aggregate": "mean", "window": "1h"}, "target": {"max": 1.0}},
    {"name": "p50", "indicator": {"attribute": "x.value", "aggregate": "p50", "window": "1h"}, "target": {"max": 1.0}},
    {"name": "p95", "indicator": {"attribute": "x.value", "aggregate": "p95", "window": "1h"}, "target": {"max": 1.0}},
    {"name": "ratio", "indicator": {"attribute": "x.late", "aggregate": "ratio", "good": {"equals": False}, "window": "1h"}, "target": {"min": 0.9}},
    {"name": "accuracy", "indicator": {"attribute": "prediction", "aggregate": "accuracy", "window": "1h"}, "target": {"min": 0.5}},
]


def run_of(rng, case):
    n = int(rng.integers(8, 400))
    values = rng.lognormal(rng.normal() * 0.2, 0.5, n)
    if case % 4 == 0:
        values = np.round(values, 1)
    return values, rng.random(n) < rng.random() * 0.3, rng.random(n) < 0.3 + 0.6 * rng.random()


def write(path, values, late, right):
    with open(path, "w") as file:
        for index in range(len(values)):
            report = {
                "id": f"r-{index}", "time": stamp(START + index), "application": "experiment", "stage": "s", "instance": "i",
                "metrics": {"x.value": float(values[index]), "x.late": bool(late[index])},
                "inference": {"id": f"i-{index}", "prediction": "a" if right[index] else "b"},
                "feedback": [{"inference": f"i-{index}", "label": "a"}],
            }
            file.write(json.dumps(report) + "\n")


def wilson(good, n):
    interval = stats.binomtest(int(good), int(n)).proportion_ci(method="wilson")
    return interval.low, interval.high


def newcombe(a, na, b, nb):
    (l1, u1), (l2, u2), p, q = wilson(a, na), wilson(b, nb), a / na, b / nb
    return p - q - np.hypot(p - l1, u2 - q), p - q + np.hypot(u1 - p, q - l2)


def fisher(bad_a, na, bad_b, nb):
    table = [[bad_a, na - bad_a], [bad_b, nb - bad_b]]
    one = [stats.fisher_exact(table, alternative=side).pvalue for side in ("greater", "less")]
    return min(1.0, 2 * min(one))


def main():
    rng, agreement = np.random.default_rng(8), Agreement("experiments")
    for case in range(CASES):
        with tempfile.TemporaryDirectory() as folder:
            runs = [run_of(rng, case), run_of(rng, case)]
            files = [os.path.join(folder, name) for name in ("a.ndjson", "b.ndjson")]
            for file, run in zip(files, runs):
                write(file, *run)
            signed = os.path.join(folder, "contract.json")
            with open(signed, "w") as file:
                json.dump({**contract("experiment", {}), "spec": {"scope": {"application": "experiment"}, "objectives": OBJECTIVES}}, file)
            output = subprocess.run([QUALM, "compare", "--contract", signed, *files, "--format", "json"], capture_output=True, text=True)
            assert output.returncode in (0, 1), output.stderr
            lines = {line["objective"]: line for line in json.loads(output.stdout)["objectives"]}
            (a, late_a, right_a), (b, late_b, right_b) = runs

            mean, welch = lines["mean"], stats.ttest_ind(a, b, equal_var=False)
            agreement.check(f"mean p", mean["p"], welch.pvalue, case, 1e-8)
            interval = welch.confidence_interval(0.95)
            agreement.check(f"mean low", mean["interval"][0], interval.low, case, 1e-8)
            agreement.check(f"mean high", mean["interval"][1], interval.high, case, 1e-8)
            own = stats.ttest_1samp(a, 0).confidence_interval(0.95)
            agreement.check(f"mean A", mean["a"]["interval"][0], own.low, case, 1e-8)

            for name, share in (("p50", 0.5), ("p95", 0.95)):
                line = lines[name]
                agreement.check(f"{name} p", line["p"], stats.mannwhitneyu(a, b, method="asymptotic").pvalue, case, 1e-8)
                ours = stats.quantile_test(a, p=share).confidence_interval(0.95)
                for side, theirs in zip(line["a"]["interval"], (ours.low, ours.high)):
                    # Where there are too few values for a bound, SciPy says nan and JSON null.
                    agreement.check(f"{name} A", side, float(theirs), case, 1e-12)

            for name, bad in (("ratio", (late_a, late_b)), ("accuracy", (~right_a, ~right_b))):
                line, counts = lines[name], [(int(part.sum()), len(part)) for part in bad]
                (bad_a, na), (bad_b, nb) = counts
                agreement.check(f"{name} p", line["p"], fisher(bad_a, na, bad_b, nb), case, 1e-7)
                low, high = newcombe(na - bad_a, na, nb - bad_b, nb)
                agreement.check(f"{name} low", line["interval"][0], low, case, 1e-8)
                agreement.check(f"{name} high", line["interval"][1], high, case, 1e-8)

            database = "sqlite:" + os.path.join(folder, "a.db")
            subprocess.run([QUALM, "replay", "--contract", signed, "--reports", files[0], "--database", database], capture_output=True)
            output = subprocess.run([QUALM, "explain", "quality", "experiment", "--database", database, "--format", "json"], capture_output=True, text=True)
            assert output.returncode == 0, output.stderr
            quality = json.loads(output.stdout)["evidence"]
            for ours, theirs in zip(quality["accuracy_interval"], wilson(right_a.sum(), len(right_a))):
                agreement.check(f"accuracy", ours, theirs, case, 1e-9)
    agreement.end()


if __name__ == "__main__":
    main()

"""Drift aggregates against SciPy and numpy: a series a case, whose first hour is the baseline."""
import numpy as np
from scipy import stats
from scipy.spatial.distance import jensenshannon

from common import HOUR, START, Agreement, contract, replay, stamp

CASES = 240
FLOOR = 1e-4


def reports_of(case, name, values, start):
    for index, value in enumerate(values):
        yield {
            "id": f"{name}-{case}-{start}-{index}", "time": stamp(start + index * HOUR / len(values) * 0.99),
            "application": "drift", "stage": "s", "instance": "i", "labels": {"case": str(case)}, "metrics": {name: value},
        }


def numbers(rng, case):
    m, n = int(rng.integers(30, 1500)), int(rng.integers(2, 1500))
    if case == 0:
        return np.arange(30.0), np.arange(30.0)
    if case == 1:
        return np.repeat([1.0, 2.0, 3.0], 20), np.repeat([2.0, 3.0, 4.0], 7)
    if case == 2:
        return rng.normal(0, 1, 40), np.array([5.0, 5.0])
    if case == 3:
        return rng.normal(300, 0.01, 500), rng.normal(300.005, 0.01, 500)
    baseline = rng.normal(0, 1, m) if case % 3 else rng.lognormal(0, 1, m)
    window = rng.normal(rng.normal() * 0.5, 1 + rng.random(), n) if case % 3 else rng.lognormal(0.3, 1, n)
    if case % 5 == 0:
        baseline, window = np.round(baseline, 1), np.round(window, 1)
    return baseline, window


def psi(p, q):
    p, q = np.maximum(p, FLOOR), np.maximum(q, FLOOR)
    return float(np.sum((q - p) * np.log(q / p)))


def shares(baseline, window):
    cuts = np.unique(np.quantile(baseline, np.arange(1, 10) / 10))
    count = lambda values: np.bincount(np.searchsorted(cuts, values, side="right"), minlength=len(cuts) + 1) / len(values)
    return count(baseline), count(window)


def main():
    rng = np.random.default_rng(4)
    window = {"window": "1h", "group_by": ["case"], "baseline": {"first": "1h"}}
    objectives = {}
    for name in ("ks", "wasserstein", "psi", "js"):
        objectives[name] = {"attribute": "x.number", "aggregate": name, **window}
    for name in ("chi2", "psi", "js"):
        objectives[f"{name}-categories"] = {"attribute": "x.category", "aggregate": name, **window}
    reports, expected = [], {}
    for case in range(CASES):
        baseline, values = numbers(rng, case)
        deviation = np.std(baseline, ddof=1)
        p, q = shares(baseline, values)
        want = {
            "ks": float(stats.ks_2samp(baseline, values).statistic),
            "wasserstein": float(stats.wasserstein_distance(baseline, values) / deviation),
            "psi": psi(p, q), "js": float(jensenshannon(p, q, 2)),
        }
        names = [f"c{index}" for index in range(int(rng.integers(2, 12)))]
        m, n = int(rng.integers(30, 800)), int(rng.integers(5, 800))
        a, b = rng.choice(names, m, p=rng.dirichlet(np.ones(len(names)))), rng.choice(names, n)
        if case == 0:
            a, b = np.array(["one"] * 30), np.array(["one"] * 5)
        if case == 1:
            a, b = np.array(["one"] * 30), np.array(["two"] * 30)
        known = sorted(set(a) | set(b))
        table = np.array([[np.sum(a == name) for name in known], [np.sum(b == name) for name in known]])
        p, q = table[0] / m, table[1] / n
        if case in (0, 1):
            p, q = table[0] / len(a), table[1] / len(b)
        want["chi2-categories"] = float(stats.chi2_contingency(table, correction=False).statistic) if len(known) > 1 else 0.0
        want["psi-categories"] = psi(p, q)
        want["js-categories"] = float(np.nan_to_num(jensenshannon(p, q, 2)))
        expected[str(case)] = want
        reports += reports_of(case, "x.number", baseline.tolist(), START)
        reports += reports_of(case, "x.number", values.tolist(), START + HOUR)
        reports += reports_of(case, "x.category", a.tolist(), START)
        reports += reports_of(case, "x.category", b.tolist(), START + HOUR)
    reports.sort(key=lambda report: report["time"])
    agreement = Agreement("SciPy")
    for row in replay(contract("drift", objectives), reports):
        case = row["series"]["case"]
        if row["window"]["start"] == stamp(START):
            assert row["value"] is None, row
        elif row["window"]["start"] == stamp(START + HOUR):
            # A distance of zero comes out as the root of rounding.
            error = 2e-8 if row["objective"].startswith("js") and expected[case][row["objective"]] < 1e-7 else 1e-9
            agreement.check(row["objective"], row["value"], expected[case][row["objective"]], f"case {case}", error)
    agreement.end()
    large(rng)


def large(rng):
    """Beyond 16,383 values samples are thinned: statistics are within 0.002."""
    objectives = {
        name: {"attribute": "x.number", "aggregate": name, "window": "1h", "group_by": ["case"], "baseline": {"first": "1h"}}
        for name in ("ks", "wasserstein", "psi", "js")
    }
    reports, expected = [], {}
    for case in range(4):
        baseline, values = rng.normal(0, 1, 40_000), rng.normal(0.05 * case, 1 + 0.03 * case, 30_000 + 9_000 * case)
        p, q = shares(baseline, values)
        expected[str(case)] = {
            "ks": float(stats.ks_2samp(baseline, values).statistic),
            "wasserstein": float(stats.wasserstein_distance(baseline, values) / np.std(baseline, ddof=1)),
            "psi": psi(p, q), "js": float(jensenshannon(p, q, 2)),
        }
        reports += reports_of(case, "x.number", baseline.tolist(), START)
        reports += reports_of(case, "x.number", values.tolist(), START + HOUR)
    reports.sort(key=lambda report: report["time"])
    agreement = Agreement("SciPy, large")
    for row in replay(contract("drift", objectives), reports):
        if row["window"]["start"] == stamp(START + HOUR):
            case = row["series"]["case"]
            agreement.check(row["objective"], row["value"], expected[case][row["objective"]], f"case {case}", 0.002)
    agreement.end(least=4)


if __name__ == "__main__":
    main()

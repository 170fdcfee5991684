"""Robust z-scores and control charts against numpy and SciPy: a series a case, a window a minute."""
import numpy as np
from scipy import stats

from common import START, Agreement, contract, replay, stamp

CASES = 40
WINDOWS = 60
LEARNED = 20


def main():
    rng = np.random.default_rng(6)
    base = {"attribute": "x.y", "window": "1m", "group_by": ["case"]}
    objectives = {
        "zscore-first": {**base, "aggregate": "zscore", "baseline": {"first": f"{LEARNED}m"}},
        "zscore-window": {**base, "aggregate": "zscore", "baseline": {"window": f"{LEARNED}m"}},
        "ewma-first": {**base, "aggregate": "ewma", "baseline": {"first": f"{LEARNED}m"}, "lambda": 0.3},
    }
    reports, means = [], {}
    for case in range(CASES):
        level = rng.normal(0, 10)
        means[case] = []
        for window in range(WINDOWS):
            values = rng.normal(level + (3 if window > 40 else 0), 1, int(rng.integers(1, 6)))
            means[case].append(float(np.mean(values)))
            reports += [
                {
                    "id": f"{case}-{window}-{index}", "time": START + window * 60 + index, "application": "chart",
                    "stage": "s", "instance": "i", "labels": {"case": str(case)}, "metrics": {"x.y": float(value)},
                }
                for index, value in enumerate(values)
            ]
    reports.sort(key=lambda report: report["time"])
    ends = {stamp(START + (window + 1) * 60): window for window in range(WINDOWS)}
    agreement = Agreement("numpy and SciPy")
    for row in replay(contract("chart", objectives), reports):
        if row["window"]["end"] in ends:
            case, window = int(row["series"]["case"]), ends[row["window"]["end"]]
            theirs = expected(row["objective"], means[case], window)
            agreement.check(row["objective"], row["value"], theirs, f"case {case}, window {window}")
    agreement.end()


def expected(objective, means, window):
    if objective == "zscore-window":
        before = means[max(0, window - LEARNED):window]
        if len(before) < 8:
            return None
    else:
        before = means[:LEARNED]
        if window < LEARNED:
            return None
    if objective.startswith("zscore"):
        # 1.4826 is the usual rounding of 1 / Φ⁻¹(3/4), which SciPy takes in full.
        return (means[window] - np.median(before)) / (1.4826 * stats.median_abs_deviation(before))
    weight, smoothed = 0.3, float(np.mean(before))
    for mean in means[LEARNED:window + 1]:
        smoothed = weight * mean + (1 - weight) * smoothed
    steps = window + 1 - LEARNED
    limit = np.std(before, ddof=1) * np.sqrt(weight / (2 - weight) * (1 - (1 - weight) ** (2 * steps)))
    return (smoothed - np.mean(before)) / limit


if __name__ == "__main__":
    main()

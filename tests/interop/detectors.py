"""ADWIN and Page-Hinkley against river, step by step: a series a case, an observation a second."""
import datetime
import random

from river import drift

from common import START, Agreement, contract, replay, stamp

CASES = 220
SETTINGS = [(0.002, 0.005, 50.0, 0.9999), (0.05, 0.1, 5.0, 1.0)]


def series(rng, case):
    n = rng.randint(40, 700)
    if case == 0:
        return [1.0] * 200
    if case == 1:
        return [0.0] * 100 + [100.0] * 100
    values, level = [], rng.uniform(-5, 5)
    for _ in range(n):
        if rng.random() < 0.01:
            level += rng.choice([-4, -1, 0.5, 2, 6])
        values.append(rng.gauss(level, 0.7) if case % 4 else float(rng.random() < min(0.95, 0.5 + abs(level) / 10)))
    return values


def steps(detector, values, mean):
    found, means = [], []
    for index, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            found.append(index)
        means.append(mean(detector))
    return found, means


def main():
    rng = random.Random(5)
    objectives = {}
    for number, (delta, forgiven, threshold, alpha) in enumerate(SETTINGS):
        base = {"attribute": "x.y", "window": "1m", "group_by": ["case"]}
        objectives[f"adwin-{number}"] = {**base, "aggregate": "adwin", "delta": delta}
        objectives[f"page-hinkley-{number}"] = {
            **base, "aggregate": "page_hinkley", "delta": forgiven, "lambda": threshold, "alpha": alpha,
        }
    cases = [series(rng, case) for case in range(CASES)]
    reports = [
        {
            "id": f"{case}-{index}", "time": START + index, "application": "detect", "stage": "s", "instance": "i",
            "labels": {"case": str(case)}, "metrics": {"x.y": value},
        }
        for case, values in enumerate(cases) for index, value in enumerate(values)
    ]
    # Out of order within the lateness: detectors see event time.
    reports.sort(key=lambda report: report["time"] + rng.uniform(0, 4))
    found, means = {}, {}
    for row in replay(contract("detect", objectives), reports):
        key = row["objective"], int(row["series"]["case"])
        detail = row.get("detail", {}).get("changes")
        if detail is None:
            continue
        moments = [datetime.datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() for at in detail["at"]]
        assert row["value"] == len(moments), row
        found.setdefault(key, []).extend(int(moment) - START for moment in moments)
        end = datetime.datetime.fromisoformat(row["window"]["end"].replace("Z", "+00:00")).timestamp()
        means.setdefault(key, []).append((int(end) - START, detail["mean"]))
    agreement = Agreement("river")
    changes = 0
    for number, (delta, forgiven, threshold, alpha) in enumerate(SETTINGS):
        for case, values in enumerate(cases):
            adwin = drift.ADWIN(delta=delta)
            theirs, estimates = steps(adwin, values, lambda d: d.estimation)
            compare(agreement, f"adwin-{number}", case, found, means, theirs, estimates)
            test = drift.PageHinkley(delta=forgiven, threshold=threshold, alpha=alpha)
            theirs, estimates = steps(test, values, lambda d: d._x_mean.get())
            compare(agreement, f"page-hinkley-{number}", case, found, means, theirs, estimates)
            changes += len(theirs)
    assert changes > 100, "a comparison needs changes"
    agreement.end()


def compare(agreement, name, case, found, means, theirs, estimates):
    ours = found.get((name, case), [])
    agreement.check(name, 0.0 if ours == theirs else 1.0, 0.0, f"case {case}: {ours} against {theirs}")
    for end, mean in means[(name, case)]:
        agreement.check(f"{name} mean", mean, estimates[min(end, len(estimates)) - 1], f"case {case} at {end}")


if __name__ == "__main__":
    main()

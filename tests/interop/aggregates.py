"""Classification and regression aggregates against scikit-learn, a case an hour."""
import random
import warnings

import numpy as np
from sklearn import metrics

from common import HOUR, START, Agreement, contract, replay, stamp

CASES = 260


def report(application, number, case, prediction, truth):
    return {
        "id": f"{application}-{number}", "time": stamp(START + case * HOUR + (number % 3000)), "application": application,
        "stage": "model", "instance": "m-0", "inference": {"id": f"i-{number}", "prediction": prediction},
        "feedback": [{"inference": f"i-{number}", "label": truth}],
    }


def classes_of(rng, case):
    """(truths, predictions, scores or None) of a case; the first ones are corner cases."""
    names = ["cat", "dog", "ünïcode", "", "a b", "7"][: rng.randint(2, 6)]
    n = rng.randint(2, 150)
    if case == 0:
        return ["cat"], ["cat"]
    if case == 1:
        return ["cat"], ["dog"]
    if case == 2:
        return ["cat"] * 30, ["cat"] * 30
    if case == 3:
        return ["cat"] * 30, ["dog"] * 30
    if case == 4:
        return ["cat", "dog"] * 10, ["cat"] * 20
    if case == 5:
        return [True, False] * 10, [True] * 20
    if case == 6:
        return [rng.randint(0, 3) for _ in range(50)], [rng.randint(0, 3) for _ in range(50)]
    weights = [rng.random() + 0.05 for _ in names]
    truths = rng.choices(names, weights, k=n)
    skill = rng.random()
    return truths, [t if rng.random() < skill else rng.choice(names) for t in truths]


def text(value):
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def classification():
    rng = random.Random(1)
    window = {"attribute": "prediction", "window": "1h"}
    objectives = {"accuracy": {**window, "aggregate": "accuracy"}}
    for name in ("precision", "recall", "f1"):
        for average in ("macro", "micro", "weighted"):
            objectives[f"{name}-{average}"] = {**window, "aggregate": name, "average": average}
        objectives[f"{name}-cat"] = {**window, "aggregate": name, "class": "cat"}
    reports, expected, number = [], [], 0
    for case in range(CASES):
        truths, predictions = classes_of(rng, case)
        for truth, prediction in zip(truths, predictions):
            reports.append(report("classes", number, case, prediction, truth))
            number += 1
        y, p = [text(t) for t in truths], [text(t) for t in predictions]
        want = {"accuracy": metrics.accuracy_score(y, p)}
        for average in ("macro", "micro", "weighted"):
            values = metrics.precision_recall_fscore_support(y, p, average=average, zero_division=0)
            want |= {f"{name}-{average}": value for name, value in zip(("precision", "recall", "f1"), values)}
        occurs = "cat" in y + p
        values = metrics.precision_recall_fscore_support(y, p, labels=["cat"], zero_division=0) if occurs else None
        want |= {f"{n}-cat": float(values[i][0]) if occurs else None for i, n in enumerate(("precision", "recall", "f1"))}
        expected.append(want)
    compare("scikit-learn", contract("classes", objectives), reports, expected)


def scores():
    rng = np.random.default_rng(2)
    window = {"attribute": "prediction", "window": "1h"}
    objectives = {
        "log_loss": {**window, "aggregate": "log_loss"}, "auc": {**window, "aggregate": "auc"},
        "auc-a": {**window, "aggregate": "auc", "class": "a"},
    }
    reports, expected, number = [], [], 0
    for case in range(CASES):
        classes = ["a", "b", "c", "d"][: rng.integers(2, 5)]
        n = int(rng.integers(2, 120))
        truths = [str(rng.choice(classes)) for _ in range(n)]
        if case == 0:
            truths = ["a"] * n
        # Coarse scores make ties; a score of zero for the truth meets the floor.
        raw = rng.dirichlet([0.7] * len(classes), size=n)
        if case % 3 == 0:
            raw = np.round(raw, 1)
            raw[raw.sum(axis=1) == 0] = 1.0
            raw /= raw.sum(axis=1, keepdims=True)
        for truth, row in zip(truths, raw):
            reports.append(report("scores", number, case, dict(zip(classes, map(float, row))), truth))
            number += 1
        areas = {}
        for index, name in enumerate(classes):
            members = [t == name for t in truths]
            if any(members) and not all(members):
                areas[name] = metrics.roc_auc_score(members, raw[:, index])
        want = {
            "log_loss": metrics.log_loss(truths, raw, labels=classes),
            "auc": float(np.mean(list(areas.values()))) if areas else None, "auc-a": areas.get("a"),
        }
        if len(areas) == len(classes) > 2:
            multi = metrics.roc_auc_score(truths, raw, multi_class="ovr", average="macro", labels=classes)
            assert abs(multi - want["auc"]) < 1e-12
        expected.append(want)
    compare("scikit-learn", contract("scores", objectives), reports, expected)


def regression():
    rng = np.random.default_rng(3)
    names = {
        "mae": metrics.mean_absolute_error, "mse": metrics.mean_squared_error, "rmse": metrics.root_mean_squared_error,
        "mape": metrics.mean_absolute_percentage_error, "r2": metrics.r2_score,
    }
    window = {"attribute": "prediction", "window": "1h"}
    objectives = {name: {**window, "aggregate": name} for name in names}
    reports, expected, number = [], [], 0
    for case in range(CASES):
        n = int(rng.integers(2, 150))
        scale = 10.0 ** rng.integers(-3, 6)
        truths = rng.normal(rng.normal() * 3, 1, n) * scale
        predictions = truths + rng.normal(0, rng.random() + 0.01, n) * scale
        if case == 0:
            truths, predictions = np.full(20, 3.5), np.full(20, 3.5)
        if case == 1:
            truths = np.full(n, 3.5)
        if case == 2:
            predictions = truths.copy()
        if case == 3:
            truths[: n // 2] = 0.0
        if case == 4:
            truths, predictions = truths[:1], predictions[:1]
        for truth, prediction in zip(truths, predictions):
            reports.append(report("numbers", number, case, float(prediction), float(truth)))
            number += 1
        one = len(truths) < 2
        expected.append({n: None if one and n == "r2" else float(of(truths, predictions)) for n, of in names.items()})
    compare("scikit-learn", contract("numbers", objectives), reports, expected)


def compare(title, document, reports, expected):
    agreement = Agreement(title)
    seen = set()
    for row in replay(document, reports):
        case = (np.datetime64(row["window"]["start"][:19]).astype("datetime64[s]").astype(int) - START) // HOUR
        agreement.check(row["objective"], row["value"], expected[case][row["objective"]], f"case {case}")
        seen.add((row["objective"], case))
    assert len(seen) == sum(map(len, expected)), "every case is judged"
    agreement.end()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    classification()
    scores()
    regression()

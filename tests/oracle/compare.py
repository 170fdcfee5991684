"""Compares the output of `qualm replay --format json` with that of judge.py, value by value and
verdict by verdict. Exit code 1 at any difference.

usage: compare.py REPLAY.ndjson ORACLE.ndjson

Quantiles may differ by 1 %, other values by 1e-9 of themselves (`distinct` beyond 10,000 by 2 %).
The value and verdict of a rule are recomputed here from the oracle's values of its inputs, by
the same rule written in Python.
"""
import json
import re
import sys


def sure_or_quick(inputs):
    confidence, remaining = inputs["input confidence"], inputs["input remaining"]
    if confidence is None or remaining is None:
        return True, None
    # The quantile that the rule sees may be off by 1 %: no verdict where that decides.
    near = abs(remaining - 0.1) <= 0.01 * abs(remaining) and confidence < 0.25
    return (None if near else confidence >= 0.25 or remaining >= 0.1), confidence


def key(evaluation):
    return evaluation["window"]["end"], evaluation["objective"], json.dumps(evaluation["series"], sort_keys=True)


def instant(text):
    """Times with and without fractions compare as text once the zeros are filled in."""
    head, _, fraction = text.rstrip("Z").partition(".")
    return f"{head}.{fraction:0<6}"


def same(aggregate, ours, theirs):
    if ours is None or theirs is None or isinstance(theirs, (str, bool)):
        return ours == theirs
    error = 0.01 if re.fullmatch(r"p[0-9.]+", aggregate) else 0.02 if aggregate == "distinct" and theirs > 10_000 else 1e-9
    return abs(ours - theirs) <= error * max(abs(theirs), 1e-12 if error == 0.01 else 1.0)


def main():
    rows = [json.loads(line) for line in open(sys.argv[1])]
    ours = [row for row in rows if row["type"] == "evaluation"]
    summary = rows[-1]
    oracle = [json.loads(line) for line in open(sys.argv[2])]
    late = oracle.pop()["late"]
    for row in ours + oracle:
        row["window"] = {name: instant(text) for name, text in row["window"].items()}
    rules = {}
    for row in [row for row in oracle if row["verdict"].startswith("input ") or row["objective"] == "sure-or-quick"]:
        oracle.remove(row)
        rule = rules.setdefault((row["window"]["end"], row["objective"]), {"samples": 0, "inputs": {}})
        rule["samples"] += row["samples"]
        name = row["verdict"] if row["verdict"].startswith("input ") else None
        if name:
            rule["inputs"][name] = row["value"]
    faults = []
    judged_rules = [row for row in ours if row["aggregate"] == "rule"]
    for row in judged_rules:
        rule = rules.pop((row["window"]["end"], row["objective"]), None)
        if rule is None:
            faults.append(f"only ours: {row}")
        elif rule["samples"] == 0:
            if row["verdict"] != "no_data":
                faults.append(f"{row} has no data")
        else:
            kept, value = sure_or_quick({"input confidence": None, "input remaining": None} | rule["inputs"])
            if kept is not None and row["verdict"] != ("met" if kept else "breached"):
                faults.append(f"{row}, but by {rule} kept is {kept}")
            if not same("mean", row["value"], value) or row["samples"] != rule["samples"]:
                faults.append(f"{row}, but by {rule} the value is {value}")
    faults += [f"only the oracle: rule at {at}" for at in rules]

    plain = sorted((row for row in ours if row["aggregate"] != "rule"), key=key)
    oracle.sort(key=key)
    if len(plain) != len(oracle):
        faults.append(f"{len(plain)} evaluations, the oracle has {len(oracle)}")
    for mine, theirs in zip(plain, oracle):
        for field in ("objective", "series", "window", "aggregate", "samples", "verdict"):
            if mine[field] != theirs[field]:
                faults.append(f"{field}: {mine} against {theirs}")
        if not same(mine["aggregate"], mine["value"], theirs["value"]):
            faults.append(f"value: {mine} against {theirs}")
    if summary["late"] != late:
        faults.append(f"{summary['late']} late, the oracle has {late}")
    if faults:
        print("\n".join(faults[:20]))
        print(f"{len(faults)} differences")
        sys.exit(1)
    print(f"{len(plain)} evaluations and {len(judged_rules)} of rules agree, {late} late")


if __name__ == "__main__":
    main()

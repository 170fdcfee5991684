"""Judges recorded reports by brute force, with the standard library only.

usage: judge.py CONTRACT.json REPORTS.ndjson [--lateness SECONDS]

Reads a contract (as JSON) and reports, recomputes every window of every series from the raw
values, and prints one JSON object for each evaluation, as `qualm replay --format json` does,
ordered by (window end, objective, series). No accumulators, no panes, no sketches: a window is
the list of its values. Independent of Qualm's code on purpose.

Rules are not run (they are Rhai); the values of their inputs are printed in place of them.
"""
import datetime
import json
import math
import sys
from fractions import Fraction

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def micros(text):
    """An RFC 3339 time in microseconds since the epoch."""
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (moment - EPOCH) // datetime.timedelta(microseconds=1)


def span(text):
    number = text.rstrip("usmhd")
    return int(float(number) * UNITS[text[len(number):]])


def dimension(report, name):
    if name in ("stage", "instance"):
        return report[name]
    return report.get("labels", {}).get(name, "")


def fits(condition, value):
    if isinstance(condition, str):
        return condition == value
    if isinstance(condition, list):
        return value in condition
    unwanted = condition["not"]
    return value not in (unwanted if isinstance(unwanted, list) else [unwanted])


def holds(target, value):
    (kind, bound), = target.items()
    if kind == "max":
        return value <= bound
    if kind == "min":
        return value >= bound
    if kind == "range":
        return bound[0] <= value <= bound[1]
    if kind == "equals":
        return value == bound
    return (value in bound) == (kind == "in")


def aggregate(indicator, window, observations):
    """The value of a window's observations [(time, order, value)], or None."""
    kind = indicator["aggregate"]
    values = [value for _, _, value in observations]
    if not values:
        return None
    if kind == "last":
        return max(observations, key=lambda o: o[:2])[2]
    if kind == "count":
        return len(values)
    if kind == "rate":
        return len(values) / (window / 1e6)
    if kind == "ratio":
        return sum(holds(indicator["good"], value) for value in values) / len(values)
    if kind == "distinct":
        return len(set(values))
    values = [float(value) for value in values]
    if kind == "sum":
        return math.fsum(values)
    if kind == "mean":
        return math.fsum(values) / len(values)
    if kind == "min":
        return min(values)
    if kind == "max":
        return max(values)
    if kind == "stddev":
        if len(values) < 2:
            return None
        mean = Fraction(sum(map(Fraction, values)), len(values))
        return math.sqrt(sum((Fraction(v) - mean) ** 2 for v in values) / (len(values) - 1))
    share = Fraction(kind[1:]) / 100
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


class Series:
    def __init__(self):
        self.observations = []
        self.first_pane = None
        self.last = None


def judge(contract, reports, lateness):
    """All evaluations, and the number of late observations."""
    spec = contract["spec"]
    inputs = []
    for objective in spec["objectives"]:
        named = {"": objective["indicator"]} if "indicator" in objective else objective["rule"]["inputs"]
        for name, indicator in named.items():
            inputs.append((objective, name, indicator, {}))
    watermark = clock = 0
    seen = {}
    late = 0
    judged = []
    order = 0
    for report in reports:
        if report["application"] != spec["scope"]["application"]:
            continue
        time = micros(report["time"])
        known = seen.get(report["id"])
        if known is not None and known >= clock - 600_000_000:
            continue
        seen[report["id"]] = time
        for name, value in report.get("metrics", {}).items():
            is_late = False
            for objective, _, indicator, series in inputs:
                conditions = {**spec["scope"].get("match", {}), **indicator.get("where", {})}
                if indicator["attribute"] != name:
                    continue
                if not all(fits(wanted, dimension(report, label)) for label, wanted in conditions.items()):
                    continue
                key = tuple(dimension(report, label) for label in indicator.get("group_by", []))
                if indicator["aggregate"] == "each":
                    if not holds(objective["target"], value):
                        judged.append((time, objective, key, time, value, 1, "breached", indicator))
                    continue
                every = span(indicator.get("every", indicator["window"]))
                pane = time // every * every
                if pane + every <= watermark:
                    is_late = True
                    continue
                one = series.setdefault(key, Series())
                order += 1
                one.observations.append((time, order, value))
                one.first_pane = pane if one.first_pane is None else min(one.first_pane, pane)
                one.last = time if one.last is None else max(one.last, time)
            late += is_late
        clock = max(clock, time)
        watermark = max(watermark, clock - lateness)
    # At the end, time goes on until every window that holds data has closed.
    for _, _, indicator, series in inputs:
        if indicator["aggregate"] != "each":
            every, window = span(indicator.get("every", indicator["window"])), span(indicator["window"])
            for one in series.values():
                watermark = max(watermark, one.last // every * every + window)
    for objective, name, indicator, series in inputs:
        if indicator["aggregate"] == "each":
            continue
        every, window = span(indicator.get("every", indicator["window"])), span(indicator["window"])
        for key, one in series.items():
            end = one.first_pane + every
            while end <= watermark:
                inside = [o for o in one.observations if end - window <= o[0] < end]
                value = aggregate(indicator, window, inside)
                if not inside:
                    verdict = "no_data"
                elif value is None or len(inside) < objective.get("min_samples", 1):
                    verdict = "insufficient"
                elif "target" in objective:
                    verdict = "met" if holds(objective["target"], value) else "breached"
                else:
                    verdict = f"input {name}"
                judged.append((end, objective, key, end - window, value, len(inside), verdict, indicator))
                end += every
    return judged, late


def stamp(moment):
    return (EPOCH + datetime.timedelta(microseconds=moment)).isoformat().replace("+00:00", "Z")


def main():
    contract = json.load(open(sys.argv[1]))
    reports = [json.loads(line) for line in open(sys.argv[2]) if line.strip()]
    lateness = float(sys.argv[sys.argv.index("--lateness") + 1]) if "--lateness" in sys.argv else 5.0
    judged, late = judge(contract, reports, int(lateness * 1e6))
    judged.sort(key=lambda j: (j[0], j[1]["name"], j[2]))
    for end, objective, key, start, value, samples, verdict, indicator in judged:
        print(json.dumps({
            "objective": objective["name"], "series": dict(zip(indicator.get("group_by", []), key)),
            "window": {"start": stamp(start), "end": stamp(end)}, "aggregate": indicator["aggregate"],
            "value": value, "samples": samples, "verdict": verdict,
        }))
    print(json.dumps({"late": late}))


if __name__ == "__main__":
    main()

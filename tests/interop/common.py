"""What the comparisons share: running Qualm, writing reports, telling how far off a value is."""
import datetime
import json
import math
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUALM = os.environ.get("QUALM", str(ROOT / "target/release/qualm"))
#: The start of the first case: a whole hour.
START = 1_772_366_400
HOUR = 3_600


def stamp(seconds):
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat().replace("+00:00", "Z")


def contract(application, objectives):
    """A contract as JSON, of {name: indicator}; targets are of no interest here."""
    def target(indicator):
        return {"range": [-1e300, 1e300]}
    return {
        "apiVersion": "qualm/v1", "kind": "Contract", "metadata": {"name": application, "version": "1.0.0"},
        "spec": {
            "scope": {"application": application},
            "objectives": [
                {"name": name, "indicator": indicator, "target": target(indicator)}
                for name, indicator in objectives.items()
            ],
        },
    }


def replay(document, reports):
    """Every evaluation of the reports by the contract."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "contract.json").write_text(json.dumps(document))
        with open(folder / "reports.ndjson", "w") as out:
            for report in reports:
                out.write(json.dumps(report) + "\n")
        command = [QUALM, "replay", "--contract", folder / "contract.json", "--reports", folder / "reports.ndjson"]
        done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stderr
        assert "rejected" not in done.stderr, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [row for row in rows if row["type"] == "evaluation"]


class Agreement:
    """Counts comparisons by name, and keeps the worst difference."""

    def __init__(self, title):
        self.title, self.worst, self.count, self.faults = title, {}, {}, []

    def check(self, name, ours, theirs, case, error=1e-9):
        self.count[name] = self.count.get(name, 0) + 1
        missing = theirs is None or (isinstance(theirs, float) and math.isnan(theirs))
        if ours is None or missing:
            if (ours is None) != missing:
                self.faults.append(f"{name} of {case}: {ours}, but {theirs}")
            return
        off = abs(ours - theirs) / max(1.0, abs(theirs))
        self.worst[name] = max(self.worst.get(name, 0.0), off)
        if off > error:
            self.faults.append(f"{name} of {case}: {ours}, but {theirs}")

    def end(self, least=200):
        for name, count in sorted(self.count.items()):
            print(f"  {self.title} {name}: {count} cases, worst difference {self.worst.get(name, 0.0):.1e}")
        assert not self.faults, "\n".join(self.faults[:20]) + f"\n{len(self.faults)} differences"
        few = [name for name, count in self.count.items() if count < least]
        assert not few, f"fewer than {least} cases of {few}"

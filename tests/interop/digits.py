"""The closed loop of examples/digits, asserted on the order of events."""
import subprocess
import sys

from common import ROOT
from servers import running, wait_for


def main():
    folder = ROOT / "examples/digits"
    with running(folder / "contract.yaml") as service:
        address = f"nats://127.0.0.1:{service.nats_port}"
        done = subprocess.run([sys.executable, folder / "digits.py", address], capture_output=True, text=True, timeout=180)
        print("".join(f"    {line}\n" for line in done.stdout.splitlines()), end="")
        assert done.returncode == 0, done.stderr
        assert "all violations have resolved" in done.stdout, "the loop did not close"

        def resolved():
            found = service.get("/v1/violations")["items"]
            return found if all(violation["state"] == "resolved" for violation in found) else None

        violations = wait_for("the end of all violations", resolved)
        first = {}
        for violation in sorted(violations, key=lambda violation: violation["opened_at"]):
            first.setdefault(violation["objective"], violation)
        drift, accuracy = first["usual-input"], first["accurate"]
        actions = service.get(f"/v1/actions?violation={accuracy['id']}")["items"]
        (action,) = [action for action in actions if action["kind"] == "retrain"]
        states = {outcome["state"]: outcome["at"] for outcome in action["outcomes"]}
        assert action["state"] == "succeeded", action
        order = [
            ("drift is seen", drift["opened_at"]), ("accuracy falls", accuracy["opened_at"]),
            ("retraining runs", states["running"]), ("the model is retrained", states["succeeded"]),
            ("accuracy is kept again", accuracy["resolved_at"]),
        ]
        assert [at for _, at in order] == sorted(at for _, at in order), order
        assert drift["opened_at"] < accuracy["opened_at"], "drift is seen before accuracy falls"
        assert drift["resolved_at"] > drift["opened_at"]
        why = service.get(f"/v1/explain/why?violation={accuracy['id']}")
        assert "confusion" in why["found"]["detail"], why["found"]
        assert why["actions"][0]["state"] == "succeeded"
        print(f"  digits: {'; '.join(what for what, _ in order)}")


if __name__ == "__main__":
    main()

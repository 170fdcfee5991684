"""The real QoA4ML client over NATS and over MQTT, into a running service: both are judged."""
import pathlib
import subprocess
import sys
import tempfile

from common import ROOT
from servers import running, wait_for

CONTRACT = """
apiVersion: qualm/v1
kind: Contract
metadata: {name: detection, version: 1.0.0}
spec:
  scope: {application: object_detection}
  objectives:
    - name: quick
      indicator: {attribute: service.response_time, aggregate: p90, window: 2s, every: 500ms, where: {stage: inference}, group_by: [instance]}
      target: {max: 0.1}
    - {name: sure, indicator: {attribute: ml.confidence, aggregate: mean, window: 5s, group_by: [instance]}, target: {min: 0.5}}
    - {name: passed-on, indicator: {attribute: data.image_width, aggregate: count, window: 5m, group_by: [instance]}, target: {min: 1}}
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        contract = pathlib.Path(folder) / "detection.yaml"
        contract.write_text(CONTRACT)
        with running(contract) as service:
            ways = {"nats": service.nats_port, "mqtt": service.mqtt_port}
            for way, port in ways.items():
                # The client warns of its own types.
                example = [sys.executable, "-W", "ignore", ROOT / "examples/qoa4ml_client.py", f"{way}://127.0.0.1:{port}"]
                subprocess.run([*example, "--instance", f"yolo-{way}", "--requests", "20"], check=True)
            # 20 requests, 2 reports each, over 2 ways.
            wait_for("the reports", lambda: service.metric("qualm_reports_total") >= 80 or None)
            assert service.metric("qualm_rejected_total") == 0

            def opened():
                found = {v["series"]["instance"] for v in service.get("/v1/violations?objective=quick")["items"]}
                return found if found >= {"yolo-nats", "yolo-mqtt"} else None

            found = wait_for("a violation of each", opened)
            assert found == {"yolo-nats", "yolo-mqtt"}, found
            violations = service.get("/v1/violations?objective=quick")["items"]
            assert len(violations) == 2, violations
            # A gateway's image_width comes by its own report and once more passed on; it counts once.
            graph = service.get("/v1/applications")[0]["execution_graph"]
            edges = {(edge[0], edge[1]) for edge in graph["edges"]}
            assert edges == {("gw-yolo-nats", "yolo-nats"), ("gw-yolo-mqtt", "yolo-mqtt")}, edges
            # What is watched of both ways: the detector's response time and confidence, and the width once.
            assert service.metric("qualm_observations_total") == 2 * 20 * 3, service.metric("qualm_observations_total")
    print("  QoA4ML client: 40 reports over NATS and 40 over MQTT, each slow detector found once")


if __name__ == "__main__":
    main()

"""A pipeline of two instances that reports with the QoA4ML client, as it is, to Qualm.

usage: qoa4ml_client.py nats://HOST:PORT | mqtt://HOST:PORT [--requests N] [--slow-from N] [--instance NAME]

Every instance measures itself and passes on what the instances before it measured; Qualm counts
each measurement once. Needs the packages qoa4ml, nats-py and paho-mqtt.
"""
import argparse
import asyncio
import json
import time
import urllib.parse

import nats
import paho.mqtt.client as mqtt
from qoa4ml.qoa_client import QoaClient
from qoa4ml.reports.ml_reports import MLReport

APPLICATION = "object_detection"


class Nats:
    """Publishes into JetStream, and waits until each report is stored."""

    def __init__(self, address):
        self.loop = asyncio.new_event_loop()
        self.client = self.loop.run_until_complete(nats.connect(address.geturl()))

    def send(self, stage, report):
        subject = f"qoa.reports.default.{APPLICATION}.{stage}"
        self.loop.run_until_complete(self.client.jetstream().publish(subject, json.dumps(report).encode()))

    def close(self):
        self.loop.run_until_complete(self.client.close())


class Mqtt:
    """Publishes through nats-server's MQTT listener, acknowledged (QoS 1)."""

    def __init__(self, address):
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="qoa4ml-example")
        self.client.connect(address.hostname, address.port)
        self.client.loop_start()

    def send(self, stage, report):
        topic = f"qoa/reports/default/{APPLICATION}/{stage}"
        self.client.publish(topic, json.dumps(report), qos=1).wait_for_publish(timeout=10)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def client(name, stage):
    return QoaClient(report_cls=MLReport, config_dict={
        "client": {
            "name": name, "instance_name": name, "stage_id": stage, "application_name": APPLICATION, "username": "example",
            "role": "ml_provider", "functionality": stage, "run_id": "run-1", "environment": "Edge",
        },
        "connector": [{"name": "debug", "connector_class": "Debug", "config": {"silence": True}}],
    })


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", type=urllib.parse.urlparse)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--slow-from", type=int, default=10, help="from this request on the detector is slow")
    parser.add_argument("--instance", default="yolo-0", help="the detector's name")
    arguments = parser.parse_args()
    sender = {"nats": Nats, "mqtt": Mqtt}[arguments.address.scheme](arguments.address)
    gateway, detector = client("gw-" + arguments.instance, "gateway"), client(arguments.instance, "inference")
    for request in range(arguments.requests):
        gateway.timer()
        gateway.observe_metric("image_width", 640.0, category=1)
        gateway.timer()
        passed_on = gateway.report()
        sender.send("gateway", passed_on)

        detector.import_previous_report(passed_on)
        detector.timer()
        time.sleep(0.2 if request >= arguments.slow_from else 0.01)
        detector.observe_inference({"cat": 0.9, "dog": 0.1})
        detector.observe_inference_metric("confidence", 0.9)
        detector.timer()
        sender.send("inference", detector.report())
    sender.close()
    print(f"{arguments.requests} requests reported over {arguments.address.scheme}")


if __name__ == "__main__":
    main()

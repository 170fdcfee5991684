"""Reports to Qualm over MQTT, through nats-server's MQTT listener.

usage: mqtt_client.py HOST PORT REPORT

The topic qoa/reports/<tenant>/<application>/<stage> is the subject qoa.reports.*.*.* of NATS.
QoS 1: the publication is acknowledged. Needs paho-mqtt.
"""
import json
import sys

import paho.mqtt.client as mqtt


def main():
    host, port, report = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="qualm-example")
    client.connect(host, port)
    client.loop_start()
    topic = "/".join(["qoa/reports", report.get("tenant", "default"), report["application"], report["stage"]])
    client.publish(topic, json.dumps(report), qos=1).wait_for_publish(timeout=10)
    client.disconnect()
    client.loop_stop()


if __name__ == "__main__":
    main()
